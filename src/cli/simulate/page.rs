//! The report of a simulation as a page for the terminal.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::base::units::{format_duration, format_share};
use crate::exchange::rehearsal::{ANSWER, Chart, Finding, Losses, Probes, Report, Spread};

/// What charts are drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Glyphs {
    Blocks,
    Ascii,
}

impl Glyphs {
    /// Blocks where the locale says UTF-8, as the first of `LC_ALL`, `LC_CTYPE` and `LANG` that is set does (POSIX, 8.2).
    pub(super) fn of_locale() -> Self {
        let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let locale = set.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Blocks } else { Self::Ascii }
    }

    /// From nothing to everything; nothing is only for zero.
    fn ramp(self) -> [char; 9] {
        match self {
            Self::Blocks => [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Self::Ascii => [' ', '.', ':', '-', '=', '+', '*', '%', '#'],
        }
    }
}

/// The whole page.
pub(super) fn page(reports: &[Report], glyphs: Glyphs) -> String {
    let mut page = String::new();
    // A string takes whatever is written to it.
    let _ = reports.iter().enumerate().try_for_each(|(index, report)| {
        page.push_str(if index > 0 { "\n" } else { "" });
        tell(&mut page, report, glyphs)
    });
    page
}

fn tell(page: &mut String, report: &Report, glyphs: Glyphs) -> fmt::Result {
    let Report { upstream, backends, rate, seed, probes, breakdowns } = report;
    match backends {
        1 => writeln!(page, "upstream {upstream}: its only backend breaks down")?,
        _ => writeln!(page, "upstream {upstream}: one of {backends} backends breaks down")?,
    }
    writeln!(
        page,
        "  assumed      {} requests/s, all GET, answered in {}; each try connects anew; seed {seed}",
        number(*rate),
        format_duration(ANSWER)
    )?;
    match probes {
        Some(probes) => tell_probes(page, probes)?,
        None => writeln!(page, "  probes       none (health_check: none)")?,
    }
    breakdowns.iter().try_for_each(|finding| tell_finding(page, finding, glyphs))
}

fn tell_probes(page: &mut String, probes: &Probes) -> fmt::Result {
    let Probes { per_second, loss, false_alarm_a_day } = probes;
    writeln!(page, "  probes       {} a second at each healthy backend", number(*per_second))?;
    writeln!(
        page,
        "  false alarm  a healthy backend that loses {} of its probes is taken out with a chance of {} a day",
        format_share(*loss),
        chance(*false_alarm_a_day)
    )
}

fn tell_finding(page: &mut String, finding: &Finding, glyphs: Glyphs) -> fmt::Result {
    let outage = format_duration(finding.outage);
    writeln!(page, "\n{}: {}, for {outage}", finding.failure, finding.story)?;
    writeln!(page, "{:30}{:>9}{:>9}", "", "p50", "p99")?;
    if let Some(spread) = &finding.by_probes {
        tell_spread(page, "out of use, by probes alone", spread)?;
    }
    tell_spread(page, "out of use, with requests too", &finding.in_use)?;
    tell_spread(page, "whole traffic, after its end", &finding.recovery)?;
    writeln!(page, "\n{:30}{:>9}{:>9}{:>16}{:>15}", "", "lost", "of", "tried again", "longest wait")?;
    finding.losses.iter().try_for_each(|losses| tell_losses(page, losses))?;
    writeln!(page)?;
    draw(page, &finding.chart, glyphs)
}

fn tell_spread(page: &mut String, what: &str, spread: &Spread) -> fmt::Result {
    let Spread { runs, seen, p50, p99 } = spread;
    write!(page, "  {what:28}{:>9}{:>9}", maybe(*p50), maybe(*p99))?;
    match (seen, runs) {
        (0, 0) => writeln!(page, "   it was never out of use"),
        (0, runs) => writeln!(page, "   in none of {runs} runs"),
        (seen, runs) if seen < runs => writeln!(page, "   in {seen} of {runs} runs"),
        (_, runs) => writeln!(page, "   in all of {runs} runs"),
    }
}

fn tell_losses(page: &mut String, losses: &Losses) -> fmt::Result {
    let what = match (losses.retries, losses.ejection) {
        (false, false) => "one try only",
        (true, false) => "with retries",
        (false, true) => "with ejection",
        (true, true) => "with both",
    };
    let Losses { lost, exposed, saved, longest_wait, .. } = losses;
    let cells = [number(*lost), number(*exposed), number(*saved), time(*longest_wait)];
    writeln!(page, "  {what:28}{:>9}{:>9}{:>16}{:>15}", cells[0], cells[1], cells[2], cells[3])
}

fn draw(page: &mut String, chart: &Chart, glyphs: Glyphs) -> fmt::Result {
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (share, lost) = (most(&chart.share), most(&chart.lost_bare).max(most(&chart.lost)));
    let share_text = format!("{}%", number(share * 100.0));
    writeln!(page, "  tries at it   |{}| at most {share_text}", line(&chart.share, share, glyphs))?;
    writeln!(page, "  lost, bare    |{}| at most {}/s", line(&chart.lost_bare, lost, glyphs), number(lost))?;
    writeln!(page, "  lost          |{}| on the same scale", line(&chart.lost, lost, glyphs))?;
    let at = (chart.lead.as_secs_f64() / chart.length.as_secs_f64() * chart.share.len() as f64) as usize;
    let length = format_duration(whole_seconds(chart.length));
    writeln!(page, "  {:15}{:at$}^ it breaks down; the line is {length}", "", "")
}

/// One line of a chart, whose greatest value is `most`.
fn line(values: &[f64], most: f64, glyphs: Glyphs) -> String {
    let ramp = glyphs.ramp();
    let glyph = |value: &f64| match value / most {
        part if part > 0.0 => ramp[((part * 8.0).ceil() as usize).min(8)],
        _ => ramp[0],
    };
    values.iter().map(glyph).collect()
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn maybe(time_or_never: Option<Duration>) -> String {
    time_or_never.map_or_else(|| "-".to_owned(), time)
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.001 => "0s".to_owned(),
        seconds if seconds < 1.0 => format!("{:.0}ms", seconds * 1000.0),
        seconds => format!("{seconds:.1}s"),
    }
}

/// Three digits or more, no more of them behind the point than that.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value >= 99.95 || value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

fn chance(chance: f64) -> String {
    match chance * 100.0 {
        0.0 => "0%".to_owned(),
        percent if percent < 0.01 => "less than 0.01%".to_owned(),
        percent => format!("{percent:.2}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_least_loss_and_nothing_where_there_is_none() {
        assert_eq!(line(&[0.0, 0.001, 0.5, 1.0], 1.0, Glyphs::Blocks), " ▁▄█");
        assert_eq!(line(&[0.0, 0.001, 0.5, 1.0], 1.0, Glyphs::Ascii), " .=#");
        assert_eq!(line(&[0.0, 0.0], 0.0, Glyphs::Ascii), "  ");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.1, 0.004, 7.333, 20.0, 33.33, 2000.4].map(number),
            ["0", "0.1", "0", "7.33", "20", "33.3", "2000"]
        );
        assert_eq!(
            [0, 999, 1_500, 12_345].map(|millis| time(Duration::from_millis(millis))),
            ["0s", "999ms", "1.5s", "12.3s"]
        );
        assert_eq!([0.0, 0.00001, 0.0086].map(chance), ["0%", "less than 0.01%", "0.86%"]);
    }
}
