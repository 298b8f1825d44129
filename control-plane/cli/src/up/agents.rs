//! The agents on this machine: each has an identity of its own, and an endpoint that calls in its name.

use std::net::SocketAddr;
use std::str::FromStr;

use weft_proto::name::{NodeId, ServiceAccount};

/// The namespace of all of them, and the account of the one that is always there.
const NAMESPACE: &str = "local";
const FIRST: &str = "agent";
/// Most agents: each has a sidecar of its own.
const AGENTS_MAX: usize = 8;

/// An agent and where it reaches the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) account: ServiceAccount,
    /// How its sidecar is called: as no server's can be.
    pub(crate) node: NodeId,
    pub(crate) listen: SocketAddr,
}

impl Agent {
    fn new(account: &str, listen: SocketAddr) -> Result<Self, String> {
        let account: ServiceAccount =
            account.parse().map_err(|error| format!("{account:?} is no name of an agent: {error}"))?;
        let node = NodeId::parse(&format!("{NAMESPACE}/{account}")).map_err(|error| error.to_string())?;
        Ok(Self { account, node, listen })
    }

    pub(crate) const fn namespace() -> &'static str {
        NAMESPACE
    }
}

/// `NAME` or `NAME=ADDRESS`.
impl FromStr for Agent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (account, listen) = match text.split_once('=') {
            Some((account, address)) => (account, address.parse().map_err(|_| no_address(address))?),
            // A port of the system's choice.
            None => (text, SocketAddr::from(([127, 0, 0, 1], 0))),
        };
        Self::new(account, listen)
    }
}

fn no_address(address: &str) -> String {
    format!("{address:?} is no address and port, such as 127.0.0.1:7410")
}

/// The agent that is always there, and others.
pub(crate) fn all(listen: SocketAddr, others: &[Agent]) -> Result<Vec<Agent>, String> {
    if others.len() >= AGENTS_MAX {
        return Err(format!("{} agents are more than {AGENTS_MAX}", others.len() + 1));
    }
    let mut agents = vec![Agent::new(FIRST, listen)?];
    for other in others {
        if agents.iter().any(|agent| agent.account == other.account) {
            return Err(format!("there is an agent {:?} already", other.account.as_str()));
        }
        agents.push(other.clone());
    }
    Ok(agents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_a_name_and_perhaps_an_address() {
        let checks = [
            ("cleaner", Ok(("cleaner", "127.0.0.1:0"))),
            ("cleaner=127.0.0.1:7410", Ok(("cleaner", "127.0.0.1:7410"))),
            ("cleaner=[::1]:0", Ok(("cleaner", "[::1]:0"))),
            ("cleaner=7410", Err("\"7410\" is no address")),
            ("", Err("\"\" is no name")),
            ("a/b", Err("\"a/b\" is no name")),
        ];
        for (text, expected) in checks {
            match (text.parse::<Agent>(), expected) {
                (Ok(agent), Ok((account, listen))) => {
                    assert_eq!((agent.account.as_str(), &*agent.listen.to_string()), (account, listen));
                }
                (Err(error), Err(start)) => assert!(error.starts_with(start), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn no_two_agents_have_one_name_and_there_are_not_too_many() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let named = |name: &str| name.parse::<Agent>().unwrap();
        let nodes = all(listen, &[named("b")]).unwrap();
        assert_eq!(
            nodes.iter().map(|it| it.node.to_string()).collect::<Vec<_>>(),
            ["local/agent", "local/b"]
        );
        assert!(all(listen, &[named("agent")]).unwrap_err().contains("already"));
        let many: Vec<_> = (1..=AGENTS_MAX).map(|n| named(&format!("a{n}"))).collect();
        assert!(all(listen, &many[1..]).is_ok());
        assert!(all(listen, &many).unwrap_err().contains("more than 8"));
    }
}
