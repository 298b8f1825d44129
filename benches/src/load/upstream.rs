//! The MCP server behind the proxies: Streamable HTTP in both eras, as cheap as can be, since it shares its core with
//! the generator.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use bytes::Buf as _;
use tokio::net::{TcpListener, TcpStream};

use crate::calls::{self, Answer};
use crate::http1::{self, Conn, Framing, Rest};

/// Longest body, in bytes.
const BODY_BYTES_MAX: u64 = 8 << 20;
const EVENTS_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
    x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n";

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
        tokio::task::spawn_local(async move {
            // A proxy that goes away is nothing to report.
            let _ = serve(stream).await;
        });
    }
}

/// A listener whose queue holds as many connections as a run opens at once.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

async fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut conn = Conn::new(stream);
    while let Some(head) = conn.head(http1::request).await? {
        conn.read.advance(head.len);
        if head.get {
            return open(&mut conn, ": open\n\n").await;
        }
        let body = body(&mut conn, head.framing).await?;
        match calls::answer(&body) {
            Some(Answer::Json(json)) => say(&mut conn, "200 OK", &json).await?,
            Some(Answer::Unknown(json)) => say(&mut conn, "404 Not Found", &json).await?,
            Some(Answer::Nothing) => say(&mut conn, "202 Accepted", "").await?,
            Some(Answer::Stream { event, events, result }) => {
                stream_events(&mut conn, &event, events, &result).await?;
            }
            Some(Answer::Open(event)) => return open(&mut conn, &data(&event)).await,
            None => say(&mut conn, "400 Bad Request", "").await?,
        }
    }
    Ok(())
}

/// A whole body, its chunks joined.
async fn body(conn: &mut Conn<TcpStream>, framing: Framing) -> io::Result<bytes::BytesMut> {
    let mut rest = Rest::from(framing);
    let mut length = 0;
    loop {
        length += rest.advance(&conn.read[length..])?;
        if length as u64 > BODY_BYTES_MAX {
            return Err(http1::broken("body too long"));
        }
        if rest.is_done() {
            break;
        }
        conn.more().await?;
    }
    let wire = conn.read.split_to(length);
    Ok(match framing {
        Framing::Length(_) => wire,
        Framing::Chunked => joined(&wire),
    })
}

/// The data of chunks that are known to be whole.
fn joined(mut wire: &[u8]) -> bytes::BytesMut {
    let mut body = bytes::BytesMut::with_capacity(wire.len());
    while let Some(end) = wire.iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&wire[..end]).unwrap_or_default();
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        let Ok(size @ 1..) = usize::from_str_radix(digits, 16) else { break };
        let Some(data) = wire.get(end + 1..end + 1 + size) else { break };
        body.extend_from_slice(data);
        wire = wire.get(end + 1 + size + 2..).unwrap_or_default();
    }
    body
}

async fn say(conn: &mut Conn<TcpStream>, status: &str, json: &str) -> io::Result<()> {
    let length = json.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"
    );
    conn.write(answer.as_bytes()).await
}

fn data(json: &str) -> String {
    format!("event: message\ndata: {json}\n\n")
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// Each event is written on its own, as a server that works between them would.
async fn stream_events(conn: &mut Conn<TcpStream>, event: &str, events: u32, result: &str) -> io::Result<()> {
    conn.write(EVENTS_HEAD).await?;
    let event = chunk(&data(event));
    for _ in 0..events {
        conn.write(&event).await?;
    }
    let end = [chunk(&data(result)).as_slice(), b"0\r\n\r\n"].concat();
    conn.write(&end).await
}

/// A stream that stays open until the other side leaves.
async fn open(conn: &mut Conn<TcpStream>, first: &str) -> io::Result<()> {
    conn.write(&[EVENTS_HEAD, &chunk(first)].concat()).await?;
    // One byte is enough to hear of the end, and a large buffer for each stream would be counted against nobody.
    let mut byte = [0; 1];
    while tokio::io::AsyncReadExt::read(&mut conn.stream, &mut byte).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(&joined(b"5\r\nhello\r\n2;x\r\n, \r\n0\r\n\r\n")[..], b"hello, ");
        assert_eq!(&joined(&[chunk("ab"), b"0\r\n\r\n".to_vec()].concat())[..], b"ab");
    }
}
