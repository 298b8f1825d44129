use http::Response;
use http::header::HeaderMap;

use super::*;

fn settings(yaml: &str) -> Settings {
    serde_json::from_str(yaml).unwrap()
}

#[track_caller]
fn refused(url: &str, yaml: Option<&str>, expected: &str) {
    let settings = yaml.map(settings);
    let error = Outward::new(&WebUrl::parse(url).unwrap(), settings.as_ref()).unwrap_err();
    assert!(error.to_string().contains(expected), "{url}: {error}");
}

#[test]
fn calls_leave_only_to_where_the_file_says() {
    let url = "https://mcp.example/mcp";
    refused(url, None, "does not say that calls may leave");
    for origin in ["https://other.example", "https://mcp.example:8443", "https://mcp.example.evil.example"] {
        refused(url, Some(&format!(r#"{{"origin":"{origin}"}}"#)), "not of the origin");
    }
    refused("http://localhost:9/mcp", Some(r#"{"origin":"https://localhost:9"}"#), "not of the origin");
    refused("http://localhost:9/mcp", Some(r#"{"origin":"http://localhost:9"}"#), "not encrypted");
    refused(url, Some(r#"{"origin":"https://mcp.example","caFile":"/nowhere"}"#), "no certificates");
    let unset = r#"{"origin":"http://localhost:9","privateAddresses":true,"headers":{"x-key":{"env":"WEFT_NOT_SET"}}}"#;
    refused("http://localhost:9/mcp", Some(unset), "WEFT_NOT_SET is not set");
    let of = |url: &str| origin(&WebUrl::parse(url).unwrap());
    assert_eq!(of("https://MCP.example/a"), of("https://mcp.example:443/b?c"));
    let plain = settings(r#"{"origin":"http://localhost:9","privateAddresses":true}"#);
    let outward = Outward::new(&WebUrl::parse("http://localhost:9/a?b=c").unwrap(), Some(&plain)).unwrap();
    assert_eq!((outward.path.as_str(), outward.host.to_str().unwrap()), ("/a?b=c", "localhost:9"));
}

#[test]
fn the_file_sets_no_header_that_others_say_and_names_one_place_for_a_value() {
    for headers in [
        r#"{"host":{"env":"A"}}"#,
        r#"{"Mcp-Session-Id":{"env":"A"}}"#,
        r#"{"a b":{"env":"A"}}"#,
        r#"{"x":{}}"#,
        r#"{"x":{"env":"A","file":"/b"}}"#,
        r#"{"x":{"env":"A","value":"b"}}"#,
    ] {
        let text = format!(r#"{{"origin":"https://a.example","headers":{headers}}}"#);
        assert!(serde_json::from_str::<Settings>(&text).is_err(), "{headers}");
    }
}

#[tokio::test]
async fn nothing_of_the_caller_leaves_and_the_credentials_do() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "s3cret\n").unwrap();
    let source =
        serde_json::from_value::<Source>(serde_json::json!({ "file": file.path(), "prefix": "Bearer " }));
    let source = source.unwrap();
    let dress = Dress::new([(http::header::AUTHORIZATION, &source)].into_iter(), None).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer of-the-agent"),
        ("cookie", "a=b"),
        ("weft-caller", "spiffe://mesh/ns/a/sa/b"),
        ("weft_server", "a/b"),
        ("baggage", "user=ann"),
        ("mcp-method", "ping"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    dress.put_on(&mut headers).await.unwrap();
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "mcp-method"]);
    assert_eq!(headers["authorization"], "Bearer s3cret");
    assert!(headers["authorization"].is_sensitive() && !format!("{headers:?}").contains("s3cret"));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_and_what_is_no_value_is_not_sent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let source = serde_json::from_value::<Source>(serde_json::json!({ "file": file.path() })).unwrap();
    let name = HeaderName::from_static("x-key");
    let dress = Dress::new([(name, &source)].into_iter(), None).unwrap();
    let put_on = async || {
        let mut headers = HeaderMap::new();
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        let outcome = dress.put_on(&mut headers).await;
        outcome.map(|_| headers["x-key"].to_str().unwrap().to_owned()).map_err(|error| error.to_string())
    };
    assert!(put_on().await.unwrap_err().contains("x-key is none"));
    for (written, expected) in [("one\r\n", "one"), ("two", "two")] {
        std::fs::write(&file, written).unwrap();
        assert_eq!(put_on().await.unwrap(), expected);
    }
    for bad in ["a\nb".to_owned(), "x".repeat(20_000), "\u{7f}".to_owned()] {
        std::fs::write(&file, &bad).unwrap();
        let error = put_on().await.unwrap_err();
        assert!(error.contains("x-key is none") && !error.contains(&bad), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(put_on().await.unwrap_err().contains("cannot be read"));
}

#[tokio::test]
async fn what_the_server_thinks_of_the_credentials_is_not_told() {
    let dress = Dress::new(std::iter::empty(), None).unwrap();
    let worn = dress.put_on(&mut HeaderMap::new()).await.unwrap();
    for (status, expected) in
        [(200, 200), (401, 502), (302, 502), (307, 502), (403, 403), (429, 429), (500, 500)]
    {
        let mut response = Response::builder()
            .status(status)
            .header("www-authenticate", "Bearer resource_metadata=x")
            .header("set-cookie", "a=b")
            .header("location", "http://169.254.169.254/")
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        dress.take_off(&worn, &mut response);
        assert_eq!(response.status().as_u16(), expected);
        assert_eq!(response.headers().keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }
}
