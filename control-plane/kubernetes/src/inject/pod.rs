//! A pod as far as injection looks at it. What is not looked at may be anything, and stays as it is.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use weft_proto::name::Namespace;

use super::skip::Skip;

/// Containers of one kind in a pod.
const CONTAINERS_MAX: usize = 256;

/// A pod that has the form of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'a> {
    metadata: Option<&'a Map<String, Value>>,
    pub(super) spec: &'a Map<String, Value>,
}

/// A container, with the list that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'a> {
    pub(super) list: &'static str,
    pub(super) name: &'a str,
    pub(super) fields: &'a Map<String, Value>,
}

pub(super) const CONTAINERS: &str = "containers";
pub(super) const INIT_CONTAINERS: &str = "initContainers";

impl<'a> Pod<'a> {
    pub(super) fn read(pod: &'a Value) -> Result<Self, Skip> {
        let pod = pod.as_object().ok_or(Skip::Malformed("it is no object"))?;
        let metadata = object(pod, "metadata", "its metadata is no object")?;
        let spec = object(pod, "spec", "its spec is no object")?.ok_or(Skip::Malformed("it has no spec"))?;
        if let Some(metadata) = metadata {
            texts(metadata, "labels", "its labels are no texts")?;
            texts(metadata, "annotations", "its annotations are no texts")?;
        }
        let read = Self { metadata, spec };
        read.containers_are_sound()?;
        read.list("volumes", "its volumes are no list of objects")?;
        Ok(read)
    }

    fn containers_are_sound(&self) -> Result<(), Skip> {
        let mut names = BTreeSet::new();
        for (list, what) in [
            (CONTAINERS, "its containers are no list of objects"),
            (INIT_CONTAINERS, "its init containers are no list of objects"),
        ] {
            let found = self.list(list, what)?;
            if found.len() > CONTAINERS_MAX {
                return Err(Skip::Malformed("it has more containers than are looked at"));
            }
            for container in found {
                let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
                // Names are parts of places and paths below.
                if Namespace::parse(name).is_err() || !names.insert(name) {
                    return Err(Skip::Malformed("it has a container without a name of its own"));
                }
            }
        }
        match self.list(CONTAINERS, "")?.is_empty() {
            true => Err(Skip::Malformed("it has no container")),
            false => Ok(()),
        }
    }

    /// A list of objects of the pod's `spec`; empty if it is not there.
    fn list(&self, name: &str, wrong: &'static str) -> Result<&'a [Value], Skip> {
        match self.spec.get(name) {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(items),
            Some(_) => Err(Skip::Malformed(wrong)),
        }
    }

    fn of(&self, list: &'static str) -> impl Iterator<Item = Container<'a>> + use<'a> {
        let items = self.spec.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        items.iter().filter_map(move |item| {
            let fields = item.as_object()?;
            Some(Container { list, name: fields.get("name")?.as_str()?, fields })
        })
    }

    /// Containers, and then init containers. Ephemeral ones are no part of a pod that is created.
    pub(super) fn containers(&self) -> impl Iterator<Item = Container<'a>> + use<'a> {
        self.of(CONTAINERS).chain(self.of(INIT_CONTAINERS))
    }

    /// The container that logs and commands mean if nothing is said.
    pub(super) fn first(&self) -> Option<Container<'a>> {
        self.of(CONTAINERS).next()
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let items = self.spec.get("volumes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        items.iter().filter_map(super::edit::name_of)
    }

    fn texts(&self, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let found = self.metadata.and_then(|metadata| metadata.get(field)?.as_object());
        found.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.texts("labels")
    }

    pub(super) fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.texts("annotations")
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.metadata?.get("annotations")?.get(key)?.as_str()
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.spec.get(field).and_then(Value::as_bool) == Some(true)
    }

    pub(super) fn text(&self, field: &str) -> Option<&'a str> {
        self.spec.get(field)?.as_str()
    }
}

impl<'a> Container<'a> {
    /// Where it is, as a place in the pod.
    pub(super) fn at(&self) -> String {
        format!("/spec/{}/{}", self.list, self.name)
    }

    fn items(&self, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.fields.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter()
    }

    /// The ports that it says it has: number, protocol and name.
    pub(super) fn ports(&self) -> impl Iterator<Item = (i64, &'a str, Option<&'a str>)> + use<'a> {
        self.items("ports").filter_map(|port| {
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            Some((port.get("containerPort")?.as_i64()?, protocol, super::edit::name_of(port)))
        })
    }

    pub(super) fn names_of(&self, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.items(field).filter_map(super::edit::name_of)
    }

    pub(super) fn mount_paths(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.items("volumeMounts").filter_map(|mount| mount.get("mountPath")?.as_str())
    }

    /// Words of a list of texts; none if it is not there or empty, as Kubernetes has it.
    pub(super) fn words(&self, field: &str) -> Result<Option<Vec<&'a str>>, Skip> {
        const WRONG: Skip = Skip::Malformed("the command of its container is no list of texts");
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(words)) if words.is_empty() => Ok(None),
            Some(Value::Array(words)) => {
                words.iter().map(|word| word.as_str().ok_or(WRONG)).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(WRONG),
        }
    }
}

fn object<'a>(
    from: &'a Map<String, Value>,
    field: &str,
    wrong: &'static str,
) -> Result<Option<&'a Map<String, Value>>, Skip> {
    match from.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(Skip::Malformed(wrong)),
    }
}

fn texts(from: &Map<String, Value>, field: &str, wrong: &'static str) -> Result<(), Skip> {
    match object(from, field, wrong)?.is_none_or(|object| object.values().all(Value::is_string)) {
        true => Ok(()),
        false => Err(Skip::Malformed(wrong)),
    }
}
