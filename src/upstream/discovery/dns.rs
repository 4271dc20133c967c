//! Names to addresses: lookups with a bound on their time, and when to look again.
//!
//! `Resolver` asks the system's name servers (and `/etc/hosts`); `Lookup` is the memory of one name: its last good answer,
//! what went wrong since, and when it is due. What becomes of the addresses is decided in `fixed` and `service`.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};

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

/// Asks name servers.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
    timeout: Duration,
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
    /// Asks the name servers of the system's configuration. Where that names none, `/etc/hosts` and `localhost` still work.
    ///
    /// # Errors
    /// If the resolver cannot be built.
    pub fn system() -> Result<Self, LookupError> {
        let (config, options) = system_conf::read_system_conf().unwrap_or_else(|error| {
            log::warn!("no name server is configured: only the hosts file is used; error={error}");
            (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default())
        });
        Self::build(config, options, LOOKUP_TIMEOUT)
    }

    /// Asks the given name servers and no hosts file, and gives up after `timeout`.
    ///
    /// # Errors
    /// If the resolver cannot be built.
    pub fn with_servers(config: ResolverConfig, timeout: Duration) -> Result<Self, LookupError> {
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        Self::build(config, options, timeout)
    }

    fn build(config: ResolverConfig, mut options: ResolverOpts, timeout: Duration) -> Result<Self, LookupError> {
        // What is due is asked for afresh: how long an answer is kept is decided by `Lookup` alone.
        options.cache_size = 0;
        options.timeout = QUESTION_TIMEOUT.min(timeout);
        options.attempts = 2;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let inner = builder.build().map_err(|error| LookupError::Other(error.to_string()))?;
        Ok(Self { inner, timeout })
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
        let lookup = tokio::time::timeout(self.timeout, self.inner.lookup(name, kind))
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
