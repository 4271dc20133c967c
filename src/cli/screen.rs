//! What commands print for people: words in colour, columns, and nothing that a terminal could take for a command.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use serde_json::Value;

/// How a word is shown (ECMA-48 SGR).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Heading,
    Good,
    Warn,
    Bad,
    Faint,
}

/// Whether colours are used: only on a terminal, and never with `NO_COLOR` (no-color.org).
#[derive(Debug, Clone, Copy)]
pub(super) struct Colours(bool);

impl Colours {
    /// As stdout and the environment want it.
    pub(super) fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self(wanted && io::stdout().is_terminal())
    }

    /// Whether there are any.
    pub(super) fn any(self) -> bool {
        self.0
    }

    /// `text` in this ink.
    pub(super) fn ink(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Heading => "1",
            Ink::Good => "32",
            Ink::Warn => "33",
            Ink::Bad => "31",
            Ink::Faint => "2",
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The ink of a backend's state.
pub(super) fn state_ink(state: &str) -> Ink {
    match state {
        "healthy" => Ink::Good,
        "unhealthy" | "ejected" => Ink::Bad,
        "slow_start" | "draining" | "probing" => Ink::Warn,
        _ => Ink::Faint,
    }
}

/// The ink of a status.
pub(super) fn status_ink(status: u64) -> Ink {
    match status {
        500.. => Ink::Bad,
        400.. => Ink::Warn,
        _ => Ink::Good,
    }
}

/// Columns as wide as their widest cell, two spaces apart; the last one is not filled up.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<(String, Ink)>>,
}

impl Table {
    /// A table under these headings.
    pub(super) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| ((*heading).to_owned(), Ink::Faint)).collect()] }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = (String, Ink)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, each line begun with `indent`.
    pub(super) fn render(&self, indent: &str, colours: Colours) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| wide(&cell.0)).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (column, (cell, ink)) in row.iter().enumerate() {
                line.push_str(&colours.ink(*ink, cell));
                if column + 1 < row.len() {
                    line.extend(std::iter::repeat_n(' ', widths[column].saturating_sub(wide(cell)) + 2));
                }
            }
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

fn wide(text: &str) -> usize {
    text.chars().count()
}

/// The text of a JSON value, fit for a terminal: control characters, which a client may have sent, are escaped.
pub(super) fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().fold(String::with_capacity(text.len()), |mut clean, letter| {
        if letter.is_control() {
            clean.extend(letter.escape_default());
        } else {
            clean.push(letter);
        }
        clean
    })
}

/// Milliseconds as people read them.
pub(super) fn millis(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(ms @ 1000.0..) => format!("{:.2} s", ms / 1000.0),
        Some(ms @ 10.0..) => format!("{ms:.0} ms"),
        Some(ms) => format!("{ms:.1} ms"),
    }
}

/// How long ago an RFC 3339 time was, in its largest unit.
pub(super) fn ago(value: &Value) -> String {
    let then = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let Some(then) = then else { return "-".to_owned() };
    span(jiff::Timestamp::now().as_second().saturating_sub(then.as_second()).max(0))
}

/// Seconds in their largest unit.
pub(super) fn span(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["A", "LONGER", "C"]);
        table.row([("wider".into(), Ink::Good), ("é".into(), Ink::Plain), ("end".into(), Ink::Plain)]);
        assert_eq!(table.render("  ", Colours(false)), "  A      LONGER  C\n  wider  é       end\n");
    }

    #[test]
    fn nothing_that_a_client_sent_commands_the_terminal() {
        assert_eq!(text(&json!("a\u{1b}[2Jb\n")), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn times_are_told_in_a_unit_that_people_read() {
        for (ms, told) in [(0.25, "0.2 ms"), (12.3, "12 ms"), (2500.0, "2.50 s")] {
            assert_eq!(millis(&json!(ms)), told);
        }
        assert_eq!(ago(&json!("2020-01-01T00:00:00Z")).chars().last(), Some('d'));
        assert_eq!(ago(&Value::Null), "-");
    }
}
