//! Where a call goes that is asked about: through a virtual server to the member that has what is called, and by a route
//! to the servers that take its calls. By the same code that leads calls in sidecars.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::compile::{ServerEntry, VirtualEntry};
use weft_proto::mcp::{Target, method};
use weft_proto::name::ServerName;
use weft_proto::offer::Offer;
use weft_proto::policy::access::{Asked, Call, Explanation, Question, Unasked, View};
use weft_proto::policy::route::{self, Facts, Single};
use weft_proto::policy::{self, Caller};
use weft_proto::resource::kinds::{DefaultAction, RouteRule};
use weft_proto::roster::Roster;

use super::World;
use crate::catalog::Entry;

/// The way of a call through a virtual server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThroughTold {
    /// `<namespace>/<name>`
    pub virtual_server: String,
    /// Whether it lets the call through.
    pub allowed: bool,
    /// Why, in a sentence.
    pub because: String,
    /// The member that has what is called; none where the virtual server answers itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What it is called there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What the route of a server makes of a call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteTold {
    /// `<namespace>/<name>`
    pub route: String,
    /// The first rule that matches, from 0; none if none does, and the server itself is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// The rules before it, or all if none matches, with what each asks for that the call has not.
    pub passed_over: Vec<PassedOver>,
    /// Where it leads: first those that share the calls, then the fallbacks in their order, then who gets a copy.
    pub leads_to: Vec<Led>,
}

/// A rule that does not match.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PassedOver {
    pub rule: usize,
    /// Of `methods`, `tools`, `headers` and `claims` those that do not match.
    pub misses: Vec<String>,
}

/// A server that a route leads to, and what comes of the call there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Led {
    pub server: String,
    /// `share`, `fallback` or `mirror`
    #[serde(rename = "as")]
    pub part: String,
    /// Of `share` and `mirror`, the share of the calls, in percent, where every server is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    pub allowed: bool,
    /// The rule that decided, as of an explanation; `unknown` where there is no such server, which gets nothing.
    pub reason: String,
    /// The same in a sentence.
    pub because: String,
}

/// What a route makes of a call, and the server that answers for the whole.
pub(super) type Routed = (RouteTold, Option<Arc<ServerEntry>>);

/// A call as it reaches a server.
pub(super) struct Arrived {
    pub(super) through: Option<ThroughTold>,
    /// What was decided on the way, if that ends it.
    pub(super) ended: Option<Explanation>,
    pub(super) server: ServerName,
    pub(super) question: Question,
}

/// What a caller's sidecar is told that servers offer.
struct Offers(HashMap<ServerName, Offer>);

impl World {
    /// Through the virtual server of that name, if it is one.
    pub(super) fn arrive(
        &self,
        server: ServerName,
        question: Question,
        caller: &Caller,
        known: impl FnOnce() -> Vec<Entry>,
    ) -> Result<Arrived, Unasked> {
        let entry = match self.snapshot.virtual_servers.get(&server) {
            Some(entry) if self.snapshot.server(&server).is_none() => entry,
            _ => return Ok(Arrived { through: None, ended: None, server, question }),
        };
        let (explanation, found) = self.through(entry, &server, &question, (caller, &known()))?;
        let told = ThroughTold {
            virtual_server: server.to_string(),
            allowed: explanation.allowed,
            because: explanation.because.clone(),
            server: found.as_ref().map(|(server, _)| server.to_string()),
            name: found.as_ref().map(|(_, name)| name.clone()),
        };
        let Some((member, own)) = found.filter(|_| explanation.allowed) else {
            return Ok(Arrived { through: Some(told), ended: Some(explanation), server, question });
        };
        let target = question.target.map(|target| match target {
            Asked::Tool(_) => Asked::Tool(own),
            Asked::Prompt(_) => Asked::Prompt(own),
            Asked::Resource(_) => Asked::Resource(own),
        });
        let question = Question { target, ..question };
        Ok(Arrived { through: Some(told), ended: None, server: member, question })
    }

    fn through(
        &self,
        entry: &VirtualEntry,
        name: &ServerName,
        question: &Question,
        (caller, known): (&Caller, &[Entry]),
    ) -> Result<(Explanation, Option<(ServerName, String)>), Unasked> {
        if !policy::is_for(caller, &entry.virtual_server.spec) {
            let because =
                format!("the virtual server {name} is not for this caller, to whom it does not exist");
            return Ok((decided(false, "audience", because), None));
        }
        let view = View::new(&entry.access, DefaultAction::Allow, caller.clone(), name.clone());
        let view = (!entry.access.is_empty()).then_some(view);
        let explanation = match &view {
            Some(view) => view.explain(question)?,
            None => decided(true, "no-policy", format!("no policy speaks of the virtual server {name}")),
        };
        if !explanation.allowed || question.target.is_none() {
            return Ok((explanation, None));
        }
        let offers = Offers::to(self, entry, caller, known);
        let roster = Roster::of_virtual(entry, |server| offers.0.get(server), view.as_ref());
        let found = question.read(|call| call.target.and_then(|target| roster.locate(target)))?;
        Ok(match found {
            Some(found) => (explanation, Some(found)),
            None => {
                let what = question.target.as_ref().map(ToString::to_string).unwrap_or_default();
                (decided(false, "not-shown", format!("{name} shows this caller no {what}")), None)
            }
        })
    }

    /// By the route of a server, if there is one: where it leads, and the server that answers for the whole. That is the
    /// first among those that share the calls that would refuse it, or else the one with the largest share.
    pub(super) fn routed(
        &self,
        entry: &Arc<ServerEntry>,
        question: &Question,
        caller: &Caller,
        headers: &BTreeMap<String, String>,
    ) -> Result<Option<Routed>, Unasked> {
        let Some(route) = &entry.route else { return Ok(None) };
        let says = |name: &str, test: &dyn Fn(&str) -> bool| {
            headers.iter().any(|(said, value)| said.eq_ignore_ascii_case(name) && test(value))
        };
        let read = |call: Call<'_>| {
            let tool = match call.target {
                Some(Target::Tool(tool)) if call.method == method::TOOLS_CALL => Some(tool),
                _ => None,
            };
            let facts = Facts { method: call.method, tool, header: &says, caller: Some(caller) };
            let found = route::decide(&route.spec, &facts);
            let before = found.map_or(route.spec.rules.len(), |(rule, _)| rule);
            let passed_over = route.spec.rules.iter().take(before).enumerate().map(|(rule, it)| PassedOver {
                rule,
                misses: route::missed(it, &facts).into_iter().map(|it| it.word().to_owned()).collect(),
            });
            let mirror = found.and_then(|(_, rule)| {
                let single = Single { method: call.method, tool };
                route::mirrored(&self.snapshot, rule, single).map(|(mirror, _)| mirror)
            });
            (found, passed_over.collect(), mirror.cloned())
        };
        let (found, passed_over, mirror): (Option<(usize, &RouteRule)>, Vec<_>, _) = question.read(read)?;
        let mut told = RouteTold {
            route: route.meta.full_name().to_string(),
            rule: found.map(|(rule, _)| rule),
            passed_over,
            leads_to: Vec::new(),
        };
        let Some((_, rule)) = found else { return Ok(Some((told, None))) };
        let total: u64 = self.sharing(rule).map(|(_, weight)| weight).sum();
        let mut answers: Option<(Arc<ServerEntry>, bool, u64)> = None;
        for to in &rule.to {
            let weight = route::weight(to);
            let known = self.snapshot.server(&to.server);
            let percent = known.map_or(0.0, |_| share(weight, total));
            let led = self.led(&to.server, ("share", Some(percent)), (question, caller))?;
            if let Some(known) = known.filter(|_| weight > 0) {
                let is_worse = match &answers {
                    None => true,
                    Some((_, false, _)) => false,
                    Some((_, true, most)) => !led.allowed || weight > *most,
                };
                if is_worse {
                    answers = Some((Arc::clone(known), led.allowed, weight));
                }
            }
            told.leads_to.push(led);
        }
        for server in rule.fallback.iter().flatten() {
            told.leads_to.push(self.led(server, ("fallback", None), (question, caller))?);
        }
        if let Some(mirror) = mirror {
            let percent = mirror.percent.map_or(100.0, |percent| percent.get().into());
            told.leads_to.push(self.led(&mirror.server, ("mirror", Some(percent)), (question, caller))?);
        }
        Ok(Some((told, answers.map(|(entry, ..)| entry))))
    }

    /// The servers that share the calls of a rule, as far as there are such.
    fn sharing<'r>(&'r self, rule: &'r RouteRule) -> impl Iterator<Item = (&'r ServerName, u64)> {
        let known = rule.to.iter().filter(|it| self.snapshot.server(&it.server).is_some());
        known.map(|it| (&it.server, route::weight(it)))
    }

    fn led(
        &self,
        server: &ServerName,
        (part, percent): (&str, Option<f64>),
        (question, caller): (&Question, &Caller),
    ) -> Result<Led, Unasked> {
        let explanation = match self.snapshot.server(server) {
            Some(entry) => self.view(entry, caller.clone()).explain(question)?,
            None => decided(false, "unknown", "there is no such server, and it gets nothing".to_owned()),
        };
        Ok(Led {
            server: server.to_string(),
            part: part.to_owned(),
            percent,
            allowed: explanation.allowed,
            reason: explanation.reason,
            because: explanation.because,
        })
    }
}

impl Offers {
    /// What the caller could be allowed of the members' offers, as its sidecar is told of them.
    fn to(world: &World, entry: &VirtualEntry, caller: &Caller, known: &[Entry]) -> Self {
        let offers = entry.members.iter().filter_map(|member| {
            let offer = &known.iter().find(|it| it.server == member.server)?.known.as_ref()?.offer;
            let view = world.view(world.snapshot.server(&member.server)?, caller.clone());
            Some((member.server.clone(), offer.only(|item| view.may_list(item.kind, &item.name))))
        });
        Self(offers.collect())
    }
}

fn share(weight: u64, total: u64) -> f64 {
    // No more than 16 weights of 10000.
    let number = |it: u64| f64::from(u32::try_from(it).unwrap_or(u32::MAX));
    if total == 0 { 0.0 } else { (number(weight) * 1000.0 / number(total)).round() / 10.0 }
}

/// What was decided without a rule.
fn decided(allowed: bool, reason: &str, because: String) -> Explanation {
    Explanation {
        allowed,
        reason: reason.to_owned(),
        because,
        audit: false,
        shadow: Vec::new(),
        rules: Vec::new(),
        more_rules: 0,
    }
}
