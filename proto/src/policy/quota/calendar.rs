//! Windows that begin with the calendar: a day or a month of a time zone.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan as _, Zoned, civil};

use crate::resource::units::CalendarWindow;

/// A time zone that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time zone is unknown; expected a name of the IANA database such as Europe/Vienna")]
pub struct UnknownZone;

/// The windows of a budget.
#[derive(Clone, Debug)]
pub struct Calendar {
    pub window: CalendarWindow,
    zone: TimeZone,
}

/// From its first second to the one after its last, counted from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub begins: i64,
    pub ends: i64,
}

impl Calendar {
    /// With the zones that are built in, so that both planes know the same.
    pub fn new(window: CalendarWindow, zone: Option<&str>) -> Result<Self, UnknownZone> {
        let zone = match zone {
            None => TimeZone::UTC,
            Some(zone) => TimeZoneDatabase::bundled().get(zone).map_err(|_| UnknownZone)?,
        };
        Ok(Self { window, zone })
    }

    /// The window that a moment lies in.
    pub fn at(&self, unix_secs: i64) -> Window {
        let moment = Timestamp::from_second(unix_secs).unwrap_or(Timestamp::UNIX_EPOCH);
        // Times that the calendar does not reach are in a window of their own.
        self.window_of(&moment.to_zoned(self.zone.clone()))
            .unwrap_or(Window { begins: i64::MIN, ends: i64::MAX })
    }

    fn window_of(&self, moment: &Zoned) -> Option<Window> {
        let date = moment.date();
        let (first, next) = match self.window {
            CalendarWindow::Day => (date, date.tomorrow().ok()?),
            CalendarWindow::Month => {
                let first = date.first_of_month();
                (first, first.checked_add(1.month()).ok()?)
            }
        };
        Some(Window { begins: self.midnight(first)?, ends: self.midnight(next)? })
    }

    /// The first second of a day; where the clocks skip it, the first that there is.
    fn midnight(&self, date: civil::Date) -> Option<i64> {
        Some(date.to_zoned(self.zone.clone()).ok()?.timestamp().as_second())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[track_caller]
    fn check(window: CalendarWindow, zone: &str, at: &str, begins: &str, ends: &str) {
        let calendar = Calendar::new(window, Some(zone)).unwrap();
        let expected = Window { begins: secs(begins), ends: secs(ends) };
        assert_eq!(calendar.at(secs(at)), expected, "{at} in {zone}");
        assert_eq!(calendar.at(expected.begins), expected);
        assert_eq!(calendar.at(expected.ends - 1), expected);
        assert_eq!(calendar.at(expected.ends).begins, expected.ends);
    }

    #[test]
    fn days_and_months_begin_at_midnight_of_their_zone() {
        use CalendarWindow::{Day, Month};
        check(Day, "UTC", "2026-11-27T07:00:00Z", "2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z");
        check(Day, "Asia/Tokyo", "2026-11-27T16:00:00Z", "2026-11-27T15:00:00Z", "2026-11-28T15:00:00Z");
        check(Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        check(Month, "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z");
        check(
            Month,
            "America/New_York",
            "2026-04-01T03:59:59Z",
            "2026-03-01T05:00:00Z",
            "2026-04-01T04:00:00Z",
        );
    }

    #[test]
    fn days_on_which_clocks_change_are_shorter_or_longer() {
        use CalendarWindow::Day;
        check(Day, "Europe/Vienna", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        check(Day, "Europe/Vienna", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        // Midnight itself is skipped, or comes twice.
        check(
            Day,
            "America/Sao_Paulo",
            "2018-11-04T12:00:00Z",
            "2018-11-04T03:00:00Z",
            "2018-11-05T02:00:00Z",
        );
        check(Day, "America/Havana", "2024-11-03T12:00:00Z", "2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z");
        // A whole day is skipped.
        check(Day, "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z");
    }

    #[test]
    fn a_zone_that_does_not_exist_is_refused() {
        for zone in ["", "Mars/Olympus", "../etc/passwd", "+02:00"] {
            assert!(Calendar::new(CalendarWindow::Day, Some(zone)).is_err(), "{zone:?}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_its_window_and_windows_follow_each_other(
            at in 0..4_000_000_000i64,
            zone in prop::sample::select(vec!["UTC", "Europe/Vienna", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Tehran"]),
            month in any::<bool>(),
        ) {
            let window = if month { CalendarWindow::Month } else { CalendarWindow::Day };
            let calendar = Calendar::new(window, Some(zone)).unwrap();
            let window = calendar.at(at);
            prop_assert!(window.begins <= at && at < window.ends);
            prop_assert_eq!(calendar.at(window.ends).begins, window.ends);
            prop_assert_eq!(calendar.at(window.begins - 1).ends, window.begins);
        }
    }
}
