//! Moments and lengths of time, as people read them. The present moment is handed in.

use jiff::Timestamp;

/// A length in its largest fitting unit: `45s`, `12m`, `30h`, `9d`.
pub(crate) fn length(secs: i64) -> String {
    const UNITS: [(i64, i64, char); 3] = [(120, 1, 's'), (7200, 60, 'm'), (172_800, 3600, 'h')];
    let secs = secs.max(0);
    let unit = UNITS.iter().find(|(below, _, _)| secs < *below);
    unit.map_or_else(|| format!("{}d", secs / 86_400), |(_, size, unit)| format!("{}{unit}", secs / size))
}

/// Seconds from now until a moment; negative if it is past. None if the text is no moment.
pub(crate) fn until(moment: &str, now: Timestamp) -> Option<i64> {
    let moment: Timestamp = moment.parse().ok()?;
    Some(moment.as_second().saturating_sub(now.as_second()))
}

/// When something ends: `in 12h`, or `expired 5m ago`.
pub(crate) fn expiry(moment: &str, now: Timestamp) -> String {
    match until(moment, now) {
        Some(secs) if secs > 0 => format!("in {}", length(secs)),
        Some(secs) => format!("expired {} ago", length(-secs)),
        None => moment.to_owned(),
    }
}

/// How long ago something was.
pub(crate) fn ago(moment: &str, now: Timestamp) -> String {
    match until(moment, now) {
        Some(secs) => format!("{} ago", length(-secs)),
        None => moment.to_owned(),
    }
}

/// A moment to the second, in UTC.
pub(crate) fn second(moment: &str) -> String {
    let parsed = moment.parse::<Timestamp>().ok().and_then(|at| Timestamp::from_second(at.as_second()).ok());
    parsed.map_or_else(|| moment.to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_the_largest_fitting_unit() {
        let check = |secs, expected| assert_eq!(length(secs), expected);
        check(-5, "0s");
        check(119, "119s");
        check(120, "2m");
        check(7199, "119m");
        check(7200, "2h");
        check(172_799, "47h");
        check(172_800, "2d");
    }

    #[test]
    fn moments_are_told_relative_to_now() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        assert_eq!(expiry("2026-05-02T00:00:00Z", now), "in 12h");
        assert_eq!(expiry("2026-05-01T11:55:00Z", now), "expired 5m ago");
        assert_eq!(expiry("someday", now), "someday");
        assert_eq!(ago("2026-05-01T11:59:30.5Z", now), "30s ago");
        assert_eq!(second("2026-05-01T11:59:30.123456Z"), "2026-05-01T11:59:30Z");
    }
}
