//! The access policies of a server as they are looked up: by the name that is called where a rule gives one, so that the
//! cost of a decision depends on the rules that could match and not on all.
//!
//! Made once for a server and snapshot, by whoever first asks; all callers share it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::mcp::Target;
use crate::name::Glob;
use crate::resource::ROOT_NAMESPACE;
use crate::resource::kinds::{AccessPolicy, AccessRule, Action, TargetMatch};
use crate::wire::Object;

use super::{Call, speaks_of_method};

/// The access policies that select a server, in the order of conflicts.
#[derive(Clone, Default)]
pub struct Policies {
    list: Vec<Arc<Object<AccessPolicy>>>,
    /// Made of the list when it is first needed.
    table: OnceLock<Arc<Table>>,
}

impl Policies {
    pub(super) fn table(&self) -> &Arc<Table> {
        self.table.get_or_init(|| Arc::new(Table::new(&self.list)))
    }
}

impl Deref for Policies {
    type Target = [Arc<Object<AccessPolicy>>];
    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

impl FromIterator<Arc<Object<AccessPolicy>>> for Policies {
    fn from_iter<I: IntoIterator<Item = Arc<Object<AccessPolicy>>>>(policies: I) -> Self {
        Self::from(policies.into_iter().collect::<Vec<_>>())
    }
}

impl From<Vec<Arc<Object<AccessPolicy>>>> for Policies {
    fn from(list: Vec<Arc<Object<AccessPolicy>>>) -> Self {
        Self { list, table: OnceLock::new() }
    }
}

impl<'a> IntoIterator for &'a Policies {
    type Item = &'a Arc<Object<AccessPolicy>>;
    type IntoIter = std::slice::Iter<'a, Arc<Object<AccessPolicy>>>;
    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl PartialEq for Policies {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

/// A rule's place among all of its server, in the order of conflicts.
pub(super) type RuleNumber = u32;

/// The rules of a server's policies.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) policies: Box<[Arc<Object<AccessPolicy>>]>,
    pub(super) rules: Box<[At]>,
    pub(super) enforced: Rules,
    /// Of each policy in shadow, in their order.
    pub(super) shadows: Box<[Rules]>,
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) policy: u32,
    pub(super) index: u32,
    pub(super) action: Action,
    pub(super) conditional: bool,
    /// Of the root namespace.
    pub(super) of_mesh: bool,
}

/// Rules that are judged together.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// The policy, where they are of one in shadow.
    pub(super) policy: usize,
    /// In their order.
    pub(super) numbers: Vec<RuleNumber>,
    /// Whether any rule allows anything to anyone.
    pub(super) an_allow_exists: bool,
    /// Whether a policy with such a rule does not explain itself.
    pub(super) keeps_quiet: bool,
    /// About everything.
    general: Vec<RuleNumber>,
    /// About methods, whatever they name.
    methods: Vec<Named>,
    tools: Names,
    prompts: Names,
    resources: Names,
}

/// The names of one kind that rules speak of.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<Box<str>, Vec<Named>>,
    globs: Vec<(Glob, Named)>,
}

/// What of a rule speaks of a name.
#[derive(Clone, Copy, Debug)]
struct Named {
    rule: RuleNumber,
    /// Its place in the rule's `to`.
    to: u32,
}

impl Table {
    fn new(policies: &[Arc<Object<AccessPolicy>>]) -> Self {
        let (mut rules, mut enforced, mut shadows) = (Vec::new(), Rules::default(), Vec::new());
        for (place, policy) in policies.iter().enumerate() {
            let spec = &policy.spec;
            let mut in_shadow = Rules { policy: place, ..Rules::default() };
            let group = if spec.shadow { &mut in_shadow } else { &mut enforced };
            for (index, rule) in spec.rules.iter().enumerate() {
                group.take(small(rules.len()), rule, spec.explain);
                rules.push(At {
                    policy: small(place),
                    index: small(index),
                    action: rule.action,
                    conditional: rule.when.is_some(),
                    of_mesh: policy.meta.namespace.as_str() == ROOT_NAMESPACE,
                });
            }
            if spec.shadow {
                shadows.push(in_shadow);
            }
        }
        Self { policies: policies.into(), rules: rules.into(), enforced, shadows: shadows.into() }
    }

    pub(super) fn rule(&self, number: RuleNumber) -> Option<&AccessRule> {
        let at = self.rules.get(number as usize)?;
        self.policies.get(at.policy as usize)?.spec.rules.get(at.index as usize)
    }

    /// Calls `each` with every rule of some that is about a call, in no order, and perhaps more than once.
    pub(super) fn about(&self, rules: &Rules, call: Call<'_>, mut each: impl FnMut(RuleNumber)) {
        rules.general.iter().for_each(|rule| each(*rule));
        let mut check = |named: &Named| {
            if self.wanted(*named).is_some_and(|wanted| speaks_of_method(wanted, call.method)) {
                each(named.rule);
            }
        };
        rules.methods.iter().for_each(&mut check);
        let (names, name) = match call.target {
            Some(Target::Tool(name)) => (&rules.tools, name),
            Some(Target::Prompt(name)) => (&rules.prompts, name),
            Some(Target::Resource(uri)) => (&rules.resources, uri),
            Some(Target::Task(_)) | None => return,
        };
        names.exact.get(name).into_iter().flatten().for_each(&mut check);
        names.globs.iter().filter(|(glob, _)| glob.matches(name)).for_each(|(_, named)| check(named));
    }

    fn wanted(&self, named: Named) -> Option<&TargetMatch> {
        self.rule(named.rule)?.to.as_ref()?.get(named.to as usize)
    }
}

impl Rules {
    fn take(&mut self, number: RuleNumber, rule: &AccessRule, explains: bool) {
        self.numbers.push(number);
        if rule.action == Action::Allow {
            self.an_allow_exists = true;
            self.keeps_quiet |= !explains;
        }
        let Some(to) = &rule.to else { return self.general.push(number) };
        for (place, wanted) in to.iter().enumerate() {
            let named = Named { rule: number, to: small(place) };
            let TargetMatch { methods: _, tools, prompts, resources } = wanted;
            if tools.is_none() && prompts.is_none() && resources.is_none() {
                self.methods.push(named);
            }
            self.tools.take(tools.iter().flatten(), named);
            self.prompts.take(prompts.iter().flatten(), named);
            self.resources.take(resources.iter().flatten(), named);
        }
    }
}

impl Names {
    fn take<'a>(&mut self, globs: impl Iterator<Item = &'a Glob>, named: Named) {
        for glob in globs {
            match glob.exact() {
                Some(name) => self.exact.entry(name.into()).or_default().push(named),
                None => self.globs.push((glob.clone(), named)),
            }
        }
    }
}

/// Objects are bounded, in number and size, far below.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
