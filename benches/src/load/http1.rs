//! As much HTTP/1.1 as the ends of a load run need, by hand: both share one core and must cost less than any proxy.
//!
//! Heads are parsed by `httparse`; bodies are delimited by length or by chunks. Not here: pipelining, upgrades,
//! trailers' meaning, or anything that a peer that we did not start might send.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most headers of a head.
const HEADERS_MAX: usize = 64;
/// Longest head, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How much is asked of the system at once, in bytes: for a head with a small body, and within a large body.
const READ_BYTES: usize = 4 << 10;
const READ_BYTES_LARGE: usize = 64 << 10;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// What matters of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Of an answer; 0 of a request.
    pub(crate) status: u16,
    /// Of a request: whether it is a GET.
    pub(crate) get: bool,
    pub(crate) framing: Framing,
    /// Its length in bytes, with the empty line.
    pub(crate) len: usize,
}

impl Head {
    fn new(len: usize, headers: &[httparse::Header<'_>]) -> io::Result<Self> {
        let mut framing = Framing::Length(0);
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok());
                framing = Framing::Length(length.ok_or_else(|| broken("content-length"))?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Framing::Chunked;
            }
        }
        Ok(Self { status: 0, get: false, framing, len })
    }
}

pub(crate) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The head of a request, if all of it is there.
pub(crate) fn request(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = parsed.parse(bytes).map_err(|_| broken("request head"))? else {
        return Ok(None);
    };
    let get = parsed.method == Some("GET");
    Head::new(len, parsed.headers).map(|head| Some(Head { get, ..head }))
}

/// The head of an answer, if all of it is there.
pub(crate) fn response(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = parsed.parse(bytes).map_err(|_| broken("answer head"))? else {
        return Ok(None);
    };
    let status = parsed.code.unwrap_or_default();
    Head::new(len, parsed.headers).map(|head| Some(Head { status, ..head }))
}

/// Where a body is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Length(u64),
    Chunks(Chunks),
}

impl From<Framing> for Rest {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunks(Chunks::Size(0)),
        }
    }
}

/// Where a chunked body is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// In a size, with the digits so far.
    Size(u64),
    /// After the digits of a size.
    SizeLine(u64),
    /// In a chunk and the line end after it, with the bytes that are left of both.
    Data(u64),
    /// In a line of the trailer, with its length so far.
    Trailer(u64),
    Done,
}

impl Rest {
    pub(crate) fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunks(Chunks::Done))
    }

    /// Goes over bytes of the body as they stand on the wire and says how many belong to it.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Length(left) => {
                let taken = (bytes.len() as u64).min(*left);
                *left -= taken;
                usize::try_from(taken).map_err(|_| broken("length"))
            }
            Self::Chunks(chunks) => chunks.advance(bytes),
        }
    }
}

impl Chunks {
    fn advance(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::Done {
            if let Self::Data(left) = self {
                let taken = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *self = match *left - taken as u64 {
                    0 => Self::Size(0),
                    left => Self::Data(left),
                };
                at += taken;
                continue;
            }
            *self = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(self, byte: u8) -> io::Result<Self> {
        Ok(match (self, byte) {
            (Self::Size(0) | Self::SizeLine(0), b'\n') => Self::Trailer(0),
            (Self::Size(size) | Self::SizeLine(size), b'\n') => Self::Data(size + 2),
            (Self::Size(size), b'\r' | b';') | (Self::SizeLine(size), _) => Self::SizeLine(size),
            (Self::Size(size), digit) => {
                let digit = char::from(digit).to_digit(16).ok_or_else(|| broken("chunk size"))?;
                let size = size.checked_mul(16).filter(|size| *size < 1 << 40);
                Self::Size(size.ok_or_else(|| broken("chunk size"))? + u64::from(digit))
            }
            (Self::Trailer(0), b'\n') => Self::Done,
            (Self::Trailer(_), b'\n') => Self::Trailer(0),
            (Self::Trailer(length), b'\r') => Self::Trailer(length),
            (Self::Trailer(length), _) => Self::Trailer(length + 1),
            (state @ (Self::Data(_) | Self::Done), _) => state,
        })
    }
}

/// A connection and what was read of it and not yet used.
#[derive(Debug)]
pub(crate) struct Conn<S> {
    pub(crate) stream: S,
    pub(crate) read: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, read: BytesMut::new() }
    }

    /// Reads something more; `false` at the end.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        self.read.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    /// Reads a head; `None` if the connection ended before it.
    pub(crate) async fn head(
        &mut self,
        parse: fn(&[u8]) -> io::Result<Option<Head>>,
    ) -> io::Result<Option<Head>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) = parse(&self.read)?
            {
                return Ok(Some(head));
            }
            if self.read.len() > HEAD_BYTES_MAX {
                return Err(broken("endless head"));
            }
            if !self.fill().await? {
                return match self.read.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Reads the rest of a body and forgets it; says how many bytes it had on the wire.
    pub(crate) async fn skip(&mut self, mut rest: Rest) -> io::Result<usize> {
        let mut length = 0;
        loop {
            let taken = rest.advance(&self.read)?;
            self.read.advance(taken);
            length += taken;
            if rest.is_done() {
                return Ok(length);
            }
            self.more().await?;
        }
    }

    /// Reads something more of what must still come. Long bodies get a large buffer.
    pub(crate) async fn more(&mut self) -> io::Result<()> {
        self.read.reserve(READ_BYTES_LARGE);
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends a whole request and reads the whole answer. Says its status and the length of its body on the wire.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, usize)> {
        self.write(request).await?;
        let head = self.head(response).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.read.advance(head.len);
        let length = self.skip(head.framing.into()).await?;
        Ok((head.status, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes over a body in pieces of every size; what comes after it must be left.
    #[track_caller]
    fn check(framing: Framing, body: &str) {
        let wire = format!("{body}POST");
        for piece in 1..=wire.len() {
            let mut rest = Rest::from(framing);
            let mut taken = 0;
            for bytes in wire.as_bytes().chunks(piece) {
                taken += rest.advance(bytes).unwrap();
                if rest.is_done() {
                    break;
                }
            }
            assert_eq!(taken, body.len(), "in pieces of {piece}");
        }
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        check(Framing::Length(5), "hello");
        check(Framing::Chunked, "5\r\nhello\r\n0\r\n\r\n");
        check(Framing::Chunked, "a;ext=1\r\n0123456789\r\n1\r\n\n\r\n000\r\nx-trailer: 1\r\n\r\n");
        assert!(Rest::from(Framing::Length(0)).is_done());
    }

    #[test]
    fn broken_chunk_sizes_are_refused() {
        for wire in ["x\r\n", "ffffffffffffffff\r\n"] {
            assert!(Rest::from(Framing::Chunked).advance(wire.as_bytes()).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn heads_say_their_length_and_framing() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let head = response(text).unwrap().unwrap();
        assert_eq!((head.status, head.framing, head.len), (200, Framing::Length(2), text.len() - 2));
        let head = request(b"GET /mcp HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.get, head.framing), (true, Framing::Chunked));
        assert!(response(b"HTTP/1.1 200 OK\r\n").unwrap().is_none());
        assert!(request(b"\x01\r\n\r\n").is_err());
    }
}
