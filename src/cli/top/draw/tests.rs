//! What is drawn: in the manual, in narrow and wide terminals, without colours, in trouble, and at every size.

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use ratatui::style::Color;

use super::*;
use crate::cli::top::fixture::{press, report, type_in, watching};
use crate::cli::top::look::Letters;

const PLAIN: Look = Look { colours: false, letters: Letters::Unicode };

fn terminal(model: &Model, look: Look, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, look, frame.area(), frame.buffer_mut())).unwrap();
    terminal
}

/// The lines of the screen, without the blanks at their ends.
fn screen(model: &Model, look: Look, width: u16, height: u16) -> Vec<String> {
    let terminal = terminal(model, look, width, height);
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

/// The picture in the manual is what is drawn. `UPDATE_EXPECTED=1` writes it anew.
#[test]
fn the_manual_shows_what_is_drawn_in_80_columns_and_24_lines() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/top.md");
    let page = std::fs::read_to_string(path).unwrap();
    let shown = screen(&watching(report()), PLAIN, 80, 24).join("\n");
    let (before, rest) = page.split_once("```text\n").unwrap();
    let (picture, after) = rest.split_once("\n```").unwrap();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(path, format!("{before}```text\n{shown}\n```{after}")).unwrap();
    } else {
        assert_eq!(picture, shown, "docs/top.md shows another picture (UPDATE_EXPECTED=1 writes it anew)");
    }
}

#[test]
fn every_backend_tells_its_state_in_a_word_and_the_selected_one_why() {
    let mut model = watching(report());
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Down);
    let lines = screen(&model, PLAIN, 80, 24);
    let row = lines.iter().find(|line| line.contains("> 10.0.0.3:8080")).unwrap();
    assert!(row.contains("unhealthy") && row.contains("2m"), "{row}");
    assert!(lines.iter().any(|line| line == "unhealthy: 3 probes failed in a row: connection refused"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("api.internal:9000: name does not exist")));
}

#[test]
fn a_wide_terminal_shows_counts_and_reasons_too() {
    let lines = screen(&watching(report()), PLAIN, 200, 50);
    let headings = lines.iter().find(|line| line.contains("BACKEND")).unwrap();
    for heading in ["WEIGHT", "REQUESTS", "FAILED", "WHY"] {
        assert!(headings.contains(heading), "{headings}");
    }
    assert!(lines.iter().any(|line| line.contains("drained by the operator")));
}

#[test]
fn without_colours_there_are_none_and_the_selected_row_still_stands_out() {
    for look in [PLAIN, Look { letters: Letters::Ascii, ..PLAIN }] {
        let terminal = terminal(&watching(report()), look, 80, 24);
        let cells = &terminal.backend().buffer().content;
        assert!(cells.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        assert!(cells.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
        if look.letters == Letters::Ascii {
            assert!(cells.iter().all(|cell| cell.symbol().is_ascii()));
        }
    }
    let terminal = terminal(&watching(report()), Look { colours: true, ..PLAIN }, 80, 24);
    assert!(terminal.backend().buffer().content.iter().any(|cell| cell.fg == Color::Red));
}

#[test]
fn a_question_says_what_a_drain_will_do() {
    let mut model = watching(report());
    press(&mut model, KeyCode::Char('d'));
    let text = screen(&model, PLAIN, 80, 24).join("\n");
    assert!(text.contains("Drain web/10.0.0.1:8080?") && text.contains("1 of 3 backends stay usable."), "{text}");
    type_in(&mut model, "n/unix\nd");
    let text = screen(&model, PLAIN, 80, 24).join("\n");
    assert!(text.contains("NO other backend of the upstream is usable"), "{text}");
}

#[test]
fn a_proxy_that_does_not_answer_is_told_with_what_was_known_last() {
    let mut model = watching(report());
    model.hear(Err("no proxy answers at /run/roundel/admin.sock".into()));
    model.tick(model.now + std::time::Duration::from_secs(12), model.wall);
    let lines = screen(&model, PLAIN, 80, 24);
    assert!(lines[0].ends_with("NO ANSWER for 12s"), "{}", lines[0]);
    assert!(lines.iter().any(|line| line.contains("no proxy answers at /run/roundel/admin.sock (asking on)")));
    assert!(lines.iter().any(|line| line.contains("10.0.0.1:8080")));
}

#[test]
fn the_selected_backend_is_seen_among_many() {
    let mut many = report();
    let one = many.status.upstreams[0].backends[0].clone();
    let named = |at: usize| crate::cli::top::report::Backend { address: format!("10.9.0.{at}:80"), ..one.clone() };
    many.status.upstreams[0].backends = (0..200).map(named).collect();
    let mut model = watching(many);
    for (key, seen) in [
        (KeyCode::PageDown, "> 10.9.0.10:80"),
        (KeyCode::End, "> unix:/run/api.sock"),
        (KeyCode::Home, "> 10.9.0.0:80"),
    ] {
        press(&mut model, key);
        let text = screen(&model, PLAIN, 80, 24).join("\n");
        assert!(text.contains(seen), "{text}");
    }
}

#[test]
fn nothing_that_a_backend_is_called_commands_the_terminal() {
    let mut rude = report();
    rude.status.upstreams[0].backends[0].reason = "\u{1b}[2Jbad\r\nthing".into();
    let terminal = terminal(&watching(rude), PLAIN, 200, 40);
    assert!(terminal.backend().buffer().content.iter().all(|cell| !cell.symbol().contains(char::is_control)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_size_is_drawn(width in 1_u16..250, height in 1_u16..80, keys in "[djkgsr/?]{0,3}") {
        let mut model = watching(report());
        type_in(&mut model, &keys);
        screen(&model, PLAIN, width, height);
    }
}
