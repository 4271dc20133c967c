//! The new process's side of an upgrade.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getppid};

use super::channel::{Channel, read_memory_file};
use super::estate::Estate;
use super::message::{Message, Offer, PROTOCOL};

/// The variable that names the descriptor of the channel, and behind a colon the old process.
pub const VARIABLE: &str = "ROUNDEL_HANDOVER";
/// How long the old process may take to answer: it has nothing else to do for this.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it takes the kernel, at the very most, to let a process go whose descriptors are closed already.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// The process that has started this one, and whose place this one is to take.
#[derive(Debug)]
pub struct Predecessor {
    channel: Arc<Channel>,
    parent: Pid,
    offer: Option<Offer>,
    /// It has been killed: nobody is left to answer to.
    gone: bool,
}

/// What the old process says next.
enum Word {
    Said(Message, Vec<OwnedFd>),
    /// Nothing any more: it has been killed.
    Gone,
}

/// Tells the old process, if there is one, of a failure.
#[derive(Debug, Clone, Default)]
pub struct Teller(Option<Arc<Channel>>);

impl Teller {
    /// This process cannot serve.
    pub fn fail(&self, why: &str) {
        if let Some(channel) = &self.0 {
            // The old process may have been killed, or have called the upgrade off.
            let _ = channel.fail(why);
        }
    }
}

impl Predecessor {
    /// The process that has started this one for an upgrade, if one has.
    ///
    /// # Errors
    /// The environment says so, and it is not true.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let named = value.to_str().and_then(|text| text.split_once(':'));
        let named = named.and_then(|(fd, parent)| Some((fd.parse().ok()?, Pid::from_raw(parent.parse().ok()?))));
        let (fd, parent) =
            named.ok_or_else(|| io::Error::other(format!("{VARIABLE} is set, and not by an upgrade (unset it)")))?;
        let channel = Channel::inherited(fd)
            .map_err(|error| io::Error::other(format!("{VARIABLE}: {error} (unset it to start without an upgrade)")))?;
        Ok(Some(Self { channel: Arc::new(channel), parent, offer: None, gone: false }))
    }

    /// Takes the listening sockets, by their names. Where the old process is killed meanwhile: those that have come.
    ///
    /// # Errors
    /// The upgrade is called off, or this process does not understand the old one.
    pub fn take_sockets(&mut self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut sockets = Vec::new();
        let offer = match self.hear()? {
            Word::Said(Message::Offer(offer), _) => offer,
            Word::Said(message, _) => return Err(self.unexpected(&message)),
            Word::Gone => return Ok(sockets),
        };
        if offer.protocol != PROTOCOL {
            return Err(io::Error::other(format!(
                "the old process speaks version {} of the upgrade, this one speaks {PROTOCOL} (restart instead)",
                offer.protocol
            )));
        }
        let all = offer.sockets;
        self.offer = Some(offer);
        while sockets.len() < all {
            match self.hear()? {
                Word::Said(Message::Sockets { names }, descriptors) if names.len() == descriptors.len() => {
                    sockets.extend(names.into_iter().zip(descriptors));
                }
                Word::Said(message, _) => return Err(self.unexpected(&message)),
                Word::Gone => return Ok(sockets),
            }
        }
        self.say(&Message::Taken { sockets: all })?;
        Ok(sockets)
    }

    /// The generation that this process begins with.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.offer.as_ref().map_or(1, |offer| offer.generation)
    }

    /// Takes what the old process has learnt, once everything is bound and built; none where it has nothing to give.
    ///
    /// # Errors
    /// The upgrade is called off.
    pub fn take_estate(&mut self) -> io::Result<Option<Estate>> {
        self.say(&Message::Ready)?;
        let descriptor = match self.hear()? {
            Word::Said(Message::Estate, descriptors) => descriptors.into_iter().next(),
            Word::Said(message, _) => return Err(self.unexpected(&message)),
            Word::Gone => None,
        };
        let read = descriptor.map(|file| read_memory_file(file).and_then(|text| Estate::from_text(&text)));
        // Without it this process begins as at any start.
        Ok(read.and_then(|estate| {
            estate.inspect_err(|error| log::warn!("what the old process has learnt is lost: {error}")).ok()
        }))
    }

    /// Clients are accepted: tells the old process, and waits until it gives way.
    ///
    /// # Errors
    /// The upgrade is called off.
    pub fn relieve(&mut self, generation: u64) -> io::Result<()> {
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
        self.say(&Message::Serving { pid, generation, version })?;
        match self.hear()? {
            Word::Said(Message::Relieved, _) | Word::Gone => Ok(()),
            Word::Said(message, _) => Err(self.unexpected(&message)),
        }
    }

    /// This process goes on alone.
    pub fn thank(&mut self) {
        // The old process may have been killed since: then nobody waits for it.
        let _ = self.say(&Message::Thanks);
    }

    /// This process cannot serve: the old one tells whoever asked for the upgrade.
    pub fn fail(&self, why: &str) {
        self.teller().fail(why);
    }

    /// What tells the old process of a failure, wherever that happens.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller(Some(self.channel.clone()))
    }

    fn hear(&mut self) -> io::Result<Word> {
        if self.gone {
            return Ok(Word::Gone);
        }
        match self.channel.receive(Instant::now() + PATIENCE) {
            Ok((Message::Cancelled, _)) => Err(io::Error::other("the upgrade was called off")),
            Ok((message, descriptors)) => Ok(Word::Said(message, descriptors)),
            Err(error) => self.judge(error),
        }
    }

    fn say(&mut self, message: &Message) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        match self.channel.send(message, &[]) {
            Ok(()) => Ok(()),
            Err(error) => self.judge(error).map(drop),
        }
    }

    /// What a broken conversation means: where the old process is gone, this one goes on in its place.
    fn judge(&mut self, error: io::Error) -> io::Result<Word> {
        if error.kind() == io::ErrorKind::TimedOut {
            return Err(io::Error::other("the old process does not answer"));
        }
        if !self.parent_is_gone() {
            return Err(io::Error::other(format!("the old process has broken the upgrade off: {error}")));
        }
        log::warn!("the old process has ended in the midst of the upgrade, this one goes on in its place");
        self.gone = true;
        Ok(Word::Gone)
    }

    /// Whether the process that has started this one is gone. Its descriptors close a moment before its children get
    /// another parent.
    fn parent_is_gone(&self) -> bool {
        let deadline = Instant::now() + LAST_BREATH;
        while getppid() == self.parent {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn unexpected(&self, message: &Message) -> io::Error {
        io::Error::other(format!("the old process says what is not expected now: {message:?}"))
    }
}
