//! How much work a schema can make of arguments: how often it looks at one value of them at most.
//!
//! Schemas come from servers. A few hundred bytes that refer to themselves twice over would keep a processor busy for
//! ever, and one that refers to itself without going any deeper would end the program. So a schema's parts are counted
//! as they apply to a value: those that look at the same value add up, those for different keys of an object do not.
//! A part that compares with many others, or matches a pattern of many states, counts as many.
//!
//! What a schema takes once it is compiled is estimated with it, before anything is compiled.
//!
//! References are followed within the schema, by JSON pointers from its root, and nowhere else.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::pattern::heft;
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
/// Keys that an object is held against in the time of one look.
const KEYS_PER_LOOK: usize = 16;
/// Bytes that one schema may take, by this estimate.
const BYTES_MAX: usize = 8 << 20;
/// Bytes that one keyword takes, without the names of where it is.
const KEYWORD_BYTES: usize = 384;
/// Each keyword is told where it is, and what is wrong with it is told by that.
const PLACES_PER_KEYWORD: usize = 2;
/// Bytes that one byte of values to compare with takes.
const BYTES_PER_TEXT_BYTE: usize = 8;
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
    /// Of memory, about, once it is compiled.
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
struct Part {
    /// Looks that it is worth itself.
    weight: u64,
    here: Vec<usize>,
    /// By key.
    keyed: Vec<(String, usize)>,
    within: Vec<usize>,
}

struct Parts<'s> {
    root: &'s Value,
    found: HashMap<usize, usize>,
    waiting: Vec<Waiting<'s>>,
    parts: Vec<Part>,
    patterns: usize,
    compares_numbers: bool,
    bytes: usize,
}

/// A part that is still to be read.
struct Waiting<'s> {
    schema: &'s Value,
    at: usize,
    /// Bytes of the pointer that leads there.
    pointer_bytes: usize,
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
        bytes: 0,
    };
    parts.place(root, 0)?;
    while let Some(waiting) = parts.waiting.pop() {
        parts.read(waiting)?;
    }
    if nested(&parts.parts) > NESTED_MAX {
        return Err(Unusable::TooComplex);
    }
    let flat = flattened(&parts.parts)?;
    let looks = looks(&parts.parts, &flat)?;
    Ok(Work { looks, compares_numbers: parts.compares_numbers, bytes: parts.bytes })
}

impl<'s> Parts<'s> {
    /// The place of a part; where it is met for the first time, it will be read.
    fn place(&mut self, schema: &'s Value, pointer_bytes: usize) -> Result<usize, Unusable> {
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
        self.waiting.push(Waiting { schema, at: place, pointer_bytes });
        Ok(place)
    }

    fn read(&mut self, waiting: Waiting<'s>) -> Result<(), Unusable> {
        let Waiting { schema, at, pointer_bytes } = waiting;
        let mut part = Part { weight: 1, ..Part::default() };
        self.takes(KEYWORD_BYTES)?;
        let Value::Object(members) = schema else {
            self.parts[at] = part;
            return Ok(());
        };
        for (key, value) in members {
            self.compares_numbers |= compares_numbers(key, value);
            let inner_bytes = pointer_bytes + key.len() + 1;
            self.takes(KEYWORD_BYTES + inner_bytes * PLACES_PER_KEYWORD)?;
            part.weight = part.weight.saturating_add(self.weigh(key, value)?);
            self.member(key, value, inner_bytes, &mut part)?;
        }
        // To know what is left, everything that looks at the same value is asked again.
        if members.contains_key("unevaluatedProperties") || members.contains_key("unevaluatedItems") {
            part.here.extend_from_within(..);
            part.weight = part.weight.saturating_mul(2);
        }
        if at > 0 && members.contains_key("$id") {
            return Err(Unusable::Elsewhere("a part with an `$id` of its own".to_owned()));
        }
        self.parts[at] = part;
        Ok(())
    }

    /// How many looks more a keyword is worth than that there is one.
    fn weigh(&mut self, key: &str, value: &Value) -> Result<u64, Unusable> {
        let keys = |count: usize| (count / KEYS_PER_LOOK) as u64;
        Ok(match (key, value) {
            ("pattern", Value::String(pattern)) => self.pattern(pattern)?,
            ("patternProperties", Value::Object(schemas)) => {
                let mut weight = 0_u64;
                for pattern in schemas.keys() {
                    // Once for these, and once to know which keys are additional.
                    weight = weight.saturating_add(self.pattern(pattern)?.saturating_mul(2));
                }
                weight
            }
            ("properties", Value::Object(schemas)) => keys(schemas.len()),
            ("required", Value::Array(names)) => {
                self.takes(text_bytes(value))?;
                keys(names.len())
            }
            ("dependentRequired" | "dependentSchemas" | "dependencies", Value::Object(members)) => {
                let names = members.values().filter_map(Value::as_array);
                self.takes(text_bytes(value))?;
                keys(members.len() + names.map(Vec::len).sum::<usize>())
            }
            ("const", _) => {
                self.takes(text_bytes(value))?;
                depth(value)
            }
            ("enum", Value::Array(options)) => {
                self.takes(text_bytes(value))?;
                // Texts are looked up, everything else is compared with one after the other.
                let is_looked_up = options.iter().all(|it| matches!(it, Value::String(_) | Value::Null));
                if is_looked_up { 0 } else { options.iter().map(depth).sum() }
            }
            _ => 0,
        })
    }

    /// A pattern, in looks at each byte.
    fn pattern(&mut self, pattern: &str) -> Result<u64, Unusable> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(Unusable::TooComplex);
        }
        let heft = heft(pattern)?;
        self.takes(heft.bytes)?;
        Ok(heft.states)
    }

    /// Counts memory.
    fn takes(&mut self, bytes: usize) -> Result<(), Unusable> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > BYTES_MAX { Err(Unusable::TooComplex) } else { Ok(()) }
    }

    fn member(&mut self, key: &str, value: &'s Value, bytes: usize, part: &mut Part) -> Result<(), Unusable> {
        // What is in a list is as far away as the longest number.
        let each_bytes = bytes + 8;
        match value {
            Value::String(to) if key == "$ref" => part.here.push(self.referred(to)?),
            _ if matches!(key, "$dynamicRef" | "$recursiveRef") => {
                return Err(Unusable::Elsewhere(format!("`{key}`")));
            }
            Value::Object(schemas) if HERE_MAPS.contains(&key) => {
                for (name, schema) in schemas {
                    part.here.push(self.place(schema, bytes + name.len() + 1)?);
                }
            }
            Value::Object(schemas) if key == "properties" => {
                for (name, schema) in schemas {
                    part.keyed.push((name.clone(), self.place(schema, bytes + name.len() + 1)?));
                }
            }
            Value::Object(schemas) if key == "patternProperties" => {
                for (name, schema) in schemas {
                    part.within.push(self.place(schema, bytes + name.len() + 1)?);
                }
            }
            Value::Array(schemas) if HERE_LISTS.contains(&key) => {
                for schema in schemas {
                    part.here.push(self.place(schema, each_bytes)?);
                }
            }
            Value::Array(schemas) if WITHIN_LISTS.contains(&key) => {
                // Each is for another element.
                for (index, schema) in schemas.iter().enumerate() {
                    part.keyed.push((index.to_string(), self.place(schema, each_bytes)?));
                }
            }
            Value::Object(_) | Value::Bool(_) if HERE.contains(&key) => {
                part.here.push(self.place(value, bytes)?);
            }
            Value::Object(_) | Value::Bool(_) if WITHIN.contains(&key) => {
                part.within.push(self.place(value, bytes)?);
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
        self.place(schema, to.len())
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

/// Steps from a value to what lies deepest within it: as often it is walked through where parts look at each step.
fn depth(value: &Value) -> u64 {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or_default(),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// What is kept of values that are compared with.
fn text_bytes(value: &Value) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |text| text.len().saturating_mul(BYTES_PER_TEXT_BYTE))
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
            if weight(parts, &all) > LOOKS_MAX || total > PARTS_MAX * 16 {
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

/// Looks at one value by parts, as often as each is asked.
fn weight(parts: &[Part], all: &BTreeMap<usize, u64>) -> u64 {
    let each = all.iter().map(|(part, times)| times.saturating_mul(parts[*part].weight));
    each.fold(0, u64::saturating_add)
}

/// Looks at one value, however deep it lies.
fn looks(parts: &[Part], flat: &Flat) -> Result<u64, Unusable> {
    let mut deep: Vec<u64> = flat.iter().map(|all| weight(parts, all)).collect();
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
mod tests;
