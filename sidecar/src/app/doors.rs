//! The listeners for traffic: for callers of the servers beside this sidecar, for the agent beside it, and for callers from
//! outside the mesh.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weft_certs::tls::{self, ClientAuth};
use weft_certs::verifier::Expect;
use weft_proto::name::Namespace;

use super::{Core, Error, is_plain};
use crate::accept::{Listener, Open, Tls};
use crate::gateway::{self, Authenticator, Certificate, Pages, Shares};
use crate::metrics::{SeriesByServer, ServerSeries};
use crate::pipeline::{self, Cards};

/// What the kinds of callers may speak, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A gateway as its section of the file has it.
#[derive(Debug)]
pub(super) struct Public {
    gateway: gateway::Gateway,
    certificate: Option<Certificate>,
}

impl Core {
    /// What is wrong with a gateway is told before anything is served.
    pub(super) fn public(&self) -> Result<Option<Public>, Error> {
        let Some(gateway) = self.bootstrap.listen.gateway.clone() else { return Ok(None) };
        let certificate =
            gateway.tls.as_ref().map(Certificate::open).transpose().map_err(Error::Certificate)?;
        Ok(Some(Public { gateway, certificate }))
    }

    pub(super) fn gateway(&self, socket: TcpListener, public: Public) -> impl Future<Output = ()> + use<> {
        let Public { gateway, certificate } = public;
        let (kept, drain) = (certificate.clone().zip(gateway.tls.clone()), self.tokens.drain.clone());
        let to = pipeline::Outbound::new(pipeline::OutboundParts {
            live: self.live.clone(),
            to: Arc::clone(&self.to),
            assemblies: self.for_guests.clone(),
            series: SeriesByServer::new(&self.metrics, "gateway"),
            limits: Arc::clone(&self.limits),
            room: self.room.clone(),
            log: self.log.clone(),
            drain: self.tokens.drain.clone(),
            nowhere: self.nowhere("gateway"),
            cards: Cards::public(gateway.public_url.base()),
            traced: self.tracer.calling(),
            tracer: self.tracer.clone(),
        });
        let node = &self.bootstrap.node;
        let authenticator = Authenticator::new(gateway::Parts {
            live: self.live.clone(),
            identity: self.identity.clone(),
            namespace: Namespace::parse(node.id.namespace()).ok(),
            labels: node.labels.clone(),
            public_url: gateway.public_url.clone(),
            fetching: gateway.keys.clone(),
            limits: Arc::clone(&self.limits),
            metrics: Arc::clone(&self.metrics),
        });
        let by = authenticator.clone();
        let service = pipeline::Gateway::new(pipeline::GatewayParts {
            to,
            pages: Pages::new(&gateway),
            authenticator,
            limits: Arc::clone(&self.limits),
            metrics: Arc::clone(&self.metrics),
            requests: Shares::default(),
            streams: Shares::default(),
        });
        let tls = certificate.map(|certificate| {
            let open = Arc::new(certificate.config(None, &ALPN));
            let asking = Arc::new(certificate.config(Some(&self.trust), &ALPN));
            let asks = move || if by.asks_for_certificates() { &asking } else { &open }.clone();
            Tls { config: Arc::new(asks), trust: self.trust.clone() }
        });
        let listener = self.listener("gateway", tls, &self.tokens.drain);
        let serving = Listener { is_public: true, ..listener }.serve(socket, service);
        async move {
            let keeping = async {
                if let Some((certificate, files)) = kept {
                    certificate.keep(files, drain).await;
                }
            };
            tokio::join!(serving, keeping);
        }
    }

    pub(super) fn inbound(&self, socket: TcpListener) -> impl Future<Output = ()> + use<> {
        let service = pipeline::Inbound::new(pipeline::Parts {
            live: self.live.clone(),
            servers: self.servers.clone(),
            limits: Arc::clone(&self.limits),
            room: self.room.clone(),
            quotas: self.quotas.clone(),
            log: self.log.clone(),
            audit: self.audit.clone(),
            sessions: self.sessions.clone(),
            drain: self.tokens.drain.clone(),
            nowhere: self.nowhere("inbound"),
            metrics: Arc::clone(&self.metrics),
        });
        self.listener("inbound", self.tls(), &self.tokens.drain).serve(socket, service)
    }

    pub(super) fn outbound(&self, socket: TcpListener) -> impl Future<Output = ()> + use<> {
        let port = socket.local_addr().map_or(0, |address| address.port());
        let service = pipeline::Outbound::new(pipeline::OutboundParts {
            live: self.live.clone(),
            to: Arc::clone(&self.to),
            assemblies: self.assemblies.clone(),
            series: SeriesByServer::new(&self.metrics, "outbound"),
            limits: Arc::clone(&self.limits),
            room: self.room.clone(),
            log: self.log.clone(),
            drain: self.tokens.leave.clone(),
            nowhere: self.nowhere("outbound"),
            cards: Cards::local(port),
            traced: self.tracer.calling(),
            tracer: self.tracer.clone(),
        });
        let open = self.agents.clone();
        Listener { open, ..self.listener("outbound", None, &self.tokens.leave) }.serve(socket, service)
    }

    fn listener(&self, name: &'static str, tls: Option<Tls>, drain: &CancellationToken) -> Listener {
        Listener {
            name,
            tls,
            is_public: false,
            addresses: Shares::default(),
            open: Open::default(),
            limits: Arc::clone(&self.limits),
            metrics: Arc::clone(&self.metrics),
            drain: drain.clone(),
            stop: self.tokens.stop.clone(),
        }
    }

    fn nowhere(&self, listener: &'static str) -> Arc<ServerSeries> {
        Arc::new(ServerSeries::new(&self.metrics, listener, "".into()))
    }

    /// A sidecar that knows no certificates listens without TLS; its address was checked to be on loopback.
    fn tls(&self) -> Option<Tls> {
        if is_plain(&self.bootstrap) {
            return None;
        }
        let auth = ClientAuth::Required(Expect::AnyInMesh);
        let config = Arc::new(tls::server_config(&self.identity, &self.trust, auth, &ALPN));
        Some(Tls { config: Arc::new(move || Arc::clone(&config)), trust: self.trust.clone() })
    }
}
