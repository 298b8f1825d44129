//! What this sidecar says of itself on a discovery stream.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use weft_proto::name::HostPort;
use weft_proto::pb::envoy::config::core::v3::{Locality, Node};

use crate::bootstrap::{self, Listen};

/// The sidecar, where others reach it included.
pub(super) fn describe(node: &bootstrap::Node, listen: &Listen, address: Option<&HostPort>) -> Node {
    let texts =
        |items: Vec<String>| Kind::ListValue(ListValue { values: items.into_iter().map(text).collect() });
    let labels = node.labels.iter().map(|(key, label)| (key.clone(), text(label.clone()))).collect();
    let mut fields = BTreeMap::from([
        ("labels".to_owned(), value(Kind::StructValue(Struct { fields: labels }))),
        ("servers".to_owned(), value(texts(node.servers.iter().map(ToString::to_string).collect()))),
        ("stances".to_owned(), value(texts(stances(listen)))),
        ("version".to_owned(), text(env!("CARGO_PKG_VERSION").to_owned())),
    ]);
    if let Some(address) = address {
        fields.insert("address".to_owned(), text(address.as_str().to_owned()));
    }
    Node {
        id: node.id.as_str().to_owned(),
        metadata: Some(Struct { fields }),
        locality: node.locality.as_ref().map(|place| locality(place.as_str())),
        user_agent_name: "weft-sidecar".to_owned(),
        ..Node::default()
    }
}

/// Where others reach this sidecar: what the operator says, or where it listens. If that is every address of the
/// machine, the one from which it reaches the control plane is as good a guess as there is.
pub(super) fn reached_at(
    node: &bootstrap::Node,
    listens: Option<&HostPort>,
    local: IpAddr,
) -> Option<HostPort> {
    if let Some(address) = &node.address {
        return Some(address.clone());
    }
    let listens = listens?;
    match listens.as_str().parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            HostPort::parse(&SocketAddr::new(local.to_canonical(), address.port()).to_string()).ok()
        }
        Ok(_) | Err(_) => Some(listens.clone()),
    }
}

fn stances(listen: &Listen) -> Vec<String> {
    let stances = [
        ("inbound", listen.inbound.is_some()),
        ("outbound", listen.outbound.is_some()),
        ("gateway", listen.gateway.is_some()),
    ];
    stances.into_iter().filter(|(_, taken)| *taken).map(|(stance, _)| stance.to_owned()).collect()
}

/// `region/zone`.
fn locality(place: &str) -> Locality {
    let (region, zone) = place.split_once('/').unwrap_or((place, ""));
    Locality { region: region.to_owned(), zone: zone.to_owned(), sub_zone: String::new() }
}

const fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

const fn text(text: String) -> Value {
    value(Kind::StringValue(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(yaml: &str) -> bootstrap::Node {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_sidecar_says_who_and_where_it_is_and_what_it_does() {
        let node = node(
            "{ id: research/files-1, labels: { app: files }, servers: [research/files], locality: eu/a }",
        );
        let address = HostPort::parse("10.0.0.5:7443").unwrap();
        let said = describe(&node, &Listen::default(), Some(&address));
        assert_eq!(said.id, "research/files-1");
        let locality = said.locality.unwrap();
        assert_eq!((locality.region.as_str(), locality.zone.as_str()), ("eu", "a"));
        let fields = said.metadata.unwrap().fields;
        let shown = format!("{fields:?}");
        for part in
            ["app", "research/files", "inbound", "outbound", "10.0.0.5:7443", env!("CARGO_PKG_VERSION")]
        {
            assert!(shown.contains(part), "{shown} should contain {part}");
        }
    }

    #[test]
    fn an_address_that_is_every_address_is_told_as_the_one_that_is_used() {
        let local: IpAddr = "10.0.0.9".parse().unwrap();
        let check = |node: &str, listens: &str, expected: &str| {
            let listens = HostPort::parse(listens).unwrap();
            let told = reached_at(&self::node(node), Some(&listens), local).unwrap();
            assert_eq!(told.as_str(), expected);
        };
        check("{ id: a/b }", "0.0.0.0:7443", "10.0.0.9:7443");
        check("{ id: a/b }", "[::]:7443", "10.0.0.9:7443");
        check("{ id: a/b }", "10.1.1.1:7443", "10.1.1.1:7443");
        check("{ id: a/b }", "files.svc:7443", "files.svc:7443");
        check("{ id: a/b, address: 'files.svc:1' }", "0.0.0.0:7443", "files.svc:1");
        assert_eq!(reached_at(&node("{ id: a/b }"), None, local), None);
    }
}
