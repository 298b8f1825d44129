//! The floor: a hand-written HTTP/1.1 relay on tokio and rustls that does nothing else. It requires a client's
//! certificate, parses heads, copies bodies, and keeps its upstream connections. No message is looked into, nothing is
//! decided, counted or logged.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::certs::Files;
use crate::http1::{self, Conn, Head, Rest};
use crate::upstream::listen;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The server behind.
    #[arg(long)]
    upstream: SocketAddr,
    /// Folder of the certificates.
    #[arg(long)]
    certs: PathBuf,
}

/// Idle connections to the server, the last used first.
struct Pool {
    upstream: SocketAddr,
    idle: RefCell<Vec<Conn<TcpStream>>>,
}

impl Pool {
    async fn take(&self) -> io::Result<Conn<TcpStream>> {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(conn) => Ok(conn),
            None => {
                let stream = TcpStream::connect(self.upstream).await?;
                stream.set_nodelay(true)?;
                Ok(Conn::new(stream))
            }
        }
    }
}

/// Relays until the process is ended, having said where on standard output.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Files::at(&args.certs).server()?);
    let listener = listen(args.listen)?;
    writeln!(io::stdout(), "{}", serde_json::json!({ "listen": listener.local_addr()?.to_string() }))?;
    let pool = Rc::new(Pool { upstream: args.upstream, idle: RefCell::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, pool) = (acceptor.clone(), Rc::clone(&pool));
        tokio::task::spawn_local(async move {
            // A caller that goes away is nothing to report.
            let _ = serve(stream, &acceptor, &pool).await;
        });
    }
}

async fn serve(stream: TcpStream, acceptor: &TlsAcceptor, pool: &Pool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut caller = Conn::new(acceptor.accept(stream).await?);
    while let Some(head) = caller.head(http1::request).await? {
        let mut server = pool.take().await?;
        pass(&mut caller, &mut server, head).await?;
        let Some(head) = server.head(http1::response).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        pass(&mut server, &mut caller, head).await?;
        pool.idle.borrow_mut().push(server);
    }
    Ok(())
}

/// Passes a head and its body on as they stand on the wire, each piece as soon as it is there.
async fn pass<A, B>(from: &mut Conn<A>, to: &mut Conn<B>, head: Head) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut rest = Rest::from(head.framing);
    let mut length = head.len + rest.advance(&from.read[head.len..])?;
    loop {
        to.write(&from.read[..length]).await?;
        from.read.advance(length);
        if rest.is_done() {
            return Ok(());
        }
        from.more().await?;
        length = rest.advance(&from.read)?;
    }
}
