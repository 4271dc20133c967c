//! The doors of the process: listeners with their sockets, which open when the service starts and close when it ends, and,
//! at a reload, in between.
//!
//! A door is known by its address. A listener that keeps its address keeps its socket, so that nobody who connects meanwhile
//! is refused; what else is changed of it, its connections learn from their [`Door`].

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora_core::apps::HttpServerApp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::accept::{AfterClose, accept_all};
use super::listen::{Access, Bound, Listening, Named, SocketFile};
use crate::config::plan::{self, ListenAddress};
use crate::edge::connection::{Audience, Edge};
use crate::edge::door::{Door, Live};
use crate::edge::limits::Connections;

/// All doors of one kind of app.
pub struct Doors<A> {
    edge: Arc<Edge<A>>,
    connections: Arc<Connections>,
    posts: Mutex<Vec<Post>>,
    work: Mutex<Option<Work>>,
}

/// One door with its socket.
struct Post {
    address: ListenAddress,
    door: Arc<Door>,
    socket: Socket,
    /// The file of a unix socket, and whether another process may listen there too: the one that handed it over.
    file: Option<(SocketFile, Shared)>,
    /// Whether somebody accepts there.
    attended: bool,
    close: watch::Sender<bool>,
}

/// Whether a socket has come from another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    Yes,
    No,
}

/// How far a socket is.
enum Socket {
    Bound(Bound),
    Listening(Arc<Listening>),
    /// Nobody accepts there any more.
    Closed,
}

/// Where doors are attended to, from the opening of the first to the closing of all.
struct Work {
    runtime: Handle,
    /// Tasks that accept, for each door.
    tasks: usize,
    /// Held by each of them.
    at_work: mpsc::Sender<()>,
}

/// What becomes of the files of unix sockets when the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// They are removed.
    Nothing,
    /// Those stay that another process has handed over: it listens there still.
    Inherited,
    /// All stay: another process listens there now.
    All,
}

impl<A> Doors<A> {
    /// Doors for these listeners, each with its socket: they stay shut until `open`.
    #[must_use]
    pub fn new(
        edge: Edge<A>,
        connections: Arc<Connections>,
        listeners: Vec<(Arc<plan::Listener>, Bound)>,
    ) -> Arc<Self> {
        let post = |(plan, bound): (Arc<plan::Listener>, _)| Post::shut(live(&edge, &plan), plan, bound, &connections);
        let posts = listeners.into_iter().map(post).collect();
        Arc::new(Self { edge: Arc::new(edge), connections, posts: Mutex::new(posts), work: Mutex::default() })
    }

    /// The sockets as they are now, by the names under which they are handed over.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn sockets(&self) -> io::Result<Named> {
        let posts = self.posts.lock();
        let named = |post: &Post| Some(post.share()?.map(|socket| (post.address.to_string(), socket)));
        posts.iter().filter_map(named).collect()
    }

    /// What serves at them.
    pub(super) fn app(&self) -> &Arc<A> {
        &self.edge.app
    }

    /// Whether one of them is at this address, or in its way.
    pub(super) fn hold(&self, address: &ListenAddress) -> bool {
        self.posts.lock().iter().any(|post| post.address.overlaps(address))
    }

    /// Whether a socket has come from another process.
    pub(super) fn any_inherited(&self) -> bool {
        self.posts.lock().iter().any(|post| matches!(&post.socket, Socket::Bound(bound) if bound.is_inherited()))
    }

    /// Has nobody else come: who has begun to is still accepted. No other process may listen on the sockets.
    pub(super) fn take_no_more(&self) {
        self.posts.lock().iter().filter_map(Post::listening).for_each(Listening::take_no_more);
    }

    /// Closes all doors: nobody is accepted who has not come yet.
    pub(super) fn close(&self, after: AfterClose) {
        // No door opens any more.
        self.work.lock().take();
        for post in self.posts.lock().iter_mut() {
            post.close();
            if after == AfterClose::Drain {
                post.door.drain();
            }
        }
    }

    /// Forgets all doors at the end of the process, and does with the files of unix sockets as told.
    pub fn forget(&self, leave: Leave) {
        for (file, shared) in self.posts.lock().drain(..).filter_map(|post| post.file) {
            match (leave, shared) {
                (Leave::All, _) | (Leave::Inherited, Shared::Yes) => file.leave(),
                (Leave::Nothing, _) | (Leave::Inherited, Shared::No) => drop(file),
            }
        }
    }
}

/// Doors that are to open, with sockets that listen already: who connects meanwhile waits.
pub(super) struct Opening(Vec<Post>);

impl<A: HttpServerApp + Send + Sync + 'static> Doors<A> {
    /// Makes sockets for those of `listeners` that have none. Nothing is accepted there before [`Doors::commit`]; where that
    /// does not come they are closed again.
    ///
    /// # Errors
    /// An address cannot be had; the error says which and why.
    pub(super) fn prepare(&self, listeners: &[Arc<plan::Listener>]) -> io::Result<Opening> {
        let posts = self.posts.lock();
        let runtime = self.work.lock().as_ref().map(|work| work.runtime.clone());
        let _inside = runtime.as_ref().map(Handle::enter);
        let wanted = |post: &Post| listeners.iter().any(|plan| plan.address == post.address);
        let has_door = |plan: &Arc<plan::Listener>| posts.iter().any(|post| post.address == plan.address);
        let mut opening = Vec::new();
        for plan in listeners.iter().filter(|plan| !has_door(plan)) {
            let in_the_way = |post: &&Post| !wanted(post) && post.address.overlaps(&plan.address);
            let neighbours: Vec<_> = posts.iter().filter(in_the_way).filter_map(Post::listening).collect();
            let bound = Bound::beside(&plan.address, self.access(), &neighbours)?;
            let mut post = Post::shut(Live::default(), Arc::clone(plan), bound, &self.connections);
            post.listen()?;
            opening.push(post);
        }
        Ok(Opening(opening))
    }

    /// Follows a new plan: what was prepared opens, listeners that stay follow their own, and those that are gone close.
    /// What belongs to each is found in the present snapshot.
    pub(super) fn commit(&self, opening: Opening, listeners: &[Arc<plan::Listener>]) {
        let mut posts = self.posts.lock();
        let planned = |post: &Post| listeners.iter().find(|plan| plan.address == post.address);
        posts.extend(opening.0);
        let work = self.work.lock();
        posts.retain_mut(|post| {
            match planned(post) {
                Some(plan) => post.door.follow(Arc::clone(plan), live(&self.edge, plan)),
                None => {
                    log::info!("listener closed: listener={} address={}", post.door.plan().name, post.address);
                    if let Some(listening) = post.listening() {
                        listening.take_no_more();
                    }
                    post.close();
                    post.door.drain();
                    return false;
                }
            }
            if let (Some(work), false) = (&*work, post.attended) {
                log::info!("listener opened: listener={} address={}", post.door.plan().name, post.address);
                post.attend(work, &self.edge);
            }
            true
        });
    }

    /// Who may connect to its unix sockets.
    fn access(&self) -> Access {
        match self.edge.audience {
            Audience::Clients => Access::Anybody,
            Audience::Operators => Access::Owner,
        }
    }

    /// Opens all doors. What is returned resolves when all are closed and what came by them is counted.
    ///
    /// # Errors
    /// Another process has begun to listen on an address; the error names the listener.
    pub(super) fn open(&self, runtime: Handle, tasks: usize) -> io::Result<impl Future<Output = ()> + use<A>> {
        let (at_work, mut all_left) = mpsc::channel(1);
        let work = Work { runtime, tasks, at_work };
        for post in self.posts.lock().iter_mut() {
            post.listen()?;
            post.attend(&work, &self.edge);
        }
        *self.work.lock() = Some(work);
        Ok(async move { while all_left.recv().await.is_some() {} })
    }
}

impl Post {
    fn shut(live: Live, plan: Arc<plan::Listener>, mut bound: Bound, all: &Arc<Connections>) -> Self {
        let shared = if bound.is_inherited() { Shared::Yes } else { Shared::No };
        Self {
            address: plan.address.clone(),
            file: bound.take_file().map(|file| (file, shared)),
            door: Door::new(plan, live, Arc::clone(all)),
            socket: Socket::Bound(bound),
            attended: false,
            close: watch::Sender::new(false),
        }
    }

    fn listen(&mut self) -> io::Result<()> {
        let Socket::Bound(bound) = std::mem::replace(&mut self.socket, Socket::Closed) else { return Ok(()) };
        let listening = bound.listen().map_err(|error| cannot_listen(&self.address, &error))?;
        self.socket = Socket::Listening(Arc::new(listening));
        Ok(())
    }

    fn attend<A>(&mut self, work: &Work, edge: &Arc<Edge<A>>)
    where
        A: HttpServerApp + Send + Sync + 'static,
    {
        let Socket::Listening(listening) = &self.socket else { return };
        self.attended = true;
        let (listening, door, edge) = (listening.clone(), self.door.clone(), edge.clone());
        let (close, tasks, at_work) = (self.close.subscribe(), work.tasks, work.at_work.clone());
        drop(work.runtime.spawn(async move {
            accept_all(listening, door, edge, close, tasks).await;
            drop(at_work);
        }));
    }

    fn listening(&self) -> Option<&Listening> {
        match &self.socket {
            Socket::Listening(listening) => Some(listening),
            Socket::Bound(_) | Socket::Closed => None,
        }
    }

    fn share(&self) -> Option<io::Result<OwnedFd>> {
        match &self.socket {
            Socket::Bound(bound) => Some(bound.share()),
            Socket::Listening(listening) => Some(listening.share()),
            Socket::Closed => None,
        }
    }

    fn close(&mut self) {
        // The tasks that accept hold the socket until they have taken what waits in its queue.
        self.socket = Socket::Closed;
        self.close.send_replace(true);
    }
}

/// What the present snapshot has for a listener; nothing for the admin listener, whose name another may bear.
fn live<A>(edge: &Edge<A>, listener: &plan::Listener) -> Live {
    let snapshot = edge.current.load();
    match edge.audience {
        Audience::Clients => Live {
            counts: snapshot.counters.listener(&listener.name).cloned(),
            terminator: snapshot.terminators.get(&listener.name).cloned(),
        },
        Audience::Operators => Live::default(),
    }
}

fn cannot_listen(address: &ListenAddress, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}
