//! Speaks with a server over HTTP in a session of the sidecar's own, in whatever era it has.

use std::sync::Arc;

use weft_proto::resource::kinds::Era;

use super::{Legacy, Spoke, Ways};
use crate::exchange::Peer;
use crate::exchange::http::{LegacyHttp, ModernHttp};
use crate::exchange::sse_server::HttpSse;
use crate::refusal::Refusal;

/// See the module.
#[derive(Debug)]
pub struct HttpLister {
    ways: Arc<Ways>,
    kept: Option<(Kind, Arc<dyn Peer>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Modern,
    Legacy(Legacy),
}

impl HttpLister {
    pub const fn new(ways: Arc<Ways>) -> Self {
        Self { ways, kept: None }
    }

    /// The server as it is spoken to; the same as before, as long as it speaks the same.
    pub async fn peer(&mut self) -> Result<(Era, Arc<dyn Peer>), Refusal> {
        let kind = match self.ways.known().await? {
            Spoke { modern: false, legacy: Some(legacy), .. } => Kind::Legacy(legacy),
            Spoke { .. } => Kind::Modern,
        };
        let era = if kind == Kind::Modern { Era::Modern } else { Era::Legacy };
        if let Some((_, peer)) = self.kept.as_ref().filter(|(kept, _)| *kept == kind) {
            return Ok((era, Arc::clone(peer)));
        }
        let Ways { http, target, settings, .. } = &*self.ways;
        let (http, target, settings) = (Arc::clone(http), target.clone(), settings.clone());
        let peer: Arc<dyn Peer> = match kind {
            Kind::Modern => Arc::new(ModernHttp::new(http, target, settings)),
            Kind::Legacy(Legacy::Streamable) => Arc::new(LegacyHttp::new(http, target, settings)),
            Kind::Legacy(Legacy::HttpSse) => Arc::new(HttpSse::new(http, target, settings)),
        };
        self.kept = Some((kind, Arc::clone(&peer)));
        Ok((era, peer))
    }

    /// The next one begins anew: the session may be over.
    pub fn forget(&mut self) {
        self.kept = None;
    }
}
