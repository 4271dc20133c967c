//! How many connections there are, and how many there may be.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The open connections of the whole process.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    tunnels: AtomicUsize,
    /// Something has ended, or become a tunnel.
    ended: Notify,
}

impl Connections {
    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Resolves when none is open.
    pub async fn none_left(&self) {
        self.until(|all| all.open() == 0).await;
    }

    /// Resolves when all that are open are tunnels.
    pub async fn only_tunnels_left(&self) {
        self.until(|all| all.open() == all.tunnels.load(Relaxed)).await;
    }

    /// Resolves when none is a tunnel.
    pub async fn no_tunnels(&self) {
        self.until(|all| all.tunnels.load(Relaxed) == 0).await;
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Registered before the look, so that a connection that ends in between is not missed.
            ended.as_mut().enable();
            if reached(self) {
                return;
            }
            ended.await;
        }
    }
}

/// The open connections of one listener, and their bound.
#[derive(Debug)]
pub struct Gate {
    all: Arc<Connections>,
    open: AtomicUsize,
    most: AtomicUsize,
    /// Open connections by client, of those that are bounded by client.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

impl Gate {
    /// A gate that lets `most` connections in at once.
    #[must_use]
    pub fn new(all: Arc<Connections>, most: usize) -> Arc<Self> {
        Arc::new(Self { all, open: AtomicUsize::new(0), most: AtomicUsize::new(most), clients: Mutex::default() })
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Lets `most` in at once from now on; who is in stays, beyond the bound too.
    pub fn allow(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// Lets one more connection in; none where the bound is reached.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Ticket> {
        let before = self.open.fetch_add(1, Relaxed);
        self.all.open.fetch_add(1, Relaxed);
        let ticket = Ticket { gate: self.clone(), tunnel: false, client: None };
        (before < self.most.load(Relaxed)).then_some(ticket)
    }
}

/// One open connection; it ends when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    tunnel: bool,
    /// By whom it is counted, where connections are bounded by client.
    client: Option<IpAddr>,
}

impl Ticket {
    /// Counts the connection as one of `client`, of whom there may be `most`. Whether it may stay.
    #[must_use]
    pub fn count_for(&mut self, client: IpAddr, most: usize) -> bool {
        let client = site(client);
        let mut clients = self.gate.clients.lock();
        let open = clients.entry(client).or_default();
        if *open >= most {
            return false;
        }
        *open += 1;
        self.client = Some(client);
        true
    }

    /// The connection has become a tunnel.
    pub fn becomes_tunnel(&mut self) {
        if !self.tunnel {
            self.tunnel = true;
            self.gate.all.tunnels.fetch_add(1, Relaxed);
            self.gate.all.ended.notify_waiters();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let all = &self.gate.all;
        if let Some(client) = self.client {
            let mut clients = self.gate.clients.lock();
            if let Some(open) = clients.get_mut(&client) {
                *open -= 1;
                if *open == 0 {
                    clients.remove(&client);
                }
            }
        }
        self.gate.open.fetch_sub(1, Relaxed);
        if self.tunnel {
            all.tunnels.fetch_sub(1, Relaxed);
        }
        all.open.fetch_sub(1, Relaxed);
        all.ended.notify_waiters();
    }
}

/// What counts as one client: an IPv4 address, or the /64 that a site of IPv6 has at least to itself (RFC 6177).
fn site(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_own_bound_and_a_64_of_ipv6_is_one_client() {
        let gate = Gate::new(Arc::default(), 10);
        let count = |client: &str| {
            let mut ticket = gate.enter().unwrap();
            ticket.count_for(client.parse().unwrap(), 1).then_some(ticket)
        };
        let first = count("10.0.0.1");
        assert!(first.is_some() && count("::ffff:10.0.0.1").is_none() && count("10.0.0.2").is_some());
        drop(first);
        assert!(count("10.0.0.1").is_some());
        let site = count("2001:db8::1");
        assert!(count("2001:db8::2").is_none() && count("2001:db8:0:1::1").is_some());
        drop(site);
        assert!(gate.clients.lock().is_empty());
    }

    #[test]
    fn no_more_than_the_bound_are_let_in_and_a_place_is_given_back() {
        let all = Arc::new(Connections::default());
        let gate = Gate::new(all.clone(), 2);
        let (first, second) = (gate.enter(), gate.enter());
        assert!(first.is_some() && second.is_some());
        assert!(gate.enter().is_none());
        assert_eq!((gate.open(), all.open()), (2, 2));
        drop(first);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn a_bound_that_is_lowered_turns_nobody_out() {
        let gate = Gate::new(Arc::default(), 2);
        let (_first, _second) = (gate.enter(), gate.enter());
        gate.allow(1);
        assert!(gate.enter().is_none());
        assert_eq!(gate.open(), 2);
        gate.allow(3);
        assert!(gate.enter().is_some());
    }
}
