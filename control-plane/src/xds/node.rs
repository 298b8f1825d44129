//! What a client says of itself on its first request, checked against what its certificate proves.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use weft_proto::name::{self, HostPort, NodeId, ServerName, TrustDomain, Workload};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::resource::bounded::Text;

use crate::plan::{Stances, Viewer};

/// Most labels, and most claimed servers, of one node.
pub(super) const NODE_ITEMS_MAX: usize = 64;
/// Longest label key or value, in bytes.
pub(super) const LABEL_BYTES_MAX: usize = 320;

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("the first request carries no node")]
    NoNode,
    #[error("node id: {0}")]
    Id(#[source] name::Error),
    #[error("node {node} claims the namespace {claimed}, but its certificate is for {proved}")]
    Namespace { node: NodeId, claimed: String, proved: Workload },
    #[error("the certificate's trust domain {found} is not this mesh's {expected}")]
    TrustDomain { found: TrustDomain, expected: TrustDomain },
    #[error("node metadata {field}: {problem}")]
    Metadata { field: &'static str, problem: String },
}

/// A client that may be let in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Admitted {
    pub(super) viewer: Viewer,
    /// Where others reach it, if it takes calls.
    pub(super) address: Option<HostPort>,
    pub(super) locality: Option<Text<128>>,
    pub(super) version: String,
}

/// Reads the node of a first request.
pub(super) fn admit(node: Option<&Node>, identity: &Workload, mesh: &TrustDomain) -> Result<Admitted, Error> {
    let node = node.ok_or(Error::NoNode)?;
    if identity.trust_domain != *mesh {
        let found = identity.trust_domain.clone();
        return Err(Error::TrustDomain { found, expected: mesh.clone() });
    }
    let id = NodeId::parse(&node.id).map_err(Error::Id)?;
    if id.namespace() != identity.namespace.as_str() {
        let claimed = id.namespace().to_owned();
        return Err(Error::Namespace { node: id, claimed, proved: identity.clone() });
    }
    let empty = Struct::default();
    let metadata = node.metadata.as_ref().unwrap_or(&empty);
    let viewer = Viewer {
        identity: identity.clone(),
        node: id,
        labels: labels(metadata)?,
        claims: claims(metadata, identity)?,
        stances: stances(metadata)?,
    };
    let address = text(metadata, "address")?.map(|address| {
        HostPort::parse(address)
            .map_err(|error| Error::Metadata { field: "address", problem: error.to_string() })
    });
    let locality = node.locality.as_ref().filter(|it| !it.region.is_empty());
    Ok(Admitted {
        viewer,
        address: address.transpose()?,
        locality: locality.and_then(|it| Text::parse(&clip(&format!("{}/{}", it.region, it.zone))).ok()),
        version: clip(text(metadata, "version")?.unwrap_or_default()),
    })
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(128).collect()
}

fn bad(field: &'static str, problem: impl Into<String>) -> Error {
    Error::Metadata { field, problem: problem.into() }
}

fn text<'a>(metadata: &'a Struct, field: &'static str) -> Result<Option<&'a str>, Error> {
    match metadata.fields.get(field).map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::StringValue(text))) => Ok(Some(text)),
        Some(_) => Err(bad(field, "expected a text")),
    }
}

fn list<'a>(metadata: &'a Struct, field: &'static str) -> Result<Vec<&'a str>, Error> {
    let values: &[Value] = match metadata.fields.get(field).map(|value| &value.kind) {
        None => &[],
        Some(Some(Kind::ListValue(list))) => &list.values,
        Some(_) => return Err(bad(field, "expected a list of texts")),
    };
    if values.len() > NODE_ITEMS_MAX {
        return Err(bad(field, format!("has {} items; at most {NODE_ITEMS_MAX} are allowed", values.len())));
    }
    let texts = values.iter().map(|value| match &value.kind {
        Some(Kind::StringValue(text)) => Ok(text.as_str()),
        _ => Err(bad(field, "expected a list of texts")),
    });
    texts.collect()
}

fn labels(metadata: &Struct) -> Result<BTreeMap<String, String>, Error> {
    let field = "labels";
    let fields = match metadata.fields.get(field).map(|value| &value.kind) {
        None => return Ok(BTreeMap::new()),
        Some(Some(Kind::StructValue(labels))) => &labels.fields,
        Some(_) => return Err(bad(field, "expected a map of texts")),
    };
    if fields.len() > NODE_ITEMS_MAX {
        return Err(bad(
            field,
            format!("has {} entries; at most {NODE_ITEMS_MAX} are allowed", fields.len()),
        ));
    }
    let labels = fields.iter().map(|(key, value)| match &value.kind {
        Some(Kind::StringValue(value)) if key.len() <= LABEL_BYTES_MAX && value.len() <= LABEL_BYTES_MAX => {
            Ok((key.clone(), value.clone()))
        }
        Some(Kind::StringValue(_)) => {
            Err(bad(field, format!("an entry is longer than {LABEL_BYTES_MAX} bytes")))
        }
        _ => Err(bad(field, "expected a map of texts")),
    });
    labels.collect()
}

/// Servers outside the own namespace are not an error of syntax but of ambition: they are refused by name.
fn claims(metadata: &Struct, identity: &Workload) -> Result<Vec<ServerName>, Error> {
    let field = "servers";
    let claims = list(metadata, field)?.into_iter().map(|text| {
        let server = ServerName::parse(text).map_err(|error| bad(field, error.to_string()))?;
        match server.namespace == identity.namespace {
            true => Ok(server),
            false => Err(bad(field, format!("{server} is not in the namespace {}", identity.namespace))),
        }
    });
    claims.collect()
}

fn stances(metadata: &Struct) -> Result<Stances, Error> {
    let field = "stances";
    let given = list(metadata, field)?;
    if given.is_empty() {
        return Ok(Stances::default());
    }
    let mut stances = Stances { inbound: false, outbound: false, gateway: false };
    for stance in given {
        match stance {
            "inbound" => stances.inbound = true,
            "outbound" => stances.outbound = true,
            "gateway" => stances.gateway = true,
            _ => return Err(bad(field, "expected inbound, outbound or gateway")),
        }
    }
    Ok(stances)
}

#[cfg(test)]
mod tests {
    use weft_proto::name::SpiffeId;

    use super::*;

    fn identity() -> Workload {
        SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap().workload().unwrap()
    }

    fn mesh() -> TrustDomain {
        TrustDomain::parse("corp.example").unwrap()
    }

    fn value(json: &serde_json::Value) -> Value {
        use serde_json::Value as Json;
        let kind = match json {
            Json::Null => Kind::NullValue(0),
            Json::Bool(it) => Kind::BoolValue(*it),
            Json::Number(it) => Kind::NumberValue(it.as_f64().unwrap()),
            Json::String(it) => Kind::StringValue(it.clone()),
            Json::Array(it) => {
                Kind::ListValue(prost_types::ListValue { values: it.iter().map(value).collect() })
            }
            Json::Object(it) => {
                let fields = it.iter().map(|(key, it)| (key.clone(), value(it))).collect();
                Kind::StructValue(Struct { fields })
            }
        };
        Value { kind: Some(kind) }
    }

    fn node(id: &str, metadata: serde_json::Value) -> Node {
        let Some(Kind::StructValue(metadata)) = value(&metadata).kind else { panic!("metadata is a map") };
        Node { id: id.to_owned(), metadata: Some(metadata), ..Node::default() }
    }

    #[test]
    fn a_node_in_its_own_namespace_is_let_in() {
        let metadata = serde_json::json!({
            "labels": { "app": "files" }, "servers": ["research/files"], "stances": ["inbound", "outbound"],
            "address": "10.0.0.5:7443", "version": "0.1.0", "somethingNewer": { "x": [1] },
        });
        let admitted = admit(Some(&node("research/files-1", metadata)), &identity(), &mesh()).unwrap();
        assert_eq!(admitted.viewer.labels["app"], "files");
        assert_eq!(admitted.viewer.claims[0].to_string(), "research/files");
        assert!(admitted.viewer.stances.calls());
        assert_eq!(admitted.address.unwrap().port(), 7443);
    }

    #[test]
    fn a_node_that_claims_more_than_it_proved_is_refused() {
        let check = |id: &str, metadata: serde_json::Value, why: &str| {
            let error = admit(Some(&node(id, metadata)), &identity(), &mesh()).unwrap_err().to_string();
            assert!(error.contains(why), "{error:?} should contain {why:?}");
        };
        let none = serde_json::json!({});
        check("payments/x", none.clone(), "claims the namespace payments");
        check("research", none.clone(), "has no slash");
        check("", none, "node id");
        check(
            "research/x",
            serde_json::json!({"servers": ["payments/files"]}),
            "not in the namespace research",
        );
        check("research/x", serde_json::json!({"labels": ["a"]}), "expected a map of texts");
        check("research/x", serde_json::json!({"labels": {"a": 1}}), "expected a map of texts");
        check("research/x", serde_json::json!({"labels": {"a": "x".repeat(400)}}), "longer than");
        check("research/x", serde_json::json!({"servers": vec!["research/a"; 65]}), "at most 64");
        check("research/x", serde_json::json!({"stances": ["sideways"]}), "expected inbound");
        check("research/x", serde_json::json!({"address": "nowhere"}), "address has no port");
    }

    #[test]
    fn a_foreign_trust_domain_and_a_missing_node_are_refused() {
        let other = TrustDomain::parse("other.example").unwrap();
        let good = node("research/x", serde_json::json!({}));
        assert!(matches!(admit(Some(&good), &identity(), &other), Err(Error::TrustDomain { .. })));
        assert_eq!(admit(None, &identity(), &mesh()), Err(Error::NoNode));
    }
}
