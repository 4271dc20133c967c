//! Accepts connections: one service for all listeners, so that `threads` is the number that serve traffic. Which doors are
//! open, `Doors` knows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::apps::HttpServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::doors::Doors;
use super::listen::Listening;
use super::threads::Threads;
use crate::edge::connection::Edge;
use crate::edge::door::{Door, Entrance};
use crate::edge::transport::Transport;
use crate::telemetry::metrics::series::Refusal;

/// How long the accept loop rests when the process is out of descriptors or memory: what is open may end meanwhile.
const BREATHER: Duration = Duration::from_millis(100);

/// How long handshakes that have begun are waited for before the process closes its sockets: about the way there and back.
const HANDSHAKE: Duration = Duration::from_millis(100);

/// After so long without a failure to accept, the next one is told again.
const CALM: Duration = Duration::from_secs(10);

/// What must have happened before listeners open.
pub type Opening = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What becomes of open connections when the service closes its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterClose {
    /// They come to an end.
    Drain,
    /// They are served as long as the process lives.
    Serve,
}

/// Who listens on the sockets of a service when it closes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listeners {
    /// This process alone.
    WeAlone,
    /// A new process too, or it is about to.
    AnotherProcess,
}

/// The service that accepts connections for one kind of app.
pub struct Accept<A> {
    /// Its name, which its threads bear.
    pub name: &'static str,
    /// How many threads serve; none: as many as the server's configuration says.
    pub threads: Option<usize>,
    /// Its listeners.
    pub doors: Arc<Doors<A>>,
    /// What must have happened before the listeners open; taken when the service starts.
    pub opening: Mutex<Option<Opening>>,
    /// Called once the listeners are open; never, where they must close before.
    pub opened: Box<dyn Fn() + Send + Sync>,
    /// Turns true when the listeners must close.
    pub close: ShutdownWatch,
    /// Says, then, who listens.
    pub listeners: Box<dyn Fn() -> Listeners + Send + Sync>,
    /// What becomes of connections then.
    pub after_close: AfterClose,
    /// Called once the listeners are closed, and all that came by them is counted.
    pub closed: Box<dyn Fn() + Send + Sync>,
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServiceWithDependents for Accept<A> {
    async fn start_service(
        &mut self,
        _: Option<ListenFds>,
        _: ShutdownWatch,
        tasks: usize,
        ready: ServiceReadyNotifier,
    ) {
        let opening = self.opening.lock().take();
        let mut close = self.close.clone();
        let opens = tokio::select! {
            () = async { if let Some(opening) = opening { opening.await } } => true,
            () = turned(&mut close) => false,
        };
        if opens {
            let all_closed = self.doors.open(Handle::current(), tasks).unwrap_or_else(|error| {
                // Another process took the address between our bind and now. Nothing has been served yet.
                log::error!("{error}");
                std::process::exit(1)
            });
            (self.opened)();
            ready.notify_ready();
            turned(&mut close).await;
            if (self.listeners)() == Listeners::WeAlone {
                self.doors.take_no_more();
                tokio::time::sleep(HANDSHAKE).await;
            }
            self.doors.close(self.after_close);
            all_closed.await;
        }
        (self.closed)();
    }

    fn name(&self) -> &str {
        self.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

/// Resolves when the watch turns true.
async fn turned(watch: &mut ShutdownWatch) {
    // A sender that is gone will say nothing else: its door is closed.
    let _ = watch.wait_for(|turned| *turned).await;
}

/// Accepts at a door, with so many tasks, until told to close, and then what has come already: the system would reset what
/// waits in its queue.
pub(super) async fn accept_all<A: HttpServerApp + Send + Sync + 'static>(
    listening: Arc<Listening>,
    door: Arc<Door>,
    edge: Arc<Edge<A>>,
    close: ShutdownWatch,
    tasks: usize,
) {
    let reception =
        Arc::new(Reception { listening, door, edge, threads: Threads::here(), shortage: Shortage::default() });
    let loops: JoinSet<()> = (0..tasks.max(1)).map(|_| reception.clone().accept(close.clone())).collect();
    loops.join_all().await;
    for transport in reception.listening.waiting() {
        reception.enter(transport);
    }
}

/// What the tasks that accept at one door share.
struct Reception<A> {
    listening: Arc<Listening>,
    door: Arc<Door>,
    edge: Arc<Edge<A>>,
    threads: Threads,
    shortage: Shortage,
}

impl<A: HttpServerApp + Send + Sync + 'static> Reception<A> {
    async fn accept(self: Arc<Self>, mut close: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listening.accept() => accepted,
                () = turned(&mut close) => return,
            };
            match accepted {
                Ok(transport) => self.enter(transport),
                Err(error) => {
                    if self.shortage.begins(Instant::now()) {
                        log::warn!("cannot accept for now: listener={} error=\"{error}\"", self.door.plan().name);
                    }
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    /// Serves a connection, or turns it away where there is no room.
    fn enter(&self, transport: Transport) {
        let (door, edge) = (&self.door, &self.edge);
        let entrance = Entrance::by(door, &transport);
        let Some(ticket) = door.gate().enter() else {
            return edge.turn_away(transport, &entrance, Refusal::MaxConnections);
        };
        if transport.fd() > edge.highest_descriptor {
            return edge.turn_away(transport, &entrance, Refusal::Descriptors);
        }
        let open = door.counts().map(|counts| counts.opened());
        let edge = edge.clone();
        self.threads.serve(transport, |transport| async move {
            edge.receive(transport, entrance, ticket).await;
            drop(open);
        });
    }
}

/// A time in which connections cannot be accepted, for lack of descriptors or memory. It is told when it begins.
#[derive(Debug, Default)]
struct Shortage(Mutex<Option<Instant>>);

impl Shortage {
    /// Whether a failure at `now` begins one.
    fn begins(&self, now: Instant) -> bool {
        let before = self.0.lock().replace(now);
        before.is_none_or(|before| now.duration_since(before) >= CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_when_it_begins_and_not_again_while_it_lasts() {
        let (shortage, start) = (Shortage::default(), Instant::now());
        let begins = |seconds| shortage.begins(start + Duration::from_secs(seconds));
        assert_eq!([begins(0), begins(1), begins(10), begins(19), begins(29)], [true, false, false, false, true]);
    }
}
