//! Which resources of a response are taken, and why the others are not.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest;
use weft_certs::bundle::{self, Bundle, Bundles};
use weft_proto::name::TrustDomain;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use weft_proto::wire::{self, Part, ResourceType};

use super::{Accepted, BYTES_MAX, Held, NAME_BYTES_MAX, RESOURCES_MAX, Session};
use crate::control::trust;

/// Longest part of a name that a reason repeats.
const ECHO_CHARS_MAX: usize = 80;

/// Why a resource is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejected {
    #[error("the name is {0} bytes long; 1 to {NAME_BYTES_MAX} are allowed")]
    Name(usize),
    #[error("the version is {0} bytes long; at most {NAME_BYTES_MAX} are allowed")]
    Version(usize),
    #[error("it carries no content")]
    Empty,
    #[error("its content is of the type {0:?}")]
    Type(String),
    #[error("a time to live is not supported here")]
    TimeToLive,
    #[error("{0}")]
    Content(#[from] wire::Error),
    #[error("its content calls itself {0:?}")]
    OtherName(String),
    #[error("{0}")]
    Bundle(#[from] bundle::Error),
    #[error("there are {RESOURCES_MAX} of this type already, which is as many as are taken")]
    TooMany,
    #[error("the whole configuration would be larger than {BYTES_MAX} bytes")]
    TooLarge,
}

impl Session {
    /// Takes what is good of a response; answers why the rest was not taken, and which trust domains it was about.
    pub(super) fn apply(
        &mut self,
        ty: ResourceType,
        response: DeltaDiscoveryResponse,
    ) -> (Vec<String>, BTreeSet<TrustDomain>) {
        for error in response.resource_errors {
            let name = error.resource_name.map(|name| name.name).unwrap_or_default();
            let why = error.error_detail.map(|status| status.message).unwrap_or_default();
            tracing::warn!(resource.type = ty.name(), resource.name = clip(&name), why = clip(&why), "resource not available");
        }
        let mut removed = response.removed_resources;
        removed.extend(response.removed_resource_names.into_iter().map(|name| name.name));
        let twice = named_twice(&response.resources, &removed);
        let mut reasons: Vec<String> = twice
            .iter()
            .map(|name| format!("{}: it is named more than once in one response", clip(name)))
            .collect();
        let mut trust = BTreeSet::new();
        for resource in response.resources {
            let name = resource.name.clone();
            // Even what is refused is still there: its last good version stays.
            self.unconfirmed.remove(&(ty, name.as_str().into()));
            if twice.contains(&name) {
                self.note_unreadable(ty, &name);
                continue;
            }
            match checked(ty, resource).and_then(|accepted| self.take(accepted)) {
                Ok(()) => trust.extend(domain(ty, &name)),
                Err(rejected) => {
                    if let Rejected::OtherName(own) = &rejected {
                        self.note_unreadable(ty, own);
                    }
                    self.note_unreadable(ty, &name);
                    reasons.push(format!("{}: {rejected}", clip(&name)));
                }
            }
        }
        for name in removed.into_iter().filter(|name| !twice.contains(name)) {
            if self.remove(ty, &name) {
                trust.extend(domain(ty, &name));
            }
        }
        (reasons, trust)
    }

    /// Takes one resource in place of its last good version, or leaves everything as it is.
    pub(super) fn take(&mut self, resource: Accepted) -> Result<(), Rejected> {
        let Accepted { ty, name, version, bytes } = resource;
        let table = &self.held[ty.index()];
        let former = table.get(&name);
        if former.is_none() && table.len() >= RESOURCES_MAX {
            return Err(Rejected::TooMany);
        }
        if let Some(former) = former.filter(|former| former.bytes == bytes) {
            let held = Held { version, ..former.clone() };
            self.held[ty.index()].insert(name, held);
            return Ok(());
        }
        let total = self.bytes - former.map_or(0, |held| held.bytes.len()) + bytes.len();
        if total > BYTES_MAX {
            return Err(Rejected::TooLarge);
        }
        let part = wire::decode(ty, &bytes)?;
        if part.name() != *name {
            return Err(Rejected::OtherName(clip(&part.name())));
        }
        if let Part::TrustBundle(told) = &part {
            self.bundles = self.bundles.with(trust::bundle(told)?)?;
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
        Arc::make_mut(&mut self.parts).insert(part);
        self.unreadable.remove(&(ty, name.to_string()));
        self.held[ty.index()].insert(name, Held { version, bytes, digest: hash });
        self.bytes = total;
        self.changed = true;
        Ok(())
    }

    /// Says whether there was anything by this name. A policy that could not be read, and is gone, is in nobody's way.
    pub(super) fn remove(&mut self, ty: ResourceType, name: &str) -> bool {
        self.changed |= self.unreadable.remove(&(ty, name.to_owned()));
        let Some(held) = self.held[ty.index()].remove(name) else { return false };
        self.bytes -= held.bytes.len();
        Arc::make_mut(&mut self.parts).remove(ty, name);
        if ty == ResourceType::TrustBundle {
            let others = self.bundles.iter().filter(|bundle| bundle.trust_domain().as_str() != name);
            self.bundles = Bundles::new(others.map(|bundle| Bundle::clone(bundle)))
                .expect("fewer bundles than before are within the limits");
        }
        self.changed = true;
        true
    }

    /// Notes a policy that was refused. If an earlier version is held, that goes on guarding what it guards.
    pub(super) fn note_unreadable(&mut self, ty: ResourceType, name: &str) {
        let guards = [ResourceType::AccessPolicy, ResourceType::QuotaPolicy, ResourceType::ToolPolicy];
        if guards.contains(&ty) && !self.held[ty.index()].contains_key(name) {
            self.changed |= self.unreadable.insert((ty, name.to_owned()));
        }
    }
}

/// A resource with everything about it in order but its content.
fn checked(ty: ResourceType, resource: Resource) -> Result<Accepted, Rejected> {
    if !(1..=NAME_BYTES_MAX).contains(&resource.name.len()) {
        return Err(Rejected::Name(resource.name.len()));
    }
    if resource.version.len() > NAME_BYTES_MAX {
        return Err(Rejected::Version(resource.version.len()));
    }
    // Whoever sends one expects the resource to vanish, and here it would not.
    if resource.ttl.is_some() {
        return Err(Rejected::TimeToLive);
    }
    let content = resource.resource.ok_or(Rejected::Empty)?;
    if content.type_url != ty.type_url() {
        return Err(Rejected::Type(clip(&content.type_url)));
    }
    let (name, version) = (resource.name.into(), resource.version.into());
    Ok(Accepted { ty, name, version, bytes: content.value.into() })
}

/// Names that a response says more than one thing about; none of it can be believed.
fn named_twice(resources: &[Resource], removed: &[String]) -> BTreeSet<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for name in resources.iter().map(|it| &it.name).chain(removed) {
        *counts.entry(name).or_default() += 1;
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name.to_owned()).collect()
}

fn domain(ty: ResourceType, name: &str) -> Option<TrustDomain> {
    (ty == ResourceType::TrustBundle).then(|| TrustDomain::parse(name).ok()).flatten()
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
