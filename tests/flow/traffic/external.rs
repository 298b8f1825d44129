//! A server outside of the mesh, behind a sidecar that has the credentials for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use weft_certs::tls;
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::pair::{self, modern};
use super::upstream::{self, Upstream};
use crate::mesh::{Mesh, eventually};

/// A server of the web at `localhost`, known by an authority of its own, and the headers of what it was sent.
pub(super) struct Outside {
    address: SocketAddr,
    pub(super) roots: tempfile::NamedTempFile,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    _server: Upstream,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outside {
    async fn start() -> Self {
        Self::with(async |seen| upstream::echo(&seen)).await
    }

    /// One that answers as a function says.
    pub(super) async fn with<F, A>(answer: F) -> Self
    where
        F: Fn(upstream::Seen) -> A + Send + Sync + 'static,
        A: Future<Output = http::Response<upstream::Body>> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let server = Upstream::with(move |it| {
            if it.method_name() == "tools/call" {
                told.lock().unwrap().push(it.headers.clone());
            }
            answer(it)
        });
        let server = server.await;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let roots = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&roots, authority.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, behind) = (TlsAcceptor::from(Arc::new(config)), server.address);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        Self { address, roots, seen, _server: server, task }
    }

    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(super) fn calls(&self) -> Vec<HeaderMap> {
        self.seen.lock().unwrap().clone()
    }
}

/// The sidecar through which calls leave.
pub(super) async fn leaving(mesh: &Mesh, external: serde_json::Value) -> Running {
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let mut file = pair::joining(mesh, "research", "leaving", listen, json!({})).await;
    file["node"]["servers"] = json!(["research/files"]);
    file["node"]["external"] = json!({ "research/files": external });
    pair::start(file).await
}

pub(super) async fn declared(mesh: &Mesh, url: &str) {
    mesh.apply(&format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: files }}\n\
         spec: {{ external: {{ url: '{url}/mcp' }} }}\n"
    ))
    .await;
}

pub(super) async fn knows_instances(agent: &Agent, count: usize) {
    let files = "research/files".parse().unwrap();
    eventually("the agent's sidecar knows where calls leave", || {
        let current = agent.sidecar.live.load();
        current.snapshot.server(&files).is_some_and(|entry| entry.endpoints.len() == count)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_leave_the_mesh_with_the_credentials_of_the_sidecar_and_nothing_of_the_callers() {
    let (outside, mesh) = (Outside::start().await, Mesh::start().await);
    declared(&mesh, &outside.url()).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&secret, "one\n").unwrap();
    let external = json!({
        "origin": outside.url(), "caFile": outside.roots.path(), "privateAddresses": true,
        "headers": { "Authorization": { "file": secret.path(), "prefix": "Bearer " } },
    });
    let sidecar = leaving(&mesh, external).await;
    let agent = Agent::join_mesh(&mesh, "reviewer").await;
    knows_instances(&agent, 1).await;
    let call = |tool: &str| {
        let mut call = modern("tools/call", tool, json!({ "name": tool, "arguments": { "x": 1 } }));
        for (name, value) in
            [("authorization", "Bearer of-the-agent"), ("cookie", "a=b"), ("baggage", "u=ann")]
        {
            call.headers_mut().insert(name, value.parse().unwrap());
        }
        call
    };
    let answer = agent.answer(call("echo")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["result"]["content"][0]["text"], "{\"x\":1}");
    let headers = outside.calls().pop().unwrap();
    assert_eq!(headers["authorization"], "Bearer one");
    assert_eq!(headers["mcp-name"], "echo");
    assert_eq!(headers["host"], outside.url()["https://".len()..]);
    let told: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    assert!(told.iter().all(|it| !it.starts_with("weft") && *it != "cookie" && *it != "baggage"), "{told:?}");
    // A secret that is exchanged is used without a restart.
    std::fs::write(&secret, "two").unwrap();
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while outside.calls().last().unwrap()["authorization"] != "Bearer two" {
            assert_eq!(agent.answer(call("echo")).await.status, 200);
        }
    });
    waited.await.expect("the new secret is used");
    // Policies hold where calls leave.
    let before = outside.calls().len();
    let mut changes = sidecar.live.watch();
    changes.mark_unchanged();
    mesh.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: p }\n\
         spec: { servers: { names: [files] }, rules: [{ action: deny, to: [{ tools: ['write'] }] }] }\n",
    )
    .await;
    let files = "research/files".parse().unwrap();
    let knows = || sidecar.live.load().snapshot.server(&files).is_some_and(|it| !it.access.is_empty());
    eventually("the policy is known where calls leave", knows).await;
    let refused = agent.answer(call("write")).await;
    assert_eq!((refused.status, refused.reason()), (403, "denied"));
    assert_eq!(outside.calls().len(), before);
    for running in [agent.sidecar, sidecar] {
        running.stop().await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_leave_neither_for_addresses_of_this_network_nor_for_where_an_object_would_have_them() {
    let (outside, mesh) = (Outside::start().await, Mesh::start().await);
    declared(&mesh, &outside.url()).await;
    let agent = Agent::join_mesh(&mesh, "reviewer").await;
    let call = || modern("tools/call", "echo", json!({ "name": "echo", "arguments": {} }));
    let strict = json!({ "origin": outside.url(), "caFile": outside.roots.path() });
    let strict = leaving(&mesh, strict).await;
    knows_instances(&agent, 1).await;
    let refused = agent.answer(call()).await;
    assert_eq!((refused.status, refused.reason()), (503, "upstream_unreachable"), "{refused:?}");
    assert!(!String::from_utf8_lossy(&refused.body).contains("public address"), "{refused:?}");
    strict.stop().await;
    let elsewhere = json!({
        "origin": "https://localhost:1", "caFile": outside.roots.path(), "privateAddresses": true,
    });
    let elsewhere = leaving(&mesh, elsewhere).await;
    let refused = agent.answer(call()).await;
    assert_ne!(refused.status, 200, "{refused:?}");
    assert!(outside.calls().is_empty());
    for running in [agent.sidecar, elsewhere] {
        running.stop().await;
    }
    mesh.stop().await;
}
