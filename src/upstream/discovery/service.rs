//! SRV records (RFC 2782): a name stands for hosts, ports, weights and priorities.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::Found;
use super::dns::{Answer, Change, Lookup, LookupError, Resolver, Service};
use super::fixed::Entries;
use crate::config::plan;

/// The SRV records of one name, and the addresses of their hosts.
pub(super) struct Services {
    name: Arc<str>,
    tls: bool,
    lookup: Lookup<Service>,
    due: Instant,
    /// The lookup under way: kept here, so that a change elsewhere does not start it again.
    asking: Option<BoxFuture<'static, Result<Answer<Service>, LookupError>>>,
    resolver: Arc<Resolver>,
    entries: Entries,
}

impl Services {
    /// Answers are used for at most `refresh`; the backends speak TLS where `tls` says so.
    pub(super) fn new(name: Arc<str>, tls: bool, refresh: Duration, resolver: Arc<Resolver>) -> Self {
        let entries = Entries::new(Vec::new(), Arc::clone(&resolver), refresh);
        Self { name, tls, lookup: Lookup::new(refresh), due: Instant::now(), asking: None, resolver, entries }
    }

    /// What is known by now.
    pub(super) fn found(&self) -> Found {
        let mut found = self.entries.found();
        found.complete &= self.lookup.is_answered();
        if let Some(failure) = self.lookup.failure() {
            found.unresolved.push((Arc::clone(&self.name), failure.to_string()));
        }
        found
    }

    /// Waits until what is known has changed. May be dropped and called again: nothing is lost.
    pub(super) async fn changed(&mut self) {
        loop {
            if self.asking.is_none() && self.due <= Instant::now() {
                let (resolver, name) = (Arc::clone(&self.resolver), Arc::clone(&self.name));
                self.asking = Some(Box::pin(async move { resolver.services(&name).await }));
            }
            let due = self.asking.is_none().then_some(self.due);
            tokio::select! {
                () = self.entries.changed() => return,
                answer = super::finish(&mut self.asking) => {
                    if self.learn(answer) == Change::Something {
                        return;
                    }
                }
                () = super::until(due) => {}
            }
        }
    }

    fn learn(&mut self, answer: Result<Answer<Service>, LookupError>) -> Change {
        let (change, wait) = self.lookup.learn(answer);
        self.due = Instant::now() + wait;
        if change == Change::Something {
            match self.lookup.failure() {
                None => log::info!("service resolved: name={} records={}", self.name, self.lookup.last_good().len()),
                Some(reason) => log::warn!("service does not resolve: name={} reason={reason}", self.name),
            }
            self.entries.replace(entries(self.lookup.last_good(), self.tls));
        }
        change
    }
}

/// The lowest priority serves, all others stand by. A weight of zero means "hardly ever" in DNS but "never" here, so that it
/// counts as one.
fn entries(services: &[Service], tls: bool) -> Vec<plan::Backend> {
    let first = services.iter().map(|service| service.priority).min();
    let entry = |service: &Service| plan::Backend {
        name: format!("{}:{}", service.host, service.port).into(),
        target: plan::Target::Name(service.host.as_str().into(), service.port),
        tls,
        weight: u32::from(service.weight.max(1)),
        backup: Some(service.priority) != first,
        max_requests: None,
        max_connections: None,
    };
    services.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, host: &str) -> Service {
        Service { priority, weight, port: 8080, host: host.to_owned() }
    }

    #[test]
    fn the_lowest_priority_serves_and_others_stand_by() {
        let entries = entries(&[service(20, 5, "b"), service(10, 0, "a"), service(10, 7, "c")], false);
        let seen: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.weight, entry.backup)).collect();
        assert_eq!(seen, [("b:8080", 5, true), ("a:8080", 1, false), ("c:8080", 7, false)]);
    }
}
