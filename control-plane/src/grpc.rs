//! The sidecars' door: which services stand behind it, and which of them open without a certificate.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response};
use axum::middleware::{self, Next};
use tonic::service::Routes;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use weft_proto::pb::weft::identity::v1::identity_server::IdentityServer;

use crate::identity::IdentityService;
use crate::peer::Peer;
use crate::xds::Discovery;

/// Largest request on a discovery stream, in bytes.
pub const DISCOVERY_BYTES_MAX: usize = 4 << 20;
/// Largest request for a certificate, in bytes.
pub const CERTIFY_BYTES_MAX: usize = 64 << 10;
/// The one method that answers whoever has no certificate yet.
const BOOTSTRAP: &str = "/weft.identity.v1.Identity/Certify";

/// The services for sidecars.
pub fn router(discovery: Discovery, identity: Arc<IdentityService>) -> Router {
    let discovery =
        AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(DISCOVERY_BYTES_MAX);
    let identity = IdentityServer::from_arc(identity).max_decoding_message_size(CERTIFY_BYTES_MAX);
    let routes = Routes::new(discovery).add_service(identity);
    routes.prepare().into_axum_router().layer(middleware::from_fn(only_the_known))
}

async fn only_the_known(request: Request, next: Next) -> Response<Body> {
    let known = request.extensions().get::<Peer>().is_some_and(|peer| peer.leaf.is_some());
    if known || request.uri().path() == BOOTSTRAP {
        return next.run(request).await;
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("16"));
    headers.insert("grpc-message", HeaderValue::from_static("a client certificate is needed"));
    response
}
