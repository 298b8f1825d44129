use serde_json::json;

use super::*;

#[track_caller]
fn check(schema: &Value, expected: Result<u64, Unusable>) {
    assert_eq!(measure(schema).map(|work| work.looks), expected, "{schema}");
}

#[test]
fn an_ordinary_schema_looks_at_each_value_a_few_times() {
    check(&json!({ "type": "object", "properties": { "a": { "type": "string" }, "b": {} } }), Ok(1));
    check(
        &json!({ "anyOf": [{ "properties": { "a": {} } }, { "properties": { "a": {}, "b": {} } }] }),
        Ok(3),
    );
    check(
        &json!({ "properties": { "a": { "$ref": "#/$defs/x" } }, "$defs": { "x": { "items": {} } } }),
        Ok(2),
    );
}

#[test]
fn what_refers_to_itself_deeper_down_is_followed() {
    let tree = json!({ "properties": { "left": { "$ref": "#" }, "right": { "$ref": "#" } } });
    check(&tree, Ok(2));
    let filter = json!({ "anyOf": [
        { "type": "string" },
        { "properties": { "and": { "items": { "$ref": "#" } } } },
        { "properties": { "or": { "items": { "$ref": "#" } } } },
    ] });
    check(&filter, Ok(5));
}

#[test]
fn what_would_never_end_is_not_begun() {
    check(&json!({ "$ref": "#" }), Err(Unusable::Circular));
    check(
        &json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "anyOf": [{ "$ref": "#/$defs/b" }] },
            "b": { "not": { "$ref": "#/$defs/a" } } } }),
        Err(Unusable::Circular),
    );
    // Twice as often with each step down.
    let doubling = json!({ "properties": { "x": { "allOf": [{ "$ref": "#" }, { "$ref": "#" }] } } });
    check(&doubling, Err(Unusable::TooComplex));
    let mut nested = json!({});
    for _ in 0..20 {
        nested = json!({ "allOf": [nested.clone(), nested] });
        if nested.to_string().len() > 10_000 {
            break;
        }
    }
    assert!(measure(&nested).is_ok());
    let mut chain = serde_json::Map::new();
    for n in 0..40 {
        let next = format!("#/$defs/n{}", n + 1);
        chain.insert(format!("n{n}"), json!({ "anyOf": [{ "$ref": next }, { "$ref": next }] }));
    }
    chain.insert("n40".to_owned(), json!({}));
    check(&json!({ "$ref": "#/$defs/n0", "$defs": chain }), Err(Unusable::TooComplex));
}

#[test]
fn what_lies_too_deep_within_itself_is_not_used() {
    let chain = |length: usize, link: &dyn Fn(Value) -> Value| {
        let links =
            (0..length).map(|n| (format!("n{n}"), link(json!({ "$ref": format!("#/$defs/n{}", n + 1) }))));
        let mut links: serde_json::Map<_, _> = links.collect();
        links.insert(format!("n{length}"), json!({}));
        json!({ "$ref": "#/$defs/n0", "$defs": links })
    };
    let within = |to: Value| json!({ "properties": { "a": to } });
    assert!(measure(&chain(50, &within)).is_ok());
    check(&chain(300, &within), Err(Unusable::TooComplex));
    assert!(measure(&chain(4, &|to| json!({ "allOf": [to] }))).is_ok());
    check(&chain(12, &|to| json!({ "allOf": [to] })), Err(Unusable::TooComplex));
    // A circle of many is as deep as it is long.
    let mut circle = chain(300, &within);
    circle["$defs"]["n300"] = json!({ "items": { "$ref": "#" } });
    check(&circle, Err(Unusable::TooComplex));
    let patterns: serde_json::Map<_, _> =
        (0..100).map(|n| (format!("p{n}"), json!({ "pattern": "a" }))).collect();
    check(&json!({ "properties": patterns }), Err(Unusable::TooComplex));
}

#[test]
fn references_lead_nowhere_else() {
    for to in ["https://example.com/x", "other.json", "#anchor", "#/nowhere", "file:///etc/passwd", "#/a%20b"]
    {
        assert!(matches!(measure(&json!({ "$ref": to })), Err(Unusable::Elsewhere(_))), "{to}");
    }
    let named = json!({ "properties": { "a": { "$id": "https://example.com/y" } } });
    assert!(matches!(measure(&named), Err(Unusable::Elsewhere(_))));
    // A property may have any name.
    check(&json!({ "properties": { "$id": {}, "$ref": {} } }), Ok(1));
}

#[test]
fn it_is_known_whether_numbers_are_compared() {
    let check = |schema: Value, expected| {
        assert_eq!(measure(&schema).unwrap().compares_numbers, expected, "{schema}");
    };
    check(json!({ "properties": { "n": { "type": "integer" } } }), false);
    check(json!({ "properties": { "n": { "maximum": 5 } } }), true);
    check(json!({ "properties": { "n": { "enum": ["a", 1] }, "m": {} } }), true);
    check(json!({ "properties": { "n": { "enum": ["a"] } } }), false);
}

#[test]
fn what_is_compared_with_many_counts_as_many() {
    let numbers: Vec<_> = (0..100).collect();
    check(&json!({ "enum": numbers }), Ok(101));
    check(&json!({ "enum": [[[1]], [2]] }), Ok(6));
    let texts: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    check(&json!({ "enum": texts }), Ok(1));
    check(&json!({ "required": texts }), Ok(7));
    check(&json!({ "anyOf": [{ "const": 1 }, { "const": [1] }] }), Ok(6));
    let many: Vec<_> = (0..5000).collect();
    check(&json!({ "properties": { "a": { "enum": many } } }), Err(Unusable::TooComplex));
}

#[test]
fn a_pattern_counts_as_its_states() {
    let looks = |pattern: &str| measure(&json!({ "pattern": pattern })).unwrap().looks;
    assert!(looks("^a") < 20);
    assert!(looks("(a|b)*a(a|b){500}") > 500);
    let both = json!({ "allOf": [{ "pattern": "[a-b]{2500}" }, { "pattern": "[c-d]{2500}" }] });
    check(&both, Err(Unusable::TooComplex));
    let keys = |pattern: &str| measure(&json!({ "patternProperties": { pattern: {} } })).unwrap().looks;
    assert!(keys("(a|b)*a(a|b){500}") > 1000);
}
