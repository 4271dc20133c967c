//! What the proxy says, asked again and again by a thread, and what it does when it is told to.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::KeyEvent;
use serde_json::Value;

use super::model::{Deed, Order, Outcome};
use super::report::Report;
use crate::cli::speak::{Line, PATIENCE, Reply, Which};

/// What happens while a proxy is watched.
#[derive(Debug)]
pub(super) enum News {
    Key(KeyEvent),
    Resized,
    /// The shell wants the terminal back for a while.
    Suspend,
    /// The proxy has answered, or why it has not.
    Answer(Result<Box<Report>, String>),
    /// What came of an order.
    Settled(Order, Outcome),
    /// A signal to end, by its number.
    Signal(u8),
    /// The terminal is gone.
    Broken(io::Error),
}

/// The threads that ask and order.
#[derive(Debug)]
pub(super) struct Feed {
    which: Which,
    told: Sender<News>,
    /// Wakes the one that asks.
    wake: Sender<()>,
}

impl Feed {
    /// Starts to ask, each `interval`.
    pub(super) fn start(which: Which, interval: Duration, told: Sender<News>) -> Self {
        let (wake, woken) = mpsc::channel();
        let (asking, answers) = (which.clone(), told.clone());
        thread::spawn(move || {
            let mut line = None;
            // It ends with the watching: nobody wakes it any more, or nobody hears it.
            while !matches!(woken.recv_timeout(interval), Err(RecvTimeoutError::Disconnected)) {
                if answers.send(News::Answer(again(&asking, &mut line))).is_err() {
                    return;
                }
            }
        });
        Self { which, told, wake }
    }

    /// Has an order carried out; what came of it is told.
    pub(super) fn send(&self, order: Order) {
        let (which, told, wake) = (self.which.clone(), self.told.clone(), self.wake.clone());
        thread::spawn(move || {
            let outcome = carry_out(&which, &order).unwrap_or_else(|error| Outcome::Failed(error.to_string()));
            // Who has left does not want to know.
            let _ = told.send(News::Settled(order, outcome));
            let _ = wake.send(());
        });
    }
}

/// Asks once more, by the same way; after a failure the way is looked for again, since another process may have come.
fn again(which: &Which, line: &mut Option<Line>) -> Result<Box<Report>, String> {
    let asked = match line.take() {
        Some(line) => Ok(line),
        None => which.find(),
    };
    let answered = asked.and_then(|asked| Ok((ask(&asked)?, asked)));
    match answered {
        Ok((report, asked)) => {
            *line = Some(asked);
            Ok(Box::new(report))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Asks how the proxy fares.
///
/// # Errors
/// It does not answer, or refuses: in its words.
pub(super) fn ask(line: &Line) -> io::Result<Report> {
    Report::read(line.get("/api/v1/status")?, line.get("/api/v1/history")?)
}

fn carry_out(which: &Which, order: &Order) -> io::Result<Outcome> {
    let mut target = order.backend.path(order.deed.as_str());
    if order.deed == Deed::Drain && order.refused.is_some() {
        target.push_str("?force=true");
    }
    let reply = which.find()?.ask("POST", &target, PATIENCE)?;
    Ok(outcome(order, &reply))
}

/// What an answer to an order means.
fn outcome(order: &Order, reply: &Reply) -> Outcome {
    let name = format!("{}/{}", order.backend.upstream, order.backend.backend);
    match reply.json() {
        Ok(answer) => Outcome::Done(format!("{name}: {}", done(&answer))),
        Err(refusal) if reply.status == 409 && order.refused.is_none() => Outcome::TooFewLeft(refusal.to_string()),
        Err(refusal) => Outcome::Failed(format!("{name}: {refusal}")),
    }
}

fn done(answer: &Value) -> String {
    let backend = &answer["backends"][0];
    let state = backend["state"].as_str().unwrap_or("done").replace('_', " ");
    match backend["in_flight"].as_u64() {
        Some(some @ 1..) => format!("{state}, {some} in flight"),
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::drain::Named;

    fn order(refused: Option<&str>) -> Order {
        let backend = Named { upstream: "web".into(), backend: "a:1".into() };
        Order { backend, deed: Deed::Drain, refused: refused.map(str::to_owned) }
    }

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, body: body.into() }
    }

    #[test]
    fn an_order_is_done_refused_for_now_or_refused() {
        let done = reply(200, r#"{"upstream":"web","backends":[{"state":"draining","in_flight":3}]}"#);
        assert_eq!(outcome(&order(None), &done), Outcome::Done("web/a:1: draining, 3 in flight".into()));
        let few = reply(409, r#"{"detail":"not drained: too few"}"#);
        assert_eq!(outcome(&order(None), &few), Outcome::TooFewLeft("not drained: too few".into()));
        assert_eq!(outcome(&order(Some("x")), &few), Outcome::Failed("web/a:1: not drained: too few".into()));
        let denied = reply(401, r#"{"detail":"writing needs the token"}"#);
        assert_eq!(outcome(&order(None), &denied), Outcome::Failed("web/a:1: writing needs the token".into()));
    }
}
