//! Berths: how many connections may be open at one backend (`max_connections`), idle ones included.
//!
//! A connection takes a berth before it is made, and gives it back once it is closed, so that the bound holds at every moment,
//! whichever road made the connection. Who needs a berth never waits for long: no more requests are at the backend than it has
//! berths (`breaker`) and each uses one connection at most, so that where all berths are taken one is taken by a connection
//! that is idle, and that one is closed in its place (Envoy and HAProxy do the same).
//!
//! Plain connections hold their berth themselves. Of those that Pingora's connector makes a tracer tells, which Pingora calls when it
//! drops one.

use std::os::fd::RawFd;
use std::sync::Arc;

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

impl Berths {
    /// So many berths; none: connections are not bounded, and not counted. Where a bound is set later, those that were made
    /// before are not counted.
    pub(super) fn new(most: Option<u32>) -> Arc<Self> {
        Arc::new(Self { taken: Breaker::new(most), freed: Notify::new() })
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
}

/// What ties a connection that Pingora's connector makes to its berth: made before the connection, and told by Pingora of its end.
#[derive(Debug, Clone)]
pub(super) struct Mooring(Arc<Mutex<Option<(RawFd, Berth)>>>);

impl Mooring {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// The connection stands.
    pub(super) fn moor(&self, descriptor: RawFd, berth: Berth) {
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

    fn is_closed(mut stream: &UnixStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    }

    #[test]
    fn a_berth_is_free_again_when_its_connection_has_been_closed_and_not_before() {
        let berths = Berths::new(Some(1));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mooring = Mooring::new();
        mooring.moor(ours.as_raw_fd(), berths.try_take().unwrap());
        assert!(berths.try_take().is_none());
        mooring.on_disconnected();
        assert!(is_closed(&theirs));
        assert!(berths.try_take().is_some());
        mooring.on_disconnected();
        assert_eq!(berths.taken.count(), 0, "told twice, counted once");
    }
}
