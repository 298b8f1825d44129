//! The public side of a gateway: its certificate, and those whom it knows by theirs.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::csr;
use weft_certs::pem;
use weft_certs::tls::{self, Identity, LiveIdentity};
use weft_proto::name::{SpiffeId, TrustDomain};

use super::gateway::{Story, TRUST, at_gateway, by, call};
use super::issuer::Signer;
use super::pair::Answer;
use super::upstream::Upstream;
use crate::mesh::eventually;

/// A certificate for the gateway, in its files.
fn certificate(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["mcp.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

/// A connection of somebody who believes a certificate, and shows an identity if there is one.
async fn connect(
    story: &Story,
    believed: &CertificateDer<'static>,
    identity: Option<&LiveIdentity>,
) -> std::io::Result<SendRequest<Full<Bytes>>> {
    let mut roots = RootCertStore::empty();
    roots.add(believed.clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(story.gateway.gateway.unwrap()).await?;
    let name = ServerName::try_from("mcp.test").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn answered(sender: &mut SendRequest<Full<Bytes>>, request: http::Request<Full<Bytes>>) -> Answer {
    sender.ready().await.unwrap();
    Answer::read(sender.send_request(at_gateway(request)).await.unwrap()).await
}

async fn story(folder: &Path) -> Story {
    let tls = json!({ "certificate": folder.join("tls.crt"), "key": folder.join("tls.key") });
    Story::with(Upstream::echo().await, json!({ "tls": tls }), json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_exchanged_counts_for_who_comes_next_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let first = certificate(folder.path());
    let story = story(folder.path()).await;
    let mut open = connect(&story, &first, None).await.unwrap();
    assert_eq!(answered(&mut open, by(call("echo"), &story.ann())).await.status, 200);
    // Half of a new one, as when two files are written one after the other.
    let other = KeyPair::generate().unwrap();
    std::fs::write(folder.path().join("tls.key"), other.serialize_pem()).unwrap();
    let second = certificate(folder.path());
    let renewed = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while connect(&story, &second, None).await.is_err() {}
    });
    assert!(renewed.await.is_ok(), "the new certificate is taken");
    assert!(connect(&story, &first, None).await.is_err());
    assert_eq!(answered(&mut open, by(call("echo"), &story.ann())).await.status, 200);
    std::fs::write(folder.path().join("tls.crt"), "nothing").unwrap();
    assert!(connect(&story, &second, None).await.is_ok(), "the last good one stays");
    story.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_of_a_federated_domain_is_known_by_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let shown = certificate(folder.path());
    let story = story(folder.path()).await;
    let kek = Kek::from_text(&"0a".repeat(32)).unwrap();
    let now = weft_sidecar::clock::now;
    let domain = "partner.test".parse().unwrap();
    let partner =
        Ca::open_or_create(&folder.path().join("ca"), kek, domain, Limits::default(), now()).unwrap();
    let id = SpiffeId::parse("spiffe://partner.test/ns/shop/sa/agent").unwrap();
    let request = csr::Request::generate().unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let issued = partner.issue(request.der(), &id, &[], hour, now()).unwrap();
    let agent = LiveIdentity::new(Identity::new(issued.chain, request.into_key()).unwrap());
    let roots = pem::encode(partner.bundle().roots());
    let roots = roots.replace('\n', "\\n");
    let federated = TRUST.replace(
        "gateways:",
        &format!("federated: [{{ trustDomain: partner.test, roots: \"{roots}\" }}], gateways:"),
    );
    story.pair.mesh.apply(&federated).await;
    let keys = format!("jwks: '{}'", Signer::new("other").set());
    story.pair.mesh.apply(&Story::told(&keys, "federatedDomains: [partner.test]")).await;
    let told = || {
        let current = story.gateway.live.load();
        let domain = TrustDomain::parse("partner.test").unwrap();
        let asks = current.snapshot.authentication.iter().any(|it| !it.spec.federated_domains.is_empty());
        asks && current.snapshot.trust.contains_key(&domain)
    };
    eventually("the gateway knows the other domain", told).await;
    let mut agent = connect(&story, &shown, Some(&agent)).await.unwrap();
    let answer = answered(&mut agent, call("echo")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = story.pair.upstream.seen().pop().unwrap();
    assert_eq!(seen.headers["weft-caller"], "spiffe://partner.test#/ns/shop/sa/agent");
    // Who shows nothing may come, and is asked for a token.
    let mut nobody = connect(&story, &shown, None).await.unwrap();
    assert_eq!(answered(&mut nobody, call("echo")).await.status, 401);
    story.stop().await;
}
