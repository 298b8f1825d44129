//! Stories of certificates and roots.

use std::process::Command;

use rustls_pki_types::CertificateDer;
use weft_certs::bundle::Bundle;
use weft_control_plane::trust::rotation::Action;
use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use weft_proto::wire::{self, Part, ResourceType};
use weft_tests::link::Workload;

use crate::mesh::{Mesh, Stream, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_exchanged_step_by_step_while_a_stream_stays_open() {
    let mesh = Mesh::start().await;
    let trust = &mesh.running.trust;
    let hub = &mesh.running.hub;
    let workload = mesh.workload("research", "files").await;
    let old = mesh.workload("research", "sleepy").await;
    let first_root = trust.root();

    let channel = mesh.connect(&workload).await.unwrap();
    let mut stream = Stream::open(channel, "research/files-1", &[ResourceType::TrustBundle]).await;
    assert_eq!(stream.next().await.unwrap().resources.len(), 1);
    let synced = || hub.status().iter().all(|client| client.sync().word() == "synced");
    eventually("the first bundle is acknowledged", synced).await;

    trust.rotate(Action::Start, false, "test", &hub.status()).await.unwrap();
    let refused = trust.rotate(Action::Advance, false, "test", &hub.status()).await.unwrap_err().to_string();
    assert!(refused.contains("not ready"), "{refused}");
    take_roots(&workload, &stream.next().await.unwrap());
    let open = || trust.report(&hub.status()).unwrap().gate.is_open();
    eventually("the new root is acknowledged", open).await;

    trust.rotate(Action::Advance, false, "test", &hub.status()).await.unwrap();
    assert_ne!(trust.root(), first_root, "certificates are issued under the new root");
    stream.next().await.unwrap();
    assert!(!open(), "the sidecar's certificate still leads to the old root");
    workload.renew(mesh.connect(&workload).await.unwrap()).await.unwrap();
    eventually("the renewal is seen although the stream is the old one", open).await;

    trust.rotate(Action::Advance, false, "test", &hub.status()).await.unwrap();
    take_roots(&workload, &stream.next().await.unwrap());
    eventually("the old root's end is acknowledged", open).await;
    trust.rotate(Action::Advance, false, "test", &hub.status()).await.unwrap();
    assert_eq!(trust.report(&hub.status()).unwrap().rotation.word(), "stable");

    mesh.connect(&workload).await.expect("the renewed certificate opens new connections");
    let refused = mesh.connect(&old).await;
    assert!(
        refused.is_err() || fails_at_first_use(refused.unwrap()).await,
        "the old root opens nothing any more"
    );
    mesh.stop().await;
}

/// Does with a streamed bundle what a sidecar does: believes it from now on.
fn take_roots(workload: &Workload, response: &DeltaDiscoveryResponse) {
    for resource in &response.resources {
        let bytes = &resource.resource.as_ref().unwrap().value;
        let Ok(Part::TrustBundle(bundle)) = wire::decode(ResourceType::TrustBundle, bytes) else {
            panic!("no bundle")
        };
        let roots = bundle.roots.iter().map(|root| CertificateDer::from(root.to_vec())).collect();
        let domain = bundle.trust_domain.clone();
        workload
            .trust
            .update(Bundle::new(domain, roots, bundle.sequence, Default::default()).unwrap())
            .unwrap();
    }
}

/// In TLS 1.3 a client hears of its certificate's refusal only with the first answer.
async fn fails_at_first_use(channel: weft_tests::link::Channel) -> bool {
    let workload = weft_proto::pb::weft::identity::v1::CertifyRequest::default();
    let mut client = weft_proto::pb::weft::identity::v1::identity_client::IdentityClient::new(channel);
    client.certify(workload).await.is_err_and(|status| status.code() == tonic::Code::Unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_survives_a_restart_in_each_step() {
    let mut mesh = Mesh::start().await;
    let words = ["adding", "renewing", "dropping", "stable"];
    for (at, word) in words.into_iter().enumerate() {
        let action = if at == 0 { Action::Start } else { Action::Advance };
        mesh.running.trust.rotate(action, true, "test", &[]).await.unwrap();
        let folder = mesh.stop().await;
        mesh = Mesh::again(folder, |_| {}).await;
        assert_eq!(mesh.running.trust.report(&[]).unwrap().rotation.word(), word);
        mesh.workload("research", "files").await;
    }
    assert_eq!(mesh.running.trust.report(&[]).unwrap().roots.len(), 1);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_opens_nothing() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("research", "files").await;
    let serial = workload.live.leaf().unwrap().serial;
    let channel = mesh.connect(&workload).await.unwrap();
    assert!(!fails_at_first_use(channel).await, "before the revocation it is let in");
    mesh.running.trust.revoke(&serial).await.unwrap();
    let channel = mesh.connect(&workload).await;
    assert!(channel.is_err() || fails_at_first_use(channel.unwrap()).await);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_renews_nothing_over_a_connection_that_is_still_open() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("research", "files").await;
    let revoked = Workload::clone(&workload);
    let serial = workload.live.leaf().unwrap().serial;
    let channel = mesh.connect(&workload).await.unwrap();
    let mut stream = Stream::open(channel.clone(), "research/files-1", &[ResourceType::TrustBundle]).await;
    stream.next().await.unwrap();
    mesh.running.trust.revoke(&serial).await.unwrap();
    assert!(revoked.renew(channel).await.is_err(), "the certificate was revoked");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while stream.next().await.is_ok() {}
    });
    assert!(ended.await.is_ok(), "the stream that was open ends, too");
    mesh.workload("research", "files").await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_what_is_issued() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("research", "files").await;
    let identity = workload.live.load().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, certificates: &[CertificateDer<'static>]| {
        let path = folder.path().join(name);
        std::fs::write(&path, weft_certs::pem::encode(certificates)).unwrap();
        path
    };
    let (leaf, above) = identity.chain().split_at(1);
    let (leaf, above) = (write("leaf.pem", leaf), write("above.pem", above));
    let verified = Command::new("openssl")
        .arg("verify")
        .args(["-x509_strict", "-purpose", "sslclient", "-CAfile"])
        .arg(&mesh.running.roots_file)
        .arg("-untrusted")
        .args([&above, &leaf])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
    mesh.stop().await;
}
