use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use weft_proto::name::{NodeId, SpiffeId, TrustDomain};
use weft_proto::policy::quota::lease::Part;
use weft_proto::resource::parse_one;
use weft_proto::wire::ResourceType;

use super::*;
use crate::api::trust::{Gate, Issuer, IssuerKind, Root, Rotation, RotationStep, TrustStatus, Waiting};
use crate::audit::Head;
use crate::auth::{Key, Scope};
use crate::catalog::{self, Advertised, Replica, Tool};
use crate::desired::{self, Present};
use crate::quota::{Standing, Totals};
use crate::replica::Standby;
use crate::reports::{Grown, Health, Report, Served};
use crate::store::{Entry, Revision};
use crate::tokens::{State, Token};
use crate::xds::{ClientStatus, NackStatus, TypeStatus};

mod control_plane;
mod mesh;
mod policy;
mod quota;
mod sidecars;
mod telemetry;
mod trust;

use mesh::*;

type Case = (&'static str, fn(&mut Facts), Outcome, &'static str);

use Outcome::{Failed, Ok as Well, Skipped, Warning};

/// For each check what makes it not pass, and at its edge what still does.
const CASES: [&[Case]; 6] =
    [control_plane::CASES, trust::CASES, sidecars::CASES, policy::CASES, quota::CASES, telemetry::CASES];

#[test]
fn each_check_comes_out_as_the_facts_are() {
    for (name, change, expected, said) in CASES.into_iter().flatten() {
        let mut facts = well();
        change(&mut facts);
        let found = run(&facts, None).into_iter().find(|it| it.name == *name).unwrap();
        assert_eq!(found.outcome, *expected, "{found:?}");
        assert!(found.detail.contains(said), "{said:?} is not in {found:?}");
        let needs_words = matches!(expected, Warning | Failed);
        assert_eq!(needs_words, !found.why.is_empty() && !found.remedy.is_empty(), "{found:?}");
    }
}

#[test]
fn every_check_has_a_case_in_which_it_does_not_pass_and_passes_where_all_is_well() {
    let bad = CASES.into_iter().flatten().filter(|(.., expected, _)| matches!(expected, Warning | Failed));
    let covered: BTreeSet<&str> = bad.map(|(name, ..)| *name).collect();
    let all: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(covered, all);
    assert_eq!(all.len(), CHECKS.len(), "each has a name of its own");
    let found = run(&well(), None);
    let odd: Vec<_> = found.iter().filter(|it| it.outcome != Well).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}

#[test]
fn one_group_is_made_alone_and_groups_come_in_their_order() {
    for group in Group::ALL {
        let found = run(&well(), Some(group));
        assert!(!found.is_empty() && found.iter().all(|it| it.group == group), "{group:?}");
    }
    let order: Vec<_> = run(&well(), None).iter().map(|it| it.group).collect();
    assert!(order.is_sorted(), "{order:?}");
}
