//! The transport of 2024-11-05 on its way through: the stream's first event names the address for messages, which is
//! one of the server's own, so it is exchanged for one that leads back through here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use http::Uri;
use http::uri::PathAndQuery;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::refusal::Refusal;
use crate::session_id::Key;
use crate::sse::{self, Splitter};
use crate::upstream::UpstreamBody;

/// What of a stream may come before its first event is whole, in bytes.
const BEGINNING_BYTES_MAX: usize = 16 << 10;
/// The parameter of our own addresses for messages.
const PARAMETER: &str = "session=";

/// Reads a stream until it has named the address for messages, and gives what takes the place of what was read.
pub(crate) async fn exchange_endpoint(
    body: &mut UpstreamBody,
    patience: Duration,
    exchange: impl FnOnce(PathAndQuery) -> Result<String, Refusal>,
) -> Result<Bytes, Refusal> {
    let broke = |what: &str| Refusal::UpstreamBroke(what.to_owned());
    let mut events = Splitter::new(BEGINNING_BYTES_MAX);
    let mut read = 0;
    let event = loop {
        if let Some(event) = events.next_event().map_err(|error| broke(&error.to_string()))? {
            break event;
        }
        let frame =
            timeout(patience, body.frame()).await.map_err(|_| Refusal::TimedOut { after: patience })?;
        let frame = frame.ok_or_else(|| broke("the stream ended before it named an endpoint"))?;
        let Ok(data) = frame.map_err(|error| broke(&error.to_string()))?.into_data() else { continue };
        read += data.len();
        if read > BEGINNING_BYTES_MAX {
            return Err(broke("the stream does not begin with an endpoint"));
        }
        events.feed(data);
    };
    if !event.is("endpoint") {
        return Err(broke("the stream does not begin with an endpoint"));
    }
    let named = event.data.unwrap_or_default();
    let named = std::str::from_utf8(&named).map_err(|_| broke("the endpoint is no text"))?;
    let address = exchange(own_path(named).ok_or_else(|| broke("the endpoint is at another server"))?)?;
    let mut replaced = BytesMut::from(&*sse::event(None, Some("endpoint"), address.as_bytes()));
    // What came with the first event goes on behind it, as it came.
    if let Some(rest) = events.finish() {
        replaced.extend_from_slice(&rest);
    }
    Ok(replaced.freeze())
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
