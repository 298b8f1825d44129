//! The generator: puts load on one address, and measures what the callers see and what the proxy spends on it.
//!
//! The measured span begins after every connection stands and a warm-up has passed. Processor time is read at both
//! ends of it. Everything runs on one thread, over raw connections whose requests were written out beforehand.

mod closed;
mod open;
mod streams;
mod window;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certs::Files;
use crate::http1::Conn;
use crate::message::{self, Place, Shape};
use crate::process;

/// Longest a single connection or answer may take before the run is called broken.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    target: SocketAddr,
    /// Folder of the certificates; plain HTTP without it.
    #[arg(long)]
    certs: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[arg(long, default_value = "small")]
    shape: Shape,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Length of the measured span.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Requests per second; as fast as the answers come if not given.
    #[arg(long)]
    rate: Option<f64>,
    /// Close each connection after so many calls and open another.
    #[arg(long)]
    churn: Option<u32>,
    /// Process of the proxy, which is watched with all that it started.
    #[arg(long)]
    watch: Option<u32>,
    /// Process of the server behind.
    #[arg(long)]
    behind: Option<u32>,
}

/// What one run showed. Times are in microseconds, memory is in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) seconds: f64,
    pub(crate) rate: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// Processor time of the proxy for each request.
    pub(crate) cpu: f64,
    /// How busy the proxy's core was with the proxy, as a share.
    pub(crate) busy: f64,
    /// How busy the other core was with the generator and the server.
    pub(crate) load_busy: f64,
    /// What other processes, and the host, took of the machine, in cores.
    pub(crate) others: f64,
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let outcome = match args.shape {
        Shape::Listen => streams::run(&args).await?,
        Shape::Small | Shape::Medium | Shape::Large | Shape::Sse => match args.rate {
            Some(rate) => open::run(&args, rate).await?,
            None => closed::run(&args).await?,
        },
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&outcome)?)?;
    Ok(())
}

/// A stream that may be encrypted.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

type Caller = Conn<Box<dyn Stream>>;

/// Opens connections to the target.
#[derive(Clone)]
struct Dialer {
    target: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Dialer {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let tls = args.certs.as_deref().map(|folder| Files::at(folder).client()).transpose()?;
        Ok(Self { target: args.target, tls })
    }

    async fn connect(&self) -> anyhow::Result<Caller> {
        let dial = async {
            let stream = TcpStream::connect(self.target).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = &self.tls else {
                return Ok::<_, anyhow::Error>(Conn::new(Box::new(stream) as _));
            };
            let name = ServerName::try_from("localhost")?;
            let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
            Ok(Conn::new(Box::new(stream) as _))
        };
        tokio::time::timeout(PATIENCE, dial).await.context("connecting took too long")?
    }

    fn request(&self, args: &Args, connection: usize) -> Vec<u8> {
        message::http(args.shape, &args.place, &self.target.to_string(), 1000 + connection)
    }

    /// Connections that have each had one good answer.
    async fn proven(&self, args: &Args) -> anyhow::Result<Vec<(Caller, Vec<u8>)>> {
        let mut all = Vec::with_capacity(args.connections);
        for at in 0..args.connections {
            let request = self.request(args, at);
            let mut caller = self.connect().await?;
            let answer = tokio::time::timeout(PATIENCE, caller.exchange(&request)).await;
            let (status, length) = answer.context("no answer")??;
            ensure!(status == 200, "the first call was answered with status {status}");
            // An error is shorter than what `echo` and `stream` say back.
            ensure!(length > 90, "the first call was answered with {length} bytes");
            all.push((caller, request));
        }
        Ok(all)
    }
}

impl Args {
    fn watched(&self) -> Vec<u32> {
        self.watch.map(process::tree).unwrap_or_default()
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    fn span(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}
