//! How things are drawn: inks, letters that a terminal has, numbers and curves as text.

use ratatui::style::{Color, Modifier, Style};

use crate::cli::screen::{Ink, span};

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether colours are wanted. Nothing is told by colour alone.
    pub(super) colours: bool,
    pub(super) letters: Letters,
}

/// The letters that a terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letters {
    Unicode,
    Ascii,
}

impl Letters {
    /// As the locale has them (POSIX: the first of these that is set decides).
    pub(super) fn of_locale(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
        match locale.contains("utf-8") || locale.contains("utf8") {
            true => Self::Unicode,
            false => Self::Ascii,
        }
    }

    /// Nothing, and eight heights from the ground up.
    const fn heights(self) -> [char; 9] {
        match self {
            Self::Unicode => [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Self::Ascii => [' ', '_', '.', ':', '-', '=', '+', '*', '#'],
        }
    }

    pub(super) const fn rule(self) -> char {
        match self {
            Self::Unicode => '─',
            Self::Ascii => '-',
        }
    }

    pub(super) const fn dot(self) -> &'static str {
        match self {
            Self::Unicode => " · ",
            Self::Ascii => ", ",
        }
    }

    /// The mark of a column that rows are sorted by, what there is most of first or last.
    pub(super) const fn sorted(self, reversed: bool) -> char {
        match (self, reversed) {
            (Self::Unicode, false) => '▼',
            (Self::Unicode, true) => '▲',
            (Self::Ascii, false) => 'v',
            (Self::Ascii, true) => '^',
        }
    }

    pub(super) const fn arrows(self) -> &'static str {
        match self {
            Self::Unicode => "↑↓",
            Self::Ascii => "up/down",
        }
    }
}

impl Look {
    pub(super) fn style(self, ink: Ink) -> Style {
        let (colour, modifier) = match ink {
            Ink::Plain => (None, Modifier::empty()),
            Ink::Heading => (None, Modifier::BOLD),
            Ink::Good => (Some(Color::Green), Modifier::empty()),
            Ink::Warn => (Some(Color::Yellow), Modifier::empty()),
            Ink::Bad => (Some(Color::Red), Modifier::BOLD),
            Ink::Faint => (None, Modifier::DIM),
        };
        let style = Style::new().add_modifier(modifier);
        match colour {
            Some(colour) if self.colours => style.fg(colour),
            _ => style,
        }
    }
}

/// A curve, a letter a cell. What is nothing lies on the ground; what is anything stands above it; what is unknown is blank.
pub(super) fn curve(cells: &[Option<f64>], most: f64, letters: Letters) -> String {
    let heights = letters.heights();
    let letter = |cell: &Option<f64>| match *cell {
        None => heights[0],
        Some(value) if value <= 0.0 || most <= 0.0 => heights[1],
        Some(value) => heights[2 + ((value / most).min(1.0) * 6.0).round() as usize],
    };
    cells.iter().map(letter).collect()
}

/// How the samples of a cell become one value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fold {
    Mean,
    Peak,
}

/// Samples, each with its second, in `width` cells of `step` seconds, the newest cell holding the second `newest`. The bounds of
/// cells stand still as time goes on, so that a curve moves without changing its shape.
pub(super) fn cells(
    samples: impl Iterator<Item = (u64, f64)>,
    newest: u64,
    step: u64,
    width: usize,
    fold: Fold,
) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0_f64, 0_u32); width];
    for (second, value) in samples {
        let age = (newest / step).saturating_sub(second / step) as usize;
        if let Some((sum, count)) = width.checked_sub(age + 1).and_then(|cell| sums.get_mut(cell)) {
            *count += 1;
            *sum = match fold {
                Fold::Mean => *sum + value,
                Fold::Peak => sum.max(value),
            };
        }
    }
    let value = |(sum, count): (f64, u32)| match (count, fold) {
        (0, _) => None,
        (_, Fold::Mean) => Some(sum / f64::from(count)),
        (_, Fold::Peak) => Some(sum),
    };
    sums.into_iter().map(value).collect()
}

/// A count in five letters or fewer.
pub(super) fn count(value: u64) -> String {
    match value {
        ..100_000 => value.to_string(),
        _ => short(value as f64),
    }
}

/// A rate in five letters or fewer.
pub(super) fn short(value: f64) -> String {
    match value {
        ..0.005 => "0".to_owned(),
        ..0.995 => format!("{value:.2}"),
        ..9.95 => format!("{value:.1}"),
        ..99_999.5 => format!("{value:.0}"),
        ..9_999_500.0 => format!("{:.0}k", value / 1e3),
        _ => format!("{:.0}M", value / 1e6),
    }
}

/// Milliseconds in six letters or fewer.
pub(super) fn millis(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(ms @ ..9.95) => format!("{ms:.1}ms"),
        Some(ms @ ..9_999.5) => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.0}s", ms / 1e3),
    }
}

/// How long before `now` a time was.
pub(super) fn since(then: Option<jiff::Timestamp>, now: jiff::Timestamp) -> String {
    then.map_or_else(|| "-".to_owned(), |then| span(now.as_second().saturating_sub(then.as_second()).max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_tells_nothing_little_and_unknown_apart() {
        let cells = [None, Some(0.0), Some(0.01), Some(5.0), Some(10.0), Some(99.0)];
        assert_eq!(curve(&cells, 10.0, Letters::Unicode), " ▁▂▅██");
        assert_eq!(curve(&cells, 10.0, Letters::Ascii), " _.=##");
        assert_eq!(curve(&[Some(0.0)], 0.0, Letters::Ascii), "_");
    }

    #[test]
    fn cells_keep_their_bounds_as_time_goes_on() {
        let samples = |from: u64, to: u64| (from..to).map(|second| (second, second as f64));
        let means = |newest| cells(samples(0, newest + 1), newest, 10, 3, Fold::Mean);
        assert_eq!(means(29), [Some(4.5), Some(14.5), Some(24.5)]);
        assert_eq!(means(30), [Some(14.5), Some(24.5), Some(30.0)]);
        assert_eq!(cells(samples(0, 10), 9, 10, 2, Fold::Peak), [None, Some(9.0)]);
        assert_eq!(cells(samples(0, 10), 9, 10, 0, Fold::Peak), []);
    }

    #[test]
    fn numbers_fit_their_columns() {
        for (value, told) in
            [(0.0, "0"), (0.333, "0.33"), (4.0, "4.0"), (412.4, "412"), (123_456.0, "123k"), (2e8, "200M")]
        {
            assert_eq!(short(value), told);
            assert!(told.len() <= 5);
        }
        for (value, told) in [(None, "-"), (Some(0.25), "0.2ms"), (Some(9_999.0), "9999ms"), (Some(60_000.0), "60s")] {
            assert_eq!(millis(value), told);
            assert!(told.len() <= 6);
        }
    }

    #[test]
    fn the_locale_says_which_letters_there_are() {
        let locale = |name: &'static str, value: &'static str| {
            Letters::of_locale(move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert_eq!(locale("LANG", "de_DE.UTF-8"), Letters::Unicode);
        assert_eq!(locale("LC_ALL", "C.utf8"), Letters::Unicode);
        assert_eq!(locale("LANG", "C"), Letters::Ascii);
    }
}
