//! Arbitrary objects of every kind, for property tests. The values are small and cover every field; that they do is
//! itself tested, against the schemas.

mod mesh;
mod policy;
mod server;
mod texts;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::string::string_regex;

use crate::name::{
    CollectorUrl, Digest, Glob, HostPort, ObjectName, ServerName, SpiffeId, ToolName, TrustDomain, WebUrl,
};
use crate::policy::expr::{Condition, Weight};
use crate::resource::bounded::{Count, List, Map, Text};
use crate::resource::kinds::*;
use crate::resource::moment::Moment;
use crate::resource::units::{Budget, ByteSize, CalendarWindow, Rate, Ratio, Span};
use crate::resource::{Kind, Metadata, ROOT_NAMESPACE, Resource, Spec, TRUST_NAME};
use crate::wire::Endpoint;

use mesh::*;
use policy::*;
use server::*;
use texts::*;

pub(crate) use policy::{access_policy, caller};
pub(crate) use texts::metadata;

/// Objects of a kind.
pub(crate) fn resource(kind: Kind) -> BoxedStrategy<Resource> {
    let spec: BoxedStrategy<Spec> = match kind {
        Kind::McpServer => server().prop_map(Spec::from).boxed(),
        Kind::VirtualServer => virtual_server().prop_map(Spec::from).boxed(),
        Kind::Route => route().prop_map(Spec::from).boxed(),
        Kind::AccessPolicy => access_policy().prop_map(Spec::from).boxed(),
        Kind::QuotaPolicy => quota_policy().prop_map(Spec::from).boxed(),
        Kind::ToolPolicy => tool_policy().prop_map(Spec::from).boxed(),
        Kind::Authentication => authentication().prop_map(Spec::from).boxed(),
        Kind::Telemetry => telemetry().prop_map(Spec::from).boxed(),
        Kind::Trust => trust().prop_map(Spec::from).boxed(),
    };
    (metadata(), spec).prop_map(|(metadata, spec)| Resource { metadata, spec }).boxed()
}

/// Objects of every kind that travels.
pub(crate) fn traveller() -> BoxedStrategy<Resource> {
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Trust).collect();
    proptest::sample::select(kinds).prop_flat_map(resource).boxed()
}

/// Instances of a server, of which no two are equal.
pub(crate) fn endpoints() -> BoxedStrategy<Vec<Endpoint>> {
    let identity: BoxedStrategy<SpiffeId> = parsed("spiffe://[a-d]/ns/[a-d]/sa/[a-d]");
    let about = (option::of(parsed("[a-d]/[a-d]")), count(), option::of(text()), option::of(identity));
    btree_map(address(), about, 0..4)
        .prop_map(|found: BTreeMap<_, _>| {
            let endpoint = |(address, (node, weight, locality, identity))| Endpoint {
                address,
                node,
                weight,
                locality,
                identity,
            };
            found.into_iter().map(endpoint).collect()
        })
        .boxed()
}

mod tests;
