//! Names to addresses: lookups with a bound on their time, and when to look again.
//!
//! `Resolver` asks the system's name servers (and `/etc/hosts`); `Lookup` is the memory of one name: its last good answer,
//! what went wrong since, and when it is due. What becomes of the addresses is decided in `fixed` and `service`.

use std::fmt;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use parking_lot::Mutex;

use crate::base::stamp::Stamp;

/// No name is looked up more often than this, whatever its TTL.
pub const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
/// No answer is used for longer than this, whatever its TTL.
pub const LONGEST_REFRESH: Duration = Duration::from_secs(300);
/// The longest wait after a failed lookup.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// One lookup, all tries and name servers included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// One question to one name server.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// The system's list of name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The system's own table of names.
const HOSTS: &str = "/etc/hosts";

/// Asks name servers.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<ArcSwap<TokioResolver>>,
    /// Where the name servers are written; none where they were given.
    system: Option<Arc<System>>,
    timeout: Duration,
}

/// The files that say whom to ask, which change while a process lives: a lease is renewed, a network is joined.
struct System {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    /// How both looked when they were read last.
    seen: Mutex<[Option<Stamp>; 2]>,
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was found: sorted and without doubles, so that a name server that rotates its answers changes nothing.
    pub found: Vec<T>,
    /// How long it is good for, as the name server says.
    pub ttl: Duration,
    /// Whether all that was asked was answered; else addresses of one family may be missing.
    pub whole: bool,
}

/// One SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Lower is asked first.
    pub priority: u16,
    /// Its share within its priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, lower case, without a trailing dot.
    pub host: String,
}

/// Why a name has no addresses, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// NXDOMAIN.
    #[error("name does not exist")]
    NotFound,
    /// The name exists, but not with such records.
    #[error("name has no {0} record")]
    NoRecords(&'static str),
    /// No name server answered in time.
    #[error("no name server answered within {}s", .0.as_secs_f32())]
    Timeout(Duration),
    /// A name server answered with an error.
    #[error("name server answered {0}")]
    Refused(String),
    /// There is nobody to ask.
    #[error("no name server could be reached")]
    NoServer,
    /// Anything else.
    #[error("lookup failed: {0}")]
    Other(String),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Asks the name servers of the system's configuration, also those that it comes to name later. Where it names none,
    /// `/etc/hosts` and `localhost` still work.
    ///
    /// # Errors
    /// If the resolver cannot be built.
    pub fn system() -> Result<Self, LookupError> {
        Self::of_files(RESOLV_CONF.into(), HOSTS.into())
    }

    fn of_files(resolv_conf: PathBuf, hosts: PathBuf) -> Result<Self, LookupError> {
        let system = System { resolv_conf, hosts, seen: Mutex::default() };
        *system.seen.lock() = system.stamps();
        let inner = Arc::new(ArcSwap::from_pointee(system.resolver(LOOKUP_TIMEOUT)?));
        Ok(Self { inner, system: Some(Arc::new(system)), timeout: LOOKUP_TIMEOUT })
    }

    /// Asks the given name servers and no hosts file, and gives up after `timeout`.
    ///
    /// # Errors
    /// If the resolver cannot be built.
    pub fn with_servers(config: ResolverConfig, timeout: Duration) -> Result<Self, LookupError> {
        let inner = build(config, ResolverOpts::default(), timeout)?;
        Ok(Self { inner: Arc::new(ArcSwap::from_pointee(inner)), system: None, timeout })
    }

    /// Whom to ask now.
    fn current(&self) -> Arc<TokioResolver> {
        if let Some(system) = &self.system
            && let Some(changed) = system.changed(self.timeout)
        {
            self.inner.store(Arc::new(changed));
        }
        self.inner.load_full()
    }

    /// The A and AAAA records of a name.
    ///
    /// Where only one of the two questions is answered, that answer is good: networks whose name servers fail on AAAA exist.
    ///
    /// # Errors
    /// [`LookupError`] where neither gives an address.
    pub async fn addresses(&self, name: &str) -> Result<Answer<IpAddr>, LookupError> {
        let answers = tokio::join!(self.ask(name, RecordType::A), self.ask(name, RecordType::AAAA));
        let address = |data: &RData| data.ip_addr();
        match answers {
            (Ok(v4), Ok(v6)) => {
                let both = v4.found.iter().chain(&v6.found).filter_map(address);
                gather(both, v4.ttl.min(v6.ttl), true, "A or AAAA")
            }
            (Err(LookupError::NoRecords(_)), Err(LookupError::NoRecords(_))) => {
                Err(LookupError::NoRecords("A or AAAA"))
            }
            (Ok(one), Err(error)) | (Err(error), Ok(one)) => {
                let whole = matches!(error, LookupError::NoRecords(_) | LookupError::NotFound);
                gather(one.found.iter().filter_map(address), one.ttl, whole, "A or AAAA")
            }
            (Err(LookupError::NoRecords(_)), Err(error)) | (Err(error), Err(_)) => Err(error),
        }
    }

    /// The SRV records of a name. The record whose target is the root says that the service is not offered (RFC 2782).
    ///
    /// # Errors
    /// [`LookupError`] where there is none.
    pub async fn services(&self, name: &str) -> Result<Answer<Service>, LookupError> {
        let answer = self.ask(name, RecordType::SRV).await?;
        gather(answer.found.iter().filter_map(service), answer.ttl, true, "SRV")
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer<RData>, LookupError> {
        let resolver = self.current();
        let lookup = tokio::time::timeout(self.timeout, resolver.lookup(name, kind))
            .await
            .map_err(|_| LookupError::Timeout(self.timeout))?
            .map_err(|error| self.explain(&error, kind))?;
        let found = lookup.answers().iter().map(|record| record.data.clone()).collect();
        Ok(Answer { found, ttl: lookup.valid_until().saturating_duration_since(Instant::now()), whole: true })
    }

    fn explain(&self, error: &NetError, kind: RecordType) -> LookupError {
        match error {
            NetError::Timeout => LookupError::Timeout(self.timeout),
            NetError::NoConnections | NetError::Io(_) => LookupError::NoServer,
            NetError::Dns(DnsError::ResponseCode(code)) => LookupError::Refused(code.to_str().to_owned()),
            NetError::Dns(DnsError::NoRecordsFound(_)) if error.is_nx_domain() => LookupError::NotFound,
            NetError::Dns(DnsError::NoRecordsFound(_)) => LookupError::NoRecords(kind.into()),
            other => LookupError::Other(other.to_string()),
        }
    }
}

impl System {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| Stamp::of(path).ok())
    }

    /// What asks those whom the files name now, where one of them has changed. Two small local files are looked at.
    fn changed(&self, timeout: Duration) -> Option<TokioResolver> {
        let now = self.stamps();
        if std::mem::replace(&mut *self.seen.lock(), now) == now {
            return None;
        }
        match self.resolver(timeout) {
            Ok(resolver) => {
                log::info!("name servers and hosts are read again: a file has changed");
                Some(resolver)
            }
            Err(error) => {
                log::error!("name servers are not read again, the old ones are asked: error={error}");
                None
            }
        }
    }

    fn resolver(&self, timeout: Duration) -> Result<TokioResolver, LookupError> {
        let text = fs::read(&self.resolv_conf).map_err(|error| error.to_string());
        let read = text.and_then(|text| system_conf::parse_resolv_conf(text).map_err(|error| error.to_string()));
        let (config, options) = read.unwrap_or_else(|error| {
            let (servers, hosts) = (self.resolv_conf.display(), self.hosts.display());
            log::warn!("{servers} names no name server, only {hosts} is used: error={error}");
            (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default())
        });
        let mut resolver = build(config, options, timeout)?;
        let mut hosts = Hosts::default();
        // A system without this file has no names of its own.
        if let Ok(file) = File::open(&self.hosts) {
            hosts.read_hosts_conf(file).map_err(|error| LookupError::Other(error.to_string()))?;
        }
        resolver.set_hosts(Arc::new(hosts));
        Ok(resolver)
    }
}

fn build(config: ResolverConfig, mut options: ResolverOpts, timeout: Duration) -> Result<TokioResolver, LookupError> {
    // What is due is asked for afresh: how long an answer is kept is decided by `Lookup` alone.
    options.cache_size = 0;
    options.timeout = QUESTION_TIMEOUT.min(timeout);
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| LookupError::Other(error.to_string()))
}

fn gather<T: Ord>(
    found: impl Iterator<Item = T>,
    ttl: Duration,
    whole: bool,
    kind: &'static str,
) -> Result<Answer<T>, LookupError> {
    let found = sorted(found.collect());
    if found.is_empty() { Err(LookupError::NoRecords(kind)) } else { Ok(Answer { found, ttl, whole }) }
}

fn sorted<T: Ord>(mut found: Vec<T>) -> Vec<T> {
    found.sort_unstable();
    found.dedup();
    found
}

fn service(data: &RData) -> Option<Service> {
    let RData::SRV(srv) = data else { return None };
    if srv.target.is_root() {
        return None;
    }
    let host = srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    Some(Service { priority: srv.priority, weight: srv.weight, port: srv.port, host })
}

/// What is known of one name, and when it is looked up again.
#[derive(Debug, Clone)]
pub struct Lookup<T> {
    last_good: Option<Vec<T>>,
    failure: Option<LookupError>,
    failures: u32,
    longest: Duration,
}

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody needs to hear of.
    None,
    /// The answer, or the reason why there is none.
    Something,
}

impl<T: Clone + Ord> Lookup<T> {
    /// Nothing is known yet; good answers are used for at most `longest`.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { last_good: None, failure: None, failures: 0, longest: longest.clamp(SHORTEST_REFRESH, LONGEST_REFRESH) }
    }

    /// The last good answer. A failure does not take it away: what was there a moment ago is more likely to be there
    /// still than to be gone, and probes tell.
    #[must_use]
    pub fn last_good(&self) -> &[T] {
        self.last_good.as_deref().unwrap_or_default()
    }

    /// Why the last lookup failed.
    #[must_use]
    pub const fn failure(&self) -> Option<&LookupError> {
        self.failure.as_ref()
    }

    /// Whether any answer has come, be it an error.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.last_good.is_some() || self.failure.is_some()
    }

    /// Takes in an answer and says what it changed and how long to wait before the next lookup.
    pub fn learn(&mut self, answer: Result<Answer<T>, LookupError>) -> (Change, Duration) {
        match answer {
            Ok(mut answer) => {
                if !answer.whole {
                    // What the unanswered question gave last time is kept.
                    answer.found.extend_from_slice(self.last_good());
                    answer.found = sorted(answer.found);
                    answer.ttl = answer.ttl.min(LONGEST_RETRY);
                }
                let same = self.failure.is_none() && self.last_good.as_ref() == Some(&answer.found);
                self.last_good = Some(answer.found);
                self.failure = None;
                self.failures = 0;
                (change_unless(same), answer.ttl.clamp(SHORTEST_REFRESH, self.longest))
            }
            Err(failure) => {
                let same = self.failure.as_ref() == Some(&failure);
                self.failure = Some(failure);
                self.failures = self.failures.saturating_add(1);
                (change_unless(same), retry_after(self.failures))
            }
        }
    }
}

const fn change_unless(same: bool) -> Change {
    if same { Change::None } else { Change::Something }
}

/// The wait after the `failures`-th failed lookup in a row: 1 s, doubled each time, to 30 s.
fn retry_after(failures: u32) -> Duration {
    let doubled = 1u64.checked_shl(failures.saturating_sub(1)).filter(|seconds| *seconds > 0);
    Duration::from_secs(doubled.unwrap_or(u64::MAX)).min(LONGEST_RETRY)
}

#[cfg(test)]
pub(in crate::upstream) mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::sync::Arc;

    use hickory_resolver::config::NameServerConfig;
    use parking_lot::Mutex;
    use tokio::net::UdpSocket;

    use super::*;

    /// What the name server knows of one name.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Zone {
        /// A records.
        pub(crate) v4: Vec<Ipv4Addr>,
        /// AAAA records.
        pub(crate) v6: Vec<Ipv6Addr>,
        /// SRV records: priority, weight, port, host.
        pub(crate) srv: Vec<(u16, u16, u16, &'static str)>,
        /// Never answers.
        pub(crate) silent: bool,
        /// Never answers questions for AAAA.
        pub(crate) silent_on_v6: bool,
    }

    /// A name server on loopback. What it knows may change at any time; what it does not know does not exist.
    pub(crate) struct NameServer {
        /// By name, without a trailing dot.
        pub(crate) zones: Arc<Mutex<HashMap<String, Zone>>>,
        /// The TTL of all records, in seconds.
        pub(crate) ttl: Arc<Mutex<u32>>,
        addr: SocketAddr,
    }

    impl NameServer {
        /// Starts one that knows nothing.
        pub(crate) async fn start() -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let addr = socket.local_addr().unwrap();
            let zones: Arc<Mutex<HashMap<String, Zone>>> = Arc::default();
            let ttl = Arc::new(Mutex::new(1));
            let (known, records_ttl) = (Arc::clone(&zones), Arc::clone(&ttl));
            tokio::spawn(async move {
                let mut packet = [0; 1500];
                while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                    let answer = answer(&packet[..length], &known.lock(), *records_ttl.lock());
                    if let Some(answer) = answer {
                        let _ = socket.send_to(&answer, from).await;
                    }
                }
            });
            Self { zones, ttl, addr }
        }

        /// Lets `name` have these A records.
        pub(crate) fn set(&self, name: &str, v4: &[Ipv4Addr]) {
            self.zones.lock().insert(name.to_owned(), Zone { v4: v4.to_vec(), ..Zone::default() });
        }

        /// A resolver that asks this name server.
        pub(crate) fn resolver(&self, timeout: Duration) -> Arc<Resolver> {
            let mut server = NameServerConfig::udp(self.addr.ip());
            for connection in &mut server.connections {
                connection.port = self.addr.port();
            }
            let config = ResolverConfig::from_name_servers(vec![server]);
            Arc::new(Resolver::with_servers(config, timeout).unwrap())
        }
    }

    /// The answer to one question (RFC 1035, 4.1), or none where the zone is silent.
    fn answer(query: &[u8], zones: &HashMap<String, Zone>, ttl: u32) -> Option<Vec<u8>> {
        let mut at = 12;
        let mut labels = Vec::new();
        while query[at] != 0 {
            let length = usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).to_lowercase());
            at += 1 + length;
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let question = &query[12..at + 5];
        let zone = zones.get(&labels.join("."));
        if zone.is_some_and(|zone| zone.silent || (zone.silent_on_v6 && kind == 28)) {
            return None;
        }
        let records: Vec<Vec<u8>> = match (zone, kind) {
            (Some(zone), 1) => zone.v4.iter().map(|ip| ip.octets().to_vec()).collect(),
            (Some(zone), 28) => zone.v6.iter().map(|ip| ip.octets().to_vec()).collect(),
            (Some(zone), 33) => zone.srv.iter().map(srv).collect(),
            _ => Vec::new(),
        };
        let code = if zone.is_some() { 0x80 } else { 0x83 };
        let count = u16::try_from(records.len()).unwrap().to_be_bytes();
        let mut packet = [&query[..2], &[0x85, code, 0, 1], &count, &[0, 0, 0, 0], question].concat();
        for data in records {
            packet.extend_from_slice(&[0xc0, 12]);
            packet.extend_from_slice(&kind.to_be_bytes());
            packet.extend_from_slice(&[0, 1]);
            packet.extend_from_slice(&ttl.to_be_bytes());
            packet.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            packet.extend_from_slice(&data);
        }
        Some(packet)
    }

    fn srv((priority, weight, port, host): &(u16, u16, u16, &'static str)) -> Vec<u8> {
        let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
        for label in host.split('.').filter(|label| !label.is_empty()) {
            data.push(u8::try_from(label.len()).unwrap());
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        data
    }

    const SECOND: Duration = Duration::from_secs(1);
    const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

    #[tokio::test]
    async fn both_families_are_asked_for_and_the_order_of_records_does_not_matter() {
        let server = NameServer::start().await;
        let zone = Zone { v4: vec![TWO, ONE, TWO], v6: vec![Ipv6Addr::LOCALHOST], ..Zone::default() };
        server.zones.lock().insert("web.internal".to_owned(), zone);
        let answer = server.resolver(SECOND).addresses("web.internal").await.unwrap();
        assert_eq!(answer.found, [IpAddr::V4(ONE), IpAddr::V4(TWO), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        assert!(answer.ttl <= SECOND && answer.whole, "{answer:?}");
    }

    #[tokio::test]
    async fn a_failed_lookup_says_why() {
        let server = NameServer::start().await;
        server.zones.lock().insert("empty.internal".to_owned(), Zone::default());
        server.zones.lock().insert("silent.internal".to_owned(), Zone { silent: true, ..Zone::default() });
        let resolver = server.resolver(Duration::from_millis(200));
        assert_eq!(resolver.addresses("nowhere.internal").await, Err(LookupError::NotFound));
        assert_eq!(resolver.addresses("empty.internal").await, Err(LookupError::NoRecords("A or AAAA")));
        let silent = resolver.addresses("silent.internal").await.unwrap_err();
        assert_eq!(silent.to_string(), "no name server answered within 0.2s");
    }

    #[tokio::test]
    async fn a_name_server_that_is_silent_on_aaaa_does_not_hide_a() {
        let server = NameServer::start().await;
        let zone = Zone { v4: vec![ONE], silent_on_v6: true, ..Zone::default() };
        server.zones.lock().insert("old.internal".to_owned(), zone);
        let answer = server.resolver(Duration::from_millis(200)).addresses("old.internal").await.unwrap();
        assert_eq!((answer.found, answer.whole), (vec![IpAddr::V4(ONE)], false));
    }

    #[tokio::test]
    async fn without_name_servers_a_lookup_fails_in_words() {
        let resolver = Resolver::with_servers(ResolverConfig::from_name_servers(Vec::new()), SECOND).unwrap();
        assert_eq!(resolver.addresses("web.internal").await, Err(LookupError::NoServer));
    }

    #[tokio::test]
    async fn srv_records_are_read_and_the_root_means_not_offered() {
        let server = NameServer::start().await;
        let zone = Zone { srv: vec![(10, 5, 8080, "A.internal"), (20, 1, 8081, "b.internal")], ..Zone::default() };
        server.zones.lock().insert("_http._tcp.web.internal".to_owned(), zone);
        let none = Zone { srv: vec![(0, 0, 0, "")], ..Zone::default() };
        server.zones.lock().insert("_http._tcp.off.internal".to_owned(), none);
        let resolver = server.resolver(SECOND);
        let found = resolver.services("_http._tcp.web.internal").await.unwrap().found;
        assert_eq!(found[0], Service { priority: 10, weight: 5, port: 8080, host: "a.internal".to_owned() });
        assert_eq!(found.len(), 2);
        assert_eq!(resolver.services("_http._tcp.off.internal").await, Err(LookupError::NoRecords("SRV")));
    }

    #[tokio::test]
    async fn localhost_resolves_everywhere() {
        let answer = Resolver::system().unwrap().addresses("localhost").await.unwrap();
        assert!(answer.found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{answer:?}");
    }

    #[tokio::test]
    async fn files_that_change_say_from_then_on_whom_to_ask() {
        let directory = tempfile::tempdir().unwrap();
        let (servers, hosts) = (directory.path().join("resolv.conf"), directory.path().join("hosts"));
        let resolver = Resolver::of_files(servers.clone(), hosts.clone()).unwrap();
        let first = resolver.current();
        assert!(Arc::ptr_eq(&first, &resolver.current()), "nothing is read twice");
        assert_eq!(resolver.addresses("web.internal").await, Err(LookupError::NoServer));

        fs::write(&hosts, "10.0.0.1 web.internal\n").unwrap();
        assert_eq!(resolver.addresses("web.internal").await.unwrap().found, [IpAddr::from([10, 0, 0, 1])]);
        let next = directory.path().join("next");
        fs::write(&next, "10.0.0.2 web.internal\n").unwrap();
        fs::rename(&next, &hosts).unwrap();
        assert_eq!(resolver.addresses("web.internal").await.unwrap().found, [IpAddr::from([10, 0, 0, 2])]);

        fs::write(&servers, "nameserver 127.0.0.1\nsearch example\n").unwrap();
        let current = resolver.clone().current();
        assert!(!Arc::ptr_eq(&first, &current) && Arc::ptr_eq(&current, &resolver.current()));
    }

    fn good(found: &[u8], ttl: u64) -> Result<Answer<u8>, LookupError> {
        Ok(Answer { found: found.to_vec(), ttl: Duration::from_secs(ttl), whole: true })
    }

    #[test]
    fn the_ttl_is_honoured_within_bounds() {
        let mut lookup = Lookup::new(Duration::from_secs(30));
        assert_eq!(lookup.learn(good(&[1], 0)), (Change::Something, SECOND));
        assert_eq!(lookup.learn(good(&[1], 20)), (Change::None, Duration::from_secs(20)));
        assert_eq!(lookup.learn(good(&[1], 3600)), (Change::None, Duration::from_secs(30)));
        let mut lookup = Lookup::new(Duration::from_secs(86_400));
        assert_eq!(lookup.learn(good(&[1], 86_400)).1, LONGEST_REFRESH);
    }

    #[test]
    fn a_failure_keeps_the_last_good_answer_and_is_told_once() {
        let mut lookup = Lookup::new(LONGEST_REFRESH);
        lookup.learn(good(&[1, 2], 20));
        let waits: Vec<_> = (0..7).map(|_| lookup.learn(Err(LookupError::NotFound))).collect();
        assert_eq!(waits.iter().filter(|(change, _)| *change == Change::Something).count(), 1);
        assert_eq!(waits.iter().map(|(_, wait)| wait.as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!((lookup.last_good(), lookup.failure()), (&[1, 2][..], Some(&LookupError::NotFound)));
        assert_eq!(lookup.learn(good(&[1, 2], 20)).0, Change::Something, "it resolves again");
        assert_eq!(lookup.failure(), None);
    }

    #[test]
    fn half_an_answer_takes_nothing_away() {
        let mut lookup = Lookup::new(LONGEST_REFRESH);
        lookup.learn(good(&[4, 6], 20));
        let half = Answer { found: vec![4, 5], ttl: LONGEST_REFRESH, whole: false };
        assert_eq!(lookup.learn(Ok(half)), (Change::Something, LONGEST_RETRY));
        assert_eq!(lookup.last_good(), [4, 5, 6]);
    }

    #[test]
    fn the_wait_never_overflows() {
        assert_eq!(retry_after(u32::MAX), LONGEST_RETRY);
        assert_eq!(retry_after(64), LONGEST_RETRY);
        assert_eq!(retry_after(65), LONGEST_RETRY);
    }
}
