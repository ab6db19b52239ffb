//! Times at which a function keeps more instances warm: cron patterns in a time zone.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Why a window cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidWindow {
    /// The pattern is no cron pattern of five fields; the parser's own words.
    Pattern(String),
    /// The time zone database has no zone of this name.
    Zone(String),
}

impl std::fmt::Display for InvalidWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pattern(problem) => write!(f, "no cron pattern of five fields: {problem}"),
            Self::Zone(name) => write!(f, "no time zone {name:?}; write for example Europe/Paris"),
        }
    }
}

impl std::error::Error for InvalidWindow {}

/// A window of a schedule.
#[derive(Debug, Clone)]
pub struct Window {
    start: Cron,
    zone: TimeZone,
    length: SignedDuration,
    least: u32,
}

impl Window {
    /// Opens whenever `start` (minute, hour, day, month, weekday) says so on the clock of `zone`, for `length` of real time,
    /// and asks for `least` instances. What a change of the clock leaves out opens right after it; what it repeats opens once.
    ///
    /// # Errors
    /// When pattern or zone cannot be read.
    pub fn new(
        start: &str,
        zone: &str,
        length: Duration,
        least: u32,
    ) -> Result<Self, InvalidWindow> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let pattern = |error: croner::errors::CronError| InvalidWindow::Pattern(error.to_string());
        Ok(Self {
            start: parser.parse(start).map_err(pattern)?,
            zone: TimeZone::get(zone).map_err(|_| InvalidWindow::Zone(zone.to_owned()))?,
            length: SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX),
            least,
        })
    }

    /// Instances that the window asks for at this time: none while it is closed.
    pub fn least(&self, now: Timestamp) -> u32 {
        let now = now.to_zoned(self.zone.clone());
        // A pattern that never comes has no last time.
        let opened = self.start.find_previous_occurrence(&now, true);
        let is_open = opened.is_ok_and(|opened| now.duration_since(&opened) < self.length);
        if is_open { self.least } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start: &str, zone: &str, hours: u64, now: &str, expected: bool) {
        let window = Window::new(start, zone, Duration::from_secs(hours * 3600), 5).unwrap();
        let least = window.least(now.parse().unwrap());
        assert_eq!(
            least,
            if expected { 5 } else { 0 },
            "{start} {zone} at {now}"
        );
    }

    #[test]
    fn a_window_is_open_from_its_start_for_its_length() {
        let workdays = "0 8 * * 1-5";
        // A Monday.
        check(workdays, "Europe/Paris", 10, "2026-03-02T06:59:59Z", false);
        check(workdays, "Europe/Paris", 10, "2026-03-02T07:00:00Z", true);
        check(workdays, "Europe/Paris", 10, "2026-03-02T16:59:59Z", true);
        check(workdays, "Europe/Paris", 10, "2026-03-02T17:00:00Z", false);
        // In summer the clock is one hour ahead.
        check(workdays, "Europe/Paris", 10, "2026-06-01T06:00:00Z", true);
        check(workdays, "Europe/Paris", 10, "2026-06-01T16:00:00Z", false);
        check(workdays, "UTC", 10, "2026-03-02T07:30:00Z", false);
        // A Sunday; and a window that is open over midnight.
        check(workdays, "UTC", 10, "2026-03-01T09:00:00Z", false);
        check("0 22 * * *", "UTC", 8, "2026-03-01T05:00:00Z", true);
    }

    #[test]
    fn a_start_that_the_clock_leaves_out_is_not_left_out() {
        // At 2:00 the clock goes to 3:00.
        check(
            "30 2 * * *",
            "Europe/Paris",
            2,
            "2026-03-29T01:05:00Z",
            true,
        );
        // At 3:00 it goes back to 2:00: open once, for its length.
        check(
            "30 2 * * *",
            "Europe/Paris",
            2,
            "2026-10-25T02:29:00Z",
            true,
        );
        check(
            "30 2 * * *",
            "Europe/Paris",
            2,
            "2026-10-25T03:31:00Z",
            false,
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let new = |start: &str, zone: &str| Window::new(start, zone, Duration::ZERO, 1);
        for start in [
            "",
            "soon",
            "0 8 * *",
            "0 0 8 * * *",
            "99 8 * * *",
            "@daily x",
        ] {
            let error = new(start, "UTC").unwrap_err();
            assert!(
                matches!(error, InvalidWindow::Pattern(_)),
                "{start}: {error}"
            );
        }
        let error = new("0 8 * * *", "Europe/Nowhere").unwrap_err();
        assert!(error.to_string().contains("Europe/Nowhere"));
    }
}
