//! The forms in which answers are shown.

use clap::{Args, ValueEnum};
use serde_json::Value;
use weft_proto::resource;

use crate::failure::Failure;

/// A form for people, or one of two for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    #[default]
    Table,
    /// The control plane's answer as JSON
    Json,
    /// The control plane's answer as YAML
    Yaml,
}

/// The flag that chooses the form.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct FormArgs {
    /// How the answer is shown
    #[arg(long = "output", short = 'o', value_name = "FORM", default_value = "table")]
    pub(crate) form: Form,
}

impl Form {
    /// The answer as programs read it; none if people are to read it.
    pub(crate) fn machine(self, answer: &Value) -> Option<Result<String, Failure>> {
        match self {
            Self::Table => None,
            Self::Json => Some(Ok(json(answer))),
            Self::Yaml => Some(yaml(answer)),
        }
    }
}

/// JSON over several lines.
pub(crate) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

pub(crate) fn yaml(value: &Value) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value)
        .map_err(|error| Failure::failed("the answer could not be written as YAML").because(error))?;
    Ok(match text.ends_with('\n') {
        true => text,
        false => text + "\n",
    })
}

/// An object as YAML, in the order in which people write it. One that this version cannot read is shown all the same.
pub(crate) fn object_yaml(object: &Value) -> Result<String, Failure> {
    match resource::parse_one("", &object.to_string()) {
        Ok(read) => Ok(read.to_yaml()),
        Err(_) => yaml(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_shown_as_it_would_be_written_and_reads_back() {
        let text = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {namespace: a, name: b}\n\
                    spec: {stdio: {command: x, args: ['on', '1']}}";
        let object = resource::parse_one("f", text).unwrap();
        let value: Value = serde_json::from_str(&object.canonical()).unwrap();
        assert_eq!(resource::parse_one("y", &object_yaml(&value).unwrap()).unwrap(), object);
        assert_eq!(resource::parse_one("j", &json(&value)).unwrap(), object);
    }

    #[test]
    fn an_object_of_another_version_is_shown_all_the_same() {
        let value = serde_json::json!({"kind": "Novelty", "spec": {"text": "a: b", "none": null}});
        let text = object_yaml(&value).unwrap();
        assert!(text.contains("kind: Novelty") && text.ends_with('\n'), "{text}");
    }
}
