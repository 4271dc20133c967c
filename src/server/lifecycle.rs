//! The life of the process: starting, serving, draining; what each signal does.
//!
//! Pingora asks this for the moment to stop and stops at once when told so. Its own graceful stop sleeps for the whole grace
//! period even when nothing is left to wait for, and its own upgrade stops the old process even when no new one took
//! its sockets: so both are done here, and Pingora is only told of the end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::attend;
use super::listen::{self, Successor};
use super::notify::Notify;
use super::reload::Reloader;
use super::upgrade::{Front, Share, Upgrades};
use crate::admin::upgrade::Order;
use crate::edge::limits::Connections;
use crate::exchange::snapshot::Current;
use crate::telemetry::log::ProcessLog;

/// A second SIGTERM within this time is the first one again.
const ECHO: Duration = Duration::from_secs(1);

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Backends are probed for the first time; the listeners are closed.
    Starting,
    /// Requests are served.
    Serving,
    /// Requests are served, and readiness says no: load balancers in front look elsewhere.
    Leaving,
    /// The listeners are closed; what is under way is finished.
    Draining,
}

/// The present phase, for all who act on it.
#[derive(Debug, Clone)]
pub struct Life {
    phase: Arc<watch::Sender<Phase>>,
    draining: Arc<watch::Sender<bool>>,
    closed: Arc<watch::Sender<bool>>,
    relieved: Arc<watch::Sender<bool>>,
    served: Arc<AtomicBool>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Starting)),
            draining: Arc::new(watch::Sender::new(false)),
            closed: Arc::new(watch::Sender::new(false)),
            relieved: Arc::new(watch::Sender::new(false)),
            served: Arc::default(),
        }
    }
}

impl Life {
    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The listeners are open.
    pub fn serving(&self) {
        self.served.store(true, Relaxed);
        self.advance(Phase::Serving);
    }

    /// Whether the listeners have ever been open.
    #[must_use]
    pub fn has_served(&self) -> bool {
        self.served.load(Relaxed)
    }

    /// The listeners are open, and do not count: the process whose place this one was to take serves on.
    pub fn stands_back(&self) {
        self.served.store(false, Relaxed);
    }

    /// Whether a new process serves in place of this one.
    #[must_use]
    pub fn is_relieved(&self) -> bool {
        *self.relieved.borrow()
    }

    /// Resolves when requests are served, or have been.
    pub async fn until_serving(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`.
        let _ = phase.wait_for(|phase| *phase >= Phase::Serving).await;
    }

    /// The listeners are closed, and all that came by them is counted.
    pub fn closed(&self) {
        self.closed.send_replace(true);
    }

    /// Resolves when the listeners are closed.
    pub async fn until_closed(&self) {
        // The sender lives in `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Turns true when a new process serves in place of this one, with the same sockets.
    #[must_use]
    pub fn relieved(&self) -> ShutdownWatch {
        self.relieved.subscribe()
    }

    /// Turns true when listeners must close and connections come to an end.
    #[must_use]
    pub fn draining(&self) -> ShutdownWatch {
        self.draining.subscribe()
    }

    /// A phase is never left for an earlier one: a drain that begins while the process starts is not undone by the end
    /// of the start.
    fn advance(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = next > *phase;
            if later {
                *phase = next;
            }
            later
        });
        if next == Phase::Draining {
            self.draining.send_replace(true);
        }
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// SIGINT: end now.
    Stop,
    /// SIGTERM: finish what is under way, then end.
    Drain,
    /// SIGQUIT: hand the listeners to the new process that waits for them; drain when it serves.
    Upgrade,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open log files again.
    Reopen,
    /// SIGUSR2: nothing.
    Ignore,
}

impl Wish {
    /// The signal that asks for it.
    fn signal(self) -> nix::sys::signal::Signal {
        use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
        match self {
            Self::Stop => SIGINT,
            Self::Drain => SIGTERM,
            Self::Upgrade => SIGQUIT,
            Self::Reload => SIGHUP,
            Self::Reopen => SIGUSR1,
            Self::Ignore => SIGUSR2,
        }
    }
}

struct Signals(Vec<(Wish, Signal)>);

impl Signals {
    fn listen() -> io::Result<Self> {
        let kinds = [
            (Wish::Stop, SignalKind::interrupt()),
            (Wish::Drain, SignalKind::terminate()),
            (Wish::Upgrade, SignalKind::quit()),
            (Wish::Reload, SignalKind::hangup()),
            (Wish::Reopen, SignalKind::user_defined1()),
            (Wish::Ignore, SignalKind::user_defined2()),
            // Where files are bounded (`ulimit -f`), a log that is full is a write that fails, and not the end.
            (Wish::Ignore, SignalKind::from_raw(nix::sys::signal::Signal::SIGXFSZ as i32)),
        ];
        kinds.into_iter().map(|(wish, kind)| Ok((wish, signal(kind)?))).collect::<io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> Wish {
        std::future::poll_fn(|cx| {
            for (wish, signal) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*wish);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Waits for the end of the process on Pingora's behalf.
pub struct Lifecycle {
    /// The present phase.
    pub life: Life,
    /// What is being served.
    pub current: Current,
    /// What must be finished before the process may end.
    pub connections: Arc<Connections>,
    /// The process's log, which a rotation renames.
    pub log: ProcessLog,
    /// What reads the configuration again.
    pub reloader: Reloader,
    /// The listening sockets as they are now, by the names under which they are handed over.
    pub sockets: Share,
    /// Where a new process waits for them.
    pub upgrade_sock: PathBuf,
    /// Orders to upgrade; taken when signals are heard.
    pub orders: Mutex<Option<mpsc::Receiver<Order>>>,
    /// What carries them out.
    pub upgrades: Arc<Upgrades>,
    /// Who is told when the process stops.
    pub notify: Notify,
}

#[async_trait]
impl ShutdownSignalWatch for Lifecycle {
    async fn recv(&self) -> ShutdownSignal {
        match Signals::listen() {
            Ok(signals) => self.run(signals).await,
            Err(error) => log::error!("cannot listen for signals: {error}"),
        }
        // A fast shutdown would not wait until tasks are dropped, and with that requests that are cut off have their line.
        ShutdownSignal::GracefulTerminate
    }
}

impl Lifecycle {
    async fn run(&self, mut signals: Signals) {
        if let Some(orders) = self.orders.lock().take() {
            drop(tokio::spawn(self.upgrades.clone().carry_out(orders)));
        }
        let mut successor = None;
        loop {
            let wish = tokio::select! {
                wish = signals.next() => wish,
                () = self.upgrades.relieved() => return self.retire(&mut signals).await,
                serves = word_of(&mut successor) => {
                    successor = None;
                    if serves {
                        return self.retire(&mut signals).await;
                    }
                    self.upgrades.pingoras(false);
                    log::error!("upgrade failed, this process serves on: the new one ended before it served (see its log)");
                    continue;
                }
            };
            match wish {
                Wish::Stop => {
                    self.upgrades.call_off().await;
                    return log::info!("stopping at once: signal=SIGINT");
                }
                Wish::Drain => {
                    self.upgrades.call_off().await;
                    self.notify.stopping();
                    log::info!("draining: signal=SIGTERM connections={}", self.connections.open());
                    return self.drain(&mut signals, self.current.load().plan.drain.delay).await;
                }
                Wish::Upgrade if successor.is_some() || self.upgrades.is_under_way() => {
                    log::warn!("upgrade under way already, the new process does not serve yet: signal=SIGQUIT");
                }
                Wish::Upgrade => {
                    successor = self.hand_over().await;
                    self.upgrades.pingoras(successor.is_some());
                }
                wish => self.in_passing(wish),
            }
        }
    }

    /// Leaves the field to a new process that serves with the same sockets. No balancer in front need notice, and nobody is
    /// to be told that there is no readiness: so without a delay, and without the admin listener.
    async fn retire(&self, signals: &mut Signals) {
        log::info!("draining: the new process serves: connections={}", self.connections.open());
        self.life.relieved.send_replace(true);
        self.drain(signals, Duration::ZERO).await;
        self.upgrades.answered().await;
    }

    /// What changes nothing about whether the process goes on.
    fn in_passing(&self, wish: Wish) {
        match wish {
            Wish::Reopen => {
                if let Some(log) = &self.current.load().access_log {
                    log.reopen();
                }
                match self.log.reopen() {
                    Ok(()) => log::info!("log files opened again: signal=SIGUSR1"),
                    Err(error) => log::error!("the log file cannot be opened again, the old one goes on: {error}"),
                }
            }
            Wish::Reload => {
                log::info!("configuration is read again: signal=SIGHUP");
                let (reloader, notify) = (self.reloader.clone(), self.notify.clone());
                // A process that does not serve yet is not ready again either.
                let serving = self.life.phase() == Phase::Serving;
                drop(tokio::spawn(async move {
                    if serving {
                        notify.reloading();
                    }
                    reloader.reload_unasked().await;
                    if serving {
                        notify.ready("serving");
                    }
                }));
            }
            Wish::Ignore | Wish::Stop | Wish::Drain | Wish::Upgrade => {}
        }
    }

    /// Hands the listening sockets to a new process. If there is none, or it does not take them, this one serves on.
    async fn hand_over(&self) -> Option<Successor> {
        if !listen::is_awaited(&self.upgrade_sock) {
            log::error!(
                "upgrade refused: no process waits for the sockets (start the new one with --upgrade first): sock={}",
                self.upgrade_sock.display()
            );
            return None;
        }
        self.send_sockets()
            .await
            .inspect_err(|error| log::error!("upgrade failed, this process serves on: {error}"))
            .ok()
    }

    async fn send_sockets(&self) -> io::Result<Successor> {
        let (sockets, path) = ((self.sockets)()?, self.upgrade_sock.clone());
        let count = sockets.len();
        let successor = tokio::task::spawn_blocking(move || listen::hand_over(&sockets, &path)).await??;
        log::info!("listening sockets handed over: sockets={count}");
        Ok(successor)
    }

    /// Finishes what is under way. A second SIGTERM, or SIGINT, ends the wait.
    async fn drain(&self, signals: &mut Signals, delay: Duration) {
        self.life.advance(Phase::Leaving);
        let connections = self.connections.open();
        let text = format!("the process drains: {connections} connections are open");
        self.current.load().events.tell("drain", text, vec![("connections", connections.to_string())]);
        let impatient = self.second_stop(signals);
        let finish = async {
            tokio::time::sleep(delay).await;
            self.life.advance(Phase::Draining);
            self.life.until_closed().await;
            self.finished().await
        };
        tokio::select! {
            () = impatient => log::warn!("drain cut short by a second signal: connections={}", self.connections.open()),
            left = finish => match left {
                0 => log::info!("drained"),
                left => log::warn!("drain ended with connections left: connections={left}"),
            },
        }
    }

    /// Resolves when the process is told a second time to stop. A process that a new one has relieved has not been told a
    /// first time; and what it is told may be meant for the new one, which whoever started this one does not know.
    async fn second_stop(&self, signals: &mut Signals) {
        let relieved = self.life.is_relieved();
        let mut told = (!relieved).then(Instant::now);
        loop {
            let wish = signals.next().await;
            if relieved && self.upgrades.front == Front::Stays {
                attend::pass_on(wish.signal());
            }
            match (wish, told) {
                (Wish::Stop, _) => return,
                // One stop often comes twice: to the process, and to its group.
                (Wish::Drain, Some(first)) if first.elapsed() >= ECHO => return,
                (Wish::Drain, _) => _ = told.get_or_insert_with(Instant::now),
                (wish, _) => self.in_passing(wish),
            }
        }
    }

    /// Waits until nothing is left, requests no longer than the grace period and tunnels no longer than their own bound.
    async fn finished(&self) -> usize {
        let plan = self.current.load().plan.clone();
        let requests = tokio::time::timeout(plan.server.grace_period, self.connections.only_tunnels_left());
        let tunnels = tokio::time::timeout(plan.drain.tunnels, self.connections.no_tunnels());
        tokio::select! {
            () = self.connections.none_left() => {}
            // Each kind has ended, or has had its time.
            _ = async { tokio::join!(requests, tunnels) } => {}
        }
        self.connections.open()
    }
}

/// Whether the new process serves, once that is known; never, without one.
async fn word_of(successor: &mut Option<Successor>) -> bool {
    match successor {
        Some(successor) => successor.serves().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_never_left_for_an_earlier_one() {
        let life = Life::default();
        life.advance(Phase::Draining);
        life.serving();
        assert_eq!(life.phase(), Phase::Draining);
        assert!(*life.draining().borrow());
    }
}
