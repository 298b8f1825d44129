use super::*;

fn raw(name: &str, more: &str) -> Box<str> {
    format!("{{\"name\":\"{name}\"{more}}}").into()
}

#[test]
fn what_is_the_same_as_before_stays_as_it_was() {
    let before = Known::new(vec![raw("a", ""), raw("b", "")], None);
    let now = Known::new(vec![raw("a", ""), raw("b", ",\"description\":\"x\"")], Some(&before));
    assert!(Arc::ptr_eq(before.tool("a").unwrap(), now.tool("a").unwrap()));
    assert_ne!(before.tool("b").unwrap().digest, now.tool("b").unwrap().digest);
    assert!(now.tool("c").is_none());
}

#[test]
fn a_tool_that_is_advertised_twice_is_none_that_anybody_approved() {
    for other in ["", ",\"description\":\"x\""] {
        let known = Known::new(vec![raw("a", ""), raw("a", other), raw("b", "")], None);
        let tool = known.tool("a").unwrap();
        assert_eq!(tool.digest, None);
        assert_eq!(tool.schema(&schema::Limits::new(1, 1)).unwrap_err(), &schema::Unusable::AdvertisedTwice);
        assert!(known.tool("b").unwrap().digest.is_some());
    }
}

#[test]
fn schemas_share_their_memory_and_give_it_back() {
    let raw = |name: &str| raw(name, &format!(",\"inputSchema\":{{\"enum\":[\"{}\"]}}", "x".repeat(4096)));
    let limits = schema::Limits::new(64 << 10, 64 << 10);
    let before = Known::new(vec![raw("a"), raw("b")], None);
    assert!(before.tool("a").unwrap().schema(&limits).is_ok());
    assert_eq!(before.tool("b").unwrap().schema(&limits).unwrap_err(), &schema::Unusable::NoRoom);
    let now = Known::new(vec![raw("b")], Some(&before));
    drop(before);
    assert!(now.tool("b").unwrap().schema(&limits).is_ok(), "what was lacking is tried again");
}

#[test]
fn a_definition_that_cannot_be_read_is_as_if_it_were_not_there() {
    let known = Known::new(vec![raw("a", ",\"Description\":\"x\""), "{}".into(), raw("b", "")], None);
    assert_eq!(known.tools().len(), 1);
}
