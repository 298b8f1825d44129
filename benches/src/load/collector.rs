//! A collector of spans that reads what it is sent, and keeps nothing: what is measured is what sending costs.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::upstream::listen;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Serves until the process is ended, having said where on standard output.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let listener = listen(args.listen)?;
    writeln!(io::stdout(), "{}", serde_json::json!({ "listen": listener.local_addr()?.to_string() }))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(take));
        // A sidecar that goes away is nothing to report.
        tokio::task::spawn_local(async move { drop(connection.await) });
    }
}

/// An empty answer says that all of it was taken.
async fn take(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(Response::new(Full::default()))
}
