//! The time of a line as text. Many lines share a second, which is worked out once.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::format::{padded, time_of_day};

/// The second that was written last, as text. Each thread that writes lines has one.
#[derive(Debug)]
pub struct Second {
    /// Seconds since the epoch; none before the first.
    number: Option<u64>,
    /// `2026-01-31T12:00:00`
    text: [u8; 19],
}

impl Default for Second {
    fn default() -> Self {
        Self::new()
    }
}

impl Second {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { number: None, text: [0; 19] }
    }

    /// Appends `2026-01-31T12:00:00.123Z` (RFC 3339, section 5.6).
    pub(super) fn rfc3339(&mut self, line: &mut Vec<u8>, time: SystemTime) {
        let Ok(since) = time.duration_since(UNIX_EPOCH) else {
            line.extend_from_slice(&civil(time));
            return padded_millis(line, Offset::UTC.to_datetime(timestamp(time)).millisecond().unsigned_abs().into());
        };
        if self.number != Some(since.as_secs()) {
            self.text = civil(time);
            self.number = Some(since.as_secs());
        }
        line.extend_from_slice(&self.text);
        padded_millis(line, since.subsec_millis());
    }
}

fn padded_millis(line: &mut Vec<u8>, millis: u32) {
    line.push(b'.');
    padded(line, millis, 3);
    line.push(b'Z');
}

fn civil(time: SystemTime) -> [u8; 19] {
    let civil = Offset::UTC.to_datetime(timestamp(time));
    let mut text = Vec::with_capacity(19);
    date(&mut text, &civil);
    text.push(b'T');
    time_of_day(&mut text, &civil);
    // Each part is padded to its width, and so the whole has its own.
    text.try_into().unwrap_or([b'-'; 19])
}

fn date(line: &mut Vec<u8>, civil: &DateTime) {
    padded(line, civil.year().unsigned_abs().into(), 4);
    line.push(b'-');
    padded(line, civil.month().unsigned_abs().into(), 2);
    line.push(b'-');
    padded(line, civil.day().unsigned_abs().into(), 2);
}

/// A time that no calendar holds is told as the epoch.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_is_worked_out_anew_when_it_has_passed() {
        let mut second = Second::new();
        let mut line = Vec::new();
        for millis in [1_769_860_800_123, 1_769_860_800_999, 1_769_860_801_000, 1_769_860_799_007] {
            second.rfc3339(&mut line, UNIX_EPOCH + Duration::from_millis(millis));
            line.push(b' ');
        }
        let expected =
            "2026-01-31T12:00:00.123Z 2026-01-31T12:00:00.999Z 2026-01-31T12:00:01.000Z 2026-01-31T11:59:59.007Z ";
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn a_time_beyond_the_calendar_is_the_epoch() {
        let mut line = Vec::new();
        Second::new().rfc3339(&mut line, UNIX_EPOCH + Duration::from_secs(u64::MAX / 8));
        assert!(line.starts_with(b"1970-01-01T00:00:00."));
    }
}
