//! Servers as desktop clients write them down, `{"mcpServers": {…}}`, into resources of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};
use weft_proto::name::{ObjectName, WebUrl};

/// The namespace of servers that were written down this way.
pub(crate) const NAMESPACE: &str = "local";

/// Why a file cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("this is no JSON with mcpServers: {0}")]
    Json(#[from] serde_json::Error),
    #[error("there are no servers in it")]
    Empty,
    #[error("server {name:?}: {problem}")]
    Server { name: String, problem: String },
}

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// Objects, each as JSON.
    pub(crate) objects: Vec<Value>,
    /// The client's name of each server, and its name in the mesh.
    pub(crate) names: Vec<(String, String)>,
    /// What is left out, and why.
    pub(crate) left_out: Vec<String>,
}

/// The form of the file. Clients add fields of their own, which say nothing to a mesh.
#[derive(Deserialize)]
struct Raw {
    #[serde(alias = "servers", rename = "mcpServers")]
    servers: BTreeMap<String, RawServer>,
}

#[derive(Deserialize)]
struct RawServer {
    r#type: Option<String>,
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    disabled: bool,
}

/// Reads a file of a desktop client.
pub(crate) fn read(text: &str) -> Result<Found, Error> {
    let raw: Raw = serde_json::from_str(text)?;
    let mut found = Found::default();
    let mut taken = BTreeSet::new();
    for (name, server) in raw.servers {
        if server.disabled {
            found.left_out.push(format!("{name} is disabled"));
            continue;
        }
        match location(&name, &server)? {
            Ok(location) => {
                let own = own_name(&name, &mut taken)?;
                found.objects.push(object(&own, location));
                found.names.push((name, own));
            }
            Err(why) => found.left_out.push(format!("{name}: {why}")),
        }
    }
    match found.objects.is_empty() && found.left_out.is_empty() {
        true => Err(Error::Empty),
        false => Ok(found),
    }
}

/// The part of a spec that says where the server is, or why it has no place in a mesh on this machine.
fn location(name: &str, server: &RawServer) -> Result<Result<Value, String>, Error> {
    let wrong = |problem: &str| Error::Server { name: name.to_owned(), problem: problem.to_owned() };
    match (&server.command, &server.url) {
        (Some(command), None) => {
            let mut stdio = json!({ "command": command, "args": server.args, "env": server.env });
            if let Some(cwd) = &server.cwd {
                stdio["workingDirectory"] = cwd.as_str().into();
            }
            Ok(Ok(json!({ "stdio": stdio })))
        }
        (None, Some(url)) => {
            let parsed = WebUrl::parse(url).map_err(|error| wrong(&error.to_string()))?;
            let uri: http::Uri = parsed.as_str().parse().map_err(|_| wrong("its url is no address"))?;
            Ok(beside(&uri, server))
        }
        (Some(_), Some(_)) => Err(wrong("it has a command and a url; one of them says where it is")),
        (None, None) => Err(wrong("it has neither a command nor a url")),
    }
}

/// A server that listens on this machine.
fn beside(uri: &http::Uri, server: &RawServer) -> Result<Value, String> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !here {
        return Err("it is not on this machine, and servers elsewhere are not reached yet".to_owned());
    }
    if uri.scheme_str() != Some("http") {
        return Err("it speaks TLS on this machine, which is not spoken to servers yet".to_owned());
    }
    if !server.headers.is_empty() {
        return Err("its headers would have to be added to each call, which is not done yet".to_owned());
    }
    let mut spec = json!({
        "workload": { "labels": { "weft.dev/port": uri.port_u16().unwrap_or(80).to_string() }, "port": uri.port_u16().unwrap_or(80) },
        "path": uri.path_and_query().map_or("/", |path| path.as_str()),
    });
    if server.r#type.as_deref() == Some("sse") {
        spec["protocol"] = "http-sse".into();
    }
    Ok(spec)
}

/// The name as an object may have it, made different from those that are taken.
fn own_name(name: &str, taken: &mut BTreeSet<String>) -> Result<String, Error> {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let plain = plain.trim_matches('-').chars().take(40).collect::<String>();
    let plain = match plain.trim_end_matches('-') {
        "" => "server",
        plain => plain,
    };
    let numbered = (2..).map(|n| format!("{plain}-{n}"));
    let own = std::iter::once(plain.to_owned()).chain(numbered).find(|name| !taken.contains(name));
    let own = own.unwrap_or_default();
    ObjectName::parse(&own)
        .map_err(|error| Error::Server { name: name.to_owned(), problem: error.to_string() })?;
    taken.insert(own.clone());
    Ok(own)
}

fn object(name: &str, location: Value) -> Value {
    let mut spec = location;
    spec["serviceAccount"] = name.into();
    json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "McpServer",
        "metadata": { "namespace": NAMESPACE, "name": name },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_local_urls_become_servers_of_the_mesh() {
        let found = read(
            r#"{ "mcpServers": {
                "My Files": { "command": "npx", "args": ["-y", "x"], "env": { "A": "b" }, "cwd": "/tmp", "theirs": 1 },
                "web": { "type": "sse", "url": "http://localhost:9000/sse" }
            } }"#,
        )
        .unwrap();
        let names: Vec<_> = found.names.iter().map(|(_, own)| own.as_str()).collect();
        assert_eq!(names, ["my-files", "web"]);
        assert_eq!(found.objects[0]["spec"]["stdio"]["workingDirectory"], "/tmp");
        assert_eq!(found.objects[1]["spec"]["workload"]["port"], 9000);
        assert_eq!(found.objects[1]["spec"]["protocol"], "http-sse");
        for object in &found.objects {
            weft_proto::resource::parse_one("f", &object.to_string()).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_served_here_is_left_out_with_a_reason() {
        let found = read(
            r#"{ "servers": {
                "far": { "url": "https://mcp.example/mcp" }, "off": { "command": "x", "disabled": true },
                "key": { "url": "http://127.0.0.1:1/mcp", "headers": { "Authorization": "x" } }
            } }"#,
        )
        .unwrap();
        assert!(found.objects.is_empty());
        assert_eq!(found.left_out.len(), 3);
    }

    #[test]
    fn names_that_become_equal_are_told_apart() {
        let found = read(
            r#"{ "mcpServers": { "a b": { "command": "x" }, "a.b": { "command": "x" }, "…": { "command": "x" } } }"#,
        );
        let names: Vec<_> = found.unwrap().names.into_iter().map(|(_, own)| own).collect();
        assert_eq!(names, ["a-b", "a-b-2", "server"]);
    }

    #[test]
    fn a_file_with_a_mistake_is_told_by_the_servers_name() {
        let check = |text: &str, why: &str| {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error:?} should contain {why:?}");
        };
        check("{}", "mcpServers");
        check(r#"{ "mcpServers": {} }"#, "no servers");
        check(r#"{ "mcpServers": { "x": {} } }"#, "\"x\": it has neither");
        check(r#"{ "mcpServers": { "x": { "command": "a", "url": "http://localhost/" } } }"#, "one of them");
        check(r#"{ "mcpServers": { "x": { "url": "nowhere" } } }"#, "\"x\"");
    }
}
