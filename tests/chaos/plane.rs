//! A control plane in a process of its own, to be killed: this test binary once more, in another role. It stores in its
//! folder and keeps its addresses, so that the next one goes on where it was.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_control_plane::app::{self, Config};
use weft_proto::name::TrustDomain;
use weft_tests::link::{self, Workload};

use crate::pair::Answer;
use crate::process::PATIENCE;

/// Tells a child that it is a control plane, and of which kind.
const ROLE: &str = "WEFT_CHAOS_CONTROL_PLANE";

/// It is killed when this is dropped.
pub(crate) struct Plane {
    child: Child,
    /// The test of which the child runs nothing but its first line.
    test: &'static str,
    folder: PathBuf,
    lease: Duration,
    pub(crate) sidecars: SocketAddr,
    operators: SocketAddr,
    admin: String,
    roots: Vec<CertificateDer<'static>>,
}

impl Plane {
    /// Starts one in an empty folder. `test` names the test that calls this, which begins with [`play`].
    pub(crate) async fn start(test: &'static str, folder: &Path, lease: Duration) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (child, told) = spawn(test, folder, [any, any], lease).await;
        let address = |door: &str| told[door].as_str().unwrap().parse().unwrap();
        let roots = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
        Self {
            child,
            test,
            folder: folder.to_owned(),
            lease,
            sidecars: address("sidecars"),
            operators: address("operators"),
            admin: told["admin"].as_str().unwrap().to_owned(),
            roots: weft_certs::pem::certificates(&roots).unwrap(),
        }
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts another where one was killed.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(self.test, &self.folder, [self.sidecars, self.operators], self.lease).await.0;
    }

    /// Asks the API something, as its first operator.
    pub(crate) async fn ask(&self, request: http::request::Builder, body: String) -> Value {
        let mut store = rustls::RootCertStore::empty();
        store.add_parsable_certificates(self.roots.iter().cloned());
        let config = rustls::ClientConfig::builder_with_provider(weft_certs::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let asked = async {
            let stream = TcpStream::connect(self.operators).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = request.header("host", "localhost").header("authorization", self.bearer());
            let request = request.body(Full::<Bytes>::from(body)).unwrap();
            Answer::read(sender.send_request(request).await.unwrap()).await
        };
        let answer = timeout(PATIENCE, asked).await.expect("the control plane answers");
        assert!((200..300).contains(&answer.status), "{answer:?}");
        answer.json()
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.admin)
    }

    pub(crate) async fn apply(&self, yaml: &str) {
        self.ask(Request::post("/v1/apply"), yaml.to_owned()).await;
    }

    pub(crate) async fn token(&self, namespace: &str, account: &str, uses: usize) -> String {
        let identity = json!({ "namespace": namespace, "serviceAccount": account });
        let body = json!({ "identity": identity, "uses": uses, "expiresIn": "1h" });
        let told = self.ask(Request::post("/v1/tokens"), body.to_string()).await;
        told["token"].as_str().unwrap().to_owned()
    }

    /// A workload that has joined.
    pub(crate) async fn workload(&self, namespace: &str, account: &str) -> Workload {
        let token = self.token(namespace, account, 1).await;
        let channel = link::connect(self.sidecars, link::bootstrap(&self.roots[0])).await.unwrap();
        Workload::join(channel, &token).await.unwrap()
    }
}

async fn spawn(
    test: &str,
    folder: &Path,
    [sidecars, operators]: [SocketAddr; 2],
    lease: Duration,
) -> (Child, Value) {
    let role = json!({
        "folder": folder, "sidecars": sidecars, "operators": operators, "leaseMillis": lease.as_millis(),
    });
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = async {
        // Before its line are those of its test harness, which has no newline where it begins a test.
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(at) = line.find('{') {
                return serde_json::from_str(&line[at..]).unwrap();
            }
        }
        panic!("the control plane ended by itself");
    };
    let told = timeout(PATIENCE, told).await.expect("the control plane starts");
    (child, told)
}

/// Is the control plane, in a child that is to be one; ends when whoever started it does. False in any other process.
pub(crate) async fn play() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let role: Value = serde_json::from_str(&role).unwrap();
    let text = |field: &str| role[field].as_str().unwrap();
    let mut config = Config::local(text("folder").into());
    config.trust_domain = Some(TrustDomain::parse("chaos.test").unwrap());
    config.sidecars = text("sidecars").parse().unwrap();
    config.operators = text("operators").parse().unwrap();
    config.quota.lease = Duration::from_millis(role["leaseMillis"].as_u64().unwrap());
    let running = Box::pin(app::start(config)).await.unwrap();
    running.ready().await;
    let line = json!({
        "sidecars": running.sidecars.to_string(),
        "operators": running.operators.to_string(),
        "admin": running.admin_token.as_ref().map(ToString::to_string),
    });
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
    drop(out);
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = ended.await.unwrap();
    running.stop().await;
    true
}
