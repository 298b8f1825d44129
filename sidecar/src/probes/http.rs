//! Probes by HTTP, with the kubelet's rules: what counts is the status, 200 to 399. Redirects within the same origin are
//! followed; one that leads elsewhere is an answer like any other, and is not followed: the file names one port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TRAILER, TRANSFER_ENCODING, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::ask::{Failure, but, reach};
use super::settings::{HttpGet, Scheme};
use super::trusting;

/// What a container takes the sidecar for: many leave requests of this name out of their logs.
pub(super) const AGENT: &str = "kube-probe/1 (weft-sidecar)";
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Bytes of an answer that are read, as its end must be a proper one. Of a longer one, the rest is left.
const BODY_BYTES_MAX: usize = 10 << 10;

/// Asks; returns what there is to say of an answer that is well.
pub(super) async fn get(get: &HttpGet, addresses: &[IpAddr]) -> Result<Option<Arc<str>>, Failure> {
    let mut path = get.path.clone();
    for _ in 0..=REDIRECTS_MAX {
        let (stream, at) = reach(addresses, get.port).await?;
        let request = request(get, &path, at)?;
        let response = match get.scheme {
            Scheme::Http => exchange(stream, request).await?,
            Scheme::Https => {
                let stream = trusting::connect(stream, at.ip()).await.map_err(Failure::Tls)?;
                exchange(stream, request).await?
            }
        };
        let status = response.status();
        if !(200..400).contains(&status.as_u16()) {
            return Err(Failure::Status(status.as_u16()));
        }
        match onward(&response, get.scheme, at, &path) {
            Next::Is(further) => path = further,
            Next::Elsewhere => return Ok(but("it redirects elsewhere, which is not followed")),
            Next::Nothing => {
                read(response.into_body()).await?;
                return Ok(None);
            }
        }
    }
    Err(Failure::Redirects(REDIRECTS_MAX))
}

fn request(get: &HttpGet, path: &PathAndQuery, at: SocketAddr) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut headers = get.headers.clone();
    let host = headers.get(HOST).cloned().filter(|host| !host.is_empty());
    let host = host.map_or_else(|| HeaderValue::from_str(&own_name(at)).map_err(::http::Error::from), Ok)?;
    headers.insert(HOST, host);
    default(&mut headers, USER_AGENT, AGENT);
    default(&mut headers, ACCEPT, "*/*");
    for of_transport in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER] {
        headers.remove(of_transport);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::get(path.as_str()).body(Empty::new())?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// One that is there and empty is to be left out.
fn default(headers: &mut HeaderMap, name: http::HeaderName, value: &'static str) {
    match headers.get(&name) {
        None => drop(headers.insert(name, HeaderValue::from_static(value))),
        Some(given) if given.is_empty() => drop(headers.remove(name)),
        Some(_) => {}
    }
}

/// The guards of SDKs against rebound names know a server on loopback by this name.
fn own_name(at: SocketAddr) -> String {
    if at.ip().is_loopback() { format!("localhost:{}", at.port()) } else { at.to_string() }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender, which is dropped with the answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender.send_request(request).await?)
}

/// Where an answer leads.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Is(PathAndQuery),
    Elsewhere,
}

fn onward<B>(response: &Response<B>, scheme: Scheme, at: SocketAddr, path: &PathAndQuery) -> Next {
    let status = response.status();
    if !status.is_redirection() {
        return Next::Nothing;
    }
    let is_followed = matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
    let Some(location) = location.filter(|_| is_followed) else { return Next::Elsewhere };
    let (location, _) = location.split_once('#').unwrap_or((location, ""));
    // What stands before a path that is relative.
    let folder = path.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let is_relative = !location.starts_with('/') && !location.contains("://");
    let location = if is_relative { format!("{folder}/{location}") } else { location.to_owned() };
    // Two slashes begin the name of a host.
    let whole = if location.starts_with("//") { format!("{}:{location}", word(scheme)) } else { location };
    let Ok(uri) = whole.parse::<Uri>() else { return Next::Elsewhere };
    if !is_same(&uri, scheme, at) {
        return Next::Elsewhere;
    }
    uri.path_and_query().cloned().map_or(Next::Elsewhere, Next::Is)
}

const fn word(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    }
}

/// Whether it is the place that is asked.
fn is_same(uri: &Uri, scheme: Scheme, at: SocketAddr) -> bool {
    let Some(host) = uri.host() else { return true };
    let usual = if scheme == Scheme::Https { 443 } else { 80 };
    let is_host = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => ip == at.ip(),
        Err(_) => at.ip().is_loopback() && host.eq_ignore_ascii_case("localhost"),
    };
    is_host && uri.scheme_str() == Some(word(scheme)) && uri.port_u16().unwrap_or(usual) == at.port()
}

/// Reads the body and forgets it.
async fn read(mut body: Incoming) -> Result<(), Failure> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Body(error.into()))?;
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > BODY_BYTES_MAX {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(status: u16, location: &str, scheme: Scheme, at: &str) -> Next {
        let response = Response::builder().status(status).header(LOCATION, location).body(()).unwrap();
        let path = PathAndQuery::from_static("/a/b?c");
        onward(&response, scheme, at.parse().unwrap(), &path)
    }

    #[test]
    fn redirects_are_followed_within_the_origin_alone() {
        let check = |location: &str, path: &str| {
            let next = leads(302, location, Scheme::Http, "10.0.0.5:9000");
            assert_eq!(next, Next::Is(path.parse().unwrap()), "{location}");
        };
        check("/x?y#z", "/x?y");
        check("x", "/a/x");
        check("http://10.0.0.5:9000/x", "/x");
        check("//10.0.0.5:9000/x", "/x");
        for elsewhere in [
            "http://10.0.0.5:9001/x",
            "http://10.0.0.5/x",
            "https://10.0.0.5:9000/x",
            "http://10.0.0.6:9000/x",
            "http://localhost:9000/x",
            "http://user@10.0.0.6:9000/x",
            "//example.com/x",
            "ftp://10.0.0.5:9000/x",
            "http://",
            "",
        ] {
            let next = leads(307, elsewhere, Scheme::Http, "10.0.0.5:9000");
            assert!(next == Next::Elsewhere || elsewhere.is_empty(), "{elsewhere}: {next:?}");
        }
        assert_eq!(leads(304, "/x", Scheme::Http, "10.0.0.5:9000"), Next::Elsewhere);
        assert_eq!(leads(200, "/x", Scheme::Http, "10.0.0.5:9000"), Next::Nothing);
        let local = leads(308, "https://LOCALHOST/x", Scheme::Https, "[::1]:443");
        assert_eq!(local, Next::Is(PathAndQuery::from_static("/x")));
    }
}
