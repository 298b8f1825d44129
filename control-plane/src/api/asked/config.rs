//! What a sidecar holds, by its own word, beside what it is to hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::pb::weft::ask::v1::{Held, HoldsWhat};
use weft_proto::wire::ResourceType;

use super::{all_answers, whom};
use crate::api::call::{Call, json};
use crate::api::dto::DateTime;
use crate::api::sidecars::named;
use crate::api::{Api, Error};
use crate::ask;
use crate::auth::timestamp;
use crate::xds::{ClientStatus, Intended};

/// Looks, where what is held differs: a change may be on its way.
const LOOKS_MAX: u32 = 4;
/// Time between them.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a sidecar holds and is to hold.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarConfig {
    pub node: String,
    pub identity: String,
    pub version: String,
    #[schemars(with = "DateTime")]
    pub at: Timestamp,
    pub published_revision: u64,
    /// Whether it holds anything else than it is to.
    pub differs: bool,
    pub differences: Vec<Difference>,
    /// What it holds, by type and name.
    pub resources: Vec<HeldResource>,
    /// How it says that it stands; of no fixed form.
    pub standing: serde_json::Value,
    /// The configuration in force as people read it; only where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// A resource that a sidecar holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldResource {
    #[serde(rename = "type")]
    pub ty: String,
    pub name: String,
    pub version: String,
    /// SHA-256 of its content, in hex.
    pub digest: String,
}

/// A resource of which a sidecar holds something else than it is to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    #[serde(rename = "type")]
    pub ty: String,
    pub name: String,
    /// `missing`, `stale`, `surplus`, `refused`, `damaged` (the content is not that of its version), or `held-back` (it is
    /// held, and a policy that may be about it cannot be read).
    pub what: String,
    /// The version that is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The version that is to be held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intended: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How much of it is wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ConfigQuery {
    /// The configuration in force as people read it, too.
    #[serde(default)]
    snapshot: bool,
}

/// What a sidecar said.
#[derive(Debug, Default)]
struct Told {
    standing: serde_json::Value,
    held: Vec<Held>,
    snapshot: String,
}

pub(in crate::api) async fn show(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let ConfigQuery { snapshot } = call.query()?;
    let mut looks = 0;
    loop {
        looks += 1;
        let status = named(&api, &call)?;
        let refused = |source| Error::Sidecar { node: status.node.clone(), source };
        let told = told(&api, &status, snapshot).await.map_err(refused)?;
        let intended = api.deps.sidecars.intended(&whom(&status)).ok_or_else(|| refused(ask::Error::Left))?;
        let differences = compare(&intended, &told.held, &nacks(&status));
        // What it refused will not come right by waiting.
        let may_follow = differences.iter().any(|it| it.what != "refused");
        if may_follow && looks < LOOKS_MAX {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        return Ok(json(&answer(&api, status, told, differences, snapshot)));
    }
}

fn answer(
    api: &Api,
    status: ClientStatus,
    told: Told,
    differences: Vec<Difference>,
    snapshot: bool,
) -> SidecarConfig {
    let resources = told.held.iter().filter(|it| !it.unreadable).map(|it| HeldResource {
        ty: type_name(&it.type_url),
        name: it.name.clone(),
        version: it.version.clone(),
        digest: hex(&it.digest),
    });
    SidecarConfig {
        node: status.node.to_string(),
        identity: status.identity.to_string(),
        version: status.version,
        at: timestamp(api.now()),
        published_revision: api.deps.sidecars.published_revision(),
        differs: !differences.is_empty(),
        differences,
        resources: resources.collect(),
        standing: told.standing,
        snapshot: snapshot.then_some(told.snapshot),
    }
}

async fn told(api: &Api, status: &ClientStatus, snapshot: bool) -> Result<Told, ask::Error> {
    let answers = all_answers(api, &whom(status), Asks::HoldsWhat(HoldsWhat { snapshot })).await?;
    let mut told = Told::default();
    for says in answers {
        let Says::Holds(holds) = says else { continue };
        if !holds.standing.is_empty() {
            told.standing = serde_json::from_str(&holds.standing).unwrap_or_default();
        }
        told.held.extend(holds.resources);
        told.snapshot.push_str(&holds.snapshot);
    }
    Ok(told)
}

/// Why the last response of a type was not taken whole.
fn nacks(status: &ClientStatus) -> BTreeMap<ResourceType, String> {
    let nack = |(ty, of_type): (&ResourceType, &crate::xds::TypeStatus)| {
        of_type.nack.as_ref().map(|nack| (*ty, nack.message.clone()))
    };
    status.types.iter().filter_map(nack).collect()
}

/// What differs between what is held and what is to be, by type and name.
fn compare(intended: &[Intended], held: &[Held], nacks: &BTreeMap<ResourceType, String>) -> Vec<Difference> {
    let key = |it: &Held| (ResourceType::from_type_url(&it.type_url), it.name.clone());
    let mut held: BTreeMap<_, _> = held.iter().map(|it| (key(it), it)).collect();
    let mut differences: Vec<_> = intended
        .iter()
        .filter_map(|wanted| {
            let held = held.remove(&(Some(wanted.ty), wanted.name.to_string()));
            let (what, why) = judge(wanted, held, nacks.get(&wanted.ty))?;
            Some(Difference {
                ty: wanted.ty.name().to_owned(),
                name: wanted.name.to_string(),
                what: what.to_owned(),
                held: held.filter(|it| !it.unreadable).map(|it| it.version.clone()),
                intended: Some(wanted.version.to_string()),
                why,
            })
        })
        .collect();
    let surplus = held.into_values().filter(|it| !it.unreadable).map(|it| Difference {
        ty: type_name(&it.type_url),
        name: it.name.clone(),
        what: "surplus".to_owned(),
        held: Some(it.version.clone()),
        intended: None,
        why: None,
    });
    differences.extend(surplus);
    differences.sort_by(|a, b| (&a.ty, &a.name).cmp(&(&b.ty, &b.name)));
    differences
}

/// What is wrong with what is held of one resource; none if nothing is.
fn judge(
    wanted: &Intended,
    held: Option<&Held>,
    nack: Option<&String>,
) -> Option<(&'static str, Option<String>)> {
    let refused = || Some(("refused", nack.map(|nack| reason(nack, &wanted.name))));
    let is_refused = nack.is_some_and(|nack| nack.contains(&*wanted.name));
    match held {
        Some(it) if it.unreadable => refused(),
        None if is_refused => refused(),
        None => Some(("missing", None)),
        Some(it) if it.version != *wanted.version && is_refused => refused(),
        Some(it) if it.version != *wanted.version => Some(("stale", None)),
        // A version is the beginning of the content's digest.
        Some(it) if !hex(&it.digest).starts_with(&*wanted.version) => {
            Some(("damaged", Some("the content is not that of its version".to_owned())))
        }
        Some(it) if it.held_back => {
            let why = "a policy that may be about it cannot be read by this sidecar";
            Some(("held-back", Some(why.to_owned())))
        }
        Some(_) => None,
    }
}

/// The part of a refusal that is about one resource.
fn reason(nack: &str, name: &str) -> String {
    let about = |part: &&str| part.strip_prefix(name).is_some_and(|rest| rest.starts_with(": "));
    nack.split("; ").find(about).unwrap_or(nack).to_owned()
}

fn type_name(type_url: &str) -> String {
    ResourceType::from_type_url(type_url).map_or_else(|| type_url.to_owned(), |ty| ty.name().to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intended(name: &str) -> Intended {
        Intended { ty: ResourceType::Server, name: name.into(), version: "0123".into() }
    }

    fn held(name: &str) -> Held {
        Held {
            type_url: ResourceType::Server.type_url().to_owned(),
            name: name.to_owned(),
            version: "0123".to_owned(),
            digest: vec![0x01, 0x23, 0x45],
            held_back: false,
            unreadable: false,
        }
    }

    #[test]
    fn what_is_held_is_held_against_what_is_to_be() {
        let check = |held: &[Held], nack: Option<&str>, expected: &[(&str, &str)]| {
            let nacks = nack.map(|nack| (ResourceType::Server, nack.to_owned())).into_iter().collect();
            let found = compare(&[intended("a/x"), intended("a/y")], held, &nacks);
            let found: Vec<_> = found.iter().map(|it| (&*it.name, &*it.what)).collect();
            assert_eq!(found, expected, "{held:?} {nack:?}");
        };
        let (x, y) = (held("a/x"), held("a/y"));
        let old = |it: &Held| Held { version: "4567".to_owned(), digest: vec![0x45, 0x67], ..it.clone() };
        check(&[x.clone(), y.clone()], None, &[]);
        // Somebody refused something once, and it is right now.
        check(&[x.clone(), y.clone()], Some("a/x: no"), &[]);
        check(std::slice::from_ref(&y), None, &[("a/x", "missing")]);
        check(&[old(&x), y.clone()], None, &[("a/x", "stale")]);
        check(&[x.clone(), y.clone(), held("b/z")], None, &[("b/z", "surplus")]);
        check(&[old(&x), y.clone()], Some("a/x: it is too new; a/q: no"), &[("a/x", "refused")]);
        check(std::slice::from_ref(&y), Some("a/x: it is too new"), &[("a/x", "refused")]);
        check(&[Held { unreadable: true, ..x.clone() }, y.clone()], None, &[("a/x", "refused")]);
        check(&[Held { digest: vec![9], ..x.clone() }, y.clone()], None, &[("a/x", "damaged")]);
        check(&[Held { held_back: true, ..x }, y], None, &[("a/x", "held-back")]);
    }

    #[test]
    fn a_refusal_is_quoted_as_far_as_it_is_about_the_resource() {
        let found = compare(
            &[intended("a/x")],
            &[],
            &[(ResourceType::Server, "a/q: no; a/x: too new".to_owned())].into(),
        );
        assert_eq!(found[0].why.as_deref(), Some("a/x: too new"));
        assert_eq!((found[0].held.as_deref(), found[0].intended.as_deref()), (None, Some("0123")));
    }
}
