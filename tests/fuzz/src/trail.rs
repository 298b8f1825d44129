//! Segments of audit trails: files that anybody may have changed.

use weft_proto::audit::{Cursor, Line, Review};

/// Whatever is read, reading ends with a report. What follows strictly is found whole, and a line is written as it was
/// read.
pub fn trail(data: &[u8]) {
    let mut seals = |_: &_, _: &_, _: &[String]| Ok(());
    let mut review = Review::new([], &mut seals);
    review.segment(data, true);
    let report = review.finish();
    let mut lines = data.split_inclusive(|it| *it == b'\n').map(|line| line.strip_suffix(b"\n"));
    let mut cursor: Option<Cursor> = None;
    let follows = lines.all(|line| {
        let Some(line) = line else { return true };
        if let Ok(read) = Line::parse(line) {
            let again = Line::parse(&read.encode()).expect("what was written is a line");
            assert_eq!(read, again);
        }
        let begun =
            cursor.take().or_else(|| Line::parse(line).ok().as_ref().and_then(Cursor::before_segment));
        let Some(mut at) = begun else { return false };
        let taken = at.take(line).is_ok();
        cursor = Some(at);
        taken
    });
    let begins = report.first == 1 || report.first == 0;
    if follows && begins && !data.is_empty() {
        // Lines are counted from 1, but may say that they are number 0.
        let is_rewritten = report.findings.len() == 1 && report.lines > 0;
        assert!(report.is_whole() || is_rewritten, "{report:?}");
    }
    if !follows {
        assert!(!report.is_whole(), "{report:?}");
    }
}
