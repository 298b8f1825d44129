use std::collections::BTreeSet;

use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::*;
use crate::resource::parse_one;

/// Every property that a schema allows, as `Struct.property`.
fn properties_of_schemas() -> BTreeSet<String> {
    let mut generator = schemars::SchemaGenerator::default();
    for kind in Kind::ALL {
        kind.spec_schema(&mut generator);
    }
    let definitions = generator.take_definitions(true);
    let properties = definitions.iter().flat_map(|(name, schema)| {
        let properties = schema.get("properties").and_then(Value::as_object);
        properties.into_iter().flat_map(move |it| it.keys().map(move |key| format!("{name}.{key}")))
    });
    properties.collect()
}

/// Every property that a value has, by the struct that its schema says it is.
fn note(
    definitions: &serde_json::Map<String, Value>,
    schema: &Value,
    value: &Value,
    seen: &mut BTreeSet<String>,
) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let name = name.rsplit('/').next().unwrap();
        if let Value::Object(fields) = value {
            seen.extend(fields.keys().map(|key| format!("{name}.{key}")));
        }
        return note(definitions, &definitions[name], value, seen);
    }
    for alternative in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        note(definitions, alternative, value, seen);
    }
    match value {
        Value::Array(items) => {
            items.iter().for_each(|item| note(definitions, &schema["items"], item, seen));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            let entry = schema.pointer(&format!("/properties/{key}"));
            let entry = entry.or_else(|| schema.get("additionalProperties"));
            entry.into_iter().for_each(|schema| note(definitions, schema, value, seen));
        }),
        _ => {}
    }
}

#[test]
fn the_generated_objects_fill_every_field_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let mut generator = schemars::SchemaGenerator::default();
    let mut seen = BTreeSet::new();
    for kind in Kind::ALL {
        let schema = kind.spec_schema(&mut generator).to_value();
        let definitions = generator.definitions().clone();
        for _ in 0..300 {
            let object = resource(*kind).new_tree(&mut runner).unwrap().current();
            let spec = serde_json::to_value(&object.spec).unwrap();
            note(&definitions, &schema, &spec, &mut seen);
        }
    }
    assert_eq!(properties_of_schemas().difference(&seen).collect::<Vec<_>>(), Vec::<&String>::new());
}

proptest! {
    #[test]
    fn the_generated_objects_are_objects_that_parse(kind in proptest::sample::select(Kind::ALL.to_vec()), seed in any::<u64>()) {
        let mut runner = TestRunner::new_with_rng(
            ProptestConfig::default(),
            proptest::test_runner::TestRng::from_seed(
                proptest::test_runner::RngAlgorithm::ChaCha,
                &std::array::from_fn::<u8, 32, _>(|at| seed.to_le_bytes()[at % 8]),
            ),
        );
        let mut object = resource(kind).new_tree(&mut runner).unwrap().current();
        // Scope is not what is at stake here.
        object.metadata.namespace = ROOT_NAMESPACE.parse().unwrap();
        if kind == Kind::Trust {
            object.metadata.name = TRUST_NAME.parse().unwrap();
        }
        prop_assert_eq!(&parse_one("j", &object.canonical()).unwrap(), &object);
    }
}
