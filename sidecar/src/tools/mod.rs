//! Tools of the servers beside this sidecar: what a server advertises, and how calls are treated as policies say.
//!
//! What a policy means is in `proto`; here is what it takes to hold calls to it: definitions read from the server,
//! schemas compiled, answers kept. A server is asked for its definitions where a policy needs them, and where a control
//! plane is told of all that there is.

mod advertised;
mod answered;
mod capped;
pub(crate) mod kept;
mod kinds;
mod offering;
mod pattern;
pub mod pinned;
mod read;
pub mod schema;
mod stage;
mod work;

use std::sync::Arc;

use tokio::sync::watch;
use weft_proto::compile::ServerEntry;
use weft_proto::resource::kinds::{Strictness, ToolPolicy};

use crate::backend::Backend;
use crate::limits::Limits;
use crate::metrics::{Metrics, ToolSeries};
use crate::reads::Reads;

use advertised::Telling;
pub use advertised::{Advertised, Known, Tool};
pub use answered::answered;
pub use capped::{Cap, Passed};
pub use kept::{Kept, Key};
pub use offering::{Item, Offering};
pub use read::Lister;
pub use stage::{Asked, Treated, treat};

/// The tools of one server.
#[derive(Debug)]
pub struct Tools {
    pub advertised: Advertised,
    pub kept: Kept,
    pub reads: Arc<Reads>,
    pub series: ToolSeries,
    pub limits: schema::Limits,
}

impl Tools {
    pub fn new(
        server: &Arc<str>,
        backend: &Backend,
        limits: &Limits,
        metrics: &Arc<Metrics>,
        told: bool,
        changes: watch::Sender<()>,
    ) -> Self {
        let series = ToolSeries::new(metrics, Arc::clone(server));
        let reads = Reads::new(limits, series.clone());
        let telling = Telling { told, changes, reads: Arc::clone(&reads) };
        Self {
            advertised: Advertised::new(
                Arc::clone(server),
                backend.lister(),
                limits,
                series.clone(),
                telling,
            ),
            kept: Kept::new(limits),
            reads,
            series,
            limits: schema::Limits::of(limits),
        }
    }

    /// Begins to read definitions, or stops, as the policies of the server need them.
    pub fn follow(&self, entry: &ServerEntry) {
        self.advertised.want(entry.tools.iter().any(|policy| needs_definitions(&policy.spec)));
    }
}

fn needs_definitions(policy: &ToolPolicy) -> bool {
    policy.validate_arguments != Strictness::Off || policy.pin != Strictness::Off
}
