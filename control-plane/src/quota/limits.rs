//! The limits of policies, made ready once for each version of a policy.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use weft_proto::policy::quota::{Limit, Plan};
use weft_proto::resource::kinds::QuotaPolicy;
use weft_proto::resource::{Resource, Spec};
use weft_proto::wire::{Meta, Object};

/// The limits of one policy, by their identities.
pub(super) type Made = HashMap<Arc<str>, Arc<Limit>>;

/// By the names of policies; each with the policy that it was made from.
type Known = HashMap<String, (Arc<Resource>, Arc<Made>)>;

#[derive(Debug, Default)]
pub(super) struct Limits(RwLock<Known>);

impl Limits {
    /// The limits of a policy of this name.
    pub(super) fn of(&self, name: &str, policy: &Arc<Resource>) -> Arc<Made> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = known.get(name).filter(|(of, _)| Arc::ptr_eq(of, policy)) {
            return Arc::clone(made);
        }
        drop(known);
        let made = Arc::new(make(policy));
        let entry = (Arc::clone(policy), Arc::clone(&made));
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), entry);
        made
    }

    /// Forgets all policies but these.
    pub(super) fn keep(&self, names: &HashSet<String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }
}

fn make(policy: &Resource) -> Made {
    let Spec::QuotaPolicy(spec) = &policy.spec else { return Made::new() };
    let object: Object<QuotaPolicy> = Object { meta: Meta::new(&policy.metadata, 0), spec: spec.clone() };
    let plan = Plan::new(&[Arc::new(object)]);
    plan.limits().iter().map(|limit| (Arc::clone(&limit.identity), Arc::new(limit.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use weft_proto::resource::parse_one;

    use super::*;

    fn policy(rate: u32) -> Arc<Resource> {
        let text = format!(
            "{{ apiVersion: weft.dev/v1alpha1, kind: QuotaPolicy, metadata: {{ namespace: research, name: fair }}, \
             spec: {{ limits: [{{ name: calls, rate: {rate}/min, scope: mesh }}] }} }}"
        );
        Arc::new(parse_one("fair.yaml", &text).unwrap())
    }

    #[test]
    fn limits_are_made_once_for_each_version_of_a_policy() {
        let limits = Limits::default();
        let (old, new) = (policy(10), policy(20));
        let first = limits.of("research/fair", &old);
        assert!(Arc::ptr_eq(&first, &limits.of("research/fair", &old)), "it is made twice");
        let second = limits.of("research/fair", &new);
        let amounts = |made: &Made| made.values().map(|limit| limit.amount()).collect::<Vec<_>>();
        assert_eq!(
            (amounts(&first), amounts(&second)),
            (vec!["10/min".to_owned()], vec!["20/min".to_owned()])
        );
        limits.keep(&HashSet::new());
        assert!(!Arc::ptr_eq(&second, &limits.of("research/fair", &new)), "it is kept for ever");
    }
}
