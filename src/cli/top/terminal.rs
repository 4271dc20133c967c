//! The terminal: taken over, drawn on, and given back as it was, whatever ends the program but SIGKILL.

use std::io::{self, IsTerminal, Stdout};
use std::panic;
use std::sync::mpsc::Sender;
use std::thread;

use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::Rect;

use super::feed::News;

/// The signals that end the watching, and the one that interrupts it.
const SIGNALS: [Signal; 5] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];

/// Checks that there is a terminal that can be drawn on.
///
/// # Errors
/// There is none.
pub(super) fn check() -> io::Result<()> {
    let dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    match io::stdout().is_terminal() && !dumb {
        true => Ok(()),
        false => Err(io::Error::other("top needs a terminal that can be drawn on (run `roundel status` for a page)")),
    }
}

/// Keeps the signals from every thread that is started after this, so that one of them can await them.
///
/// # Errors
/// The system refuses.
pub(super) fn take_signals() -> io::Result<SigSet> {
    let signals: SigSet = SIGNALS.into_iter().collect();
    signals.thread_block()?;
    Ok(signals)
}

/// Tells of keys and signals, from threads of their own.
pub(super) fn listen(signals: SigSet, told: &Sender<News>) {
    let keys = told.clone();
    thread::spawn(move || {
        while let Some(news) = next_key() {
            if keys.send(news).is_err() {
                return;
            }
        }
    });
    let told = told.clone();
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let news = match signal {
                Signal::SIGTSTP => News::Suspend,
                signal => News::Signal(signal as u8),
            };
            if told.send(news).is_err() {
                return;
            }
        }
    });
}

/// What comes next from the keyboard; none where nothing can.
fn next_key() -> Option<News> {
    loop {
        match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => return Some(News::Key(key)),
            Ok(Event::Resize(..)) => return Some(News::Resized),
            Ok(_) => {}
            Err(error) => return Some(News::Broken(error)),
        }
    }
}

/// The screen, taken over until it is dropped.
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes the terminal over. A panic gives it back before it speaks.
    ///
    /// # Errors
    /// The terminal refuses.
    pub(super) fn open() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        take_over()?;
        let screen = Terminal::new(CrosstermBackend::new(io::stdout()));
        screen.map(Self).inspect_err(|_| give_back())
    }

    /// Draws a picture; only what differs from the last one is written.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn draw(&mut self, picture: impl Fn(Rect, &mut Buffer)) -> io::Result<()> {
        self.0.draw(|frame| picture(frame.area(), frame.buffer_mut())).map(|_| ())
    }

    /// Has the next picture written as a whole, on an empty screen.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // `Terminal::clear` asks the terminal where its cursor is, and the answer would go to the thread that reads keys.
        execute!(io::stdout(), Clear(ClearType::All))?;
        self.0 = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        Ok(())
    }

    /// Gives the terminal back and stops, until the shell lets it go on.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        raise(Signal::SIGSTOP)?;
        take_over()?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take_over() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen).inspect_err(|_| give_back())
}

/// Gives the terminal back as it was. A terminal that is gone wants nothing back.
fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::process::{Command, Stdio};
    use std::ptr::null_mut;

    use super::Screen;

    const TAKEN_OVER: &str = "\x1b[?1049h";
    const GIVEN_BACK: &str = "\x1b[?1049l";

    /// A screen, and the terminal that it shows.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let (mut screen, mut terminal) = (-1, -1);
        // Two descriptors are written to, and what is null is not asked for.
        let opened = unsafe { libc::openpty(&mut screen, &mut terminal, null_mut(), null_mut(), null_mut()) };
        assert_eq!(opened, 0);
        // They were opened just now, for nobody else.
        unsafe { (OwnedFd::from_raw_fd(screen), OwnedFd::from_raw_fd(terminal)) }
    }

    #[test]
    #[ignore = "takes a terminal over and panics: what the test below runs in a terminal of its own"]
    fn panics_while_it_has_the_terminal() {
        let _screen = Screen::open().unwrap();
        panic!("provoked");
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_speaks() {
        let (screen, terminal) = terminal();
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let settings = || Command::new("stty").arg("-g").stdin(end()).output().unwrap().stdout;
        let before = settings();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact"])
            .arg("cli::top::terminal::tests::panics_while_it_has_the_terminal")
            .env("RUST_BACKTRACE", "0")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();

        assert!(!child.wait().unwrap().success());

        assert!(!before.is_empty());
        assert_eq!(settings(), before, "keys are echoed again");
        drop(terminal);
        let mut told = Vec::new();
        // It ends with an error: nobody has the other end any more.
        let _ = File::from(screen).read_to_end(&mut told);
        let told = String::from_utf8_lossy(&told);
        let places = [TAKEN_OVER, GIVEN_BACK, "provoked"].map(|words| told.find(words));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{told:?}");
    }
}
