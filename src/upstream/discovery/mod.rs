//! Where backends come from: the configuration, DNS, or a watched file.
//!
//! A [`Source`] knows the backends of one upstream by now and says when that changes. It decides nothing about health: the
//! pool does what is right with members that come, stay and go.

pub mod dns;
pub mod file;
mod fixed;
mod service;

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use self::dns::{LONGEST_REFRESH, Resolver};
use self::file::WatchedFile;
use self::fixed::Entries;
use self::service::Services;
use super::backend::Member;
use crate::config::plan;

/// What a source knows by now.
#[derive(Debug, Default)]
pub struct Found {
    /// The backends.
    pub members: Vec<Member>,
    /// What could not be turned into backends, as written, with the reason.
    pub unresolved: Vec<(Arc<str>, String)>,
    /// Whether every question was answered at least once, be it with an error.
    pub complete: bool,
}

/// Where the backends of one upstream come from.
pub struct Source {
    kind: Kind,
    resolver: Arc<Resolver>,
    plan: Arc<plan::Upstream>,
}

enum Kind {
    Written(Entries),
    Services(Services),
    File(WatchedFile),
}

impl Source {
    /// The source that `plan` names. Nothing is asked before [`Source::changed`] is awaited.
    #[must_use]
    pub fn new(plan: Arc<plan::Upstream>, resolver: Arc<Resolver>) -> Self {
        Self { kind: kind(&plan, &resolver), resolver, plan }
    }

    /// What is known by now.
    #[must_use]
    pub fn found(&self) -> Found {
        match &self.kind {
            Kind::Written(entries) => entries.found(),
            Kind::Services(services) => services.found(),
            Kind::File(file) => file.found(),
        }
    }

    /// Waits until what is known has changed; for ever where it cannot. May be dropped and called again: nothing is lost.
    pub async fn changed(&mut self) {
        match &mut self.kind {
            Kind::Written(entries) => entries.changed().await,
            Kind::Services(services) => services.changed().await,
            Kind::File(file) => file.changed().await,
        }
    }

    /// Follows a new plan. What is known of names that stay is kept, so that a reload asks nobody twice.
    pub fn follow(&mut self, plan: Arc<plan::Upstream>) {
        match &mut self.kind {
            Kind::Written(entries) if self.plan.discovery == plan.discovery => entries.replace(written(&plan)),
            _ if self.plan.discovery == plan.discovery && self.plan.tls.is_some() == plan.tls.is_some() => {}
            _ => self.kind = kind(&plan, &self.resolver),
        }
        self.plan = plan;
    }
}

fn kind(plan: &plan::Upstream, resolver: &Arc<Resolver>) -> Kind {
    let tls = plan.tls.is_some();
    let resolver = Arc::clone(resolver);
    match &plan.discovery {
        None => Kind::Written(Entries::new(written(plan), resolver, LONGEST_REFRESH)),
        Some(plan::Discovery::Dns { port: Some(_), refresh, .. }) => {
            Kind::Written(Entries::new(written(plan), resolver, *refresh))
        }
        Some(plan::Discovery::Dns { name, port: None, refresh }) => {
            Kind::Services(Services::new(Arc::clone(name), tls, *refresh, resolver))
        }
        Some(plan::Discovery::File { path }) => Kind::File(WatchedFile::new(path.clone(), tls, resolver)),
    }
}

/// The entries that the plan itself holds: its backends, or the one name of `discovery: { dns, port }`.
fn written(plan: &plan::Upstream) -> Vec<plan::Backend> {
    let Some(plan::Discovery::Dns { name, port: Some(port), .. }) = &plan.discovery else {
        return plan.backends.clone();
    };
    vec![plan::Backend {
        name: format!("{name}:{port}").into(),
        target: plan::Target::Name(Arc::clone(name), *port),
        tls: plan.tls.is_some(),
        weight: 1,
        backup: false,
        max_requests: None,
        max_connections: None,
    }]
}

/// Waits until `due`; for ever where nothing is due.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Finishes what is under way and takes it away; waits for ever where nothing is. May be dropped: it stays under way.
async fn finish<F: Future + Unpin>(under_way: &mut Option<F>) -> F::Output {
    let Some(future) = under_way else { return std::future::pending().await };
    let output = future.await;
    *under_way = None;
    output
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::dns::tests::{NameServer, Zone};
    use super::*;
    use crate::upstream::fixture;

    const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

    fn entry(host: &str, port: u16) -> plan::Backend {
        let target = match host.parse::<std::net::IpAddr>() {
            Ok(ip) => plan::Target::Inet((ip, port).into()),
            Err(_) => plan::Target::Name(host.into(), port),
        };
        plan::Backend {
            name: format!("{host}:{port}").into(),
            target,
            tls: false,
            weight: 1,
            backup: false,
            max_requests: None,
            max_connections: None,
        }
    }

    fn written(backends: Vec<plan::Backend>) -> Arc<plan::Upstream> {
        Arc::new(plan::Upstream { backends, ..fixture::upstream("test") })
    }

    fn discovered(discovery: plan::Discovery) -> Arc<plan::Upstream> {
        Arc::new(plan::Upstream { discovery: Some(discovery), ..fixture::upstream("test") })
    }

    fn addresses(source: &Source) -> Vec<String> {
        source.found().members.iter().map(|member| member.addr.to_string()).collect()
    }

    /// Waits until the source knows what `wanted` asks for.
    async fn until_found(source: &mut Source, wanted: impl Fn(&Found) -> bool) {
        let found = async {
            while !wanted(&source.found()) {
                source.changed().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), found).await.expect("found in time");
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_takes_nothing_else_down() {
        let server = NameServer::start().await;
        server.set("good.internal", &[ONE, TWO]);
        let plan = written(vec![entry("10.0.0.1", 80), entry("gone.internal", 80), entry("good.internal", 8080)]);
        let mut source = Source::new(plan, server.resolver(Duration::from_secs(1)));
        assert_eq!(addresses(&source), ["10.0.0.1:80"], "addresses are there at once");

        until_found(&mut source, |found| found.complete).await;
        assert_eq!(addresses(&source), ["10.0.0.1:80", "127.0.0.1:8080", "127.0.0.2:8080"]);
        let found = source.found();
        assert_eq!(found.unresolved, [("gone.internal:80".into(), "name does not exist".to_owned())]);
        assert_eq!(&*found.members[1].name, "good.internal:8080");
        assert_eq!(&*found.members[1].host, "good.internal");

        server.set("gone.internal", &[ONE]);
        until_found(&mut source, |found| found.unresolved.is_empty()).await;
        assert_eq!(addresses(&source).len(), 4);
    }

    #[tokio::test]
    async fn records_that_change_are_followed_and_kept_when_the_name_server_falls_silent() {
        let server = NameServer::start().await;
        server.set("web.internal", &[ONE]);
        let discovery =
            plan::Discovery::Dns { name: "web.internal".into(), port: Some(8080), refresh: Duration::from_secs(30) };
        let mut source = Source::new(discovered(discovery), server.resolver(Duration::from_millis(200)));
        until_found(&mut source, |found| found.members.len() == 1).await;

        server.set("web.internal", &[TWO]);
        until_found(&mut source, |found| found.members.iter().any(|m| m.addr.to_string() == "127.0.0.2:8080")).await;
        assert_eq!(addresses(&source), ["127.0.0.2:8080"]);

        server.zones.lock().insert("web.internal".to_owned(), Zone { silent: true, ..Zone::default() });
        until_found(&mut source, |found| !found.unresolved.is_empty()).await;
        assert_eq!(addresses(&source), ["127.0.0.2:8080"]);
    }

    #[tokio::test]
    async fn srv_records_bring_ports_weights_and_backups() {
        let server = NameServer::start().await;
        let srv = vec![(10, 5, 8081, "a.internal"), (20, 1, 8082, "b.internal"), (10, 1, 8083, "gone.internal")];
        server.zones.lock().insert("_http._tcp.web.internal".to_owned(), Zone { srv, ..Zone::default() });
        server.set("a.internal", &[ONE]);
        server.set("b.internal", &[TWO]);
        let discovery = plan::Discovery::Dns {
            name: "_http._tcp.web.internal".into(),
            port: None,
            refresh: Duration::from_secs(30),
        };
        let mut source = Source::new(discovered(discovery), server.resolver(Duration::from_secs(1)));
        until_found(&mut source, |found| found.complete).await;
        let found = source.found();
        let seen: Vec<_> = found.members.iter().map(|m| (m.addr.to_string(), m.weight, m.backup)).collect();
        assert_eq!(seen, [("127.0.0.1:8081".to_owned(), 5, false), ("127.0.0.2:8082".to_owned(), 1, true)]);
        assert_eq!(&*found.unresolved[0].0, "gone.internal:8083");
    }

    #[tokio::test]
    async fn two_entries_of_one_address_are_one_backend_and_the_first_counts() {
        let server = NameServer::start().await;
        server.set("web.internal", &[ONE]);
        let mut first = entry("127.0.0.1", 80);
        first.weight = 7;
        let mut source =
            Source::new(written(vec![first, entry("web.internal", 80)]), server.resolver(Duration::from_secs(1)));
        until_found(&mut source, |found| found.complete).await;
        let members = source.found().members;
        assert_eq!((members.len(), members[0].weight), (1, 7));
    }

    #[tokio::test]
    async fn a_reload_asks_nobody_twice() {
        let server = NameServer::start().await;
        *server.ttl.lock() = 300;
        server.set("web.internal", &[ONE]);
        let mut source =
            Source::new(written(vec![entry("web.internal", 80)]), server.resolver(Duration::from_millis(200)));
        until_found(&mut source, |found| found.complete).await;
        server.zones.lock().insert("web.internal".to_owned(), Zone { silent: true, ..Zone::default() });
        source.follow(written(vec![entry("web.internal", 81)]));
        assert_eq!(addresses(&source), ["127.0.0.1:81"]);
        assert!(source.found().complete);
    }
}
