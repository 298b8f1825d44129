//! The transport of 2024-11-05 on its way through: the stream's first event names the address for messages, which is
//! one of the server's own, so it is exchanged for one that leads back through here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use http::Uri;
use http::uri::PathAndQuery;

use crate::refusal::Refusal;
use crate::session_id::Key;
use crate::sse::{self, Splitter};

/// What of a stream may come before its first event is whole, in bytes.
const BEGINNING_BYTES_MAX: usize = 16 << 10;
/// The parameter of our own addresses for messages.
const PARAMETER: &str = "session=";

/// What exchanges the address for messages, or says why that cannot be.
type Address = Box<dyn FnOnce(PathAndQuery) -> Result<String, Refusal> + Send + Sync>;

/// The beginning of a stream, until its first event is whole. A stream that begins with another event is none of this
/// transport, and passes as it is.
pub(crate) struct Exchange {
    events: Splitter,
    seen: Vec<Bytes>,
    seen_bytes: usize,
    address: Option<Address>,
}

/// What became of the beginning.
pub(crate) enum Begun {
    /// The first event is not whole yet.
    NotYet,
    /// These bytes take the place of all that came, and what comes after passes as it is.
    With(Bytes),
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("seen_bytes", &self.seen_bytes).finish_non_exhaustive()
    }
}

impl Exchange {
    pub(crate) fn new(
        address: impl FnOnce(PathAndQuery) -> Result<String, Refusal> + Send + Sync + 'static,
    ) -> Self {
        let address: Address = Box::new(address);
        Self {
            events: Splitter::new(BEGINNING_BYTES_MAX),
            seen: Vec::new(),
            seen_bytes: 0,
            address: Some(address),
        }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn feed(&mut self, chunk: &Bytes) -> Result<Begun, Refusal> {
        self.seen.push(chunk.clone());
        self.seen_bytes += chunk.len();
        if self.seen_bytes > BEGINNING_BYTES_MAX {
            return Ok(Begun::With(self.seen.concat().into()));
        }
        self.events.feed(chunk.clone());
        let Some(event) = self.events.next_event().ok().flatten() else { return Ok(Begun::NotYet) };
        match self.address.take().filter(|_| event.is("endpoint")) {
            Some(address) => self.exchanged(&event, address).map(Begun::With),
            None => Ok(Begun::With(self.seen.concat().into())),
        }
    }

    fn exchanged(&mut self, event: &sse::Event, address: Address) -> Result<Bytes, Refusal> {
        let broke = |what: &str| Refusal::UpstreamBroke(what.to_owned());
        let named = event.data.clone().unwrap_or_default();
        let named = std::str::from_utf8(&named).map_err(|_| broke("the endpoint is no text"))?;
        let own = own_path(named).ok_or_else(|| broke("the endpoint is at another server"))?;
        let address = address(own)?;
        let mut replaced = BytesMut::from(&*sse::event(None, Some("endpoint"), address.as_bytes()));
        // What came with the first event goes on behind it, as it came.
        let events = std::mem::replace(&mut self.events, Splitter::new(BEGINNING_BYTES_MAX));
        if let Some(rest) = events.finish() {
            replaced.extend_from_slice(&rest);
        }
        Ok(replaced.freeze())
    }
}

/// The path that a server names. One with a host must be the server itself, which is on this machine: an address
/// elsewhere would send messages past everything that was decided here.
fn own_path(named: &str) -> Option<PathAndQuery> {
    let uri: Uri = named.trim().parse().ok()?;
    let here = match uri.host() {
        None => named.starts_with('/') && !named.starts_with("//"),
        Some(host) => crate::receive::is_loopback(host),
    };
    here.then(|| uri.path_and_query().cloned())?
}

/// Our own address for messages in place of a server's, good for one caller.
pub(crate) fn bind(key: &Key, caller: &str, own: &str, server: &PathAndQuery) -> Result<String, Refusal> {
    let bound = key.bind(&URL_SAFE_NO_PAD.encode(server.as_str()), caller);
    let bound = bound.ok_or_else(|| Refusal::UpstreamBroke("the endpoint is too long".to_owned()))?;
    Ok(format!("{own}?{PARAMETER}{bound}"))
}

/// The server's address for messages, if this caller was given ours for it.
pub(crate) fn unbind(key: &Key, caller: &str, query: &str) -> Option<PathAndQuery> {
    let encoded = key.unbind(parameter(query)?, caller)?;
    let path = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    PathAndQuery::from_maybe_shared(Bytes::from(path)).ok()
}

/// The value of our parameter, which stands alone in the query.
pub(crate) fn parameter(query: &str) -> Option<&str> {
    query.strip_prefix(PARAMETER).filter(|value| !value.is_empty() && !value.contains('&'))
}

/// Our own address for messages with what a peer's was made into.
pub(crate) fn address(own: &str, value: &str) -> String {
    format!("{own}?{PARAMETER}{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_at_the_server_itself_are_taken() {
        let check = |named: &str, expected: Option<&str>| {
            assert_eq!(own_path(named).as_ref().map(PathAndQuery::as_str), expected, "{named}");
        };
        check("/messages?session_id=1", Some("/messages?session_id=1"));
        check("http://127.0.0.1:9000/m?x=1", Some("/m?x=1"));
        check("http://localhost/m", Some("/m"));
        for foreign in ["http://evil.example/m", "//evil.example/m", "", "m", "https://10.0.0.1/x"] {
            check(foreign, None);
        }
    }

    #[test]
    fn only_the_address_in_the_first_event_is_exchanged_however_the_stream_is_cut() {
        let check = |stream: &str, expected: &str| {
            for cut in 0..=stream.len() {
                let mut exchange = Exchange::new(|own| Ok(format!("/ours?{own}")));
                let mut said = String::new();
                let mut begun = false;
                for part in [&stream[..cut], &stream[cut..]] {
                    let chunk = Bytes::from(part.to_owned());
                    match begun {
                        true => said += part,
                        false => match exchange.feed(&chunk).unwrap() {
                            Begun::NotYet => {}
                            Begun::With(bytes) => {
                                begun = true;
                                said += std::str::from_utf8(&bytes).unwrap();
                            }
                        },
                    }
                }
                assert_eq!(said, expected, "cut at {cut}");
            }
        };
        check(
            "event: endpoint\ndata: /m?s=1\n\ndata: x\n\n",
            "event: endpoint\ndata: /ours?/m?s=1\n\ndata: x\n\n",
        );
        check("data: {}\n\nevent: endpoint\ndata: /m\n\n", "data: {}\n\nevent: endpoint\ndata: /m\n\n");
        check("id: 1\ndata: {}\n\n", "id: 1\ndata: {}\n\n");
    }

    #[test]
    fn a_stream_that_names_an_address_elsewhere_is_broken() {
        let mut exchange = Exchange::new(|own| Ok(own.to_string()));
        let chunk = Bytes::from_static(b"event: endpoint\ndata: http://evil.example/m\n\n");
        assert!(matches!(exchange.feed(&chunk), Err(Refusal::UpstreamBroke(_))));
    }

    #[test]
    fn an_address_serves_only_whom_it_was_given() {
        let key = Key::random();
        let server = PathAndQuery::from_static("/messages/?session_id=0f3a");
        let own = bind(&key, "a", "/servers/x/y/mcp", &server).unwrap();
        let (path, query) = own.split_once('?').unwrap();
        assert_eq!(path, "/servers/x/y/mcp");
        assert_eq!(unbind(&key, "a", query), Some(server));
        assert_eq!(unbind(&key, "b", query), None);
        assert_eq!(unbind(&Key::random(), "a", query), None);
        assert_eq!(unbind(&key, "a", "session=L21lc3NhZ2Vz"), None);
        assert_eq!(unbind(&key, "a", &format!("x=1&{query}")), None);
    }
}
