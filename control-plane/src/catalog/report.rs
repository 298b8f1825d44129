//! Reads reports: what a sidecar says that its server offers, held to its limits and to its own digests.

use std::sync::Arc;

use weft_proto::catalogue::digest::{self, digest};
use weft_proto::catalogue::{REVISION_BYTES_MAX, REVISIONS_MAX};
use weft_proto::mcp::lists::Listed;
use weft_proto::name::{NodeId, ServerName, Workload};
use weft_proto::offer::{self, ITEMS_MAX, Introduction, Offered};
use weft_proto::pb::weft::catalog::v1::{self as pb, CapabilityReport, Item, ItemKind};

/// Bytes of the digest of a whole definition.
pub type Digest = [u8; digest::BYTES];
/// What an item of a server is told apart by.
pub type ItemKey = (Listed, Box<str>);

/// Why a report is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the report's node or server is none")]
    Name,
    #[error("the report is about {0}, which is not in the namespace of the certificate")]
    Foreign(ServerName),
    #[error("the report is of the node {0}, which is not in the namespace of the certificate")]
    ForeignNode(NodeId),
    #[error("the report has more than {ITEMS_MAX} items")]
    TooMany,
    #[error("an item of the report has no kind that is known")]
    Kind,
    #[error("the digest of an item is none, or not that of its definition, or its name is not")]
    Digest,
    #[error("there are more than {REVISIONS_MAX} revisions, or one has more than {REVISION_BYTES_MAX} bytes")]
    Revisions,
    #[error("what the server says of itself cannot be taken")]
    Introduction(#[source] offer::Error),
    #[error("what is reported is no offer that could be told")]
    Offer(#[source] offer::Error),
    #[error("changes of {0} were reported, and what there was before was not")]
    NoBeginning(ServerName),
    #[error("no discovery stream of this sidecar serves {0}; reports come beside one")]
    Unknown(ServerName),
    #[error("more reports than are taken")]
    TooOften,
}

/// What a report says of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing is known of it any more.
    Nothing,
    Something(Something),
}

/// What there is, or what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Something {
    /// Whether this is all there is.
    pub full: bool,
    pub changed: Vec<Said>,
    pub removed: Vec<ItemKey>,
    /// None where it is what it was.
    pub introduced: Option<Introduced>,
    /// Things that the server advertises and that are not told.
    pub left_out: u32,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduced {
    pub said: Introduction,
    pub revisions: Vec<String>,
}

/// An item as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub key: ItemKey,
    pub digest: Digest,
    /// None where the control plane has to ask for it, if it does not have it.
    pub offered: Option<Arc<Offered>>,
}

/// Of which node and server a report is.
pub(super) fn about(identity: &Workload, report: &CapabilityReport) -> Result<(NodeId, ServerName), Error> {
    let node = NodeId::parse(&report.node).map_err(|_| Error::Name)?;
    let server = ServerName::parse(&report.server).map_err(|_| Error::Name)?;
    if node.namespace() != identity.namespace.as_str() {
        return Err(Error::ForeignNode(node));
    }
    if server.namespace != identity.namespace {
        return Err(Error::Foreign(server));
    }
    Ok((node, server))
}

pub(super) fn read(report: &CapabilityReport) -> Result<Told, Error> {
    if report.nothing {
        return Ok(Told::Nothing);
    }
    if report.changed.len() + report.removed.len() > 2 * ITEMS_MAX || report.changed.len() > ITEMS_MAX {
        return Err(Error::TooMany);
    }
    Ok(Told::Something(Something {
        full: report.full,
        changed: report.changed.iter().map(said).collect::<Result<_, _>>()?,
        removed: report.removed.iter().map(key).collect::<Result<_, _>>()?,
        introduced: report.introduction.as_ref().map(introduced).transpose()?,
        left_out: report.left_out,
    }))
}

fn introduced(introduction: &pb::Introduction) -> Result<Introduced, Error> {
    let part = |text: &str| (!text.is_empty()).then(|| text.into());
    let said = Introduction {
        capabilities: part(&introduction.capabilities),
        server_info: part(&introduction.server_info),
        instructions: part(&introduction.instructions),
    };
    said.check().map_err(Error::Introduction)?;
    let revisions = &introduction.protocol_revisions;
    if revisions.len() > REVISIONS_MAX || revisions.iter().any(|it| it.len() > REVISION_BYTES_MAX) {
        return Err(Error::Revisions);
    }
    Ok(Introduced { said, revisions: revisions.clone() })
}

fn key(item: &Item) -> Result<ItemKey, Error> {
    let listed = match item.kind() {
        ItemKind::Tool => Listed::Tool,
        ItemKind::Prompt => Listed::Prompt,
        ItemKind::Resource => Listed::Resource,
        ItemKind::ResourceTemplate => Listed::ResourceTemplate,
        ItemKind::Unspecified => return Err(Error::Kind),
    };
    Ok((listed, item.name.as_str().into()))
}

/// Whatever people approve by looking at it is what they looked at: a definition has its own digest and name.
fn said(item: &Item) -> Result<Said, Error> {
    let key = key(item)?;
    let told = Digest::try_from(&*item.digest).map_err(|_| Error::Digest)?;
    if item.definition.is_empty() {
        return Ok(Said { key, digest: told, offered: None });
    }
    let text = std::str::from_utf8(&item.definition).map_err(|_| Error::Digest)?;
    let offered = Offered::parse(key.0, text.into()).map_err(Error::Offer)?;
    match digest(text) == Ok(told) && offered.name == key.1 {
        true => Ok(Said { key, digest: told, offered: Some(Arc::new(offered)) }),
        false => Err(Error::Digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, definition: &str) -> Item {
        Item {
            kind: ItemKind::Tool.into(),
            name: name.to_owned(),
            digest: digest(&format!("{{\"name\":\"{name}\"}}")).unwrap().to_vec().into(),
            definition: definition.to_owned().into(),
        }
    }

    fn report(changed: Vec<Item>) -> CapabilityReport {
        CapabilityReport { full: true, changed, ..CapabilityReport::default() }
    }

    #[test]
    fn a_definition_is_taken_only_with_its_own_digest_and_name() {
        let whole = r#"{"name":"a"}"#;
        let Ok(Told::Something(told)) = read(&report(vec![item("a", whole), item("b", "")])) else {
            panic!("it is in order");
        };
        assert_eq!(told.changed[0].offered.as_ref().unwrap().definition.as_ref(), whole);
        assert_eq!(told.changed[1].offered, None);
        let unnamed = Item { kind: ItemKind::Resource.into(), ..item("a", whole) };
        let short = Item { digest: vec![1].into(), ..item("a", "") };
        let kindless = Item { kind: 0, ..item("a", "") };
        for wrong in [
            item("a", r#"{"name":"b"}"#),
            item("a", r#"{"name":"a","title":"x"}"#),
            item("a", r#"{"name":"a","_meta":{}}"#),
            item("a", "{"),
            unnamed,
            short,
            kindless,
        ] {
            assert!(read(&report(vec![wrong.clone()])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_report_is_bounded() {
        assert_eq!(read(&report(vec![item("a", ""); ITEMS_MAX + 1])), Err(Error::TooMany));
        let introduction = |change: fn(&mut pb::Introduction)| {
            let mut introduction = pb::Introduction::default();
            change(&mut introduction);
            read(&CapabilityReport { introduction: Some(introduction), ..CapabilityReport::default() })
        };
        assert!(introduction(|_| ()).is_ok());
        for wrong in [
            introduction(|it| it.protocol_revisions = vec![String::new(); REVISIONS_MAX + 1]),
            introduction(|it| it.protocol_revisions = vec!["x".repeat(REVISION_BYTES_MAX + 1)]),
            introduction(|it| it.capabilities = "[]".to_owned()),
            introduction(|it| it.instructions = "x".repeat(offer::INTRODUCTION_BYTES_MAX + 1)),
        ] {
            assert!(wrong.is_err());
        }
    }
}
