//! Accepts connections: one service for all listeners, so that `threads` is the number that serve traffic.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::apps::HttpServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::task::JoinSet;

use super::listen::{Bound, Listening};
use crate::base::request::Scheme;
use crate::config::plan;
use crate::edge::connection::{Edge, Entrance};
use crate::edge::limits::{Gate, Ticket};
use crate::edge::stream::{self, ClientStream};
use crate::edge::transport::Transport;
use crate::exchange::refused::Refused;
use crate::telemetry::metrics::series::{self, Refusal};
use crate::telemetry::reason::Reason;

/// How long the accept loop rests when the process is out of descriptors or memory: what is open may end meanwhile.
const BREATHER: Duration = Duration::from_millis(100);

/// A listener with its socket.
pub struct Door {
    /// The listener.
    pub plan: Arc<plan::Listener>,
    /// Its socket.
    pub bound: Bound,
    /// Its bound on connections.
    pub gate: Arc<Gate>,
    /// What is counted of it.
    pub counts: Option<Arc<series::Listener>>,
}

/// What must have happened before listeners open.
pub type Opening = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The service that accepts connections for one kind of app.
pub struct Accept<A> {
    /// Its name, which its threads bear.
    pub name: &'static str,
    /// How many threads serve; none: as many as the server's configuration says.
    pub threads: Option<usize>,
    /// Its listeners; taken when the service starts.
    pub doors: Mutex<Vec<Door>>,
    /// What serves the connections.
    pub edge: Arc<Edge<A>>,
    /// What must have happened before the listeners open; taken when the service starts.
    pub opening: Mutex<Option<Opening>>,
    /// Called once the listeners are open; never, where they must close before.
    pub opened: Box<dyn Fn() + Send + Sync>,
    /// Turns true when the listeners must close.
    pub close: ShutdownWatch,
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
        let doors = std::mem::take(&mut *self.doors.lock());
        let mut close = self.close.clone();
        let opens = tokio::select! {
            () = async { if let Some(opening) = opening { opening.await } } => true,
            () = turned(&mut close) => false,
        };
        if opens {
            let loops: JoinSet<()> = doors.into_iter().map(|door| self.attend(door, tasks)).collect();
            (self.opened)();
            ready.notify_ready();
            loops.join_all().await;
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

impl<A: HttpServerApp + Send + Sync + 'static> Accept<A> {
    /// Opens a door. What is returned accepts there, with so many tasks, until the listeners close.
    fn attend(&self, door: Door, tasks: usize) -> impl Future<Output = ()> + Send + use<A> {
        let name = door.plan.name.clone();
        let listening = door.bound.listen().unwrap_or_else(|error| {
            // Another process took the address between our bind and now. Nothing has been served yet.
            log::error!("cannot listen: listener={name} error=\"{error}\"");
            std::process::exit(1)
        });
        let doorway = Arc::new(Doorway { listener: door.plan, gate: door.gate, counts: door.counts });
        accept_all(listening, doorway, self.edge.clone(), self.close.clone(), tasks)
    }
}

/// Resolves when the watch turns true.
async fn turned(watch: &mut ShutdownWatch) {
    // The sender lives as long as the server.
    let _ = watch.wait_for(|turned| *turned).await;
}

/// A door whose socket listens.
struct Doorway {
    listener: Arc<plan::Listener>,
    gate: Arc<Gate>,
    counts: Option<Arc<series::Listener>>,
}

/// Accepts until told to close, and then what has come already: the system would reset what waits in its queue.
async fn accept_all<A: HttpServerApp + Send + Sync + 'static>(
    listening: Listening,
    door: Arc<Doorway>,
    edge: Arc<Edge<A>>,
    close: ShutdownWatch,
    tasks: usize,
) {
    let listening = Arc::new(listening);
    let accept = || accept(listening.clone(), door.clone(), edge.clone(), close.clone());
    let loops: JoinSet<()> = (0..tasks.max(1)).map(|_| accept()).collect();
    loops.join_all().await;
    // All tasks have ended and given up their share.
    for transport in Arc::into_inner(listening).map(Listening::into_waiting).unwrap_or_default() {
        enter(&door, &edge, transport);
    }
}

async fn accept<A: HttpServerApp + Send + Sync + 'static>(
    listening: Arc<Listening>,
    door: Arc<Doorway>,
    edge: Arc<Edge<A>>,
    mut close: ShutdownWatch,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listening.accept() => accepted,
            () = turned(&mut close) => return,
        };
        match accepted {
            Ok(transport) => enter(&door, &edge, transport),
            Err(error) => {
                log::warn!("cannot accept: listener={} error=\"{error}\"", door.listener.name);
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
}

/// Serves a connection, or turns it away where there is no room.
fn enter<A: HttpServerApp + Send + Sync + 'static>(door: &Doorway, edge: &Arc<Edge<A>>, transport: Transport) {
    let entrance = Entrance { peer: transport.peer(), listener: door.listener.clone() };
    let Some(ticket) = door.gate.enter() else {
        if let Some(counts) = &door.counts {
            counts.refused(Refusal::MaxConnections);
        }
        return turn_away(edge, transport, &entrance);
    };
    let open = door.counts.as_ref().map(|counts| counts.opened());
    let edge = edge.clone();
    drop(tokio::spawn(async move {
        serve(&edge, transport, entrance, ticket).await;
        drop(open);
    }));
}

async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    edge: &Edge<A>,
    transport: Transport,
    entrance: Entrance,
    ticket: Ticket,
) {
    let stream = ClientStream::new(transport, entrance.listener.timeouts, edge.current.clock(), ticket);
    edge.serve(Box::new(stream), entrance).await;
}

/// Tells a client that there is no room, and closes. Only so many clients are told at once: beyond that the connection is
/// closed without a word.
fn turn_away<A>(edge: &Edge<A>, transport: Transport, entrance: &Entrance) {
    let snapshot = edge.current.load();
    snapshot.counters.answered(Reason::ConnectionLimitReached);
    let answer =
        Refused::new(&snapshot, &entrance.listener, Scheme::Http, Reason::ConnectionLimitReached).answer(false);
    if let (Some(answer), Ok(place)) = (answer, edge.farewells.clone().try_acquire_owned()) {
        drop(tokio::spawn(async move {
            stream::farewell(transport, &answer).await;
            drop(place);
        }));
    }
}
