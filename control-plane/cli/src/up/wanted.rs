//! Which sidecars should stand on this machine, by what the store says of servers. Nothing is started here.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::name::ServerName;
use weft_proto::resource::kinds::{Location, McpServer};

/// Most sidecars beside servers. Each has listeners, connections and a certificate of its own.
pub(crate) const SIDECARS_MAX: usize = 64;

/// A server as the store has it, or why it cannot be read.
pub(crate) type Stored = (ServerName, Result<McpServer, String>);

/// What makes a sidecar this one: with another of these it is started anew. All else reaches it as configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) account: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// The sidecars that should stand, and servers that get none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) beside: BTreeMap<ServerName, Wanted>,
    pub(crate) left_out: BTreeMap<ServerName, String>,
}

/// Decides for each server. Sidecars that run keep their place when there are more servers than places.
pub(crate) fn plan(servers: &[Stored], running: &BTreeSet<ServerName>) -> Plan {
    let mut plan = Plan::default();
    let (first, then): (Vec<_>, Vec<_>) = servers.iter().partition(|(name, _)| running.contains(name));
    for (name, server) in first.into_iter().chain(then) {
        let wanted = match server {
            Ok(spec) => wanted(name, spec),
            Err(why) => Err(why.clone()),
        };
        let room = plan.beside.len() < SIDECARS_MAX;
        match wanted {
            Ok(wanted) if room => _ = plan.beside.insert(name.clone(), wanted),
            Ok(_) => {
                let why = format!("{SIDECARS_MAX} sidecars run here already, and more are not started");
                plan.left_out.insert(name.clone(), why);
            }
            Err(why) => _ = plan.left_out.insert(name.clone(), why),
        }
    }
    plan
}

fn wanted(name: &ServerName, spec: &McpServer) -> Result<Wanted, String> {
    let labels = match &spec.location {
        Location::Stdio(_) => BTreeMap::new(),
        Location::Workload(workload) if workload.port.is_some() || workload.unix_socket.is_some() => {
            workload.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        }
        Location::Workload(_) => return Err("nothing says on which port it listens".to_owned()),
        Location::Endpoints(_) => return Err("its sidecars run elsewhere".to_owned()),
        Location::External(_) => {
            return Err(
                "a server outside of the mesh needs a sidecar whose file says where calls may leave to"
                    .to_owned(),
            );
        }
    };
    let account = spec.service_account.as_ref().map_or(name.name.as_str(), |account| account.as_str());
    Ok(Wanted { account: account.to_owned(), labels })
}

#[cfg(test)]
mod tests {
    use weft_proto::resource::{self, Spec};

    use super::*;

    fn server(name: &str, spec: &str) -> Stored {
        let text = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: demo, name: {name} }}\nspec: {spec}\n"
        );
        let Spec::McpServer(spec) = resource::parse_one("t", &text).unwrap().spec else { unreachable!() };
        (format!("demo/{name}").parse().unwrap(), Ok(spec))
    }

    const STDIO: &str = "{ stdio: { command: x } }";

    #[test]
    fn a_server_gets_a_sidecar_if_it_can_be_spoken_to_from_here() {
        let stored = [
            server("command", STDIO),
            server("port", "{ workload: { labels: { app: x }, port: 1 }, serviceAccount: other }"),
            server("nowhere", "{ workload: { labels: { app: x } } }"),
            ("demo/odd".parse().unwrap(), Err("it cannot be read".to_owned())),
        ];
        let plan = plan(&stored, &BTreeSet::new());
        let names: Vec<_> = plan.beside.iter().map(|(name, it)| (name.to_string(), &*it.account)).collect();
        assert_eq!(names, [("demo/command".to_owned(), "command"), ("demo/port".to_owned(), "other")]);
        assert_eq!(plan.beside[&"demo/port".parse().unwrap()].labels["app"], "x");
        assert_eq!(plan.left_out.len(), 2);
    }

    #[test]
    fn past_the_limit_the_newcomer_is_left_out_and_told_why() {
        let names: Vec<_> = (0..=SIDECARS_MAX).map(|n| format!("s{n:03}")).collect();
        let stored: Vec<_> = names.iter().map(|name| server(name, STDIO)).collect();
        // The first by name came last.
        let running = stored[1..].iter().map(|(name, _)| name.clone()).collect();
        let plan = plan(&stored, &running);
        assert_eq!(plan.beside.len(), SIDECARS_MAX);
        let (name, why) = plan.left_out.first_key_value().unwrap();
        assert!(name.to_string() == "demo/s000" && why.contains("64 sidecars"), "{name}: {why}");
    }
}
