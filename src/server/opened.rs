//! The end of a start: the listeners are open, and whoever waits for that hears of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use super::daemon::Parent;
use super::handover::predecessor::Predecessor;
use super::lifecycle::Life;
use super::listen::{self, Abandoned};
use super::notify::Notify;
use super::process::PidFile;

/// Whose place this process takes.
pub(super) enum Relief {
    /// Nobody's.
    Nobody,
    /// That of a process which has handed its sockets over by Pingora's protocol.
    Pingoras(listen::Predecessor),
    /// That of the process which has started this one.
    Ours(Predecessor),
}

/// Who waits for the listeners to open.
pub(super) struct Opened {
    pub(super) life: Life,
    pub(super) parent: Parent,
    pub(super) notify: Notify,
    pub(super) pid_file: Arc<PidFile>,
    pub(super) relief: Mutex<Relief>,
    /// The files of unix sockets on which nobody listens once the old process is gone.
    pub(super) abandoned: Mutex<Abandoned>,
    /// The generation that is served by.
    pub(super) generation: u64,
    /// The addresses of the listeners, and the configuration, in words.
    pub(super) listeners: String,
    pub(super) source: String,
}

impl Opened {
    /// They are open. Must be called in the runtime that serves: systemd's watchdog hears from there.
    pub(super) fn tell(&self) {
        self.life.serving();
        log::info!("serving: listeners={} configuration={}", self.listeners, self.source);
        match std::mem::replace(&mut *self.relief.lock(), Relief::Nobody) {
            Relief::Nobody => self.begin(),
            Relief::Pingoras(mut predecessor) => {
                predecessor.relieve();
                std::mem::take(&mut *self.abandoned.lock()).remove();
                self.begin();
            }
            Relief::Ours(predecessor) => self.take_over(predecessor),
        }
    }

    fn begin(&self) {
        self.parent.started();
        self.notify.ready("serving");
        watch(self.notify.clone());
    }

    /// Takes the old process's place, if it gives way.
    fn take_over(&self, mut predecessor: Predecessor) {
        let (life, pid_file, generation) = (self.life.clone(), self.pid_file.clone(), self.generation);
        let abandoned = std::mem::take(&mut *self.abandoned.lock());
        let parting = tokio::task::spawn_blocking(move || {
            let relieved = predecessor.relieve(generation);
            match &relieved {
                Ok(()) => {
                    pid_file.claim();
                    abandoned.remove();
                    predecessor.thank();
                }
                Err(error) => predecessor.fail(&error.to_string()),
            }
            relieved
        });
        let notify = self.notify.clone();
        drop(tokio::spawn(async move {
            match parting.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => {
                    log::info!("taken over: pid={} generation={generation}", std::process::id());
                    watch(notify);
                }
                Err(error) => {
                    log::error!("not taken over, the old process serves on: {error}");
                    life.stands_back();
                    // Ends as any process that is told to; what it has accepted is finished.
                    let _ = raise(Signal::SIGTERM);
                }
            }
        }));
    }
}

/// Tells systemd's watchdog that the threads which serve are alive.
fn watch(notify: Notify) {
    let Some(every) = notify.watchdog() else { return };
    drop(tokio::spawn(async move {
        let mut beat = tokio::time::interval(every.max(Duration::from_millis(1)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            beat.tick().await;
            notify.alive();
        }
    }));
}
