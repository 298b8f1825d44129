//! What a request must be like to be let in.

use super::*;

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let mesh = Mesh::start().await;
    let send = async |path: &str, kind: &str, body: &[u8]| {
        mesh.send(mesh.request("POST", path, body.to_vec()).header("content-type", kind)).await
    };
    send("/v1/apply", "application/yaml", b"kind: \xff").await.refused(400, "bad-body");
    send("/v1/apply", "application/yaml", b"").await.refused(400, "bad-body");
    send("/v1/apply", "application/yaml", b"# nothing\n---\n").await.refused(400, "bad-body");
    send("/v1/apply", "application/yaml", b"a: [").await.refused(422, "invalid");
    send("/v1/apply", "application/json", b"{\"a\": ").await.refused(422, "invalid");
    send("/v1/apply", "text/html", b"a: b").await.refused(415, "unsupported-media-type");
    send("/v1/apply", "application/yaml; charset=latin1", b"a: b")
        .await
        .refused(415, "unsupported-media-type");
    send("/v1/keys", "application/yaml", b"{}").await.refused(415, "unsupported-media-type");
    let problem = send("/v1/keys", "application/json", b"{\n  \"x\": 1}").await.refused(400, "bad-body");
    assert_eq!(problem["errors"][0]["line"], 2);
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_its_announcement_and_while_it_arrives() {
    let mesh = Mesh::start().await;
    let announced = mesh.request("POST", "/v1/keys", "").header("content-length", (256 << 10) + 1);
    mesh.send(announced).await.refused(413, "body-too-large");
    let chunks = |count: usize| {
        let chunk = || Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 64 << 10]));
        axum::body::Body::from_stream(futures_util::stream::iter((0..count).map(move |_| chunk())))
    };
    mesh.send(mesh.request("POST", "/v1/keys", chunks(5))).await.refused(413, "body-too-large");
    mesh.send(mesh.request("POST", "/v1/apply", chunks(257))).await.refused(413, "body-too-large");
    mesh.send(mesh.request("POST", "/v1/apply", chunks(256))).await.refused(400, "bad-body");
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let mesh = Mesh::start_with(|limits| limits.body_timeout = Duration::from_millis(20)).await;
    let body = axum::body::Body::from_stream(futures_util::stream::pending::<
        Result<bytes::Bytes, std::io::Error>,
    >());
    mesh.send(mesh.request("POST", "/v1/apply", body)).await.refused(408, "body-timeout");
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up() {
    let mesh = Mesh::start_with(|limits| limits.request_timeout = Duration::from_millis(20)).await;
    mesh.trust.hang();
    mesh.admin("GET", "/v1/trust", "").await.refused(503, "timed-out");
}

#[tokio::test]
async fn more_than_so_many_at_once_are_turned_away() {
    let mesh = Mesh::start_with(|limits| limits.in_flight_max = 1).await;
    mesh.trust.hang();
    let waiting = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.admin("GET", "/v1/trust", "").await }
    });
    mesh.trust.asked().await;
    let refused = mesh.admin("GET", "/v1/version", "").await;
    assert_eq!(refused.headers["retry-after"], "1");
    refused.refused(503, "overloaded");
    waiting.abort();
}

#[tokio::test]
async fn a_panic_is_answered_counted_and_ends_nothing_else() {
    let mesh = Mesh::start().await;
    mesh.trust.panic();
    mesh.admin("GET", "/v1/trust", "").await.refused(500, "internal");
    assert_eq!(mesh.metrics.panics.get(), 1);
    mesh.admin("GET", "/v1/version", "").await.ok();
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let mesh = Mesh::start().await;
    for path in ["/", "/v1", "/v2/version", "/v1/version/", "/v1/namespaces/a/b"] {
        mesh.as_nobody("GET", path).await.refused(404, "unknown-route");
    }
    let refused = mesh.as_nobody("POST", "/v1/version").await;
    assert!(refused.headers["allow"].to_str().unwrap().contains("GET"));
    refused.refused(405, "method-not-allowed");
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let mesh = Mesh::start().await;
    let ok = mesh.admin("GET", "/v1/version", "").await;
    let id = ok.headers["weft-request-id"].to_str().unwrap().to_owned();
    assert_eq!(id.len(), 16);
    assert_eq!(ok.ok()["trustDomain"], "corp.example");
    let refused = mesh.as_nobody("GET", "/nowhere").await;
    let id = refused.headers["weft-request-id"].to_str().unwrap().to_owned();
    assert_eq!(refused.refused(404, "unknown-route")["instance"], format!("urn:weft:request:{id}"));
}
