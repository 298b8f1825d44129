//! A JSON patch (RFC 6902) from one value to another: only `add`, `remove` and `replace`, and as little of them as shows
//! what was done.

use serde_json::{Value, json};

use crate::inject::escaped;

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Add(String, Value),
    Remove(String),
    Replace(String, Value),
}

impl Op {
    pub fn into_value(self) -> Value {
        match self {
            Self::Add(path, value) => json!({ "op": "add", "path": path, "value": value }),
            Self::Remove(path) => json!({ "op": "remove", "path": path }),
            Self::Replace(path, value) => json!({ "op": "replace", "path": path, "value": value }),
        }
    }
}

/// What leads from one value to another.
pub fn between(from: &Value, to: &Value) -> Vec<Op> {
    let mut ops = Vec::new();
    compare(from, to, &mut String::new(), &mut ops);
    ops
}

fn compare(from: &Value, to: &Value, path: &mut String, ops: &mut Vec<Op>) {
    match (from, to) {
        _ if from == to => {}
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                below(path, &escaped(key), |path| match after.get(key) {
                    Some(other) => compare(value, other, path, ops),
                    None => ops.push(Op::Remove(path.clone())),
                });
            }
            for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                below(path, &escaped(key), |path| ops.push(Op::Add(path.clone(), value.clone())));
            }
        }
        (Value::Array(before), Value::Array(after)) if goes_into(before, after) => {
            let mut old = before.iter().peekable();
            for (index, item) in after.iter().enumerate() {
                below(path, &index.to_string(), |path| match old.next_if(|old| are_alike(old, item)) {
                    Some(old) => compare(old, item, path, ops),
                    None => ops.push(Op::Add(path.clone(), item.clone())),
                });
            }
        }
        _ => ops.push(Op::Replace(path.clone(), to.clone())),
    }
}

fn below(path: &mut String, part: &str, f: impl FnOnce(&mut String)) {
    let len = path.len();
    path.push('/');
    path.push_str(part);
    f(path);
    path.truncate(len);
}

/// Whether a list is another one with more elements in between.
fn goes_into(before: &[Value], after: &[Value]) -> bool {
    let mut after = after.iter();
    before.iter().all(|old| after.any(|new| are_alike(old, new)))
}

/// Whether two elements of a list are one before and after a change: they have the same name.
fn are_alike(old: &Value, new: &Value) -> bool {
    match (old.get("name"), new.get("name")) {
        (Some(old), Some(new)) => old == new,
        _ => old == new,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(from: Value, to: Value, expected: Value) {
        let ops: Value = between(&from, &to).into_iter().map(Op::into_value).collect();
        assert_eq!(ops, expected);
        assert_eq!(applied(&from, &ops), to);
    }

    /// By another implementation than ours: the one that is in the client of Kubernetes.
    fn applied(from: &Value, ops: &Value) -> Value {
        let patch: json_patch::Patch = serde_json::from_value(ops.clone()).unwrap();
        let mut value = from.clone();
        json_patch::patch(&mut value, &patch).unwrap();
        value
    }

    #[test]
    fn nothing_leads_from_a_value_to_itself() {
        check(json!({ "a": [1, { "b": null }] }), json!({ "a": [1, { "b": null }] }), json!([]));
    }

    #[test]
    fn lists_that_are_missing_are_made() {
        check(
            json!({ "spec": {} }),
            json!({ "spec": { "volumes": [{ "name": "v" }] } }),
            json!([{ "op": "add", "path": "/spec/volumes", "value": [{ "name": "v" }] }]),
        );
        check(
            json!({ "volumes": null }),
            json!({ "volumes": [] }),
            json!([{ "op": "replace", "path": "/volumes", "value": [] }]),
        );
    }

    #[test]
    fn elements_are_put_between_and_changed_where_they_are() {
        check(
            json!([{ "name": "a", "x": 1 }, { "name": "b" }]),
            json!([{ "name": "new" }, { "name": "a", "x": 2 }, { "name": "b" }, { "name": "last" }]),
            json!([
                { "op": "add", "path": "/0", "value": { "name": "new" } },
                { "op": "replace", "path": "/1/x", "value": 2 },
                { "op": "add", "path": "/3", "value": { "name": "last" } },
            ]),
        );
        check(json!(["a", "b"]), json!(["b"]), json!([{ "op": "replace", "path": "", "value": ["b"] }]));
    }

    #[test]
    fn keys_with_slashes_and_tildes_are_escaped() {
        check(
            json!({ "a": {} }),
            json!({ "a": { "weft.dev/x~y": "1" } }),
            json!([{ "op": "add", "path": "/a/weft.dev~1x~0y", "value": "1" }]),
        );
        check(json!({ "a/b": 1 }), json!({}), json!([{ "op": "remove", "path": "/a~1b" }]));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            (0..3_i64).prop_map(Value::from),
            "[a-b~/]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("name|[a-b~/]{0,2}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_any_value_to_any_other(from in any_value(), to in any_value()) {
            let ops: Value = between(&from, &to).into_iter().map(Op::into_value).collect();
            prop_assert_eq!(applied(&from, &ops), to);
        }
    }
}
