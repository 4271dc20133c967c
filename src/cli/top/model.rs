//! What is known and what is wanted: reports come in, keys are pressed, orders go out. It does no input or output and reads no
//! clock; what is seen of it is `draw`'s.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::pace::Paces;
use super::report::{Backend, Report, Upstream};
use super::rows::{self, Arrangement, Row};
use crate::cli::drain::Named;

/// How long a notice stands.
const NOTICE: Duration = Duration::from_secs(6);
/// The longest filter: more than any address.
const LONGEST_FILTER: usize = 100;
/// How many rows a page is.
const PAGE: isize = 10;

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// The last report; none before the first.
    pub(super) report: Option<Report>,
    pub(super) paces: Paces,
    pub(super) arrangement: Arrangement,
    pub(super) mode: Mode,
    /// Whether reports are left unread, so that what is shown stands still.
    pub(super) paused: bool,
    /// The time since the watching began.
    pub(super) now: Duration,
    /// The same moment as a time of day.
    pub(super) wall: Timestamp,
    /// When the proxy last answered.
    pub(super) heard: Duration,
    /// Why it does not answer any more; none while it does.
    pub(super) lost: Option<String>,
    notice: Option<(Notice, Duration)>,
    selected: Option<Named>,
    /// Where the selected backend stood last: its neighbour takes its place when it goes.
    cursor: usize,
}

/// What keys mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Watch,
    /// A filter is being written.
    Filter,
    /// An order waits for a yes.
    Confirm(Order),
    /// All keys are told.
    Help,
}

/// What is to be done to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) backend: Named,
    pub(super) deed: Deed,
    /// Why the proxy has refused it once; it is then insisted on.
    pub(super) refused: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Drain,
    Resume,
}

impl Deed {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Resume => "resume",
        }
    }
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done; in words.
    Done(String),
    /// Too little would stay in use: it may be insisted on.
    TooFewLeft(String),
    /// It is not; why.
    Failed(String),
}

/// Something that is told for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) good: bool,
}

/// What a key asks of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    Leave,
    /// Stop as a job of the shell does.
    Suspend,
    /// Draw everything anew.
    Redraw,
    Send(Order),
}

impl Model {
    /// The time has come to `now` since the watching began, and to `wall` on the wall.
    pub(super) fn tick(&mut self, now: Duration, wall: Timestamp) {
        (self.now, self.wall) = (now, wall);
        self.notice.take_if(|(_, told)| now.saturating_sub(*told) >= NOTICE);
    }

    /// The proxy has answered, or has not.
    pub(super) fn hear(&mut self, answer: Result<Report, String>) {
        match answer {
            Ok(report) => self.take(report),
            Err(why) => self.lost = Some(why),
        }
    }

    fn take(&mut self, report: Report) {
        self.heard = self.now;
        let was_lost = self.lost.take().is_some();
        let before = self.report.as_ref().map(|before| (before.status.pid, before.status.generation));
        let now = (report.status.pid, report.status.generation);
        match before {
            Some((pid, _)) if pid != now.0 => {
                self.paces.restart();
                self.tell(true, format!("another process answers: pid {} in place of {pid}", now.0));
            }
            Some((_, generation)) if generation != now.1 => {
                self.tell(true, format!("the configuration was read again: generation {}", now.1));
            }
            _ if was_lost => self.tell(true, format!("pid {} answers again", now.0)),
            _ => {}
        }
        self.paces.observe(&report.status, self.now);
        if !self.paused || self.report.is_none() {
            self.report = Some(report);
            self.settle();
        }
    }

    /// An order has been carried out, or not.
    pub(super) fn settled(&mut self, order: Order, outcome: Outcome) {
        match outcome {
            Outcome::Done(words) => self.tell(true, words),
            // Whoever reads or writes something else meanwhile is not taken unawares by a question.
            Outcome::TooFewLeft(why) if self.mode == Mode::Watch => {
                self.mode = Mode::Confirm(Order { refused: Some(why), ..order });
            }
            Outcome::TooFewLeft(why) | Outcome::Failed(why) => self.tell(false, why),
        }
    }

    fn tell(&mut self, good: bool, text: String) {
        self.notice = Some((Notice { text, good }, self.now));
    }

    /// What is told just now.
    pub(super) fn notice(&self) -> Option<&Notice> {
        self.notice.as_ref().map(|(notice, _)| notice)
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Act> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Some(Act::Leave),
                KeyCode::Char('z') => return Some(Act::Suspend),
                KeyCode::Char('l') => return Some(Act::Redraw),
                _ => {}
            }
        }
        match std::mem::take(&mut self.mode) {
            Mode::Watch => self.watching(key),
            Mode::Filter => {
                self.filtering(key);
                None
            }
            Mode::Confirm(order) => self.confirming(order, key),
            // Any key leaves the help.
            Mode::Help => None,
        }
    }

    fn watching(&mut self, key: KeyEvent) -> Option<Act> {
        match key.code {
            KeyCode::Char('q') => return Some(Act::Leave),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char('s') => self.arrangement.sort = self.arrangement.sort.next(),
            KeyCode::Char('r') => self.arrangement.reversed = !self.arrangement.reversed,
            KeyCode::Char('g') => self.arrangement.flat = !self.arrangement.flat,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('d') => self.order(Deed::Drain),
            KeyCode::Char('u') => self.order(Deed::Resume),
            KeyCode::Esc => self.arrangement.filter.clear(),
            _ => {}
        }
        self.settle();
        None
    }

    fn filtering(&mut self, key: KeyEvent) {
        self.mode = Mode::Filter;
        let filter = &mut self.arrangement.filter;
        match key.code {
            KeyCode::Enter => self.mode = Mode::Watch,
            KeyCode::Esc => {
                filter.clear();
                self.mode = Mode::Watch;
            }
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => filter.clear(),
            KeyCode::Char(letter)
                if !key.modifiers.contains(KeyModifiers::CONTROL) && filter.chars().count() < LONGEST_FILTER =>
            {
                filter.push(letter);
            }
            _ => {}
        }
        self.settle();
    }

    fn confirming(&mut self, order: Order, key: KeyEvent) -> Option<Act> {
        match key.code {
            KeyCode::Char('y' | 'Y') => Some(Act::Send(order)),
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => None,
            // Nothing is done or given up by a slip.
            _ => {
                self.mode = Mode::Confirm(order);
                None
            }
        }
    }

    /// Asks whether a deed is meant, where it would change anything.
    fn order(&mut self, deed: Deed) {
        let Some((upstream, backend)) = self.selected() else { return };
        let name = Named { upstream: upstream.name.clone(), backend: backend.address.clone() };
        let (state, withdrawn) = (backend.state.clone(), backend.withdrawn());
        match (deed, withdrawn) {
            (Deed::Drain, true) => self.tell(false, format!("{}/{} is {state} already", name.upstream, name.backend)),
            (Deed::Resume, false) => {
                self.tell(false, format!("{}/{} is not drained, it is {state}", name.upstream, name.backend));
            }
            _ => self.mode = Mode::Confirm(Order { backend: name, deed, refused: None }),
        }
    }

    /// The rows that are shown, in their order.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let upstreams = self.report.as_ref().map_or(&[][..], |report| &report.status.upstreams);
        rows::arrange(upstreams, &self.paces, &self.arrangement)
    }

    /// The backend that keys act on.
    pub(super) fn selected(&self) -> Option<(&Upstream, &Backend)> {
        let selected = self.selected.as_ref()?;
        let upstreams = &self.report.as_ref()?.status.upstreams;
        let upstream = upstreams.iter().find(|upstream| upstream.name == selected.upstream)?;
        Some((upstream, upstream.backends.iter().find(|backend| backend.address == selected.backend)?))
    }

    /// Whether a row is the selected one.
    pub(super) fn is_selected(&self, upstream: &Upstream, backend: &Backend) -> bool {
        self.selected.as_ref().is_some_and(|name| name.upstream == upstream.name && name.backend == backend.address)
    }

    /// The backends that are shown, in their order.
    fn shown(&self) -> Vec<Named> {
        let backends = self.rows().into_iter().filter_map(|row| match row {
            Row::Backend(upstream, backend) => Some((upstream, backend)),
            _ => None,
        });
        let name = |(upstream, backend): (&Upstream, &Backend)| Named {
            upstream: upstream.name.clone(),
            backend: backend.address.clone(),
        };
        backends.map(name).collect()
    }

    fn step(&mut self, by: isize) {
        let shown = self.shown();
        self.cursor = self.cursor.saturating_add_signed(by).min(shown.len().saturating_sub(1));
        self.selected = shown.into_iter().nth(self.cursor);
    }

    /// The selected backend stays selected wherever it moved; where it has gone, what took its place is.
    fn settle(&mut self) {
        let shown = self.shown();
        match shown.iter().position(|name| Some(name) == self.selected.as_ref()) {
            Some(at) => self.cursor = at,
            None => {
                self.cursor = self.cursor.min(shown.len().saturating_sub(1));
                self.selected = shown.into_iter().nth(self.cursor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::top::fixture::{press, report, type_in, watching};

    fn selected(model: &Model) -> String {
        model.selected().map(|(_, backend)| backend.address.clone()).unwrap_or_default()
    }

    #[test]
    fn a_drain_is_sent_only_after_a_yes() {
        let mut model = watching(report());
        assert_eq!(press(&mut model, KeyCode::Char('d')), None);
        assert_eq!(press(&mut model, KeyCode::Char('x')), None, "another key is no answer");
        assert!(matches!(model.mode, Mode::Confirm(_)));
        assert_eq!(press(&mut model, KeyCode::Char('n')), None);
        assert_eq!((press(&mut model, KeyCode::Char('y')), &model.mode), (None, &Mode::Watch));

        press(&mut model, KeyCode::Char('d'));
        let sent = press(&mut model, KeyCode::Char('y'));
        let backend = Named { upstream: "web".into(), backend: "10.0.0.1:8080".into() };
        assert_eq!(sent, Some(Act::Send(Order { backend, deed: Deed::Drain, refused: None })));
    }

    #[test]
    fn a_refused_drain_is_asked_for_once_more_with_the_reason() {
        let mut model = watching(report());
        press(&mut model, KeyCode::Char('d'));
        let Some(Act::Send(order)) = press(&mut model, KeyCode::Char('y')) else { panic!("it is sent") };
        model.settled(order, Outcome::TooFewLeft("too few".into()));
        let Some(Act::Send(order)) = press(&mut model, KeyCode::Char('y')) else { panic!("it is sent again") };
        assert_eq!(order.refused.as_deref(), Some("too few"));
    }

    #[test]
    fn what_would_change_nothing_is_not_asked() {
        let mut model = watching(report());
        press(&mut model, KeyCode::Char('u'));
        assert_eq!(model.mode, Mode::Watch);
        assert_eq!(
            model.notice().map(|notice| notice.text.as_str()),
            Some("web/10.0.0.1:8080 is not drained, it is healthy")
        );
    }

    #[test]
    fn the_selected_backend_stays_selected_when_the_order_changes_and_yields_when_it_goes() {
        let mut model = watching(report());
        press(&mut model, KeyCode::Down);
        assert_eq!(selected(&model), "10.0.0.2:8080");
        for _ in 0..3 {
            press(&mut model, KeyCode::Char('s'));
            assert_eq!(selected(&model), "10.0.0.2:8080");
        }
        type_in(&mut model, "/10.0.0.3\n");
        assert_eq!(selected(&model), "10.0.0.3:8080");
        press(&mut model, KeyCode::Esc);
        let mut less = report();
        less.status.upstreams[0].backends.truncate(1);
        model.hear(Ok(less));
        assert!(!selected(&model).is_empty());
    }

    #[test]
    fn a_proxy_that_leaves_and_another_that_comes_are_told() {
        let mut model = watching(report());
        model.hear(Err("no proxy answers".into()));
        assert!(model.lost.is_some() && model.report.is_some(), "what was known is shown on");
        let mut other = report();
        other.status.pid += 1;
        model.hear(Ok(other));
        assert!(model.lost.is_none());
        assert!(model.notice().is_some_and(|notice| notice.text.starts_with("another process answers")));
    }

    #[test]
    fn a_notice_ends() {
        let mut model = watching(report());
        model.settled(
            Order {
                backend: Named { upstream: String::new(), backend: String::new() },
                deed: Deed::Drain,
                refused: None,
            },
            Outcome::Failed("no".into()),
        );
        assert!(model.notice().is_some());
        model.tick(model.now + NOTICE, model.wall);
        assert_eq!(model.notice(), None);
    }

    #[test]
    fn paused_nothing_moves_and_what_comes_is_still_heard() {
        let mut model = watching(report());
        press(&mut model, KeyCode::Char('p'));
        let mut later = report();
        later.status.upstreams.clear();
        model.hear(Ok(later.clone()));
        assert_eq!(model.rows().len(), watching(report()).rows().len());
        press(&mut model, KeyCode::Char('p'));
        model.hear(Ok(later));
        assert_eq!(model.rows().len(), 0);
    }

    proptest! {
        #[test]
        fn no_keys_send_an_order_without_a_yes_to_its_question(keys in "[a-zA-Z/?\u{1b} \n]{0,60}") {
            let mut model = watching(report());
            for letter in keys.chars() {
                let asked = matches!(model.mode, Mode::Confirm(_));
                let code = match letter {
                    '\u{1b}' => KeyCode::Esc,
                    '\n' => KeyCode::Enter,
                    letter => KeyCode::Char(letter),
                };
                if let Some(Act::Send(_)) = press(&mut model, code) {
                    prop_assert!(asked && letter.eq_ignore_ascii_case(&'y'));
                }
                prop_assert!(model.rows().is_empty() || model.selected().is_some() || model.shown().is_empty());
            }
        }
    }
}
