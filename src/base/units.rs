//! Units as people write them: durations (`1h30m`), sizes (`64KiB`), shares (`20%`), rates (`100/s`).
//!
//! Each kind is read strictly, with a remedy in every refusal, and written back in the shortest form. Pure text: no key
//! of the configuration is known here.

use std::time::Duration;

/// Why a text could not be read, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault} ({remedy})")]
pub struct Misread {
    /// What is wrong, in lower case.
    pub fault: String,
    /// What to write instead.
    pub remedy: String,
}

impl Misread {
    /// A fault with its remedy.
    #[must_use]
    pub fn new(fault: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fault: fault.into(), remedy: remedy.into() }
    }
}

/// The longest duration that is accepted: ten years.
pub const LONGEST: Duration = Duration::from_secs(3_653 * 24 * 3_600);

const HOUR_MS: u64 = 3_600_000;
const TIME_UNITS: [(&str, u64); 4] = [("h", HOUR_MS), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration: whole numbers of `h`, `m`, `s` and `ms`, each at most once and in this order.
///
/// # Errors
/// Where the text is no duration, lacks a unit, or is longer than [`LONGEST`].
pub fn parse_duration(text: &str) -> Result<Duration, Misread> {
    let wrong = || Misread::new(format!("`{text}` is not a duration"), "write it like `250ms`, `10s`, `5m` or `1h30m`");
    if is_number(text) {
        return Err(Misread::new(format!("`{text}` has no unit"), format!("write `{text}s`")));
    }
    let too_long = || Misread::new(format!("`{text}` is too long"), "write at most ten years");
    let mut rest = text;
    let mut units = TIME_UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (digits, unit, after) = split_number(rest).ok_or_else(wrong)?;
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let count: u64 = digits.parse().map_err(|_| too_long())?;
        total = count.checked_mul(*factor).and_then(|part| total.checked_add(part)).ok_or_else(too_long)?;
        rest = after;
    }
    match Duration::from_millis(total) {
        _ if text.is_empty() => Err(wrong()),
        duration if duration > LONGEST => Err(too_long()),
        duration => Ok(duration),
    }
}

/// Writes a duration as [`parse_duration`] reads it, in whole milliseconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, factor) in TIME_UNITS {
        let count = rest / factor;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
        }
        rest %= factor;
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads a size in bytes: a whole number of `B`, `KiB`, `MiB`, `GiB` or `TiB`.
///
/// # Errors
/// Where the text is no size, lacks a unit, uses a decimal unit, or is beyond 2^63 - 1 bytes.
pub fn parse_size(text: &str) -> Result<u64, Misread> {
    if is_number(text) {
        return Err(Misread::new(format!("`{text}` has no unit"), format!("write `{text}B`, or `KiB`, `MiB`, `GiB`")));
    }
    let wrong = || Misread::new(format!("`{text}` is not a size"), "write it like `100B`, `64KiB`, `1MiB` or `2GiB`");
    let (digits, unit, after) = split_number(text).ok_or_else(wrong)?;
    if !after.is_empty() {
        return Err(wrong());
    }
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(binary_unit(unit).map_or_else(wrong, |better| {
            Misread::new(format!("`{text}` is not a size"), format!("write `{digits}{better}`"))
        }));
    };
    let size = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(*factor));
    size.filter(|size| *size <= i64::MAX as u64)
        .ok_or_else(|| Misread::new(format!("`{text}` is too large"), "write less than 8388608TiB"))
}

/// Writes a size as [`parse_size`] reads it, in the largest unit that divides it.
#[must_use]
pub fn format_size(size: u64) -> String {
    let fitting = SIZE_UNITS.iter().find(|(_, factor)| size > 0 && size.is_multiple_of(*factor));
    fitting.map_or_else(|| format!("{size}B"), |(name, factor)| format!("{}{name}", size / factor))
}

/// Reads a share: a decimal number from 0 to 100 with `%`; returns it as 0.0 to 1.0.
///
/// # Errors
/// Where the text is no such share.
pub fn parse_share(text: &str) -> Result<f64, Misread> {
    let number = text.strip_suffix('%').map(str::trim_end);
    let Some(number) = number.filter(|number| is_decimal(number)) else {
        let remedy = match text.parse::<f64>() {
            // `0.2` was meant as a part of one.
            Ok(part) if is_decimal(text) && part < 1.0 && part > 0.0 => format!("write `{}`", format_share(part)),
            Ok(_) if is_decimal(text) => format!("write `{text}%`"),
            _ => "write it like `20%`".to_owned(),
        };
        return Err(Misread::new(format!("`{text}` is not a share"), remedy));
    };
    match number.parse::<f64>() {
        Ok(percent) if percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(Misread::new(format!("`{text}` is more than everything"), "write at most `100%`")),
    }
}

/// Writes a share as [`parse_share`] reads it, to a ten-thousandth of a percent.
#[must_use]
pub fn format_share(share: f64) -> String {
    let text = format!("{:.4}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Reads a rate, such as `100/s`, `30/m` or `1000/h`: how many, and in what time.
///
/// # Errors
/// Where the text is no rate, or the number is zero.
pub fn parse_rate(text: &str) -> Result<(u64, Duration), Misread> {
    let wrong = || Misread::new(format!("`{text}` is not a rate"), "write it like `100/s`, `30/m` or `1000/h`");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let (_, factor) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    match count.parse::<u32>() {
        Ok(count) if count > 0 && unit != "ms" => Ok((u64::from(count), Duration::from_millis(*factor))),
        _ => Err(wrong()),
    }
}

/// Writes a rate as [`parse_rate`] reads it; the time is a second, a minute or an hour.
#[must_use]
pub fn format_rate(count: u64, per: Duration) -> String {
    let unit = TIME_UNITS.iter().find(|(_, factor)| u128::from(*factor) <= per.as_millis());
    format!("{count}/{}", unit.map_or("s", |(name, _)| name))
}

/// Splits `10s5ms` into `10`, `s` and `5ms`; none where it does not begin with a digit and a unit.
fn split_number(text: &str) -> Option<(&str, &str, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
    let (digits, rest) = text.split_at(unit_at);
    let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    Some((digits, unit, after))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_decimal(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    is_number(whole) && is_number(fraction)
}

fn binary_unit(unit: &str) -> Option<&'static str> {
    let better = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        "t" | "tb" | "tib" => "TiB",
        "b" | "bytes" => "B",
        _ => return None,
    };
    Some(better)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn durations_are_read_as_the_manual_writes_them() {
        for (text, expected) in
            [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h30m", 5_400_000), ("0s", 0), ("1m5ms", 60_005)]
        {
            assert_eq!(parse_duration(text), Ok(ms(expected)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_its_unit() {
        assert_eq!(parse_duration("10").unwrap_err().remedy, "write `10s`");
        assert!(parse_size("10").unwrap_err().remedy.starts_with("write `10B`"));
        assert_eq!(parse_share("20").unwrap_err().remedy, "write `20%`");
        assert_eq!(parse_share("0.2").unwrap_err().remedy, "write `20%`");
        assert_eq!(parse_size("64KB").unwrap_err().remedy, "write `64KiB`");
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in ["", "s", "10x", "5m1h", "1s1s", "1.5s", "-1s", "1 s", "99999999999999999999s", "999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "B", "1KiB1B", "1.5MiB", "9999999999TiB", "-1B"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["", "%", "101%", "-1%", "1e1%", "nan%", ".5%"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
        for text in ["", "/s", "0/s", "10", "10/ms", "10/d", "-1/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["100/s", "30/m", "1/h"] {
            assert_eq!(parse_rate(text).map(|(count, per)| format_rate(count, per)).as_deref(), Ok(text));
        }
        assert_eq!(parse_rate("30/m"), Ok((30, ms(60_000))));
    }

    proptest! {
        #[test]
        fn a_duration_written_is_read_back(count in 0..=u64::try_from(LONGEST.as_millis()).unwrap()) {
            prop_assert_eq!(parse_duration(&format_duration(ms(count))), Ok(ms(count)));
        }

        #[test]
        fn a_size_written_is_read_back(size in 0..=i64::MAX as u64) {
            prop_assert_eq!(parse_size(&format_size(size)), Ok(size));
        }

        #[test]
        fn a_share_written_is_read_back(parts in 0..=1_000_000u32) {
            let share = f64::from(parts) / 1_000_000.0;
            let read = parse_share(&format_share(share)).unwrap();
            prop_assert!((read - share).abs() < 1e-9);
        }

        #[test]
        fn no_text_makes_a_unit_panic(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text), parse_share(&text), parse_rate(&text));
        }
    }
}
