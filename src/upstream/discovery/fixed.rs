//! Backends as written: addresses stand for themselves, host names for all their addresses.
//!
//! Every source ends here: a list of entries, wherever it came from, becomes members. One name that does not resolve is told
//! apart and takes nothing else down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pingora_core::protocols::l4::socket::SocketAddr as Address;
use tokio::time::Instant;

use super::Found;
use super::dns::{Answer, Change, Lookup, LookupError, Resolver};
use crate::config::plan;
use crate::upstream::backend::{BackendId, Member};
use crate::upstream::breaker;

/// Lookups of one upstream that may be under way at once.
const LOOKUPS_AT_ONCE: usize = 64;

type Asked = (Arc<str>, Result<Answer<IpAddr>, LookupError>);

/// A list of entries and what is known of the host names in it.
pub(super) struct Entries {
    entries: Vec<plan::Backend>,
    hosts: BTreeMap<Arc<str>, Host>,
    asking: FuturesUnordered<BoxFuture<'static, Asked>>,
    resolver: Arc<Resolver>,
    longest: Duration,
}

struct Host {
    lookup: Lookup<IpAddr>,
    /// When it is asked for again; none while it is being asked for.
    due: Option<Instant>,
}

impl Entries {
    /// Answers of name servers are used for at most `longest`.
    pub(super) fn new(entries: Vec<plan::Backend>, resolver: Arc<Resolver>, longest: Duration) -> Self {
        let asking = FuturesUnordered::new();
        let mut this = Self { entries: Vec::new(), hosts: BTreeMap::new(), asking, resolver, longest };
        this.replace(entries);
        this
    }

    /// Other entries from now on. What is known of the hosts that stay is kept.
    pub(super) fn replace(&mut self, entries: Vec<plan::Backend>) {
        let named: BTreeSet<Arc<str>> = entries.iter().filter_map(host).cloned().collect();
        self.hosts.retain(|host, _| named.contains(host));
        for host in named {
            let longest = self.longest;
            self.hosts.entry(host).or_insert_with(|| Host { lookup: Lookup::new(longest), due: Some(Instant::now()) });
        }
        self.entries = entries;
    }

    /// What is known by now.
    pub(super) fn found(&self) -> Found {
        let mut found = Found::default();
        let mut taken = BTreeSet::new();
        for entry in &self.entries {
            match self.addresses(entry) {
                Ok(addresses) => {
                    for addr in addresses {
                        if taken.insert(BackendId::of(&addr, entry.tls)) {
                            found.members.push(member(entry, addr));
                        } else {
                            log::debug!(
                                "two entries are one backend, the first counts: entry={} addr={addr}",
                                entry.name
                            );
                        }
                    }
                }
                Err(reason) => found.unresolved.push((Arc::clone(&entry.name), reason)),
            }
            if let Some(reason) = self.trouble(entry) {
                found.unresolved.push((Arc::clone(&entry.name), reason));
            }
        }
        found.complete = self.hosts.values().all(|host| host.lookup.is_answered());
        found
    }

    /// Waits until what is known has changed. May be dropped and called again: nothing is lost.
    pub(super) async fn changed(&mut self) {
        loop {
            self.ask_for_what_is_due();
            let due = self.hosts.values().filter_map(|host| host.due).min();
            let room = self.asking.len() < LOOKUPS_AT_ONCE;
            tokio::select! {
                Some((host, answer)) = self.asking.next() => {
                    if self.learn(&host, answer) == Change::Something {
                        return;
                    }
                }
                () = super::until(due), if room => {}
            }
        }
    }

    fn ask_for_what_is_due(&mut self) {
        let now = Instant::now();
        let due = self.hosts.iter_mut().filter(|(_, host)| host.due.is_some_and(|due| due <= now));
        for (name, host) in due.take(LOOKUPS_AT_ONCE.saturating_sub(self.asking.len())) {
            host.due = None;
            let (resolver, name) = (Arc::clone(&self.resolver), Arc::clone(name));
            self.asking.push(Box::pin(async move {
                let answer = resolver.addresses(&name).await;
                (name, answer)
            }));
        }
    }

    fn learn(&mut self, name: &Arc<str>, answer: Result<Answer<IpAddr>, LookupError>) -> Change {
        // The entries may have been replaced while the name server was thinking.
        let Some(host) = self.hosts.get_mut(name) else { return Change::None };
        let (change, wait) = host.lookup.learn(answer);
        host.due = Some(Instant::now() + wait);
        if change == Change::Something {
            match host.lookup.failure() {
                None => log::info!("name resolved: name={name} addresses={:?}", host.lookup.last_good()),
                Some(reason) => log::warn!("name does not resolve: name={name} reason={reason}"),
            }
        }
        change
    }

    fn addresses(&self, entry: &plan::Backend) -> Result<Vec<Address>, String> {
        match &entry.target {
            plan::Target::Inet(addr) => Ok(vec![Address::Inet(*addr)]),
            plan::Target::Unix(path) => match UnixAddr::from_pathname(path) {
                Ok(addr) => Ok(vec![Address::Unix(addr)]),
                Err(error) => Err(format!("no path of a unix socket: {error}")),
            },
            plan::Target::Name(host, port) => {
                let known = self.hosts.get(host).map(|host| host.lookup.last_good()).unwrap_or_default();
                Ok(known.iter().map(|ip| Address::Inet(SocketAddr::new(*ip, *port))).collect())
            }
        }
    }

    fn trouble(&self, entry: &plan::Backend) -> Option<String> {
        let failure = self.hosts.get(host(entry)?)?.lookup.failure()?;
        Some(failure.to_string())
    }
}

fn host(entry: &plan::Backend) -> Option<&Arc<str>> {
    match &entry.target {
        plan::Target::Name(host, _) => Some(host),
        plan::Target::Inet(_) | plan::Target::Unix(_) => None,
    }
}

fn member(entry: &plan::Backend, addr: Address) -> Member {
    let host = match &entry.target {
        plan::Target::Name(host, _) => Arc::clone(host),
        plan::Target::Inet(addr) => addr.ip().to_string().into(),
        plan::Target::Unix(_) => "".into(),
    };
    Member {
        name: Arc::clone(&entry.name),
        addr,
        tls: entry.tls,
        weight: entry.weight,
        backup: entry.backup,
        most: breaker::most_at_once(entry.max_requests, entry.max_connections),
        berths: entry.max_connections,
        host,
    }
}
