//! Berths: how many connections may be open at one backend (`max_connections`), idle ones included.
//!
//! A connection takes a berth before it is made, and gives it back once it is closed, so that the bound holds at every moment,
//! whichever road made the connection. Who needs a berth never waits for long: no more requests are at the backend than it has
//! berths (`breaker`) and each uses one connection at most, so that where all berths are taken one is taken by a connection
//! that is idle, and that one is closed in its place (Envoy and HAProxy do the same).
//!
//! The direct lane's connections hold their berth themselves. Of Pingora's a tracer tells, which Pingora calls when it drops
//! one. Those that Pingora keeps are known here by their descriptor: an idle one is closed by shutting its socket down, which
//! Pingora notices, and never while a request may just be taking it.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::sys::socket::{Shutdown, shutdown};
use parking_lot::Mutex;
use pingora_core::upstreams::peer::{Tracer, Tracing};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::breaker::Breaker;

/// The berths of one backend.
#[derive(Debug)]
pub struct Berths {
    taken: Breaker,
    freed: Notify,
    /// Pingora's connections by their descriptors, as long as they are open.
    moored: Mutex<Moored>,
}

#[derive(Debug, Default)]
struct Moored {
    connections: HashMap<RawFd, Connection>,
    next: u64,
    /// Requests that may be taking one of them now.
    reaching: u32,
}

/// A connection that Pingora keeps.
#[derive(Debug)]
struct Connection {
    /// Tells it from an earlier one with the same descriptor.
    number: u64,
    /// Requests that use it: two for the moment in which one has taken it over and the other has not let go.
    users: u32,
    /// It is being closed to make room.
    leaves: bool,
}

/// A place for one connection, free again when this is dropped.
#[derive(Debug)]
pub struct Berth(Arc<Berths>);

impl Drop for Berth {
    fn drop(&mut self) {
        self.0.taken.leave();
        self.0.freed.notify_waiters();
    }
}

/// The connection is being closed to make room for another: nothing can be sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is being closed to make room for another")]
pub struct Left;

/// A request that may take one of Pingora's idle connections: until it has, or has found none, none of them is closed.
#[derive(Debug, Clone)]
pub struct Reach(Arc<Reaching>);

#[derive(Debug)]
struct Reaching {
    berths: Arc<Berths>,
    over: AtomicBool,
}

impl Reach {
    /// It has a connection, or takes none of the idle ones.
    pub(super) fn end(&self) {
        if !self.0.over.swap(true, Relaxed) {
            self.0.berths.moored.lock().reaching -= 1;
            self.0.berths.freed.notify_waiters();
        }
    }
}

impl Berths {
    /// So many berths; none: connections are not bounded, and not counted. Where a bound is set later, those that were made
    /// before are not counted.
    pub(super) fn new(most: Option<u32>) -> Arc<Self> {
        Arc::new(Self { taken: Breaker::new(most), freed: Notify::new(), moored: Mutex::default() })
    }

    /// Sets another bound. Connections beyond it stay until they are closed.
    pub(super) fn set_most(&self, most: Option<u32>) {
        self.taken.set_most(most);
        self.freed.notify_waiters();
    }

    /// How many there are; none: no bound.
    pub(super) fn most(&self) -> Option<u64> {
        self.taken.most()
    }

    /// Takes a berth, if one is free.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Berth> {
        self.taken.enter().then(|| Berth(Arc::clone(self)))
    }

    /// Ready when a berth may be free again.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// A request is about to take one of Pingora's idle connections; none where they are not bounded.
    pub(super) fn reach(self: &Arc<Self>) -> Option<Reach> {
        self.most()?;
        self.moored.lock().reaching += 1;
        Some(Reach(Arc::new(Reaching { berths: Arc::clone(self), over: AtomicBool::new(false) })))
    }

    /// Begins to close one of Pingora's idle connections, where there is one and none is being closed already.
    pub(super) fn send_one_away(&self) {
        let mut moored = self.moored.lock();
        if moored.reaching > 0 || moored.connections.values().any(|connection| connection.leaves) {
            return;
        }
        if let Some((descriptor, connection)) =
            moored.connections.iter_mut().find(|(_, connection)| connection.users == 0)
        {
            connection.leaves = true;
            // Under the lock: whoever closes it takes it out of the map first. A failure means that it is broken already.
            let _ = shutdown(*descriptor, Shutdown::Both);
        }
    }

    /// A request has got the connection with this descriptor, which is new or was `reused`. Only those that Pingora keeps have
    /// a boarding.
    ///
    /// # Errors
    /// [`Left`]: it is being closed, which Pingora's own test of it does not see as long as the runtime has not heard of it.
    pub(super) fn board(self: &Arc<Self>, descriptor: RawFd, reused: bool) -> Result<Option<Boarding>, Left> {
        if self.most().is_none() {
            return Ok(None);
        }
        let mut moored = self.moored.lock();
        let Some(connection) = moored.connections.get_mut(&descriptor) else { return Ok(None) };
        if connection.leaves {
            return Err(Left);
        }
        // Who made it was counted as its user from the beginning.
        connection.users += u32::from(reused);
        Ok(Some(Boarding { berths: Arc::clone(self), descriptor, number: connection.number }))
    }

    fn moor(&self, descriptor: RawFd) {
        let mut moored = self.moored.lock();
        let number = moored.next;
        moored.next += 1;
        moored.connections.insert(descriptor, Connection { number, users: 1, leaves: false });
    }
}

/// One request's use of one of Pingora's connections, until it is dropped.
#[derive(Debug)]
pub(super) struct Boarding {
    berths: Arc<Berths>,
    descriptor: RawFd,
    number: u64,
}

impl Drop for Boarding {
    fn drop(&mut self) {
        let mut moored = self.berths.moored.lock();
        if let Some(connection) = moored.connections.get_mut(&self.descriptor)
            && connection.number == self.number
        {
            connection.users -= 1;
        }
        drop(moored);
        // It may wait for a request now, and somebody may need its berth.
        self.berths.freed.notify_waiters();
    }
}

/// Who keeps a connection while it is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Pingora.
    Pingora,
    /// The direct lane (`warm`).
    Lane,
}

/// What ties one of Pingora's connections to its berth: made before the connection, and told by Pingora of its end.
#[derive(Debug, Clone)]
pub(super) struct Mooring(Arc<Mutex<Option<(RawFd, Berth)>>>);

impl Mooring {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// The connection stands, and Pingora or the lane keeps it while it is idle.
    pub(super) fn moor(&self, descriptor: RawFd, berth: Berth, keeper: Keeper) {
        if keeper == Keeper::Pingora {
            berth.0.moor(descriptor);
        }
        *self.0.lock() = Some((descriptor, berth));
    }

    /// What Pingora tells of the connection's end.
    pub(super) fn tracer(&self) -> Tracer {
        Tracer(Box::new(self.clone()))
    }
}

impl Tracing for Mooring {
    fn on_connected(&self) {}

    /// Pingora is about to close the connection: the other side hears of it before the berth is free.
    fn on_disconnected(&self) {
        let Some((descriptor, berth)) = self.0.lock().take() else { return };
        berth.0.moored.lock().connections.remove(&descriptor);
        // A failure means that it is broken already.
        let _ = shutdown(descriptor, Shutdown::Both);
        drop(berth);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A connection as Pingora holds it, the backend's end, and what Pingora has to tell when it drops it.
    fn moored(berths: &Arc<Berths>) -> (UnixStream, UnixStream, Mooring) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mooring = Mooring::new();
        mooring.moor(ours.as_raw_fd(), berths.try_take().unwrap(), Keeper::Pingora);
        (ours, theirs, mooring)
    }

    fn is_closed(mut stream: &UnixStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    }

    #[test]
    fn a_berth_is_free_again_when_its_connection_has_been_closed_and_not_before() {
        let berths = Berths::new(Some(1));
        let (ours, theirs, mooring) = moored(&berths);
        assert!(berths.try_take().is_none());
        mooring.on_disconnected();
        assert!(is_closed(&theirs));
        assert!(berths.try_take().is_some());
        mooring.on_disconnected();
        assert_eq!(berths.taken.count(), 0, "told twice, counted once");
        drop(ours);
    }

    #[test]
    fn an_idle_connection_makes_room_and_one_in_use_does_not() {
        let berths = Berths::new(Some(2));
        let [busy, idle] = [moored(&berths), moored(&berths)];
        let boarding = |one: &(UnixStream, UnixStream, Mooring), reused| berths.board(one.0.as_raw_fd(), reused);
        let kept = boarding(&busy, false);
        drop(boarding(&idle, false));
        berths.send_one_away();
        assert!(is_closed(&idle.1) && !is_closed(&busy.1));
        assert_eq!(boarding(&idle, true).unwrap_err(), Left);
        idle.2.on_disconnected();
        berths.send_one_away();
        assert!(!is_closed(&busy.1));
        drop(kept);
        berths.send_one_away();
        assert!(is_closed(&busy.1));
    }

    #[test]
    fn no_connection_is_closed_while_a_request_may_be_taking_it() {
        let berths = Berths::new(Some(1));
        let one = moored(&berths);
        drop(berths.board(one.0.as_raw_fd(), false));
        let reach = berths.reach().unwrap();
        berths.send_one_away();
        assert!(!is_closed(&one.1));
        reach.end();
        reach.end();
        berths.send_one_away();
        assert!(is_closed(&one.1));
    }

    #[test]
    fn who_lets_go_late_does_not_make_a_connection_idle_that_another_has_taken_over() {
        let berths = Berths::new(Some(1));
        let one = moored(&berths);
        let first = berths.board(one.0.as_raw_fd(), false);
        let second = berths.board(one.0.as_raw_fd(), true);
        drop(first);
        berths.send_one_away();
        assert!(!is_closed(&one.1));
        // It is closed, and another gets its descriptor, before the last one lets go.
        one.2.on_disconnected();
        let again = Mooring::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        again.moor(one.0.as_raw_fd(), berths.try_take().unwrap(), Keeper::Pingora);
        drop(second);
        berths.send_one_away();
        assert!(!is_closed(&theirs), "its maker still uses it");
        assert!(berths.board(one.0.as_raw_fd(), false).unwrap().is_some());
        drop(ours);
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let berths = Berths::new(None);
        assert!(berths.board(7, true).unwrap().is_none() && berths.reach().is_none());
        assert_eq!(berths.most(), None);
    }
}
