//! A snapshot as text for people: every server with what speaks about it, in the order in which it counts.
//!
//! What could be a secret is not printed: values of environment variables, digests of keys.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{
    Precision, ServerEntry, Snapshot, Specificity, VirtualEntry, specificity, specificity_of_virtual_server,
};
use crate::name::{Namespace, ServerName};
use crate::offer::Offer;
use crate::resource::kinds::{AccessRule, ServerSelector};
use crate::wire::{Endpoint, Mesh, Meta, Object, TrustBundle};

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root_namespace();
        match self.mesh.as_deref() {
            Some(mesh) => write_mesh(f, mesh)?,
            None => writeln!(f, "mesh: not received yet")?,
        }
        self.trust.values().try_for_each(|bundle| write_bundle(f, bundle))?;
        let mut aliases: BTreeMap<&ServerName, Vec<String>> = BTreeMap::new();
        for (alias, name) in &self.aliases {
            aliases.entry(name).or_default().push(alias.to_string());
        }
        for (name, entry) in &self.servers {
            write_server(f, entry, aliases.get(name).map_or(&[], Vec::as_slice), &root)?;
        }
        self.virtual_servers.values().try_for_each(|entry| write_virtual_server(f, entry, &root))?;
        for object in &self.authentication {
            write_heading(f, "authentication", &object.meta)?;
            write_fields(f, 1, &object.spec, &[])?;
        }
        for object in &self.telemetry {
            write_heading(f, "telemetry", &object.meta)?;
            write_fields(f, 1, &object.spec, &[])?;
        }
        if !self.warnings.is_empty() {
            writeln!(f, "\nwarnings")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  {warning}"))
    }
}

fn write_mesh(f: &mut fmt::Formatter<'_>, mesh: &Mesh) -> fmt::Result {
    let Mesh { trust_domain, default_action, svid_lifetime, root_namespace, gateways, gateways_are_told: _ } =
        mesh;
    writeln!(f, "mesh {trust_domain}")?;
    writeln!(f, "  defaultAction: {}", flow(&to_value(default_action)))?;
    writeln!(f, "  svidLifetime: {svid_lifetime}")?;
    writeln!(f, "  rootNamespace: {root_namespace}")?;
    gateways.iter().try_for_each(|gateway| writeln!(f, "  gateway: {gateway}"))
}

fn write_bundle(f: &mut fmt::Formatter<'_>, bundle: &TrustBundle) -> fmt::Result {
    let TrustBundle { trust_domain, roots, sequence, revoked_serials, renew_unless_root } = bundle;
    writeln!(f, "\ntrust {trust_domain}")?;
    writeln!(f, "  sequence {sequence}, {}", counted(roots.len(), "root"))?;
    if !revoked_serials.is_empty() {
        writeln!(f, "  revoked: {}", revoked_serials.join(", "))?;
    }
    renew_unless_root.iter().try_for_each(|root| writeln!(f, "  renew unless under: {root}"))
}

fn write_heading(f: &mut fmt::Formatter<'_>, what: &str, meta: &Meta) -> fmt::Result {
    writeln!(f, "\n{what} {} (created {})", meta.full_name(), meta.created_revision)?;
    match meta.labels.is_empty() {
        true => Ok(()),
        false => writeln!(f, "  labels: {}", flow(&to_value(&meta.labels))),
    }
}

fn write_server(
    f: &mut fmt::Formatter<'_>,
    entry: &ServerEntry,
    aliases: &[String],
    root: &Namespace,
) -> fmt::Result {
    let ServerEntry { server, endpoints, access, quotas, tools, telemetry, route, offer } = entry;
    let selected =
        |selector: &ServerSelector, meta: &Meta| specificity(selector, &meta.namespace, root, &server.meta);
    write_heading(f, "server", &server.meta)?;
    if !aliases.is_empty() {
        writeln!(f, "  also called {}", aliases.join(", "))?;
    }
    write_fields(f, 1, &server.spec, &["aliases"])?;
    endpoints.iter().try_for_each(|endpoint| write_endpoint(f, endpoint))?;
    for policy in access {
        write_policy(f, "access", policy, selected(&policy.spec.servers, &policy.meta), root)?;
        write_rules(f, &policy.spec.rules)?;
    }
    for policy in quotas {
        write_policy(f, "quota", policy, selected(&policy.spec.servers, &policy.meta), root)?;
        for (index, limit) in policy.spec.limits.iter().enumerate() {
            writeln!(f, "    {}. {}", index + 1, flow(&to_value(limit)))?;
        }
    }
    for policy in tools {
        write_policy(f, "tools", policy, selected(&policy.spec.servers, &policy.meta), root)?;
        write_fields(f, 2, &policy.spec, &["servers", "shadow"])?;
    }
    for policy in telemetry {
        write_policy(f, "telemetry", policy, selected(&policy.spec.servers, &policy.meta), root)?;
        write_fields(f, 2, &policy.spec, &["servers"])?;
    }
    if let Some(offer) = offer {
        write_offer(f, offer)?;
    }
    let Some(route) = route else { return Ok(()) };
    writeln!(f, "  route {} (created {})", route.meta.full_name(), route.meta.created_revision)?;
    for (index, rule) in route.spec.rules.iter().enumerate() {
        writeln!(f, "    {}. {}", index + 1, flow(&to_value(rule)))?;
    }
    Ok(())
}

fn write_offer(f: &mut fmt::Formatter<'_>, offer: &Offer) -> fmt::Result {
    for item in offer.items() {
        writeln!(f, "  offers {} {}", item.kind.member(), item.name)?;
    }
    Ok(())
}

fn write_endpoint(f: &mut fmt::Formatter<'_>, endpoint: &Endpoint) -> fmt::Result {
    let Endpoint { address, node, weight, locality, identity } = endpoint;
    write!(f, "  endpoint {address}")?;
    if let Some(identity) = identity {
        write!(f, " as {identity}")?;
    }
    if let Some(node) = node {
        write!(f, " on {node}")?;
    }
    if let Some(locality) = locality {
        write!(f, " in {locality}")?;
    }
    match weight {
        Some(weight) => writeln!(f, " with weight {weight}"),
        None => writeln!(f),
    }
}

fn write_virtual_server(f: &mut fmt::Formatter<'_>, entry: &VirtualEntry, root: &Namespace) -> fmt::Result {
    let VirtualEntry { virtual_server, members, access } = entry;
    write_heading(f, "virtual server", &virtual_server.meta)?;
    write_fields(f, 1, &virtual_server.spec, &["members"])?;
    for resolved in members {
        let mut member = to_value(&resolved.member);
        member.as_object_mut().and_then(|fields| fields.remove("server"));
        match member.as_object().is_none_or(|fields| fields.is_empty()) {
            true => writeln!(f, "  member {}", resolved.server)?,
            false => writeln!(f, "  member {} {}", resolved.server, flow(&member))?,
        }
    }
    let name = virtual_server.meta.full_name();
    for policy in access {
        let found = specificity_of_virtual_server(&policy.spec, &policy.meta.namespace, root, &name);
        write_policy(f, "access", policy, found, root)?;
        write_rules(f, &policy.spec.rules)?;
    }
    Ok(())
}

/// The first line of a policy under a server: which, why it is here, and what orders it.
fn write_policy<S: Serialize>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    policy: &Object<S>,
    specificity: Option<Specificity>,
    root: &Namespace,
) -> fmt::Result {
    let Object { meta, spec } = policy;
    let mut remarks: Vec<String> = specificity.map(|found| found.to_string()).into_iter().collect();
    if meta.namespace == *root {
        remarks.push("from the root namespace".to_owned());
    }
    let spec = to_value(spec);
    let flags = ["shadow", "explain"].into_iter().filter(|flag| spec.get(flag) == Some(&Value::Bool(true)));
    remarks.extend(flags.map(str::to_owned));
    remarks.push(format!("created {}", meta.created_revision));
    writeln!(f, "  {what} {} ({})", meta.full_name(), remarks.join(", "))
}

impl fmt::Display for Specificity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.name {
            Precision::Exact => Some("by name".to_owned()),
            Precision::Pattern => Some("by pattern".to_owned()),
            Precision::Any => None,
        };
        let labels = (self.labels > 0).then(|| format!("by {}", counted(self.labels, "label")));
        let parts: Vec<_> = name.into_iter().chain(labels).collect();
        match (parts.is_empty(), self.namespace) {
            (false, _) => f.write_str(&parts.join(" and ")),
            (true, Precision::Exact) => f.write_str("by namespace"),
            (true, Precision::Pattern) => f.write_str("by pattern of namespaces"),
            (true, Precision::Any) => f.write_str("everywhere"),
        }
    }
}

fn write_rules(f: &mut fmt::Formatter<'_>, rules: &[AccessRule]) -> fmt::Result {
    for (index, rule) in rules.iter().enumerate() {
        let AccessRule { name, action, from, to, when } = rule;
        write!(f, "    {}. ", index + 1)?;
        if let Some(name) = name {
            write!(f, "{name}: ")?;
        }
        write!(f, "{}", flow(&to_value(action)))?;
        match from {
            Some(from) => write!(f, " from {}", alternatives(from))?,
            None => write!(f, " from anyone")?,
        }
        match to {
            Some(to) => write!(f, " to {}", alternatives(to))?,
            None => write!(f, " to everything")?,
        }
        match when {
            Some(when) => writeln!(f, " when {}", one_line(when.as_str()))?,
            None => writeln!(f)?,
        }
    }
    Ok(())
}

fn alternatives<T: Serialize>(matches: &[T]) -> String {
    matches.iter().map(|it| flow(&to_value(it))).collect::<Vec<_>>().join(" or ")
}

/// A line for each field that is set, as documents spell it.
fn write_fields<S: Serialize>(
    f: &mut fmt::Formatter<'_>,
    depth: usize,
    spec: &S,
    except: &[&str],
) -> fmt::Result {
    let mut value = to_value(spec);
    mask(&mut value);
    let mut fields: Vec<_> = value.as_object().into_iter().flatten().collect();
    fields.retain(|(key, _)| !except.contains(&key.as_str()));
    fields.sort_by_key(|(key, _)| *key);
    fields
        .into_iter()
        .try_for_each(|(key, value)| writeln!(f, "{:indent$}{key}: {}", "", flow(value), indent = depth * 2))
}

/// Hides what could be a secret.
fn mask(spec: &mut Value) {
    let hidden = || Value::from("…");
    if let Some(env) = spec.pointer_mut("/stdio/env").and_then(Value::as_object_mut) {
        env.values_mut().for_each(|value| *value = hidden());
    }
    let lists = [("/apiKeys", "digest"), ("/jwt", "jwks")];
    for (list, field) in lists {
        let items = spec.pointer_mut(list).and_then(Value::as_array_mut);
        let fields = items.into_iter().flatten().filter_map(|item| item.get_mut(field));
        fields.for_each(|value| *value = hidden());
    }
}

fn to_value(value: &(impl Serialize + ?Sized)) -> Value {
    serde_json::to_value(value).expect("the model has only text keys and finite numbers")
}

/// A value on one line, as YAML would write it, with sorted keys.
fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields: Vec<_> =
                fields.into_iter().map(|(key, value)| format!("{}: {}", plain(key), flow(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// Text without quotes where none are needed to read it.
fn plain(text: &str) -> String {
    let ambiguous = |c: char| c.is_control() || matches!(c, ' ' | ',' | '"' | '[' | ']' | '{' | '}' | '#');
    match text.is_empty() || text.contains(ambiguous) {
        true => Value::from(text).to_string(),
        false => text.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
