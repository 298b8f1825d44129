//! `docs/resources.md`, made from the schemas of the model and the examples in `tests/reference`. `WEFT_BLESS=1` writes
//! it anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use weft_proto::name::{
    CollectorUrl, Digest, EnvName, EnvValue, Glob, HostPort, IdentityPattern, LabelKey, LabelValue,
    Namespace, ObjectName, ServerName, ToolName, TrustDomain, WebUrl,
};
use weft_proto::resource::kinds::{self, Dimension};
use weft_proto::resource::moment::Moment;
use weft_proto::resource::units::{Budget, ByteSize, Delay, Rate, Ratio, Span};
use weft_proto::resource::{
    API_VERSION, DEFAULT_NAMESPACE, Kind, Metadata, ROOT_NAMESPACE, ResourceVersion, parse_one,
};

const INTRO: &str = "\
# Resources

What can be written in a document, kind by kind. This page is made from the types that read the documents; do not edit
it.

A document is YAML or JSON with four fields: `apiVersion`, `kind`, `metadata` and `spec`. A field that is not listed
here is an error, and so is a list with fewer or more items than it may have: a list that would select things cannot be
empty, leave it out to mean all.

A namespace is a tenant: an object speaks about its own namespace only, except in the root namespace, whose objects
reach the whole mesh.
";

const ORDER: &str = "\
## Which object comes first

Where several objects of one kind select the same server, the more specific selector comes first: a server named
exactly before one matched by a pattern before one not named at all; then the selector with more labels; then one whose
namespace is given exactly, as it is for every object outside the root namespace. Between equals, the namespace's own
objects come before those of the root namespace, older objects before younger ones, and the name decides last.
";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The texts that a field may hold: how they are called here, and what they look like.
fn formats() -> Vec<(String, &'static str, &'static str)> {
    fn pattern<T: JsonSchema>() -> String {
        let schema = T::json_schema(&mut SchemaGenerator::default()).to_value();
        schema["pattern"].as_str().expect("a text with a pattern").to_owned()
    }
    vec![
        (pattern::<Namespace>(), "namespace", "a DNS label: lower-case letters, digits and `-`"),
        (pattern::<ObjectName>(), "name", "a DNS subdomain: lower-case letters, digits, `-` and `.`"),
        (pattern::<ServerName>(), "server name", "`<namespace>/<name>`"),
        (pattern::<LabelKey>(), "label key", "as in Kubernetes: an optional DNS prefix and `/`, then a name"),
        (
            pattern::<LabelValue>(),
            "label value",
            "as in Kubernetes: letters, digits, `-`, `_` and `.`; may be empty",
        ),
        (pattern::<ToolName>(), "tool name", "as the server advertises it, without spaces at its ends"),
        (pattern::<EnvName>(), "variable", "letters, digits and `_`, not starting with a digit"),
        (pattern::<EnvValue>(), "variable value", "anything but NUL, at most 32 KiB; may be empty"),
        (pattern::<Glob>(), "pattern", "exact text, where `*` stands for any run of characters"),
        (pattern::<IdentityPattern>(), "identity pattern", "a SPIFFE ID, where `*` stays within its segment"),
        (pattern::<TrustDomain>(), "trust domain", "lower-case letters, digits, `.`, `-` and `_`"),
        (pattern::<HostPort>(), "address", "`host:port`, such as `10.0.0.5:7443` or `[::1]:7443`"),
        (pattern::<WebUrl>(), "URL", "`https`, or `http` to this machine; no credentials, no fragment"),
        (
            pattern::<CollectorUrl>(),
            "collector",
            "`https` or `http`, to anywhere; no credentials, no query, no fragment",
        ),
        (pattern::<Digest>(), "digest", "`sha256:` and 64 lower-case hex digits"),
        (pattern::<Delay>(), "delay", "a [duration](#formats), or `p95`"),
        (pattern::<Span>(), "duration", "`500ms`, `60s`, `1h30m`, `7d`; at most ten years"),
        (
            pattern::<Moment>(),
            "time",
            "`2027-01-31T12:00:00Z`, `2027-01-31T13:00:00+01:00`: RFC 3339 in whole seconds",
        ),
        (pattern::<ByteSize>(), "size", "`512B`, `64KiB`, `10MB`, `1GiB`; at most 1 TiB"),
        (pattern::<Rate>(), "rate", "`5/s`, `10/min`, `2000/h`, `30/10s`"),
        (pattern::<Budget>(), "budget", "`500/day`, `10000/month`"),
        (pattern::<Ratio>(), "percentage", "`1%`, `0.25%`, `100%`"),
        (pattern::<Dimension>(), "dimension", "`caller`, `tenant`, `tool`, `server` or `claim:<name>`"),
        (pattern::<ResourceVersion>(), "version", "the number that the control plane gave"),
    ]
}

/// What a choice is when it is left out; schemas do not say it, because such a choice is not written out either.
fn defaults() -> BTreeMap<&'static str, String> {
    fn default<T: Default + serde::Serialize>() -> String {
        let value = serde_json::to_value(T::default()).expect("a choice is a text");
        format!("`{}`", value.as_str().expect("a choice is a text"))
    }
    BTreeMap::from([
        ("Balancer", default::<kinds::Balancer>()),
        ("MirroredCalls", default::<kinds::MirroredCalls>()),
        ("CacheScope", default::<kinds::CacheScope>()),
        ("DefaultAction", default::<kinds::DefaultAction>()),
        ("LimitScope", default::<kinds::LimitScope>()),
        ("ListMode", default::<kinds::ListMode>()),
        ("LogFormat", default::<kinds::LogFormat>()),
        ("OtlpProtocol", default::<kinds::OtlpProtocol>()),
        ("Prefixing", default::<kinds::Prefixing>()),
        ("Protocol", default::<kinds::Protocol>()),
        ("RetryClass", default::<kinds::RetryClass>()),
        ("Sharing", default::<kinds::Sharing>()),
        ("Strictness", default::<kinds::Strictness>()),
    ])
}

/// The page while it is written.
struct Page {
    text: String,
    definitions: Map<String, Value>,
    formats: Vec<(String, &'static str, &'static str)>,
    defaults: BTreeMap<&'static str, String>,
}

fn page() -> String {
    let mut generator = SchemaGenerator::default();
    for kind in Kind::ALL {
        kind.spec_schema(&mut generator);
    }
    generator.subschema_for::<Metadata>();
    let definitions = generator.take_definitions(true);
    let mut page = Page { text: INTRO.to_owned(), definitions, formats: formats(), defaults: defaults() };
    page.write_contents();
    page.write_metadata();
    page.text.push('\n');
    page.text.push_str(ORDER);
    let shared = page.shared();
    for kind in Kind::ALL {
        page.write_kind(*kind, &shared);
    }
    page.text.push_str("\n## Shared parts\n");
    shared.iter().for_each(|name| page.write_part(name));
    page.write_formats();
    page.text
}

impl Page {
    fn write_contents(&mut self) {
        self.text.push_str("\n| kind | is | short names |\n|---|---|---|\n");
        for kind in Kind::ALL {
            let short = kind.short_names().iter().map(|name| format!("`{name}`"));
            let short = short.collect::<Vec<_>>().join(", ");
            let is = prose(&self.definitions[kind.name()]);
            let is = is.split_once(['.', ':']).map_or(is.as_str(), |(first, _)| first).to_owned();
            writeln!(self.text, "| {} | {is} | {short} |", link(kind.name())).unwrap();
        }
    }

    fn write_metadata(&mut self) {
        write!(
            self.text,
            "\n## Metadata\n\n`apiVersion` is `{API_VERSION}`. The root namespace is `{ROOT_NAMESPACE}`; objects without \
             a namespace are in `{DEFAULT_NAMESPACE}`.\n\n{}\n",
            prose(&self.definitions["Metadata"])
        )
        .unwrap();
        self.write_table("Metadata");
    }

    /// Parts that more than one kind is made of, in the order of names.
    fn shared(&self) -> Vec<String> {
        let mut users: BTreeMap<String, usize> = BTreeMap::new();
        for kind in Kind::ALL {
            self.parts_of(kind.name()).into_iter().for_each(|part| *users.entry(part).or_default() += 1);
        }
        users.into_iter().filter(|(_, users)| *users > 1).map(|(name, _)| name).collect()
    }

    /// Every definition that a definition leads to, each once, as they are met.
    fn parts_of(&self, name: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut open = references(&self.definitions[name]);
        while !open.is_empty() {
            let next = open.remove(0);
            if !found.contains(&next) {
                open.extend(references(&self.definitions[&next]));
                found.push(next);
            }
        }
        found
    }

    fn write_kind(&mut self, kind: Kind, shared: &[String]) {
        let name = kind.name();
        let example = fs::read_to_string(folder().join(format!("tests/reference/{}.yaml", kind.plural())));
        let example = example.unwrap_or_else(|error| panic!("{name} has no example: {error}"));
        let about = prose(&self.definitions[name]);
        write!(self.text, "\n## {name}\n\n{about}\n\n```yaml\n{}\n```\n", example.trim()).unwrap();
        self.write_table(name);
        for part in self.parts_of(name).into_iter().filter(|part| !shared.contains(part)) {
            self.write_part(&part);
        }
    }

    fn write_part(&mut self, name: &str) {
        let definition = &self.definitions[name];
        write!(self.text, "\n### {name}\n").unwrap();
        let about = prose(definition);
        if !about.is_empty() {
            write!(self.text, "\n{about}\n").unwrap();
        }
        match choices(definition) {
            choices if choices.is_empty() => self.write_table(name),
            choices => {
                self.text.push('\n');
                for (value, about) in choices {
                    let about = if about.is_empty() { about } else { format!(": {about}") };
                    writeln!(self.text, "- `{value}`{about}").unwrap();
                }
            }
        }
    }

    /// One line for each field, those that must be given first.
    fn write_table(&mut self, name: &str) {
        let definition = self.definitions[name].clone();
        let required: BTreeSet<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = definition["properties"].as_object().expect("a part has fields");
        let mut properties: Vec<_> = properties.iter().collect();
        properties.sort_by_key(|(key, _)| (!required.contains(key.as_str()), key.as_str()));
        self.text.push_str("\n| field | is | if left out | |\n|---|---|---|---|\n");
        for (key, schema) in properties {
            let left_out = match required.contains(key.as_str()) {
                true => "**required**".to_owned(),
                false => self.left_out(schema),
            };
            let (is, about) = (self.form(schema), self.about(schema));
            writeln!(self.text, "| `{key}` | {is} | {left_out} | {about} |").unwrap();
        }
    }

    /// What is said about a field, or else about the part that it holds.
    fn about(&self, schema: &Value) -> String {
        let part = || references(schema).first().map(|name| prose(&self.definitions[name]));
        Some(prose(schema)).filter(|about| !about.is_empty()).or_else(part).unwrap_or_default()
    }

    /// What a field that may be left out is then, where that is not told in its own words.
    fn left_out(&self, schema: &Value) -> String {
        if let Some(default) = schema.get("default") {
            return format!("`{}`", default.as_str().map_or_else(|| default.to_string(), str::to_owned));
        }
        if schema["type"] == "boolean" {
            return "`false`".to_owned();
        }
        if schema["type"] == "integer" {
            return "`0`".to_owned();
        }
        let reference = schema.get("$ref").and_then(Value::as_str).map(last);
        let choice = reference.filter(|name| !choices(&self.definitions[*name]).is_empty());
        choice.map_or_else(String::new, |name| self.defaults[name].clone())
    }

    /// What a field holds, with its limits.
    fn form(&self, schema: &Value) -> String {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return link(last(reference));
        }
        let alternatives = schema.get("anyOf").and_then(Value::as_array);
        if let Some(some) = alternatives.into_iter().flatten().find(|it| it["type"] != "null") {
            return self.form(some);
        }
        let number = |key: &str| schema.get(key).and_then(Value::as_u64);
        let ty = match &schema["type"] {
            Value::Array(types) => types.iter().find_map(Value::as_str).unwrap_or_default(),
            ty => ty.as_str().unwrap_or_default(),
        };
        match ty {
            "array" => {
                let (min, max) = (number("minItems"), number("maxItems").expect("a list has a limit"));
                let items = self.form(&schema["items"]);
                match min {
                    Some(min) => format!("{min} to {max} × {items}"),
                    None => format!("at most {max} × {items}"),
                }
            }
            "object" => {
                let max = number("maxProperties").expect("a map has a limit");
                format!("map of at most {max}: {}", self.form(&schema["additionalProperties"]))
            }
            "integer" => match (number("minimum"), number("maximum")) {
                (Some(min), Some(max)) => format!("number, {min} to {max}"),
                _ => "number".to_owned(),
            },
            "boolean" => "`true` or `false`".to_owned(),
            "string" => self.text_form(schema),
            other => panic!("no word for {other:?} in {schema}"),
        }
    }

    fn text_form(&self, schema: &Value) -> String {
        let Some(pattern) = schema.get("pattern").and_then(Value::as_str) else {
            let max = schema.get("maxLength").and_then(Value::as_u64);
            return max.map_or_else(|| "text".to_owned(), |max| format!("text of at most {max} bytes"));
        };
        let format = self.formats.iter().find(|(known, ..)| known == pattern);
        let (_, name, _) = format.unwrap_or_else(|| panic!("no word for texts like {pattern}"));
        format!("[{name}](#formats)")
    }

    fn write_formats(&mut self) {
        self.text.push_str("\n## Formats\n\n| text | looks like |\n|---|---|\n");
        for (_, name, about) in &self.formats {
            writeln!(self.text, "| {name} | {about} |").unwrap();
        }
    }
}

fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

fn last(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

/// A description as one paragraph that fits a table.
fn prose(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The values of a choice and what they mean; none for what is no choice.
fn choices(definition: &Value) -> Vec<(String, String)> {
    let plain = |schema: &Value| {
        let values = schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
        let values = values.into_iter().chain(schema.get("const").cloned());
        let about = if schema.get("const").is_some() { prose(schema) } else { String::new() };
        values.map(|value| (value.as_str().unwrap_or_default().to_owned(), about.clone())).collect::<Vec<_>>()
    };
    match definition.get("oneOf").and_then(Value::as_array) {
        Some(alternatives) => alternatives.iter().flat_map(plain).collect(),
        None => plain(definition),
    }
}

/// Every definition that a schema points at, in the order in which it does.
fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).map(|it| last(it).to_owned());
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn checked_in() -> String {
    let path = folder().join("docs/resources.md");
    if std::env::var_os("WEFT_BLESS").is_some() {
        fs::create_dir_all(folder().join("docs")).unwrap();
        fs::write(&path, page()).unwrap();
    }
    fs::read_to_string(&path).unwrap_or_default()
}

#[test]
fn the_page_is_what_the_model_says() {
    assert!(checked_in() == page(), "docs/resources.md is out of date; WEFT_BLESS=1 writes it anew");
}

#[test]
fn every_kind_has_an_example_and_every_example_parses() {
    let page = page();
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    let mut shown = Vec::new();
    for (example, _) in blocks {
        let resource =
            parse_one("example", example).unwrap_or_else(|errors| panic!("{errors:?} in {example}"));
        shown.push(resource.kind());
    }
    assert_eq!(shown, Kind::ALL);
}

#[test]
fn every_link_leads_to_a_heading() {
    let page = page();
    let headings = page.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    let headings: BTreeSet<_> = headings.map(|heading| heading.to_lowercase().replace(' ', "-")).collect();
    let links = page.split("](#").skip(1).filter_map(|rest| rest.split_once(')'));
    let broken: BTreeSet<_> = links.map(|(link, _)| link).filter(|link| !headings.contains(*link)).collect();
    assert!(broken.is_empty(), "{broken:?}");
}
