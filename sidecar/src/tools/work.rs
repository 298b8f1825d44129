//! How much work a schema can make of arguments: how often it looks at one value of them at most.
//!
//! Schemas come from servers. A few hundred bytes that refer to themselves twice over would keep a processor busy for
//! ever, and one that refers to itself without going any deeper would end the program. So a schema's parts are counted
//! as they apply to a value: those that look at the same value add up, those for different keys of an object do not.
//!
//! References are followed within the schema, by JSON pointers from its root, and nowhere else.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::schema::Unusable;

/// Parts of a schema.
const PARTS_MAX: usize = 4096;
/// Patterns of a schema, each of which takes memory for itself.
const PATTERNS_MAX: usize = 64;
/// Parts within each other, references followed: whoever reads a schema goes as deep.
const NESTED_MAX: usize = 200;
/// Parts within each other that look at the same value. With the depth of arguments it bounds how deep a look goes.
const NESTED_HERE_MAX: usize = 12;
/// Looks at one value of the arguments.
pub(super) const LOOKS_MAX: u64 = 4096;
/// So deep is what a schema says of itself followed; where looks still grow there, they grow without end.
const DEPTH: usize = 24;

/// Keywords whose schemas look at the same value.
const HERE: [&str; 4] = ["not", "if", "then", "else"];
const HERE_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const HERE_MAPS: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords whose schemas look at every value within.
const WITHIN: [&str; 7] = [
    "additionalProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "contains",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const WITHIN_LISTS: [&str; 2] = ["prefixItems", "items"];
/// Keywords that compare numbers.
const NUMERIC: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// What a schema makes of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// At one value, at most.
    pub(super) looks: u64,
    /// Whether numbers are compared, so that their exact value decides.
    pub(super) compares_numbers: bool,
}

#[derive(Debug, Default)]
struct Part {
    here: Vec<usize>,
    /// By key.
    keyed: Vec<(String, usize)>,
    within: Vec<usize>,
}

struct Parts<'s> {
    root: &'s Value,
    found: HashMap<usize, usize>,
    waiting: Vec<(&'s Value, usize)>,
    parts: Vec<Part>,
    patterns: usize,
    compares_numbers: bool,
}

/// Measures a schema, or says why nobody should be judged by it.
pub(super) fn measure(root: &Value) -> Result<Work, Unusable> {
    let mut parts = Parts {
        root,
        found: HashMap::new(),
        waiting: Vec::new(),
        parts: Vec::new(),
        patterns: 0,
        compares_numbers: false,
    };
    parts.place(root)?;
    while let Some((schema, at)) = parts.waiting.pop() {
        parts.read(schema, at)?;
    }
    if parts.patterns > PATTERNS_MAX || nested(&parts.parts) > NESTED_MAX {
        return Err(Unusable::TooComplex);
    }
    let flat = flattened(&parts.parts)?;
    let looks = looks(&parts.parts, &flat)?;
    Ok(Work { looks, compares_numbers: parts.compares_numbers })
}

impl<'s> Parts<'s> {
    /// The place of a part; where it is met for the first time, it will be read.
    fn place(&mut self, schema: &'s Value) -> Result<usize, Unusable> {
        let address = std::ptr::from_ref(schema).addr();
        if let Some(place) = self.found.get(&address) {
            return Ok(*place);
        }
        if self.parts.len() >= PARTS_MAX {
            return Err(Unusable::TooComplex);
        }
        let place = self.parts.len();
        self.parts.push(Part::default());
        self.found.insert(address, place);
        self.waiting.push((schema, place));
        Ok(place)
    }

    fn read(&mut self, schema: &'s Value, at: usize) -> Result<(), Unusable> {
        let Value::Object(members) = schema else { return Ok(()) };
        let mut part = Part::default();
        for (key, value) in members {
            self.compares_numbers |= compares_numbers(key, value);
            self.patterns += patterns(key, value);
            self.member(key, value, &mut part)?;
        }
        // To know what is left, everything that looks at the same value is asked again.
        if members.contains_key("unevaluatedProperties") || members.contains_key("unevaluatedItems") {
            part.here.extend_from_within(..);
        }
        if at > 0 && members.contains_key("$id") {
            return Err(Unusable::Elsewhere("a part with an `$id` of its own".to_owned()));
        }
        self.parts[at] = part;
        Ok(())
    }

    fn member(&mut self, key: &str, value: &'s Value, part: &mut Part) -> Result<(), Unusable> {
        match value {
            Value::String(to) if key == "$ref" => part.here.push(self.referred(to)?),
            _ if matches!(key, "$dynamicRef" | "$recursiveRef") => {
                return Err(Unusable::Elsewhere(format!("`{key}`")));
            }
            Value::Object(schemas) if HERE_MAPS.contains(&key) => {
                for schema in schemas.values() {
                    part.here.push(self.place(schema)?);
                }
            }
            Value::Object(schemas) if key == "properties" => {
                for (name, schema) in schemas {
                    part.keyed.push((name.clone(), self.place(schema)?));
                }
            }
            Value::Object(schemas) if key == "patternProperties" => {
                for schema in schemas.values() {
                    part.within.push(self.place(schema)?);
                }
            }
            Value::Array(schemas) if HERE_LISTS.contains(&key) => {
                for schema in schemas {
                    part.here.push(self.place(schema)?);
                }
            }
            Value::Array(schemas) if WITHIN_LISTS.contains(&key) => {
                // Each is for another element.
                for (index, schema) in schemas.iter().enumerate() {
                    part.keyed.push((index.to_string(), self.place(schema)?));
                }
            }
            Value::Object(_) | Value::Bool(_) if HERE.contains(&key) => part.here.push(self.place(value)?),
            Value::Object(_) | Value::Bool(_) if WITHIN.contains(&key) => {
                part.within.push(self.place(value)?)
            }
            _ => {}
        }
        Ok(())
    }

    /// The part that a reference points at.
    fn referred(&mut self, to: &str) -> Result<usize, Unusable> {
        let elsewhere = || Unusable::Elsewhere(format!("a reference to {:?}", clip(to)));
        let pointer = to.strip_prefix('#').ok_or_else(elsewhere)?;
        // Those with escapes of URIs are left alone, and so are anchors.
        if pointer.contains('%') || !(pointer.is_empty() || pointer.starts_with('/')) {
            return Err(elsewhere());
        }
        let schema = self.root.pointer(pointer).ok_or_else(elsewhere)?;
        self.place(schema)
    }
}

fn clip(text: &str) -> String {
    text.chars().take(100).collect()
}

fn compares_numbers(key: &str, value: &Value) -> bool {
    match key {
        "const" | "enum" => has_number(value),
        "uniqueItems" => *value == Value::Bool(true),
        _ => NUMERIC.contains(&key),
    }
}

fn patterns(key: &str, value: &Value) -> usize {
    match (key, value) {
        ("pattern", Value::String(_)) => 1,
        ("patternProperties", Value::Object(schemas)) => schemas.len(),
        _ => 0,
    }
}

fn has_number(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::Array(values) => values.iter().any(has_number),
        Value::Object(members) => members.values().any(has_number),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// For each part, the parts that look at the same value with it, and how often.
type Flat = Vec<BTreeMap<usize, u64>>;

fn flattened(parts: &[Part]) -> Result<Flat, Unusable> {
    let mut flat: Vec<Option<BTreeMap<usize, u64>>> = vec![None; parts.len()];
    let (mut open, mut nested, mut total) = (vec![false; parts.len()], vec![1_usize; parts.len()], 0);
    for start in 0..parts.len() {
        let mut stack = vec![(start, 0)];
        while let Some((at, next)) = stack.pop() {
            if flat[at].is_some() {
                continue;
            }
            if let Some(&child) = parts[at].here.get(next) {
                open[at] = true;
                if open[child] && flat[child].is_none() {
                    return Err(Unusable::Circular);
                }
                stack.push((at, next + 1));
                stack.push((child, 0));
                continue;
            }
            nested[at] = 1 + parts[at].here.iter().map(|child| nested[*child]).max().unwrap_or_default();
            if nested[at] > NESTED_HERE_MAX {
                return Err(Unusable::TooComplex);
            }
            let mut all = BTreeMap::from([(at, 1_u64)]);
            for (part, times) in parts[at].here.iter().filter_map(|child| flat[*child].as_ref()).flatten() {
                let sum = all.entry(*part).or_default();
                *sum = sum.saturating_add(*times);
            }
            total += all.len();
            let looks = all.values().fold(0_u64, |sum, it| sum.saturating_add(*it));
            if looks > LOOKS_MAX || total > PARTS_MAX * 16 {
                return Err(Unusable::TooComplex);
            }
            flat[at] = Some(all);
        }
    }
    Ok(flat.into_iter().map(Option::unwrap_or_default).collect())
}

impl Part {
    fn all(&self) -> impl Iterator<Item = usize> + '_ {
        let keyed = self.keyed.iter().map(|(_, part)| *part);
        self.here.iter().copied().chain(keyed).chain(self.within.iter().copied())
    }
}

/// How many parts lie within each other at most. Those that refer to each other in a circle count as if all of them did,
/// each once.
fn nested(parts: &[Part]) -> usize {
    let circles = circles(parts);
    let mut sizes = vec![0_usize; parts.len()];
    circles.iter().for_each(|circle| sizes[*circle] += 1);
    // Circles are numbered from the innermost on, so that those within are known before those around them.
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| circles[*at]);
    let (mut inner, mut deepest) = (vec![0_usize; parts.len()], 0);
    for at in order {
        let own = circles[at];
        for part in parts[at].all().filter(|part| circles[*part] != own) {
            inner[own] = inner[own].max(inner[circles[part]] + sizes[circles[part]]);
        }
        deepest = deepest.max(inner[own] + sizes[own]);
    }
    deepest
}

/// For each part the number of its circle: of those that lead to each other. Tarjan's way, without recursion.
fn circles(parts: &[Part]) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let children: Vec<Vec<usize>> = parts.iter().map(|part| part.all().collect()).collect();
    let (mut seen, mut low, mut circle) =
        (vec![UNSEEN; parts.len()], vec![0; parts.len()], vec![UNSEEN; parts.len()]);
    let (mut count, mut circles, mut open) = (0, 0, Vec::new());
    for start in 0..parts.len() {
        let mut stack = if seen[start] == UNSEEN { vec![(start, 0)] } else { Vec::new() };
        while let Some((at, next)) = stack.pop() {
            if next == 0 {
                (seen[at], low[at]) = (count, count);
                count += 1;
                open.push(at);
            } else {
                let child = children[at][next - 1];
                if circle[child] == UNSEEN {
                    low[at] = low[at].min(low[child]);
                }
            }
            if let Some(&child) = children[at].get(next) {
                stack.push((at, next + 1));
                if seen[child] == UNSEEN {
                    stack.push((child, 0));
                }
                continue;
            }
            if low[at] == seen[at] {
                while let Some(part) = open.pop() {
                    circle[part] = circles;
                    if part == at {
                        break;
                    }
                }
                circles += 1;
            }
        }
    }
    circle
}

/// Looks at one value, however deep it lies.
fn looks(parts: &[Part], flat: &Flat) -> Result<u64, Unusable> {
    let here = |at: usize| flat[at].values().fold(0_u64, |sum, it| sum.saturating_add(*it));
    let mut deep: Vec<u64> = (0..parts.len()).map(here).collect();
    let mut most = deep.first().copied().unwrap_or_default();
    for _ in 0..DEPTH {
        deep = (0..parts.len()).map(|at| deeper(parts, &flat[at], &deep)).collect();
        most = most.max(deep.first().copied().unwrap_or_default());
        if most > LOOKS_MAX {
            return Err(Unusable::TooComplex);
        }
    }
    Ok(most)
}

/// Looks at the value under the key that is looked at most.
fn deeper(parts: &[Part], flat: &BTreeMap<usize, u64>, deep: &[u64]) -> u64 {
    let (mut any, mut by_key) = (0_u64, BTreeMap::<&str, u64>::new());
    for (part, times) in flat {
        for within in &parts[*part].within {
            any = any.saturating_add(times.saturating_mul(deep[*within]));
        }
        for (key, within) in &parts[*part].keyed {
            let sum = by_key.entry(key).or_default();
            *sum = sum.saturating_add(times.saturating_mul(deep[*within]));
        }
    }
    any.saturating_add(by_key.into_values().max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
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
            let links = (0..length)
                .map(|n| (format!("n{n}"), link(json!({ "$ref": format!("#/$defs/n{}", n + 1) }))));
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
        for to in
            ["https://example.com/x", "other.json", "#anchor", "#/nowhere", "file:///etc/passwd", "#/a%20b"]
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
}
