//! The definitions of our kinds for an API server, made from the types that read the documents, so that both doors take
//! the same.
//!
//! An API server judges types, amounts and forms by these, and takes away what they do not list; what the parts of an
//! object mean together and to other objects is judged behind the validating webhook. Not here: installing them.

mod columns;
mod rules;
mod structural;

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};
use weft_proto::resource::{API_VERSION, Kind};

pub use structural::Error;

/// Short names that kubectl knows as something of its own.
const TAKEN: &[&str] = &["quota"];
/// What each file begins with.
const HEADER: &str = "# Made from the types that read the documents; do not edit. `WEFT_BLESS=1 cargo test -p weft-kubernetes \
                      --test crds` writes it anew.\n";

/// The group and the version of our kinds.
pub fn group_and_version() -> (&'static str, &'static str) {
    API_VERSION.split_once('/').expect("the version of the model names its group")
}

/// Every definition as the file that it is kept in: its name and its text.
pub fn files() -> Result<Vec<(String, String)>, Error> {
    let file = |kind: &Kind| {
        let text = serde_saphyr::to_string(&definition(*kind)?).expect("a definition is plain JSON");
        Ok((format!("{}.yaml", kind.plural()), format!("{HEADER}{text}")))
    };
    Kind::ALL.iter().map(file).collect()
}

/// The definition of one kind, a `CustomResourceDefinition`.
pub fn definition(kind: Kind) -> Result<Value, Error> {
    let (group, version) = group_and_version();
    let short_names: Vec<_> = kind.short_names().iter().filter(|name| !TAKEN.contains(name)).collect();
    Ok(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{group}", kind.plural()),
            "labels": { "app.kubernetes.io/name": "weft", "app.kubernetes.io/component": "crds" },
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name(),
                "listKind": format!("{}List", kind.name()),
                "plural": kind.plural(),
                "singular": kind.name().to_lowercase(),
                "shortNames": short_names,
                "categories": ["weft"],
            },
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns::of(kind),
                "schema": { "openAPIV3Schema": schema(kind)? },
            }],
        },
    }))
}

fn schema(kind: Kind) -> Result<Value, Error> {
    let mut generator = SchemaGenerator::default();
    let spec = kind.spec_schema(&mut generator).to_value();
    let definitions: Map<String, Value> = generator.take_definitions(true);
    let mut spec = structural::structural(&spec, &definitions)?;
    let description = spec["description"].take();
    let mut root = json!({
        "type": "object",
        "description": description,
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": spec,
            "status": status(),
        },
    });
    if let Some(spec) = root["properties"]["spec"].as_object_mut() {
        spec.insert("description".to_owned(), "What it says.".into());
    }
    rules::add(kind, &mut root);
    Ok(root)
}

/// What is told back about an object.
fn status() -> Value {
    json!({
        "type": "object",
        "description": "What became of it; written by the control plane.",
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The generation of the object that this speaks about.",
            },
            "sidecars": {
                "type": "string",
                "maxLength": 32,
                "description": "How many of the sidecars that it concerns hold it: `3/4`.",
            },
            "conditions": {
                "type": "array",
                "maxItems": 8,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": condition(),
            },
        },
    })
}

fn condition() -> Value {
    let text = |length: u32, description: &str| json!({ "type": "string", "maxLength": length, "description": description });
    json!({
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text(64, "`Accepted`: it was understood. `Programmed`: the sidecars that it concerns hold it."),
            "status": { "type": "string", "enum": ["False", "True", "Unknown"] },
            "reason": text(128, "Why, in one word."),
            "message": text(4096, "Why, for people."),
            "observedGeneration": { "type": "integer", "format": "int64" },
            "lastTransitionTime": { "type": "string", "format": "date-time" },
        },
    })
}
