use proptest::prelude::*;

use super::*;

/// What comes out of a splitter that is given these pieces, one after the other, and then the end. A line that is too
/// long stands as its head with an ellipsis.
fn split(pieces: &[&[u8]], line_bytes_max: usize) -> Vec<String> {
    let mut splitter = Splitter::new(line_bytes_max);
    let mut lines = Vec::new();
    for piece in pieces {
        splitter.buffer().extend_from_slice(piece);
        lines.extend(std::iter::from_fn(|| splitter.next_line()));
        assert!(splitter.buffer.len() <= line_bytes_max + 1, "no more is held than one line");
    }
    lines.extend(splitter.finish());
    assert_eq!(splitter.finish(), None);
    let text = |line: &Bytes| String::from_utf8_lossy(line).into_owned();
    let told = |line: &Line| match line {
        Line::Whole(line) => text(line),
        Line::TooLong(head) => text(head) + "…",
    };
    lines.iter().map(told).collect()
}

#[test]
fn lines_come_out_as_they_went_in() {
    let check =
        |input: &str, expected: &[&str]| assert_eq!(split(&[input.as_bytes()], 8), expected, "{input:?}");
    check("", &[]);
    check("\n\r\n \t\n", &[]);
    check("a\nb\n", &["a", "b"]);
    check("a\r\nb\r\n", &["a", "b"]);
    check("a", &["a"]);
    check("a\nb\r", &["a", "b"]);
    check("a\rb\n", &["a\rb"]);
    check("12345678\n12345678\r\n12345678", &["12345678", "12345678", "12345678"]);
}

#[test]
fn a_line_that_is_too_long_costs_only_itself() {
    let check =
        |input: &str, expected: &[&str]| assert_eq!(split(&[input.as_bytes()], 4), expected, "{input:?}");
    check("12345\na\n", &["1234…", "a"]);
    check("12345\r\na\n", &["1234…", "a"]);
    check("1234567890", &["1234…"]);
    check("a\n1234567890\nb", &["a", "1234…", "b"]);
    let pieces: &[&[u8]] = &[b"12", b"34", b"56", b"78", b"9\nb\n", b"12345", b"67", b""];
    assert_eq!(split(pieces, 4), ["1234…", "b", "1234…"]);
}

#[test]
fn bytes_that_are_no_text_are_passed_on() {
    let mut splitter = Splitter::new(8);
    splitter.buffer().extend_from_slice(b"\xff\0\xfe\nb\n");
    assert_eq!(splitter.next_line(), Some(Line::Whole(Bytes::from_static(b"\xff\0\xfe"))));
    assert_eq!(splitter.next_line(), Some(Line::Whole(Bytes::from_static(b"b"))));
}

proptest! {
    #[test]
    fn it_does_not_matter_how_bytes_arrive(input in "[ab\r\n ]{0,40}", cuts in proptest::collection::vec(0..40_usize, 0..6), max in 1..8_usize) {
        let whole = split(&[input.as_bytes()], max);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &input.as_bytes()[ends[0]..ends[1]]).collect();
        // A line of the largest size and its CR may still turn out to be longer, so that only the lines are compared
        // that are whole either way.
        prop_assert_eq!(split(&pieces, max), whole);
    }
}
