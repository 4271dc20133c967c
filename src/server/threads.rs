//! The threads that serve, and which of them the next connection goes to.
//!
//! Where threads take work from each other they are one runtime, which finds the thread. Where they do not
//! (`work_stealing: false`) each is a runtime of its own, and a connection stays all its life where it was begun: so they get
//! connections in turn.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::edge::transport::{Transport, Unwatched};

/// Pingora tells one of its threads at random: after so many tellings for each one known, there is none unknown (that one is
/// missed: once in e⁶⁴ times).
const TELLINGS: usize = 64;

/// The threads of a service.
#[derive(Debug)]
pub(super) enum Threads {
    /// One runtime has them all.
    Together,
    /// Each is a runtime.
    Apart { all: Vec<Handle>, turn: AtomicUsize },
}

impl Threads {
    /// Those of the service that this is called in.
    pub(super) fn here() -> Self {
        if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Self::Together;
        }
        let mut all: Vec<Handle> = Vec::new();
        let mut told = 0;
        while told <= TELLINGS * all.len() {
            let handle = pingora_runtime::current_handle();
            if all.iter().all(|known| known.id() != handle.id()) {
                all.push(handle);
            }
            told += 1;
        }
        Self::Apart { all, turn: AtomicUsize::new(0) }
    }

    /// Has a thread serve a connection.
    pub(super) fn serve<F>(&self, transport: Transport, serve: impl FnOnce(Transport) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::Together => drop(tokio::spawn(serve(transport))),
            Self::Apart { all, turn } => {
                let Some(next) = all.get(turn.fetch_add(1, Relaxed) % all.len().max(1)) else { return };
                let unwatched = transport.unwatch();
                drop(next.spawn(async move {
                    match unwatched.and_then(Unwatched::watch) {
                        Ok(transport) => serve(transport).await,
                        // As one that could not be accepted: the system has no room for it.
                        Err(error) => log::warn!("cannot serve a connection: {error}"),
                    }
                }));
            }
        }
    }
}
