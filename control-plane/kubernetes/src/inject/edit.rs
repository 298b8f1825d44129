//! Changing a pod so that every change can be taken back: the pod, and the record of what was done to it.
//!
//! Places are JSON pointers in which an element of a list is meant by its name, since its place may change:
//! `/spec/containers/app/env`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What was put into a pod. It stands in the pod, so that it can be taken out without anything else being known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    pub revision: String,
    /// Of what injected.
    pub version: String,
    /// Of the sidecar as it was put in; another one shows that a pod would get another sidecar today.
    pub digest: String,
    /// Names of what was added to lists, keys of what was added to objects, by place.
    #[serde(default)]
    pub added: BTreeMap<String, Vec<String>>,
    /// What was replaced, by place.
    #[serde(default)]
    pub replaced: BTreeMap<String, Was>,
    /// Lists and objects that were made, outer ones first.
    #[serde(default)]
    pub made: Vec<Made>,
}

/// What stood at a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Was {
    Nothing,
    Value(Value),
}

/// A list or object that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Made {
    pub at: String,
    /// `null` stood there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub null: bool,
}

/// A pod that is being changed.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) pod: Value,
    pub(super) record: Record,
}

/// Which end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Front,
    Back,
}

/// The pod is not of the form that was seen when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pod has another form than a pod has")]
pub(super) struct Misshapen;

impl Edit {
    pub(super) fn new(pod: Value) -> Self {
        Self { pod, record: Record::default() }
    }

    /// Adds named elements to a list, which is made if it is not there.
    pub(super) fn add(&mut self, at: &str, end: End, items: Vec<Value>) -> Result<(), Misshapen> {
        let names = items.iter().map(|item| name_of(item).map(str::to_owned)).collect::<Option<Vec<_>>>();
        self.record.added.entry(at.to_owned()).or_default().extend(names.ok_or(Misshapen)?);
        let list = self.place(at, || Value::Array(Vec::new()))?.as_array_mut().ok_or(Misshapen)?;
        let from = if end == End::Front { 0 } else { list.len() };
        list.splice(from..from, items);
        Ok(())
    }

    /// Sets an entry of an object of texts, which is made if it is not there. An entry that is there already comes back
    /// when the change is taken back.
    pub(super) fn entry(&mut self, at: &str, key: &str, text: String) -> Result<(), Misshapen> {
        let object = self.place(at, || Value::Object(Map::new()))?.as_object_mut().ok_or(Misshapen)?;
        match object.insert(key.to_owned(), Value::String(text)) {
            None => self.record.added.entry(at.to_owned()).or_default().push(key.to_owned()),
            Some(was) => {
                self.record.replaced.insert(format!("{at}/{}", escaped(key)), Was::Value(was));
            }
        }
        Ok(())
    }

    /// Puts a value in the place of another, or of none; none takes it away.
    pub(super) fn replace(&mut self, at: &str, value: Option<Value>) -> Result<(), Misshapen> {
        let (parent, key) = parent_mut(&mut self.pod, at).ok_or(Misshapen)?;
        let object = parent.as_object_mut().ok_or(Misshapen)?;
        let was = match value {
            Some(value) => object.insert(key, value),
            None => object.remove(&key),
        };
        self.record.replaced.insert(at.to_owned(), was.map_or(Was::Nothing, Was::Value));
        Ok(())
    }

    /// What stands at a place, made if there is nothing. What is above it is made as objects.
    fn place(&mut self, at: &str, make: fn() -> Value) -> Result<&mut Value, Misshapen> {
        if self.is_missing(at) {
            if let Some((above, _)) = at.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
                self.place(above, || Value::Object(Map::new()))?;
            }
            let (parent, key) = parent_mut(&mut self.pod, at).ok_or(Misshapen)?;
            let was = parent.as_object_mut().ok_or(Misshapen)?.insert(key, make());
            self.record.made.push(Made { at: at.to_owned(), null: was.is_some() });
        }
        find_mut(&mut self.pod, at).ok_or(Misshapen)
    }

    fn is_missing(&mut self, at: &str) -> bool {
        find_mut(&mut self.pod, at).is_none_or(|value| value.is_null())
    }
}

/// Takes back what a record says was done. What was changed since then stays as it is.
pub(super) fn undo(pod: &mut Value, record: &Record) {
    for (at, was) in &record.replaced {
        let Some((parent, key)) = parent_mut(pod, at) else { continue };
        let Some(object) = parent.as_object_mut() else { continue };
        match was {
            Was::Nothing => _ = object.remove(&key),
            Was::Value(value) => _ = object.insert(key, value.clone()),
        }
    }
    for (at, names) in &record.added {
        match find_mut(pod, at) {
            Some(Value::Array(list)) => {
                list.retain(|item| name_of(item).is_none_or(|name| !names.iter().any(|added| added == name)))
            }
            Some(Value::Object(object)) => object.retain(|key, _| !names.contains(key)),
            _ => {}
        }
    }
    for made in record.made.iter().rev() {
        let is_empty = match find_mut(pod, &made.at) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(object)) => object.is_empty(),
            _ => false,
        };
        let parent = parent_mut(pod, &made.at).filter(|_| is_empty);
        let Some((Value::Object(object), key)) = parent else { continue };
        match made.null {
            true => _ = object.insert(key, Value::Null),
            false => _ = object.remove(&key),
        }
    }
}

/// The name of an element of a list.
pub(super) fn name_of(item: &Value) -> Option<&str> {
    item.get("name")?.as_str()
}

/// A key as a part of a pointer.
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

fn find_mut<'a>(value: &'a mut Value, at: &str) -> Option<&'a mut Value> {
    at.split('/').skip(1).try_fold(value, |value, part| match value {
        Value::Object(object) => object.get_mut(&unescaped(part)),
        Value::Array(list) => list.iter_mut().find(|item| name_of(item) == Some(part)),
        _ => None,
    })
}

/// The object that holds a place, and under which key.
fn parent_mut<'a>(value: &'a mut Value, at: &str) -> Option<(&'a mut Value, String)> {
    let (above, key) = at.rsplit_once('/')?;
    Some((find_mut(value, above)?, unescaped(key)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(pod: Value, change: impl FnOnce(&mut Edit), expected: Value) {
        let mut edit = Edit::new(pod.clone());
        change(&mut edit);
        assert_eq!(edit.pod, expected);
        let text = serde_json::to_string(&edit.record).unwrap();
        undo(&mut edit.pod, &serde_json::from_str(&text).unwrap());
        assert_eq!(edit.pod, pod, "{text}");
    }

    #[test]
    fn lists_and_objects_that_were_not_there_are_made_and_go_again() {
        for metadata in [json!({}), json!({ "metadata": null }), json!({ "metadata": { "labels": null } })] {
            let expected = json!({ "metadata": { "labels": { "a/b~c": "d" } } });
            check(
                metadata,
                |edit| edit.entry("/metadata/labels", "a/b~c", "d".to_owned()).unwrap(),
                expected,
            );
        }
        let expected = json!({ "spec": { "volumes": [{ "name": "v" }] } });
        for pod in [
            json!({ "spec": {} }),
            json!({ "spec": { "volumes": null } }),
            json!({ "spec": { "volumes": [] } }),
        ] {
            let change = |edit: &mut Edit| {
                edit.add("/spec/volumes", End::Front, vec![json!({ "name": "v" })]).unwrap()
            };
            check(pod, change, expected.clone());
        }
    }

    #[test]
    fn what_was_replaced_comes_back_and_null_is_not_nothing() {
        let pod = json!({ "spec": { "containers": [{ "name": "a", "command": null }] } });
        check(
            pod,
            |edit| {
                edit.replace("/spec/containers/a/command", Some(json!(["x"]))).unwrap();
                edit.replace("/spec/containers/a/args", Some(json!(["y"]))).unwrap();
            },
            json!({ "spec": { "containers": [{ "name": "a", "command": ["x"], "args": ["y"] }] } }),
        );
        check(
            json!({ "metadata": { "labels": { "k": "mine" } } }),
            |edit| edit.entry("/metadata/labels", "k", "ours".to_owned()).unwrap(),
            json!({ "metadata": { "labels": { "k": "ours" } } }),
        );
    }

    #[test]
    fn what_others_added_since_stays() {
        let mut edit = Edit::new(json!({ "spec": {} }));
        edit.add("/spec/volumes", End::Back, vec![json!({ "name": "ours" })]).unwrap();
        let Edit { mut pod, record } = edit;
        pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({ "name": "theirs" }));
        undo(&mut pod, &record);
        assert_eq!(pod, json!({ "spec": { "volumes": [{ "name": "theirs" }] } }));
    }

    #[test]
    fn a_record_that_fits_nothing_changes_nothing() {
        let record = json!({ "revision": "", "version": "", "digest": "", "added": { "/spec/x/y": ["a"], "": ["b"] },
            "replaced": { "": "nothing", "/a/b/c": { "value": 1 }, "nowhere": "nothing" }, "made": [{ "at": "/q/w" }, { "at": "" }] });
        let pod = json!({ "spec": { "x": [1, null, { "name": 3 }] } });
        let mut changed = pod.clone();
        undo(&mut changed, &serde_json::from_value(record).unwrap());
        assert_eq!(changed, pod);
    }
}
