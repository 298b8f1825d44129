//! A control plane that says what a test wants it to say, and the command run against it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::app::{self, Context};
use crate::args::Cli;
use crate::credentials::{Given, OperatorFile, Secret};
use crate::failure::ExitCode;
use crate::terminal::Terminal;

pub(super) const TOKEN: &str = "weft_test_token";

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Method, path and query.
    pub(super) line: String,
    pub(super) token: String,
    pub(super) kind: String,
    pub(super) body: String,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Json(u16, Value),
    /// `application/problem+json`.
    Problem(u16, Value),
    /// Server-sent events; the stream ends after them.
    Events(String),
    /// Nothing, ever.
    Silence,
}

pub(super) fn ok(value: Value) -> Answer {
    Answer::Json(200, value)
}

pub(super) fn problem(status: u16, code: &str, detail: &str) -> Answer {
    Answer::Problem(
        status,
        serde_json::json!({ "status": status, "code": code, "title": code, "detail": detail }),
    )
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A control plane that runs in this process.
pub(super) struct Fake {
    pub(super) server: String,
    pub(super) folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// What a run of the command came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: ExitCode,
    pub(super) out: String,
    pub(super) err: String,
}

impl Fake {
    /// Listens on loopback, with a certificate for 127.0.0.1 of a CA of its own.
    pub(super) async fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_certificate_for("127.0.0.1", handler).await
    }

    pub(super) async fn with_certificate_for(
        host: &str,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (ca_pem, config) = authority(host);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(listener, TlsAcceptor::from(config), Arc::clone(&asked), Arc::new(handler)));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca_pem).unwrap();
        let token = Secret::from(TOKEN);
        let file = OperatorFile { server: server.clone(), ca_file: PathBuf::from("ca.pem"), token };
        file.write(folder.path()).unwrap();
        Self { server, folder, asked }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Method, path and query of every request.
    pub(super) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// Writes a file into the folder of the test.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(super) fn context(&self, terminal: Terminal) -> Context {
        context(self.folder.path(), terminal)
    }

    pub(super) async fn run(&self, words: &[&str]) -> Ran {
        self.run_with("", false, words).await
    }

    /// With `input` on stdin, and perhaps with somebody there to be asked.
    pub(super) async fn run_with(&self, input: &str, interactive: bool, words: &[&str]) -> Ran {
        let (terminal, out, err) = Terminal::captured(input, interactive);
        let code = app::run(command(words), &self.context(terminal)).await;
        Ran { code, out: out.text(), err: err.text() }
    }
}

impl Ran {
    #[track_caller]
    pub(super) fn done(&self) -> &Self {
        assert_eq!(self.code, ExitCode::Done, "{self:?}");
        self
    }

    /// Ended with a code, and said all of this.
    #[track_caller]
    pub(super) fn ended(&self, code: ExitCode, said: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for part in said {
            assert!(self.err.contains(part), "{part:?} is not in {}", self.err);
        }
    }
}

/// A command as the command line says it.
#[track_caller]
pub(super) fn command(words: &[&str]) -> crate::args::Command {
    let words = ["weft"].iter().chain(words);
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).command
}

/// What a command works with, given the home of a mesh.
pub(super) fn context(home: &Path, terminal: Terminal) -> Context {
    let given = Given { home: home.to_owned(), server: None, ca_file: None, token: None };
    Context { terminal: Arc::new(terminal), given, patience: Duration::from_secs(5) }
}

fn authority(host: &str) -> (String, Arc<rustls::ServerConfig>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    (root.pem(), Arc::new(config))
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    asked: Arc<Mutex<Vec<Asked>>>,
    handler: Arc<Handler>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, asked, handler) = (acceptor.clone(), Arc::clone(&asked), Arc::clone(&handler));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, &asked, &*handler));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    log: &Mutex<Vec<Asked>>,
    handler: &Handler,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| {
        let value = request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        value.unwrap_or_default()
    };
    let (token, kind) = (header("authorization"), header("content-type"));
    let line = format!("{} {}", request.method(), request.uri());
    let body = String::from_utf8(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let asked = Asked { line, token, kind, body };
    log.lock().unwrap().push(asked.clone());
    let (status, kind, body) = match handler(&asked) {
        Answer::Json(status, value) => (status, "application/json", value.to_string()),
        Answer::Problem(status, value) => (status, "application/problem+json", value.to_string()),
        Answer::Events(text) => (200, "text/event-stream", text),
        Answer::Silence => std::future::pending().await,
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("weft-request-id", "req-1")
        .body(Full::from(body));
    Ok(response.unwrap())
}
