//! An operator who asks the control plane over its own door.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::mesh::Mesh;

pub(crate) struct Operator<'a> {
    mesh: &'a Mesh,
    token: String,
}

impl<'a> Operator<'a> {
    /// The first admin of a mesh.
    pub(crate) fn admin(mesh: &'a Mesh) -> Self {
        let token = mesh.running.admin_token.as_ref().unwrap().to_string();
        Self { mesh, token }
    }

    /// Somebody with a key.
    pub(crate) fn of(mesh: &'a Mesh, token: String) -> Self {
        Self { mesh, token }
    }

    /// Somebody with a key of a narrower scope.
    pub(crate) async fn with(&self, scope: &str) -> Self {
        let body = json!({ "name": format!("of-{scope}"), "scope": scope });
        let (status, made) = self.send(Method::POST, "/v1/keys", Some(body)).await;
        assert_eq!(status, 201, "{made}");
        Self { mesh: self.mesh, token: made["key"].as_str().unwrap().to_owned() }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let response = self.exchange(method, path, body).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// A stream of events.
    pub(crate) async fn events(&self, path: &str) -> Events {
        let response = self.exchange(Method::GET, path, None).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), text: String::new() }
    }

    /// What the audit trail says of one kind of act: who, what came of it, and about what.
    pub(crate) async fn acts(&self, action: &str) -> Vec<String> {
        let (_, found) = self.get(&format!("/v1/audit?action={action}")).await;
        let text = |it: &Value, name: &str| it[name].as_str().unwrap().to_owned();
        let act = |it: &Value| [text(it, "who"), text(it, "outcome"), text(it, "object")].join(" ");
        found["items"].as_array().unwrap().iter().map(act).collect()
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Value>) -> Response<Incoming> {
        let pem = std::fs::read(&self.mesh.running.roots_file).unwrap();
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&pem) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.mesh.running.operators).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.token));
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap()
    }
}

/// Server-sent events as they come.
pub(crate) struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// Name and data of the next event; none after the last.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        let next = async {
            loop {
                if let Some((event, rest)) = self.text.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    self.text = rest;
                    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                    if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                        return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
                    }
                    continue;
                }
                let frame = self.body.frame().await?.ok()?;
                self.text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), next).await.expect("an event, or the end")
    }

    /// The data of the next event of a name.
    pub(crate) async fn named(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.next().await.unwrap_or_else(|| panic!("{wanted} before the end"));
            if name == wanted {
                return data;
            }
        }
    }
}
