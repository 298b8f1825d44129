//! Ports that lead to the sidecar, whoever connects to them: `weft-sidecar capture`.
//!
//! The rules are those of nftables, told to the kernel itself, for the sidecar's image holds no other program. [`rules`]
//! says which they are, `netlink` writes them as the kernel reads them, and `kernel` speaks with it. Not here: what the
//! sidecar does with what reaches it, and anything of other tables.

mod kernel;
mod netlink;
mod rules;
#[cfg(test)]
mod tests;

use rustix::io::Errno;

pub use rules::{Capture, PORTS_MAX};

/// Why ports do not lead to the sidecar.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} ports are to be captured; there may be 1 to {PORTS_MAX}")]
    Ports(usize),
    #[error("port {0} is the sidecar's own and cannot lead to itself")]
    OwnPort(u16),
    #[error("rules of the network may not be set here: it takes the capability NET_ADMIN, in effect")]
    NotAllowed,
    #[error(
        "this kernel does not have what {what} takes: nf_tables with its modules nft_chain_nat and nft_redir"
    )]
    Missing {
        what: String,
        #[source]
        source: Errno,
    },
    #[error("the kernel refuses {what}")]
    Refused {
        what: String,
        #[source]
        source: Errno,
    },
    #[error("the kernel's answer is no message of netlink")]
    Garbled,
    #[error("chain {chain} has {found} rules after {wanted} were set; somebody else changes table inet weft")]
    Differs { chain: &'static str, wanted: usize, found: usize },
}

/// Sets the rules in place of those that were set before, all at once, and looks whether they are there.
pub fn set(capture: &Capture) -> Result<(), Error> {
    let kernel = kernel::Kernel::reach()?;
    kernel.set(&netlink::batch(capture.chains()))?;
    for chain in capture.chains() {
        let (wanted, found) = (chain.rules.len(), kernel.rules(chain.name)?);
        if found != wanted {
            return Err(Error::Differs { chain: chain.name, wanted, found });
        }
    }
    Ok(())
}
