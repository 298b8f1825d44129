//! `AccessPolicy`, and the matches and selectors that other messages share with it.

use std::collections::BTreeMap;

use super::choice;
use super::read::{Read, at, list, map, optional_list, optional_text, optional_texts, rule, text, texts};
use super::write::{optional_strings, string, string_map, strings, unless_default};
use super::{decode_meta, pb};
use crate::resource::bounded::{Map, Text};
use crate::resource::kinds::raw::{RawCaller, RawTarget};
use crate::resource::kinds::{AccessPolicy, AccessRule, CallerMatch, Patterns, ServerSelector, TargetMatch};
use crate::wire::Object;

pub(super) fn encode(meta: Option<pb::Meta>, policy: &AccessPolicy) -> pb::AccessPolicy {
    let AccessPolicy { servers, virtual_servers, rules, shadow, explain } = policy;
    pb::AccessPolicy {
        meta,
        servers: encode_selector(servers),
        virtual_servers: optional_strings(virtual_servers.as_deref()),
        rules: rules.iter().map(encode_rule).collect(),
        shadow: *shadow,
        explain: *explain,
    }
}

pub(super) fn decode(message: pb::AccessPolicy) -> Read<Object<AccessPolicy>> {
    let pb::AccessPolicy { meta, servers, virtual_servers, rules, shadow, explain } = message;
    let meta = decode_meta(meta)?;
    let spec = AccessPolicy {
        servers: at("servers", decode_selector(servers))?,
        virtual_servers: at("virtual_servers", optional_texts(virtual_servers))?,
        rules: at("rules", list(rules, decode_rule))?,
        shadow,
        explain,
    };
    Ok(Object { meta, spec })
}

/// A selector without parts, which means every server in scope, is left out.
pub(super) fn encode_selector(selector: &ServerSelector) -> Option<pb::ServerSelector> {
    unless_default(selector, |ServerSelector { names, labels, namespaces }| pb::ServerSelector {
        names: optional_strings(names.as_deref()),
        labels: string_map(labels),
        namespaces: optional_strings(namespaces.as_deref()),
    })
}

pub(super) fn decode_selector(message: Option<pb::ServerSelector>) -> Read<ServerSelector> {
    let pb::ServerSelector { names, labels, namespaces } = message.unwrap_or_default();
    Ok(ServerSelector {
        names: at("names", optional_texts(names))?,
        labels: at("labels", map(labels, |value| text(&value)))?,
        namespaces: at("namespaces", optional_texts(namespaces))?,
    })
}

fn encode_rule(rule: &AccessRule) -> pb::AccessRule {
    let AccessRule { name, action, from, to, when } = rule;
    pb::AccessRule {
        name: string(name),
        action: choice::action::encode(*action),
        from: from.iter().flatten().map(encode_caller).collect(),
        to: to.iter().flatten().map(encode_target).collect(),
        when: string(when),
    }
}

fn decode_rule(message: pb::AccessRule) -> Read<AccessRule> {
    let pb::AccessRule { name, action, from, to, when } = message;
    Ok(AccessRule {
        name: at("name", optional_text(&name))?,
        action: at("action", choice::action::decode(action))?,
        from: at("from", optional_list(from, decode_caller))?,
        to: at("to", optional_list(to, decode_target))?,
        when: at("when", optional_text(&when))?,
    })
}

pub(super) fn encode_caller(caller: &CallerMatch) -> pb::CallerMatch {
    let CallerMatch { identities, namespaces, service_accounts, tenants, claims } = caller;
    pb::CallerMatch {
        identities: optional_strings(identities.as_deref()),
        namespaces: optional_strings(namespaces.as_deref()),
        service_accounts: optional_strings(service_accounts.as_deref()),
        tenants: optional_strings(tenants.as_deref()),
        claims: encode_pattern_map(claims),
    }
}

pub(super) fn decode_caller(message: pb::CallerMatch) -> Read<CallerMatch> {
    let pb::CallerMatch { identities, namespaces, service_accounts, tenants, claims } = message;
    let raw = RawCaller {
        identities: at("identities", optional_texts(identities))?,
        namespaces: at("namespaces", optional_texts(namespaces))?,
        service_accounts: at("service_accounts", optional_texts(service_accounts))?,
        tenants: at("tenants", optional_texts(tenants))?,
        claims: at("claims", decode_pattern_map(claims))?,
    };
    rule(CallerMatch::try_from(raw))
}

fn encode_target(target: &TargetMatch) -> pb::TargetMatch {
    let TargetMatch { methods, tools, prompts, resources } = target;
    pb::TargetMatch {
        methods: optional_strings(methods.as_deref()),
        tools: optional_strings(tools.as_deref()),
        prompts: optional_strings(prompts.as_deref()),
        resources: optional_strings(resources.as_deref()),
    }
}

fn decode_target(message: pb::TargetMatch) -> Read<TargetMatch> {
    let pb::TargetMatch { methods, tools, prompts, resources } = message;
    let raw = RawTarget {
        methods: at("methods", optional_texts(methods))?,
        tools: at("tools", optional_texts(tools))?,
        prompts: at("prompts", optional_texts(prompts))?,
        resources: at("resources", optional_texts(resources))?,
    };
    rule(TargetMatch::try_from(raw))
}

pub(super) fn encode_pattern_map<const MAX: usize>(
    entries: &Map<Text<128>, Patterns, MAX>,
) -> BTreeMap<String, pb::Patterns> {
    let encode = |patterns: &Patterns| pb::Patterns { patterns: strings(patterns) };
    entries.iter().map(|(key, patterns)| (key.to_string(), encode(patterns))).collect()
}

pub(super) fn decode_pattern_map<const MAX: usize>(
    entries: BTreeMap<String, pb::Patterns>,
) -> Read<Map<Text<128>, Patterns, MAX>> {
    map(entries, |message| {
        let pb::Patterns { patterns } = message;
        at("patterns", texts(patterns))
    })
}
