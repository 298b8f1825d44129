//! The streams beside that of discovery, over the same connection: each tells, or is asked, about one thing.

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Connection, Link};
use crate::control::ask::{Answerer, Look};
use crate::control::catalog::Teller;
use crate::control::lease::Borrower;
use crate::control::report::Reporter;
use crate::control::ship::Shipper;

impl Link {
    /// The streams beside that of discovery; they end with it.
    pub(super) fn beside(
        &self,
        connection: &Connection,
        asking: &mpsc::Sender<Look>,
    ) -> Vec<AbortOnDropHandle<()>> {
        let channel = || connection.channel.clone();
        let answerer = self.parts.deps.about.clone().map(|about| Answerer {
            node: self.parts.node.id.clone(),
            about,
            looks: asking.clone(),
        });
        [
            self.reporter(connection).map(|it| tokio::spawn(it.run(channel()))),
            self.teller().map(|it| tokio::spawn(it.run(channel()))),
            self.borrower().map(|it| tokio::spawn(it.run(channel()))),
            self.shipper().map(|it| tokio::spawn(it.run(channel()))),
            answerer.map(|it| tokio::spawn(it.run(channel()))),
        ]
        .into_iter()
        .flatten()
        .map(AbortOnDropHandle::new)
        .collect()
    }

    fn teller(&self) -> Option<Teller> {
        Some(Teller { node: self.parts.node.id.clone(), servers: self.parts.deps.servers.clone()? })
    }

    fn shipper(&self) -> Option<Shipper> {
        Some(Shipper { node: self.parts.node.id.clone(), audit: self.parts.deps.audit.clone()? })
    }

    fn borrower(&self) -> Option<Borrower> {
        let quotas = self.parts.deps.quotas.clone()?;
        Some(Borrower { node: self.parts.node.id.clone(), quotas })
    }

    fn reporter(&self, connection: &Connection) -> Option<Reporter> {
        Some(Reporter {
            node: self.parts.node.id.clone(),
            address: self.address(connection),
            servers: self.parts.deps.servers.clone()?,
            losses: self.parts.deps.losses.clone(),
            began: self.began,
            pace: self.parts.settings.report,
        })
    }
}
