use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;

use rustls::{AlertDescription, HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::bundle::Bundle;
use crate::testing::{DAY, Mesh, handshake, handshake_shared, id, now};
use crate::verifier;

const SERVER: &str = "spiffe://mesh.test/ns/tools/sa/files";
const CLIENT: &str = "spiffe://mesh.test/ns/agents/sa/planner";

fn required() -> ClientAuth {
    ClientAuth::Required(Expect::AnyInMesh)
}

fn live(mesh: &Mesh, id: &str) -> LiveIdentity {
    LiveIdentity::new(mesh.identity(id))
}

fn server(mesh: &Mesh) -> ServerConfig {
    server_config(&live(mesh, SERVER), &mesh.trust(), required(), &[])
}

fn client(mesh: &Mesh, expect: Expect) -> ClientConfig {
    client_config(&live(mesh, CLIENT), &mesh.trust(), expect, &[])
}

fn refusal<T>(outcome: io::Result<T>) -> verifier::Error {
    let error = outcome.err().expect("the handshake was meant to fail");
    verifier::Error::from_io(&error).unwrap_or_else(|| panic!("not a refusal: {error}"))
}

fn tls_error(error: &io::Error) -> rustls::Error {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).expect("a TLS error").clone()
}

/// What the client learns when the server refused it: in TLS 1.3 that is after its own handshake.
async fn alert(outcome: io::Result<crate::testing::ClientStream>) -> rustls::Error {
    let error = match outcome {
        Ok(mut stream) => stream.read_u8().await.unwrap_err(),
        Err(error) => error,
    };
    tls_error(&error)
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let mesh = Mesh::new("mesh.test");
    let (server, client) = handshake(server(&mesh), client(&mesh, Expect::Exactly(id(SERVER)))).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    assert_eq!(peer(server.get_ref().1).unwrap().spiffe_id.as_str(), CLIENT);
    assert_eq!(peer(client.get_ref().1).unwrap().spiffe_id.as_str(), SERVER);
    client.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum_and_the_protocol_is_negotiated() {
    let mesh = Mesh::new("mesh.test");
    let server = server_config(&live(&mesh, SERVER), &mesh.trust(), required(), &[b"h2", b"http/1.1"]);
    let client = client_config(&live(&mesh, CLIENT), &mesh.trust(), Expect::AnyInMesh, &[b"h2"]);
    let (server, _client) = handshake(server, client).await;
    let server = server.unwrap();
    let connection = server.get_ref().1;
    assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_swap_leaves_open_connections_alone_and_shows_at_the_next_handshake() {
    let mesh = Mesh::new("mesh.test");
    let identity = live(&mesh, SERVER);
    let mut leaves = identity.watch();
    let before = identity.leaf().unwrap().serial;
    let config = server_config(&identity, &mesh.trust(), required(), &[]);
    let (server_end, client_end) = handshake(config.clone(), client(&mesh, Expect::AnyInMesh)).await;
    let (mut server_end, mut client_end) = (server_end.unwrap(), client_end.unwrap());

    leaves.borrow_and_update();
    identity.swap(mesh.identity(SERVER));
    assert!(leaves.has_changed().unwrap());
    let after = identity.leaf().unwrap().serial;
    assert_ne!(before, after);

    client_end.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    server_end.read_exact(&mut heard).await.unwrap();
    assert_eq!(peer(client_end.get_ref().1).unwrap().serial, before);

    let (_server, next) = handshake(config, client(&mesh, Expect::AnyInMesh)).await;
    assert_eq!(peer(next.unwrap().get_ref().1).unwrap().serial, after);
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let mesh = Mesh::new("mesh.test");
    let mut eager = client(&mesh, Expect::AnyInMesh);
    eager.resumption = Resumption::default();
    eager.time_provider = Arc::new(crate::testing::Frozen(now()));
    let mut server = server(&mesh);
    server.time_provider = Arc::new(crate::testing::Frozen(now()));
    let (server, eager) = (Arc::new(server), Arc::new(eager));
    for _ in 0..2 {
        let (one, other) = handshake_shared(Arc::clone(&server), Arc::clone(&eager)).await;
        let (mut one, mut other) = (one.unwrap(), other.unwrap());
        one.write_all(b"x").await.unwrap();
        other.read_u8().await.unwrap();
        assert_eq!(one.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let mesh = Mesh::new("mesh.test");
    let stranger = client_config(&LiveIdentity::empty(), &mesh.trust(), Expect::AnyInMesh, &[]);
    let (refused, told) = handshake(server(&mesh), stranger).await;
    assert_eq!(tls_error(&refused.unwrap_err()), rustls::Error::NoCertificatesPresented);
    assert_eq!(alert(told).await, rustls::Error::AlertReceived(AlertDescription::CertificateRequired));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_a_stranger_where_one_is_optional() {
    let mesh = Mesh::new("mesh.test");
    let optional = ClientAuth::Optional(Expect::AnyInMesh);
    let config = server_config(&live(&mesh, SERVER), &mesh.trust(), optional, &[]);
    let stranger = client_config(&LiveIdentity::empty(), &mesh.trust(), Expect::AnyInMesh, &[]);
    let (admitted, _) = handshake(config.clone(), stranger).await;
    assert_eq!(peer(admitted.unwrap().get_ref().1), None);
    let (known, _) = handshake(config.clone(), client(&mesh, Expect::AnyInMesh)).await;
    assert_eq!(peer(known.unwrap().get_ref().1).unwrap().spiffe_id.as_str(), CLIENT);
    let bad = mesh.identity_with(CLIENT, |params| params.not_after = (now() - DAY / 1000).into());
    let bad = client_config(&LiveIdentity::new(bad), &mesh.trust(), Expect::AnyInMesh, &[]);
    let (refused, _) = handshake(config, bad).await;
    assert!(matches!(refusal(refused), verifier::Error::Expired { .. }));
}

#[tokio::test]
async fn refused_clients_are_told_with_the_right_alert() {
    let mesh = Mesh::new("mesh.test");
    let expired = mesh.identity_with(CLIENT, |params| params.not_after = (now() - DAY / 1000).into());
    let stranger = Mesh::new("mesh.test").identity(CLIENT);
    let foreign = Mesh::new("other.test").identity("spiffe://other.test/a");
    for (identity, expected) in [
        (expired, AlertDescription::CertificateExpired),
        (stranger, AlertDescription::DecryptError),
        (foreign, AlertDescription::CertificateUnknown),
    ] {
        let client = client_config(&LiveIdentity::new(identity), &mesh.trust(), Expect::AnyInMesh, &[]);
        let (refused, told) = handshake(server(&mesh), client).await;
        refusal(refused);
        assert_eq!(alert(told).await, rustls::Error::AlertReceived(expected));
    }
}

#[tokio::test]
async fn a_revoked_client_is_refused_from_the_next_handshake() {
    let mesh = Mesh::new("mesh.test");
    let trust = mesh.trust();
    let config = server_config(&live(&mesh, SERVER), &trust, required(), &[]);
    let caller = live(&mesh, CLIENT);
    let client = client_config(&caller, &mesh.trust(), Expect::AnyInMesh, &[]);
    handshake(config.clone(), client.clone()).await.0.unwrap();
    let revoked = BTreeSet::from([caller.leaf().unwrap().serial]);
    let bundle = Bundle::new(mesh.trust_domain.clone(), vec![mesh.root.der.clone()], 2, revoked).unwrap();
    trust.update(bundle).unwrap();
    let (refused, told) = handshake(config, client).await;
    assert_eq!(refusal(refused), verifier::Error::Revoked);
    assert_eq!(alert(told).await, rustls::Error::AlertReceived(AlertDescription::CertificateRevoked));
}

#[tokio::test]
async fn whoever_was_not_expected_is_refused() {
    let mesh = Mesh::new("mesh.test");
    let other = id("spiffe://mesh.test/ns/tools/sa/search");
    let (_, refused) = handshake(server(&mesh), client(&mesh, Expect::Exactly(other.clone()))).await;
    let expected =
        verifier::Error::Unexpected { found: id(SERVER), expected: Expect::Exactly(other.clone()) };
    assert_eq!(refusal(refused), expected);
    let only_other = ClientAuth::Required(Expect::OneOf(Arc::new(BTreeSet::from([other]))));
    let config = server_config(&live(&mesh, SERVER), &mesh.trust(), only_other, &[]);
    let (refused, _) = handshake(config, client(&mesh, Expect::AnyInMesh)).await;
    assert!(matches!(refusal(refused), verifier::Error::Unexpected { found, .. } if found == id(CLIENT)));
}

#[tokio::test]
async fn a_server_without_an_identity_refuses_handshakes() {
    let mesh = Mesh::new("mesh.test");
    let identity = live(&mesh, SERVER);
    let config = server_config(&identity, &mesh.trust(), required(), &[]);
    identity.clear();
    let (refused, _) = handshake(config, client(&mesh, Expect::AnyInMesh)).await;
    refused.unwrap_err();
}

#[tokio::test]
async fn plaintext_is_refused() {
    let mesh = Mesh::new("mesh.test");
    let (near, mut far) = tokio::io::duplex(4096);
    far.write_all(b"GET / HTTP/1.1\r\nhost: files\r\n\r\n").await.unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server(&mesh)));
    let error = acceptor.accept(near).await.unwrap_err();
    assert!(matches!(tls_error(&error), rustls::Error::InvalidMessage(_)), "{error}");
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let mesh = Mesh::new("mesh.test");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = tokio::process::Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &address])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server(&mesh)));
    let error = acceptor.accept(stream).await.unwrap_err();
    assert!(matches!(tls_error(&error), rustls::Error::PeerIncompatible(_)), "{error}");
    assert!(!client.wait().await.unwrap().success());
}

fn control_plane(mesh: &Mesh, send_root: bool) -> ServerConfig {
    let id = format!("spiffe://mesh.test{CONTROL_PLANE_PATH}");
    let key = Key::generate().unwrap();
    let leaf = mesh.intermediate.sign(&crate::testing::leaf_params(&id), &key);
    let mut chain = vec![leaf, mesh.intermediate.der.clone()];
    chain.extend(send_root.then(|| mesh.root.der.clone()));
    let identity = LiveIdentity::new(Identity::new(chain, key).unwrap());
    server_config(&identity, &mesh.trust(), ClientAuth::Optional(Expect::AnyInMesh), &[])
}

#[tokio::test]
async fn the_first_call_believes_the_fingerprint_of_the_root_and_the_control_plane_s_path() {
    let mesh = Mesh::new("mesh.test");
    let bootstrap = |root| bootstrap_client_config(root, Expect::Path(CONTROL_PLANE_PATH), &[]);
    let root = Fingerprint::of(&mesh.root.der);

    let (server_end, client_end) = handshake(control_plane(&mesh, true), bootstrap(root)).await;
    assert_eq!(peer(client_end.unwrap().get_ref().1).unwrap().spiffe_id.path(), CONTROL_PLANE_PATH);
    assert_eq!(peer(server_end.unwrap().get_ref().1), None);

    let (_, silent) = handshake(control_plane(&mesh, false), bootstrap(root)).await;
    assert_eq!(refusal(silent), verifier::Error::RootNotPresented);

    let other = Fingerprint::of(&Mesh::new("mesh.test").root.der);
    let (_, wrong) = handshake(control_plane(&mesh, true), bootstrap(other)).await;
    assert_eq!(refusal(wrong), verifier::Error::RootNotPresented);
}

#[tokio::test]
async fn the_first_call_believes_neither_a_workload_nor_a_borrowed_root() {
    let mesh = Mesh::new("mesh.test");
    let bootstrap =
        || bootstrap_client_config(Fingerprint::of(&mesh.root.der), Expect::Path(CONTROL_PLANE_PATH), &[]);
    let sign_as = |signer: &Mesh, id: &str| {
        let key = Key::generate().unwrap();
        let leaf = signer.intermediate.sign(&crate::testing::leaf_params(id), &key);
        // The root is public: anyone can send it along.
        let chain = vec![leaf, signer.intermediate.der.clone(), mesh.root.der.clone()];
        let identity = LiveIdentity::new(Identity::new(chain, key).unwrap());
        server_config(&identity, &mesh.trust(), ClientAuth::None, &[])
    };
    let (_, workload) = handshake(sign_as(&mesh, SERVER), bootstrap()).await;
    assert!(matches!(refusal(workload), verifier::Error::Unexpected { .. }));
    let impostor = sign_as(&Mesh::new("evil.test"), &format!("spiffe://mesh.test{CONTROL_PLANE_PATH}"));
    let (_, borrowed) = handshake(impostor, bootstrap()).await;
    assert_eq!(refusal(borrowed), verifier::Error::UnknownRoot);
}

#[test]
fn a_chain_for_another_key_is_not_an_identity() {
    let mesh = Mesh::new("mesh.test");
    let leaf = mesh.leaf(SERVER, |_| {});
    let error = Identity::new(vec![leaf], Key::generate().unwrap()).unwrap_err();
    assert_eq!(error, Error::KeyMismatch);
    assert_eq!(Identity::new(vec![], Key::generate().unwrap()).unwrap_err(), Error::EmptyChain);
}
