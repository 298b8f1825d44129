//! JSON Schema as `schemars` writes it, in the form that an API server takes for the schema of a resource: everything in
//! its place, every node with its type, and no word that structural schemas do not have.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Deepest nesting of a schema. The model's types do not contain themselves; this ends a mistake there.
const DEPTH_MAX: usize = 32;
/// Words that mean the same here and there.
const KEPT: &[&str] = &[
    "description",
    "enum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "pattern",
    "required",
];
/// Formats that an API server knows; it warns of others at every use.
const FORMATS: &[&str] = &["double", "float", "int32", "int64"];

/// A schema that has no structural form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{path}: the word {word:?} has no structural form")]
    Word { path: String, word: String },
    #[error("{path}: {reference:?} is defined nowhere")]
    Reference { path: String, reference: String },
    #[error("{path}: the schema nests deeper than {DEPTH_MAX}, or contains itself")]
    Deep { path: String },
    #[error("{path}: the choice is not one of texts")]
    Choice { path: String },
}

/// The structural form of a schema. `definitions` are what its references name.
pub(super) fn structural(schema: &Value, definitions: &Map<String, Value>) -> Result<Value, Error> {
    node(schema, definitions, "spec", DEPTH_MAX)
}

fn node(schema: &Value, definitions: &Map<String, Value>, path: &str, depth: usize) -> Result<Value, Error> {
    let deeper = depth.checked_sub(1).ok_or_else(|| Error::Deep { path: path.to_owned() })?;
    if let Some(reference) = schema["$ref"].as_str() {
        let unknown = || Error::Reference { path: path.to_owned(), reference: reference.to_owned() };
        let name = reference.strip_prefix("#/$defs/").ok_or_else(unknown)?;
        let found = node(definitions.get(name).ok_or_else(unknown)?, definitions, path, deeper)?;
        return Ok(described(found, schema));
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        // Something, or nothing: what may be missing is not required, and needs no null.
        let mut some = choices.iter().filter(|choice| choice["type"] != "null");
        return match (some.next(), some.next()) {
            (Some(one), None) => Ok(described(node(one, definitions, path, deeper)?, schema)),
            _ => Err(Error::Word { path: path.to_owned(), word: "anyOf".to_owned() }),
        };
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choice(choices, schema, path);
    }
    let mut result = Map::new();
    for (word, value) in schema.as_object().into_iter().flatten() {
        let at = |part: &str| format!("{path}.{part}");
        match (word.as_str(), value) {
            ("type", Value::Array(types)) => {
                let some = types.iter().find(|it| *it != "null");
                result.insert(word.clone(), some.cloned().unwrap_or_default());
            }
            ("type", _) => _ = result.insert(word.clone(), value.clone()),
            ("format", _) if FORMATS.iter().any(|known| value == known) => {
                result.insert(word.clone(), value.clone());
            }
            // What is not listed is taken away by the API server: there is no word for it.
            ("format", _) | ("additionalProperties", Value::Bool(false)) => {}
            ("properties", Value::Object(fields)) => {
                let fields = fields
                    .iter()
                    .map(|(name, field)| Ok((name.clone(), node(field, definitions, &at(name), deeper)?)));
                result.insert(word.clone(), Value::Object(fields.collect::<Result<_, Error>>()?));
            }
            ("items", _) => _ = result.insert(word.clone(), node(value, definitions, &at("[]"), deeper)?),
            ("additionalProperties", _) => {
                result.insert(word.clone(), node(value, definitions, &at("*"), deeper)?);
            }
            ("description", Value::String(text)) => _ = result.insert(word.clone(), prose(text).into()),
            (kept, _) if KEPT.contains(&kept) => _ = result.insert(word.clone(), value.clone()),
            (other, _) => return Err(Error::Word { path: path.to_owned(), word: other.to_owned() }),
        }
    }
    Ok(Value::Object(result))
}

/// A choice among texts, each of which may say what it means.
fn choice(choices: &[Value], schema: &Value, path: &str) -> Result<Value, Error> {
    let (mut texts, mut meanings) = (BTreeSet::new(), Vec::new());
    for choice in choices {
        let given =
            choice["enum"].as_array().map_or_else(|| vec![&choice["const"]], |all| all.iter().collect());
        for text in given {
            let text = text.as_str().ok_or_else(|| Error::Choice { path: path.to_owned() })?;
            texts.insert(text.to_owned());
            if let Some(meaning) = choice["description"].as_str() {
                meanings.push(format!("`{text}`: {}", prose(meaning)));
            }
        }
    }
    let mut told: Vec<String> = schema["description"].as_str().map(prose).into_iter().collect();
    told.extend(meanings);
    Ok(json!({ "type": "string", "enum": texts, "description": told.join(" ") }))
}

/// What a place says of a part goes before what the part says of itself.
fn described(mut part: Value, place: &Value) -> Value {
    let own = part["description"].as_str().map(str::to_owned);
    let text = match (place["description"].as_str(), own) {
        (Some(here), Some(own)) if part.get("enum").is_some() => format!("{} {own}", prose(here)),
        (Some(here), _) => prose(here),
        (None, own) => own.unwrap_or_default(),
    };
    if let Some(part) = part.as_object_mut().filter(|_| !text.is_empty()) {
        part.insert("description".to_owned(), text.into());
    }
    part
}

/// Comments are wrapped where the source is; whoever shows them wraps them anew.
fn prose(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: Value, expected: Value) {
        let definitions = json!({
            "Part": { "type": "object", "properties": { "x": { "type": ["integer", "null"], "format": "uint32" } },
                      "additionalProperties": false, "description": "A\npart." },
            "Mode": { "description": "How.", "oneOf": [
                { "enum": ["b"], "type": "string" }, { "const": "a", "description": "First.", "type": "string" } ] },
        });
        let definitions = definitions.as_object().unwrap();
        assert_eq!(structural(&schema, definitions), Ok(expected));
    }

    #[test]
    fn references_are_put_in_their_place() {
        let part = json!({ "type": "object", "description": "A part.", "properties": { "x": { "type": "integer" } } });
        check(json!({ "$ref": "#/$defs/Part" }), part.clone());
        check(json!({ "anyOf": [{ "$ref": "#/$defs/Part" }, { "type": "null" }] }), part.clone());
        check(
            json!({ "type": "array", "items": { "$ref": "#/$defs/Part" } }),
            json!({ "type": "array", "items": part }),
        );
    }

    #[test]
    fn choices_become_enumerations_that_say_what_they_mean() {
        let told = |text: &str| json!({ "type": "string", "enum": ["a", "b"], "description": text });
        check(json!({ "$ref": "#/$defs/Mode" }), told("How. `a`: First."));
        check(json!({ "$ref": "#/$defs/Mode", "description": "Here." }), told("Here. How. `a`: First."));
    }

    #[test]
    fn what_has_no_structural_form_is_an_error() {
        let check = |schema: Value, expected: &str| {
            let definitions = json!({ "Loop": { "type": "array", "items": { "$ref": "#/$defs/Loop" } } });
            let error = structural(&schema, definitions.as_object().unwrap()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(json!({ "type": "object", "patternProperties": {} }), "patternProperties");
        check(json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] }), "anyOf");
        check(json!({ "oneOf": [{ "const": 7 }] }), "not one of texts");
        check(json!({ "$ref": "#/$defs/Loop" }), "contains itself");
        check(json!({ "$ref": "#/$defs/None" }), "defined nowhere");
    }
}
