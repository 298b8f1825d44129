use proptest::prelude::*;

use super::*;

const MAX: usize = 1 << 16;

/// What is left of an event once it is only text.
type Plain = (Option<String>, Option<String>, Option<String>, Option<u64>);

fn plain(event: &Event) -> Plain {
    let text = |bytes: &Option<Bytes>| bytes.as_ref().map(|it| String::from_utf8(it.to_vec()).unwrap());
    (
        text(&event.id),
        text(&event.name),
        text(&event.data),
        event.retry.map(|it| u64::try_from(it.as_millis()).unwrap()),
    )
}

fn split(chunks: &[&[u8]], max: usize) -> (Vec<Event>, Result<Option<Bytes>, Error>) {
    let mut splitter = Splitter::new(max);
    let mut events = Vec::new();
    for chunk in chunks {
        splitter.feed(Bytes::copy_from_slice(chunk));
        loop {
            match splitter.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, Ok(splitter.finish()))
}

/// An event's id, name, data and retry.
type Expected<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<u64>);

#[track_caller]
fn check(stream: &str, expected: &[Expected<'_>]) {
    let owned = |it: Option<&str>| it.map(str::to_owned);
    let expected: Vec<Plain> =
        expected.iter().map(|it| (owned(it.0), owned(it.1), owned(it.2), it.3)).collect();
    let (events, end) = split(&[stream.as_bytes()], MAX);
    assert_eq!(events.iter().map(plain).collect::<Vec<_>>(), expected, "{stream:?}");
    assert_eq!(end, Ok(None), "{stream:?}");
    let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
    assert_eq!(split(&bytes, MAX), (events, Ok(None)), "{stream:?} byte by byte");
}

#[test]
fn every_kind_of_line_end_ends_a_line() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = ["id: 1", "event: e", "data: a", "", "data: b", "", ""].join(end);
        check(&stream, &[(Some("1"), Some("e"), Some("a"), None), (None, None, Some("b"), None)]);
    }
    check(
        "data: a\r\n\ndata: b\n\r\ndata: c\r\r",
        &[(None, None, Some("a"), None), (None, None, Some("b"), None), (None, None, Some("c"), None)],
    );
}

#[test]
fn lines_of_data_are_joined() {
    check("data: {\ndata:  \"a\": 1\ndata\ndata:}\n\n", &[(None, None, Some("{\n \"a\": 1\n\n}"), None)]);
}

#[test]
fn only_one_space_after_the_colon_is_taken_away() {
    check("data:a\n\ndata:  b \n\n", &[(None, None, Some("a"), None), (None, None, Some(" b "), None)]);
}

#[test]
fn an_event_with_an_id_and_no_data_keeps_its_id() {
    check("id: x\ndata:\n\n", &[(Some("x"), None, Some(""), None)]);
    check("id: x\n\n", &[(Some("x"), None, None, None)]);
    check("id\n\n", &[(Some(""), None, None, None)]);
}

#[test]
fn an_id_with_a_null_does_not_count() {
    check("id: 1\nid: a\0b\ndata: x\n\n", &[(Some("1"), None, Some("x"), None)]);
}

#[test]
fn a_retry_is_a_number_or_nothing() {
    check("retry: 1500\n\n", &[(None, None, None, Some(1500))]);
    check("retry: 1500\nretry: soon\n\n", &[(None, None, None, Some(1500))]);
    check("retry: -1\n\nretry:\n\n", &[(None, None, None, None), (None, None, None, None)]);
    check("retry: 99999999999999999999999\n\n", &[(None, None, None, None)]);
}

#[test]
fn comments_and_unknown_fields_say_nothing() {
    check(": ping\n\n:\n\n", &[(None, None, None, None), (None, None, None, None)]);
    check(":data: no\nfoo: bar\ndata: x\n\n", &[(None, None, Some("x"), None)]);
}

#[test]
fn blank_lines_are_no_events() {
    check("\n\r\n\r\n\ndata: x\n\n\n\n", &[(None, None, Some("x"), None)]);
}

#[test]
fn a_byte_order_mark_counts_only_at_the_very_beginning() {
    check(
        "\u{feff}data: x\n\n\u{feff}data: y\n\n",
        &[(None, None, Some("x"), None), (None, None, None, None)],
    );
    check("\n\u{feff}data: x\n\n", &[(None, None, None, None)]);
}

#[test]
fn an_event_that_was_not_ended_is_told_apart() {
    let (events, end) = split(&[b"data: a\n\ndata: b", b"\n"], MAX);
    assert_eq!(events.len(), 1);
    assert_eq!(end, Ok(Some(Bytes::from_static(b"data: b\n"))));
}

#[test]
fn an_event_past_the_limit_breaks_the_stream_for_good() {
    let mut splitter = Splitter::new(12);
    splitter.feed(Bytes::from_static(b"data: 1234\n\ndata: 12345\n\ndata: 1\n\n"));
    assert!(splitter.next_event().unwrap().is_some(), "exactly the limit");
    for _ in 0..2 {
        assert_eq!(splitter.next_event(), Err(Error::TooLarge { max: 12 }));
    }
    splitter.feed(Bytes::from_static(b"data: 1\n\n"));
    assert_eq!(splitter.next_event(), Err(Error::TooLarge { max: 12 }));
}

#[test]
fn an_event_without_end_is_not_collected_past_the_limit() {
    let mut splitter = Splitter::new(1000);
    let outcome = (0..100).try_for_each(|_| {
        splitter.feed(Bytes::from(vec![b'x'; 100]));
        splitter.next_event().map(|event| assert_eq!(event, None))
    });
    assert_eq!(outcome, Err(Error::TooLarge { max: 1000 }));
    assert!(splitter.pending.capacity() <= 2000, "what was collected is given back");
}

#[test]
fn an_event_within_a_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"event: message\ndata: {\"a\":1}\n\n");
    let mut splitter = Splitter::new(MAX);
    splitter.feed(chunk.clone());
    let event = splitter.next_event().unwrap().unwrap();
    assert!(chunk.as_ptr_range().contains(&event.data.unwrap().as_ptr()));
    assert_eq!(event.raw, chunk);
}

#[test]
fn an_event_is_a_message_unless_it_says_otherwise() {
    let named = |name: Option<&'static str>| Event { name: name.map(Bytes::from), ..Event::default() };
    assert!(
        named(None).is("message") && named(Some("")).is("message") && named(Some("message")).is("message")
    );
    assert!(named(Some("endpoint")).is("endpoint") && !named(Some("endpoint")).is("message"));
}

#[test]
fn what_is_written_is_read_again() {
    let stream = [
        retry(Duration::from_millis(1500)),
        comment("a\nb"),
        event(Some("1\n\0"), Some("e\r"), b"{}"),
        event(None, None, b"a\r\nb\rc\n"),
        Bytes::from_static(KEEP_ALIVE),
    ]
    .concat();
    let stream = String::from_utf8(stream).unwrap();
    assert!(stream.starts_with("retry: 1500\n\n: ab\n\nid: 1\nevent: e\ndata: {}\n\n"));
    check(
        &stream,
        &[
            (None, None, None, Some(1500)),
            (None, None, None, None),
            (Some("1"), Some("e"), Some("{}"), None),
            (None, None, Some("a\nb\nc\n"), None),
            (None, None, None, None),
        ],
    );
}

#[test]
fn what_was_read_can_be_written_on_as_it_came() {
    let stream = b": c\r\ndata: a\r\n\r\nid: 1\r\ndata: b\r\n\r\n";
    let (events, _) = split(&[stream], MAX);
    let again: Vec<u8> = events.iter().flat_map(|event| event.raw.to_vec()).collect();
    assert_eq!(split(&[&again], MAX), (events, Ok(None)));
}

/// Streams of what matters to the splitter, far more often than bytes at random would have it.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("\n"),
        Just("\r"),
        Just("\r\n"),
        Just("data"),
        Just(": "),
        Just(":"),
        Just("id"),
        Just("retry: 5"),
        Just("event"),
        Just("x"),
        Just("\u{feff}"),
        Just("\0"),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn cuts_change_nothing(stream in streams(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6), max in 1..100_usize) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(split(&chunks, max), split(&[&stream], max));
    }

    #[test]
    fn any_data_without_line_ends_comes_through(data in "[^\r\n]*", id in "[^\r\n\0]*") {
        let (events, end) = split(&[&event(Some(&id), None, data.as_bytes())], MAX);
        prop_assert_eq!(end, Ok(None));
        prop_assert_eq!(plain(&events[0]), (Some(id), None, Some(data), None));
    }
}
