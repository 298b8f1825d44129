//! A container whose command speaks MCP over stdin and stdout: the sidecar takes its place and becomes its parent.

use serde_json::{Value, json};

use super::annotations::{Mistake, PREFIX, Wishes, sound};
use super::edit::{Edit, End};
use super::pod::{CONTAINERS, Container, Pod};
use super::skip::Skip;
use super::{BINARY, BINARY_FOLDER, IDENTITY_FOLDER, STATE_FOLDER, parts};

fn mistake(name: &str, why: String) -> Skip {
    Skip::Mistakes(vec![Mistake { name: format!("{PREFIX}{name}"), why }])
}

fn container<'a>(pod: &Pod<'a>, name: &str) -> Result<Container<'a>, Skip> {
    let mut containers = pod.containers().filter(|container| container.list == CONTAINERS);
    let found = containers.find(|container| container.name == name);
    found.ok_or_else(|| mistake("stdio", format!("there is no container {name}")))
}

/// What the container is to run in the place of its command, and what it is given besides: the sidecar, and after it the
/// command as it stood. References to variables in it go on to be expanded by the cluster, which knows their values.
fn words(container: &Container<'_>, wishes: &Wishes) -> Result<(Vec<String>, Option<Vec<String>>), Skip> {
    let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let (field, command, args) = match &wishes.stdio_command {
        Some(words) => ("stdio-command", words.clone(), None),
        None => {
            let command = container.words("command")?.ok_or_else(|| {
                let name = container.name;
                let why =
                    format!("the container {name} leaves its command to the image, which is not known here");
                mistake("stdio-command", format!("is needed: {why}"))
            })?;
            ("stdio", owned(command), container.words("args")?.map(owned))
        }
    };
    let all: Vec<&String> = command.iter().chain(args.iter().flatten()).collect();
    sound(&all).map_err(|why| mistake(field, format!("the command {why}")))?;
    let before = [BINARY, "run", "--"].map(str::to_owned);
    Ok((before.into_iter().chain(command).collect(), args))
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
    clashes(&container)?;
    let (command, args) = words(&container, wishes)?;
    let at = container.at();
    edit.replace(&format!("{at}/command"), Some(json!(command)))?;
    if container.fields.contains_key("args") && args.is_none() {
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
