//! `roundel top`: a running proxy in the terminal, as it changes.
//!
//! `feed` asks the proxy, `model` holds what is known and wanted, `draw` makes a picture of it, `terminal` is where that goes.

mod draw;
mod feed;
#[cfg(test)]
mod fixture;
mod look;
mod model;
mod pace;
mod report;
mod rows;
mod terminal;

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use self::feed::{Feed, News};
use self::look::{Letters, Look};
use self::model::{Act, Model};
use self::terminal::Screen;
use super::screen::Colours;
use super::speak::Which;
use crate::base::units::parse_duration;

/// How often the picture is drawn where nothing happens: ages go on.
const TICK: Duration = Duration::from_millis(250);
/// Fewer than this and the asking itself would be what is seen.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// How often the proxy is asked
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    match parse_duration(text) {
        Ok(interval) if interval >= SHORTEST_INTERVAL => Ok(interval),
        Ok(_) => Err("too short (write 100ms or more)"),
        Err(_) => Err("no duration (write 1s or 500ms)"),
    }
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    terminal::check()?;
    // Who cannot be asked at all is told in a line, and not on a screen.
    let first = feed::ask(&args.which.find()?)?;
    // Signals are awaited by a thread, and so every thread is to leave them to it: before there are any.
    let signals = terminal::take_signals()?;
    let (told, news) = mpsc::channel();
    let feed = Feed::start(args.which.clone(), args.interval, told.clone());
    let look =
        Look { colours: Colours::of_stdout().any(), letters: Letters::of_locale(|name| std::env::var(name).ok()) };
    let mut screen = Screen::open()?;
    terminal::listen(signals, &told);
    // What ends now is told by what is left of the senders: the threads'.
    drop(told);
    let mut watch = Watch { model: Model::default(), began: Instant::now(), feed, news, look };
    watch.tick();
    watch.model.hear(Ok(first));
    let end = watch.run(&mut screen);
    drop(screen);
    end
}

/// The picture and all that moves it.
struct Watch {
    model: Model,
    began: Instant,
    feed: Feed,
    news: Receiver<News>,
    look: Look,
}

impl Watch {
    fn tick(&mut self) {
        self.model.tick(self.began.elapsed(), Timestamp::now());
    }

    /// Watches until somebody has seen enough.
    fn run(&mut self, screen: &mut Screen) -> io::Result<ExitCode> {
        loop {
            screen.draw(|area, buf| draw::draw(&self.model, self.look, area, buf))?;
            let mut next = match self.news.recv_timeout(TICK) {
                Ok(news) => Some(news),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("nothing is left to watch with")),
            };
            self.tick();
            // All that has come is heard before the next picture.
            while let Some(news) = next {
                if let Some(end) = self.hear(news, screen)? {
                    return Ok(end);
                }
                next = self.news.try_recv().ok();
            }
        }
    }

    /// Takes in what happened; tells the exit status where it is the end.
    fn hear(&mut self, news: News, screen: &mut Screen) -> io::Result<Option<ExitCode>> {
        let act = match news {
            News::Key(key) => self.model.press(key),
            News::Resized => Some(Act::Redraw),
            News::Suspend => Some(Act::Suspend),
            News::Answer(answer) => {
                self.model.hear(answer.map(|report| *report));
                None
            }
            News::Settled(order, outcome) => {
                self.model.settled(order, outcome);
                None
            }
            News::Signal(signal) => return Ok(Some(ExitCode::from(128_u8.saturating_add(signal)))),
            News::Broken(error) => return Err(error),
        };
        match act {
            Some(Act::Leave) => return Ok(Some(ExitCode::SUCCESS)),
            Some(Act::Suspend) => screen.suspend()?,
            Some(Act::Redraw) => screen.clear()?,
            Some(Act::Send(order)) => self.feed.send(order),
            None => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_duration_that_leaves_time_to_answer() {
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["1", "10ms", "0s", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
