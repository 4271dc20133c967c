//! What lies over the picture: a question before something is done, and the list of all keys.

use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Clear, Widget};

use super::Pen;
use crate::cli::screen::Ink;
use crate::cli::top::look::Letters;
use crate::cli::top::model::{Deed, Model, Order};

/// Asks whether an order is meant, and says what it will do.
pub(super) fn question(model: &Model, order: &Order, pen: &mut Pen<'_>) {
    let name = format!("{}/{}", order.backend.upstream, order.backend.backend);
    let (title, mut lines) = match order.deed {
        Deed::Drain => (format!("Drain {name}?"), drain(model)),
        Deed::Resume => {
            (format!("Resume {name}?"), vec![(Ink::Plain, "It gets requests again, as its health allows.".into())])
        }
    };
    if let Some(why) = &order.refused {
        lines = vec![(Ink::Bad, why.clone()), (Ink::Plain, "Drain it all the same?".to_owned())];
    }
    lines.push((Ink::Plain, String::new()));
    lines.push((Ink::Heading, format!("y  yes, {} it    n  no", order.deed.as_str())));
    sheet(&title, &lines, pen);
}

fn drain(model: &Model) -> Vec<(Ink, String)> {
    let Some((upstream, backend)) = model.selected() else { return Vec::new() };
    let left = upstream.backends.iter().filter(|one| one.usable() && one.address != backend.address).count();
    let flying = match backend.in_flight {
        0 => "It gets no new requests; none is in flight there.".to_owned(),
        1 => "It gets no new requests; the one in flight there is finished.".to_owned(),
        some => format!("It gets no new requests; the {some} in flight there are finished."),
    };
    let rest = match left {
        0 => (Ink::Bad, "NO other backend of the upstream is usable: requests will fail.".to_owned()),
        some => (Ink::Plain, format!("{some} of {} backends stay usable.", upstream.backends.len())),
    };
    vec![(Ink::Plain, flying), rest]
}

/// All keys.
pub(super) fn help(pen: &mut Pen<'_>) {
    let arrows = pen.look.letters.arrows();
    let keys = [
        (arrows, "choose a backend (also j, k, PgUp, PgDn, Home, End)"),
        ("s", "sort by the next column: state, requests, errors, p50, p99,"),
        ("", "requests in flight, as written"),
        ("r", "reverse the order"),
        ("g", "group by upstream, or one list of all"),
        ("/", "show what contains a text: upstream, address, name, state"),
        ("Esc", "show all again"),
        ("d", "drain the chosen backend, after a question"),
        ("u", "resume it, after a question"),
        ("p", "hold the picture, and go on"),
        ("Ctrl-L", "draw everything anew"),
        ("Ctrl-Z", "stop, as a job of the shell"),
        ("q", "quit (also Ctrl-C)"),
    ];
    let lines: Vec<_> = keys.iter().map(|(key, what)| (Ink::Plain, format!("{key:<8} {what}"))).collect();
    sheet("Keys", &lines, pen);
}

/// A framed sheet in the middle, as large as what is on it and no larger than the screen.
fn sheet(title: &str, lines: &[(Ink, String)], pen: &mut Pen<'_>) {
    let most = usize::from(pen.area.width).saturating_sub(4);
    let lines: Vec<_> =
        lines.iter().flat_map(|(ink, text)| wrap(text, most).into_iter().map(|part| (*ink, part))).collect();
    let widest = lines.iter().map(|(_, text)| text.chars().count()).chain([title.chars().count() + 2]).max();
    let inner = widest.unwrap_or_default().min(most);
    let (width, height) = (inner as u16 + 4, (lines.len() as u16 + 2).min(pen.area.height));
    let area = Rect {
        x: pen.area.x + pen.area.width.saturating_sub(width) / 2,
        y: pen.area.y + (pen.area.height - height) / 2,
        width: width.min(pen.area.width),
        height,
    };
    Clear.render(area, pen.buf);
    let frame = Frame::of(pen.look.letters);
    let title: String = title.chars().take(inner.saturating_sub(2)).collect();
    let bar = |letters: usize| frame.across.to_string().repeat(letters);
    let top = format!(
        "{} {title} {}{}",
        frame.corners[0],
        bar((inner + 1).saturating_sub(title.chars().count() + 1)),
        frame.corners[1]
    );
    let bottom = format!("{}{}{}", frame.corners[2], bar(inner + 2), frame.corners[3]);
    let mut pen = Pen { look: pen.look, area, buf: &mut *pen.buf, line: area.y };
    pen.write(&Line::from(pen.span(Ink::Heading, top)));
    for (ink, text) in lines.iter().take(usize::from(height).saturating_sub(2)) {
        let side = |text: String| pen.span(Ink::Heading, text);
        let text_span = pen.span(*ink, format!("{text:<inner$}"));
        let line = Line::from(vec![side(format!("{} ", frame.down)), text_span, side(format!(" {}", frame.down))]);
        pen.write(&line);
    }
    pen.write(&Line::from(pen.span(Ink::Heading, bottom)));
}

/// The lines of a frame.
struct Frame {
    corners: [char; 4],
    across: char,
    down: char,
}

impl Frame {
    const fn of(letters: Letters) -> Self {
        match letters {
            Letters::Unicode => Self { corners: ['╭', '╮', '╰', '╯'], across: '─', down: '│' },
            Letters::Ascii => Self { corners: ['+', '+', '+', '+'], across: '-', down: '|' },
        }
    }
}

/// A text in lines of `width` letters at most, broken between words where there are any.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + word.trim_end().chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines.into_iter().map(|line| line.chars().take(width).collect()).collect()
}
