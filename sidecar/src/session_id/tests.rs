use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn key() -> Key {
    Key::new(&[7; KEY_LEN])
}

const SERVER: &str = "research/files";
const ALICE: &str = "spiffe://mesh.example/ns/a/sa/alice";
const MALLORY: &str = "spiffe://mesh.example/ns/a/sa/mallory";

fn ids() -> impl Strategy<Value = String> {
    "[!-~]{1,80}"
}

#[test]
fn an_id_is_visible_ascii_of_bounded_length() {
    let key = key();
    let tag = key.tag("research/files-1");
    for bad in ["", "a b", "é", "a\n", "\u{7f}", &"x".repeat(ID_BYTES_MAX + 1)] {
        assert_eq!(key.stick(SERVER, tag, bad), None, "{bad:?}");
        assert_eq!(key.bind(bad, ALICE), None, "{bad:?}");
    }
    let longest = "x".repeat(ID_BYTES_MAX);
    assert_eq!(key.unstick(SERVER, &key.stick(SERVER, tag, &longest).unwrap()), Some((tag, &*longest)));
    assert_eq!(key.unbind(&key.bind(&longest, ALICE).unwrap(), ALICE), Some(&*longest));
}

#[test]
fn an_id_leads_nowhere_else() {
    let key = key();
    let (one, other) = (key.tag("research/files-1"), key.tag("research/files-2"));
    let text = key.stick(SERVER, one, "id").unwrap();
    assert_eq!(key.unstick("research/mail", &text), None);
    assert_eq!(Key::random().unstick(SERVER, &text), None);
    // The tag of another instance in front of what was said for this one.
    let forged = format!("{other}{}", &text[TAG_LEN / 3 * 4..]);
    assert_eq!(forged.len(), text.len());
    assert_eq!(key.unstick(SERVER, &forged), None);
    // What is good in a header is not good in a query, and what binds does not stick.
    assert_eq!(key.unstick_in_query(SERVER, &text), None);
    assert_eq!(key.unstick(SERVER, &key.stick_in_query(SERVER, one, "id").unwrap()), None);
    assert_eq!(key.unstick(SERVER, &key.bind("id", ALICE).unwrap()), None);
}

#[test]
fn a_session_of_somebody_else_is_unknown() {
    let text = key().bind("id", ALICE).unwrap();
    assert_eq!(key().unbind(&text, ALICE), Some("id"));
    assert_eq!(key().unbind(&text, MALLORY), None);
    assert_eq!(key().unbind(&text, ""), None);
    assert_eq!(key().unbind("id", ALICE), None);
    assert_eq!(Key::random().unbind(&text, ALICE), None);
}

#[test]
fn where_the_caller_ends_and_the_id_begins_cannot_be_moved() {
    let text = key().bind("bc", "a").unwrap();
    let (mac, _) = text.split_once(DOT).unwrap();
    assert_eq!(key().unbind(&format!("{mac}.c"), "ab"), None);
}

#[test]
fn what_goes_into_a_query_needs_no_escaping() {
    let key = key();
    let tag = key.tag("127.0.0.1:7443");
    let uri = "/messages?session_id=a&b=%20#é";
    let text = key.stick_in_query(SERVER, tag, uri).unwrap();
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')), "{text}");
    assert_eq!(key.unstick_in_query(SERVER, &text), Some((tag, uri.to_owned())));
    assert_eq!(key.stick_in_query(SERVER, tag, &"x".repeat(ID_BYTES_MAX + 1)), None);
}

#[test]
fn a_tag_says_nothing_without_the_key() {
    let shown = key().tag("10.0.0.1:7443");
    assert_eq!(shown, key().tag("10.0.0.1:7443"));
    assert_ne!(shown, Key::random().tag("10.0.0.1:7443"));
    assert_ne!(shown, key().tag("10.0.0.2:7443"));
    assert_eq!(format!("{:?}", key()), "Key(…)");
}

#[test]
fn a_key_outlives_the_process_and_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.key");
    let made = Key::open_or_create(&path).unwrap();
    let text = made.bind("id", ALICE).unwrap();
    assert_eq!(Key::open_or_create(&path).unwrap().unbind(&text, ALICE), Some("id"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(matches!(Key::open_or_create(&path), Err(FileError::Permissions { mode: 0o644, .. })));
}

#[test]
fn a_file_of_another_length_is_no_key() {
    let folder = tempfile::tempdir().unwrap();
    for len in [0, KEY_LEN - 1, KEY_LEN + 1] {
        let path = folder.path().join(len.to_string());
        std::fs::write(&path, vec![1; len]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(Key::open_or_create(&path), Err(FileError::Form { .. })), "{len}");
    }
    let nowhere = folder.path().join("none/key");
    assert!(matches!(Key::open_or_create(&nowhere), Err(FileError::Io { .. })));
}

proptest! {
    #[test]
    fn an_id_comes_back_as_it_was(id in ids(), instance in ".{0,40}", server in ids(), caller in ".{0,60}") {
        let key = key();
        let tag = key.tag(&instance);
        let stuck = key.stick(&server, tag, &id).unwrap();
        prop_assert!(stuck.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert_eq!(key.unstick(&server, &stuck), Some((tag, &*id)));
        let bound = key.bind(&id, &caller).unwrap();
        prop_assert!(bound.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert_eq!(key.unbind(&bound, &caller), Some(&*id));
        // One inside the other, as when an inbound sidecar binds and an outbound one sticks.
        let both = key.stick(&server, tag, &bound).unwrap();
        let (_, inner) = key.unstick(&server, &both).unwrap();
        prop_assert_eq!(key.unbind(inner, &caller), Some(&*id));
    }

    #[test]
    fn an_id_with_any_character_changed_is_unknown(id in ids(), at in any::<prop::sample::Index>(), to in "[!-~]") {
        let key = key();
        let tag = key.tag("i");
        let stuck = key.stick(SERVER, tag, &id).unwrap();
        let bound = key.bind(&id, ALICE).unwrap();
        for text in [&stuck, &bound] {
            let at = at.index(text.len());
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assume!(changed != *text);
            prop_assert_eq!(key.unstick(SERVER, &changed), None);
            prop_assert_eq!(key.unbind(&changed, ALICE), None);
        }
    }

    #[test]
    fn whatever_is_presented_is_no_panic(text in ".{0,80}") {
        let key = key();
        prop_assert_eq!(key.unstick(SERVER, &text), None);
        prop_assert_eq!(key.unstick_in_query(SERVER, &text), None);
        prop_assert_eq!(key.unbind(&text, ALICE), None);
    }
}
