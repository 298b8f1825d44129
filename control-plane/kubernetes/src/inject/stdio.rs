//! A container whose command speaks MCP over stdin and stdout: the sidecar takes its place and becomes its parent.

use serde_json::{Value, json};

use super::annotations::{Mistake, PREFIX, Wishes, sound};
use super::edit::{Edit, End};
use super::pod::{CONTAINERS, Container, Pod};
use super::skip::Skip;
use super::{BINARY, BINARY_FOLDER, IDENTITY_FOLDER, STATE_FOLDER, bootstrap, parts};

/// The words of a command.
#[derive(Debug)]
pub(super) struct Found(Vec<String>);

impl Found {
    pub(super) fn command(&self) -> bootstrap::Command<'_> {
        bootstrap::Command { words: self.0.iter().map(String::as_str).collect() }
    }
}

fn mistake(name: &str, why: String) -> Skip {
    Skip::Mistakes(vec![Mistake { name: format!("{PREFIX}{name}"), why }])
}

fn container<'a>(pod: &Pod<'a>, name: &str) -> Result<Container<'a>, Skip> {
    let mut containers = pod.containers().filter(|container| container.list == CONTAINERS);
    let found = containers.find(|container| container.name == name);
    found.ok_or_else(|| mistake("stdio", format!("there is no container {name}")))
}

/// The command of the container that is a server, if one is: as the pod says it, or the annotation.
pub(super) fn command(pod: &Pod<'_>, wishes: &Wishes) -> Result<Option<Found>, Skip> {
    let Some(name) = &wishes.stdio else { return Ok(None) };
    let container = container(pod, name)?;
    clashes(&container)?;
    let (field, words) = match &wishes.stdio_command {
        Some(words) => ("stdio-command", words.iter().map(String::as_str).collect()),
        None => {
            let command = container.words("command")?.ok_or_else(|| {
                let why =
                    format!("the container {name} leaves its command to the image, which is not known here");
                mistake("stdio-command", format!("is needed: {why}"))
            })?;
            let args = container.words("args")?.unwrap_or_default();
            ("stdio", command.into_iter().chain(args).collect::<Vec<_>>())
        }
    };
    let words = words.into_iter().map(bootstrap::expanded).collect::<Result<Vec<_>, _>>();
    let words = words.map_err(|variable| {
        mistake(
            field,
            format!("the command names the variable $({variable}), whose value only the cluster knows"),
        )
    })?;
    sound(&words).map_err(|why| mistake(field, format!("the command {why}")))?;
    Ok(Some(Found(words)))
}

/// Names and folders that the sidecar needs in that container.
fn clashes(container: &Container<'_>) -> Result<(), Skip> {
    let clash = |what, name: &str| Err(Skip::Clash { what, name: name.to_owned() });
    if let Some(name) = container.names_of("env").find(|name| name.starts_with("WEFT_")) {
        return clash("a variable", name);
    }
    let ours = [BINARY_FOLDER, IDENTITY_FOLDER, STATE_FOLDER];
    match container.mount_paths().find(|path| ours.contains(&path.trim_end_matches('/'))) {
        Some(path) => clash("a mounted folder", path),
        None => Ok(()),
    }
}

/// Puts the sidecar in the place of the container's command.
pub(super) fn take_over(
    edit: &mut Edit,
    pod: &Pod<'_>,
    name: &str,
    wishes: &Wishes,
    file: String,
) -> Result<(), Skip> {
    let container = container(pod, name)?;
    let at = container.at();
    edit.replace(&format!("{at}/command"), Some(json!([BINARY, "run"])))?;
    if container.fields.contains_key("args") {
        edit.replace(&format!("{at}/args"), None)?;
    }
    // A pod is ready when what it serves is; who says otherwise knows better.
    if container.fields.get("readinessProbe").is_none_or(Value::is_null) {
        edit.replace(&format!("{at}/readinessProbe"), Some(parts::readiness()))?;
    }
    edit.add(&format!("{at}/env"), End::Back, parts::environment(wishes, file))?;
    edit.add(&format!("{at}/ports"), End::Back, parts::ports())?;
    let mut mounts = parts::mounts();
    mounts.push(parts::binary_mount());
    edit.add(&format!("{at}/volumeMounts"), End::Back, mounts)?;
    Ok(())
}
