//! The sidecars' door: which services stand behind it, and which of them open without a certificate.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response};
use axum::middleware::{self, Next};
use tonic::service::Routes;
use weft_certs::bundle::TrustStore;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use weft_proto::pb::weft::ask::v1::ask_server::AskServer;
use weft_proto::pb::weft::audit::v1::audit_server::AuditServer;
use weft_proto::pb::weft::catalog::v1::catalog_server::CatalogServer;
use weft_proto::pb::weft::identity::v1::identity_server::IdentityServer;
use weft_proto::pb::weft::quota::v1::quota_server::QuotaServer;
use weft_proto::pb::weft::replica::v1::replica_server::ReplicaServer;
use weft_proto::pb::weft::status::v1::status_server::StatusServer;

use crate::ask::{self, Asking};
use crate::audit;
use crate::catalog::{Catalog, Catalogue};
use crate::identity::IdentityService;
use crate::peer::Peer;
use crate::quota::Leases;
use crate::replica::{self, Replication};
use crate::reports::Reports;
use crate::xds::{Discovery, Hub};

/// Largest request on a discovery stream, in bytes.
pub const DISCOVERY_BYTES_MAX: usize = 4 << 20;
/// Largest request for a certificate, in bytes.
pub const CERTIFY_BYTES_MAX: usize = 64 << 10;
/// Largest report of what one server advertises, in bytes.
pub const CATALOG_BYTES_MAX: usize = 4 << 20;
/// Largest report of a sidecar, in bytes.
pub const REPORT_BYTES_MAX: usize = 256 << 10;
/// Largest report of what a sidecar holds and wants of limits, in bytes.
pub const LEASES_BYTES_MAX: usize = 1 << 20;
const OUT_OF_RANGE: &str = "11";
const RESOURCE_EXHAUSTED: &str = "8";
/// The one method that answers whoever has no certificate yet.
const BOOTSTRAP: &str = "/weft.identity.v1.Identity/Certify";

/// The services for sidecars, whose certificates are looked up in `trust` with every request.
pub fn router(
    hub: &Arc<Hub>,
    identity: Arc<IdentityService>,
    catalogue: Arc<Catalogue>,
    (leases, replication): (Leases, Option<Replication>),
    trails: audit::Trails,
    trust: TrustStore,
) -> Router {
    let (discovery, reports) = (Discovery::new(Arc::clone(hub)), Reports::new(Arc::clone(hub)));
    let discovery =
        AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(DISCOVERY_BYTES_MAX);
    let identity = IdentityServer::from_arc(identity).max_decoding_message_size(CERTIFY_BYTES_MAX);
    let reports = StatusServer::new(reports).max_decoding_message_size(REPORT_BYTES_MAX);
    let catalog = CatalogServer::new(Catalog::new(Arc::clone(hub), catalogue))
        .max_decoding_message_size(CATALOG_BYTES_MAX);
    let leases = QuotaServer::new(leases).max_decoding_message_size(LEASES_BYTES_MAX);
    let trails = AuditServer::new(audit::Service::new(trails, hub.trust_domain()))
        .max_decoding_message_size(audit::SHIPMENT_BYTES_MAX);
    let asking =
        AskServer::new(Asking::new(Arc::clone(hub))).max_decoding_message_size(ask::ANSWER_BYTES_MAX);
    let routes = Routes::new(discovery)
        .add_service(identity)
        .add_service(reports)
        .add_service(catalog)
        .add_service(leases)
        .add_service(trails)
        .add_service(asking);
    let routes = match replication {
        Some(replication) => routes.add_service(
            ReplicaServer::new(replication).max_decoding_message_size(replica::PROGRESS_BYTES_MAX),
        ),
        None => routes,
    };
    routes.prepare().into_axum_router().layer(middleware::from_fn_with_state(trust, only_the_known))
}

async fn only_the_known(State(trust): State<TrustStore>, request: Request, next: Next) -> Response<Body> {
    let peer = request.extensions().get::<Peer>();
    // The handshake only saw what was revoked before it. Certify is no exception: a revoked certificate would renew
    // itself out of the revocation.
    if peer.is_some_and(|peer| peer.is_revoked(&trust.load())) {
        return unauthenticated("the certificate was revoked");
    }
    let known = peer.is_some_and(|peer| peer.leaf.is_some());
    if known || request.uri().path() == BOOTSTRAP {
        let mut response = next.run(request).await;
        if let Some(status) =
            response.headers_mut().get_mut("grpc-status").filter(|status| *status == OUT_OF_RANGE)
        {
            // The framework says so of a message over its limit; to a client that is a limit like any other.
            *status = HeaderValue::from_static(RESOURCE_EXHAUSTED);
        }
        return response;
    }
    unauthenticated("a client certificate is needed")
}

fn unauthenticated(message: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("16"));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    response
}
