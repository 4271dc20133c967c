//! The backends, under their upstreams or in one list.

use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::Pen;
use crate::cli::screen::{Ink, state_ink};
use crate::cli::top::look::{Fold, cells, count, curve, millis, short, since};
use crate::cli::top::model::Model;
use crate::cli::top::pace::Pace;
use crate::cli::top::report::{Backend, Report, Upstream};
use crate::cli::top::rows::{Row, Sort};

/// The narrowest and the widest column of names.
const NAMES: (usize, usize) = (14, 48);
/// The narrowest and the widest curve.
const CURVES: (usize, usize) = (6, 40);
/// How many seconds a backend's curve goes back.
const MINUTES: u64 = 120;
/// From which width on there is room for counters, and for reasons.
const ROOM_FOR_COUNTS: u16 = 110;
const ROOM_FOR_REASONS: u16 = 150;

/// A column of figures: its heading, its width, and what rows are sorted by when it is marked.
struct Column {
    heading: &'static str,
    width: usize,
    sort: Option<Sort>,
    text: fn(&Model, &Upstream, &Backend) -> String,
}

const FIGURES: [Column; 6] = [
    Column { heading: "FOR", width: 4, sort: None, text: |model, _, backend| since(backend.since, model.wall) },
    Column {
        heading: "REQ/S",
        width: 6,
        sort: Some(Sort::Requests),
        text: |model, upstream, backend| rate(pace(model, upstream, backend).and_then(Pace::requests)),
    },
    Column {
        heading: "ERR/S",
        width: 6,
        sort: Some(Sort::Failures),
        text: |model, upstream, backend| rate(pace(model, upstream, backend).and_then(Pace::failures)),
    },
    Column { heading: "P50", width: 6, sort: Some(Sort::P50), text: |_, _, backend| millis(backend.latency_ms.p50) },
    Column { heading: "P99", width: 6, sort: Some(Sort::P99), text: |_, _, backend| millis(backend.latency_ms.p99) },
    Column { heading: "FLY", width: 5, sort: Some(Sort::InFlight), text: |_, _, backend| count(backend.in_flight) },
];

const COUNTS: [Column; 3] = [
    Column { heading: "WEIGHT", width: 6, sort: None, text: |_, _, backend| backend.weight.to_string() },
    Column { heading: "REQUESTS", width: 8, sort: None, text: |_, _, backend| count(backend.requests) },
    Column { heading: "FAILED", width: 6, sort: None, text: |_, _, backend| count(backend.failures) },
];

/// How wide the columns are.
struct Widths {
    name: usize,
    figures: Vec<&'static Column>,
    curve: usize,
    reason: bool,
}

const STATE: usize = 10;

impl Widths {
    /// The columns that an area has room for, with names as wide as the widest.
    fn of(area: Rect, names: usize) -> Self {
        let counts = area.width >= ROOM_FOR_COUNTS;
        let figures: Vec<_> = FIGURES.iter().chain(if counts { &COUNTS[..] } else { &[] }).collect();
        let taken = 2 + 1 + STATE + figures.iter().map(|column| column.width + 1).sum::<usize>() + 2;
        let left = usize::from(area.width).saturating_sub(taken);
        let name = names.clamp(NAMES.0, NAMES.1).min(left.saturating_sub(CURVES.0).max(NAMES.0));
        let reason = area.width >= ROOM_FOR_REASONS;
        let curve = left.saturating_sub(name);
        let curve = if reason { curve / 2 } else { curve };
        let curve = if curve < CURVES.0 { 0 } else { curve.min(CURVES.1) };
        Self { name, figures, curve, reason }
    }
}

/// The ink of a backend's state.
pub(super) fn ink(backend: &Backend) -> Ink {
    state_ink(&backend.state)
}

/// Draws the rows into `area`, so that the selected one is seen.
pub(super) fn draw(model: &Model, pen: &mut Pen<'_>, area: Rect) {
    let Some(report) = &model.report else { return };
    let Some(height) = usize::from(area.height).checked_sub(1).filter(|height| *height > 0) else { return };
    let rows = model.rows();
    let names = rows.iter().filter_map(|row| match row {
        Row::Backend(upstream, backend) => Some(name(model, upstream, backend).chars().count()),
        _ => None,
    });
    let widths = Widths::of(area, names.max().unwrap_or_default());
    headings(model, pen, &widths);
    let selected = rows
        .iter()
        .position(|row| matches!(row, Row::Backend(upstream, backend) if model.is_selected(upstream, backend)));
    let first = selected.unwrap_or_default().saturating_sub(height / 2).min(rows.len().saturating_sub(height));
    for row in rows.iter().skip(first).take(height) {
        match row {
            Row::Upstream(upstream) => heading(model, report, upstream, pen),
            Row::Backend(upstream, backend) => line(model, upstream, backend, &widths, pen),
            Row::Unresolved(name) => {
                let text = format!("! {}: {}", name.name, name.reason);
                pen.write(&Line::from(pen.span(Ink::Bad, text)));
            }
        }
    }
}

fn headings(model: &Model, pen: &mut Pen<'_>, widths: &Widths) {
    let arrangement = &model.arrangement;
    let mark = |sort: Sort, heading: &str| match arrangement.sort == sort {
        true => format!("{heading}{}", pen.look.letters.sorted(arrangement.reversed)),
        false => heading.to_owned(),
    };
    let first = if arrangement.reversed { mark(Sort::Written, "BACKEND") } else { "BACKEND".to_owned() };
    let mut text = format!("  {first:<name$} {:<STATE$}", mark(Sort::State, "STATE"), name = widths.name);
    for column in &widths.figures {
        let heading = column.sort.map_or_else(|| column.heading.to_owned(), |sort| mark(sort, column.heading));
        text.push_str(&format!(" {heading:>width$}", width = column.width));
    }
    if widths.curve > 0 {
        text.push_str(&format!("  {:<width$}", "2 MIN", width = widths.curve));
    }
    if widths.reason {
        text.push_str(" WHY");
    }
    pen.write(&Line::from(pen.span(Ink::Faint, text)));
}

/// The line of an upstream.
fn heading(model: &Model, report: &Report, upstream: &Upstream, pen: &mut Pen<'_>) {
    let members = upstream.backends.len();
    let usable = upstream.backends.iter().filter(|backend| backend.usable()).count();
    let ink = match usable {
        0 => Ink::Bad,
        some if some < members => Ink::Warn,
        _ => Ink::Good,
    };
    let sums = report.history.upstreams.get(&upstream.name);
    let lately = |column: &[u64]| super::mean(column.iter().copied());
    let (requests, errors) = sums.map_or((0.0, 0.0), |sums| (lately(&sums.requests), lately(&sums.errors)));
    let dot = pen.look.letters.dot();
    let mut spans = vec![
        pen.span(Ink::Heading, upstream.name.clone()),
        pen.span(Ink::Faint, format!(" {}", upstream.balance)),
        pen.span(ink, format!("{dot}{usable} of {members} usable")),
        pen.span(Ink::Plain, format!("{dot}{}/s", short(requests))),
    ];
    if errors > 0.0 {
        spans.push(pen.span(Ink::Bad, format!("{dot}{}/s 5xx", short(errors))));
    }
    if upstream.limits.pending > 0 {
        spans.push(pen.span(Ink::Warn, format!("{dot}{} waiting", upstream.limits.pending)));
    }
    let sums = sums.map_or(&[][..], |sums| &sums.requests);
    let taken: usize = spans.iter().map(Span::width).sum();
    let width = usize::from(pen.area.width).saturating_sub(taken + 2).min(CURVES.1);
    if width >= CURVES.0 {
        let newest = model.heard_at();
        let samples = sums.iter().zip((newest + 1).saturating_sub(sums.len() as u64)..);
        let samples = samples.map(|(count, second)| (second, *count as f64));
        let step = super::HISTORY.div_ceil(width as u64);
        let cells = cells(samples, newest, step, width, Fold::Mean);
        let most = cells.iter().flatten().copied().fold(0.0, f64::max);
        let curve = pen.span(Ink::Good, curve(&cells, most, pen.look.letters));
        pen.at_end(taken, &Line::from(curve));
    }
    pen.write(&Line::from(spans));
}

fn name(model: &Model, upstream: &Upstream, backend: &Backend) -> String {
    match model.arrangement.flat {
        true => format!("{}/{}", upstream.name, backend.address),
        false => backend.address.clone(),
    }
}

fn line(model: &Model, upstream: &Upstream, backend: &Backend, widths: &Widths, pen: &mut Pen<'_>) {
    let selected = model.is_selected(upstream, backend);
    let failing = pace(model, upstream, backend).and_then(Pace::failures).is_some_and(|rate| rate > 0.0);
    let mark = if selected { "> " } else { "  " };
    let name = cut(&name(model, upstream, backend), widths.name);
    let mut spans = vec![
        pen.span(Ink::Plain, format!("{mark}{name:<width$} ", width = widths.name)),
        pen.span(ink(backend), format!("{:<STATE$}", backend.state)),
    ];
    for column in &widths.figures {
        let ink = if failing && column.heading == "ERR/S" { Ink::Bad } else { Ink::Plain };
        let text = (column.text)(model, upstream, backend);
        spans.push(pen.span(ink, format!(" {text:>width$}", width = column.width)));
    }
    if widths.curve > 0 {
        let step = MINUTES.div_ceil(widths.curve as u64);
        let samples = pace(model, upstream, backend).into_iter().flat_map(|pace| pace.recent());
        let cells = cells(samples, model.heard_at(), step, widths.curve, Fold::Mean);
        let most = cells.iter().flatten().copied().fold(0.0, f64::max);
        spans.push(pen.span(Ink::Good, format!("  {}", curve(&cells, most, pen.look.letters))));
    }
    if widths.reason {
        spans.push(pen.span(Ink::Faint, format!(" {}", backend.reason)));
    }
    let at = pen.line;
    pen.write(&Line::from(spans));
    if selected {
        pen.buf.set_style(Rect { y: at, height: 1, ..pen.area }, Modifier::REVERSED);
    }
}

/// The end of a name says more than its beginning, and so that is what stays of a long one.
fn cut(name: &str, width: usize) -> String {
    let letters = name.chars().count();
    if letters <= width {
        return name.to_owned();
    }
    std::iter::once('~').chain(name.chars().skip(letters + 1 - width)).collect()
}

fn pace<'a>(model: &'a Model, upstream: &Upstream, backend: &Backend) -> Option<&'a Pace> {
    model.paces.of(&upstream.name, &backend.address)
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), short)
}
