//! A backend as Pingora's peer: where to connect, how to be sure of it, and how long to wait.
//!
//! All that is read from files is read when the template is built; each request pays for a clone and no more.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::connectors::L4Connect;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::tls::CaType;
use pingora_core::tls::{RootCertStore, load_native_certs};
use pingora_core::upstreams::peer::{ALPN, HttpPeer, PeerOptions};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::backend::Backend;
use super::berths::Mooring;
use super::dial::Dial;
use super::idle;
use crate::base::certificate::{self, Chain, Fault};
use crate::base::proxy_protocol::{self, Ends, Version};
use crate::config::plan;

/// What the kernel does to find out that a silent peer is gone.
pub(super) const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(10),
    count: 6,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

/// The shortest time that Pingora's timers can count: they subtract from it in milliseconds.
pub const SHORTEST: Duration = Duration::from_millis(1);

/// Streams at once on an HTTP/2 connection to a backend, where the backend allows as many.
const STREAMS: usize = 100;
/// What a backend may send on a stream before the client takes it. The connection's window has room for all its streams, so
/// that clients that read slowly hold up nobody else.
const STREAM_WINDOW: u32 = 256 * 1024;
/// How long a connect may take where nothing says so; each upstream does.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why an upstream's TLS settings cannot be used; each names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file cannot be used.
    #[error("{source} ({})", .source.remedy())]
    File {
        /// Which, and why.
        #[from]
        source: Fault,
    },
    /// The system has no root certificates.
    #[error("no root certificates were found on this system (install ca-certificates, or write `ca:`)")]
    NoRoots,
}

/// The roots that certificates of backends are verified with.
pub type Roots = Arc<CaType>;

/// All of an upstream's peers, but for the address.
#[derive(Clone)]
pub struct PeerTemplate {
    sni: Option<Arc<str>>,
    identity: Option<Arc<CertKey>>,
    group: u64,
    keepalive: plan::Keepalive,
    introduces: Option<Version>,
    options: PeerOptions,
    sources: Vec<IpAddr>,
}

impl std::fmt::Debug for PeerTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTemplate").field("sni", &self.sni).field("options", &self.options).finish_non_exhaustive()
    }
}

impl PeerTemplate {
    /// Reads what the upstream's TLS section names.
    ///
    /// # Errors
    /// [`BuildError`], which names the file at fault.
    pub fn build(upstream: &plan::Upstream) -> Result<Self, BuildError> {
        let tls = upstream.tls.as_deref();
        let ca = tls.and_then(|tls| tls.ca.as_deref()).map(read_roots).transpose()?;
        let identity = tls.and_then(|tls| tls.identity.as_ref()).map(read_identity).transpose()?;
        let verify = tls.is_none_or(|tls| tls.verify);
        let group = group_key(&upstream.name, verify, ca.as_deref(), identity.as_ref());
        Ok(Self {
            sni: tls.and_then(|tls| tls.sni.as_deref()).map(Arc::from),
            identity: identity.map(Arc::new),
            group,
            keepalive: upstream.keepalive,
            introduces: upstream.send_proxy_protocol,
            options: options(upstream, verify, ca),
            sources: Vec::new(),
        })
    }

    /// The same with these roots, where the upstream names none of its own.
    #[must_use]
    pub fn trusting(mut self, roots: &Roots) -> Self {
        if self.options.ca.is_none() {
            self.options.ca = Some(Arc::clone(roots));
            self.group = trusted_by(self.group, roots);
        }
        self
    }

    /// The same with connections that come from the addresses that the process has for that.
    #[must_use]
    pub fn from_addresses_of(mut self, server: &plan::Server) -> Self {
        let (v4, v6) = (server.client_bind_to_ipv4.iter(), server.client_bind_to_ipv6.iter());
        self.sources = v4.chain(v6).filter_map(|address| address.parse().ok()).collect();
        self
    }

    /// The peer of one backend, for requests of the client with these ends: where the backend is told of them, a connection
    /// is used for no other client. Pingora makes its connections and keeps them.
    #[must_use]
    pub fn peer(&self, backend: &Backend, client: Option<Ends>) -> HttpPeer {
        let mut peer = self.peer_for(backend, client, None);
        peer.options.idle_timeout = Some(idle::patience(backend.in_flight() as usize, &self.keepalive));
        peer
    }

    /// The same for a connection that the caller keeps, and which is counted where `max_connections` bounds them. Over HTTP/2
    /// requests share connections, of which there are never more than requests.
    pub(super) fn counted_peer(&self, backend: &Arc<Backend>, client: Option<Ends>) -> HttpPeer {
        let counted = backend.berths().most().map(|_| (Arc::clone(backend), Mooring::new()));
        self.peer_for(backend, client, counted)
    }

    fn peer_for(&self, backend: &Backend, client: Option<Ends>, counted: Option<(Arc<Backend>, Mooring)>) -> HttpPeer {
        let mut peer = self.peer_at(backend.addr().clone(), backend.tls(), &backend.host());
        let header = self.introduces.map(|version| proxy_protocol::write(version, client));
        peer.group_key = self.group_of(client);
        if header.is_some() || counted.is_some() {
            peer.options.tracer = counted.as_ref().map(|(_, mooring)| mooring.tracer());
            peer.options.custom_l4 = Some(Arc::new(Dial {
                header: header.unwrap_or_default(),
                counted,
                from: self.source_for(backend.addr()),
                patience: self.patience(),
            }));
        }
        peer
    }

    /// How long a connect may take.
    pub(super) fn patience(&self) -> Duration {
        self.options.connection_timeout.unwrap_or(PATIENCE)
    }

    /// The peer of one backend whose connections `link` makes, TLS included.
    #[must_use]
    pub fn linked(&self, backend: &Backend, link: Arc<dyn L4Connect + Send + Sync>) -> HttpPeer {
        let mut peer = self.peer_at(backend.addr().clone(), false, &backend.host());
        peer.options.alpn = ALPN::H1;
        peer.options.custom_l4 = Some(link);
        peer
    }

    /// Whether backends are told whose each connection is.
    pub(super) fn introduces(&self) -> bool {
        self.introduces.is_some()
    }

    /// What tells the connections that the client with these ends may use from those that it may not.
    #[must_use]
    pub fn group_of(&self, client: Option<Ends>) -> u64 {
        if self.introduces() { group_of(self.group, client) } else { self.group }
    }

    /// What tells connections made by this template from those made by others.
    #[must_use]
    pub fn group(&self) -> u64 {
        self.group
    }

    /// Where a connection to `addr` comes from, where the process has addresses for that: any of them, as Pingora does it.
    fn source_for(&self, addr: &SocketAddr) -> Option<std::net::SocketAddr> {
        let SocketAddr::Inet(addr) = addr else { return None };
        let fitting: Vec<_> = self.sources.iter().filter(|source| source.is_ipv4() == addr.is_ipv4()).collect();
        fastrand::choice(fitting).map(|source| std::net::SocketAddr::new(*source, 0))
    }

    /// The protocols that its backends are offered.
    pub(super) fn alpn(&self) -> ALPN {
        self.options.alpn.clone()
    }

    /// Whether the upstream names the roots it trusts.
    pub(super) fn names_roots(&self) -> bool {
        self.options.ca.is_some()
    }

    /// The peer at `addr`, whose certificate must bear `host` (`localhost` on a unix socket) unless `tls.sni` says otherwise.
    fn peer_at(&self, addr: SocketAddr, tls: bool, host: &str) -> HttpPeer {
        let written = if host.is_empty() { "localhost" } else { host };
        let sni = if tls { self.sni.as_deref().unwrap_or(written) } else { "" };
        // `HttpPeer::new` resolves names and may panic; a placeholder address does neither.
        let mut peer = HttpPeer::new((std::net::Ipv4Addr::UNSPECIFIED, 0), tls, sni.to_owned());
        peer._address = addr;
        peer.client_cert_key.clone_from(&self.identity);
        peer.group_key = self.group;
        peer.options = self.options.clone();
        peer
    }

    /// The peer of one backend, for a probe: bounded by `bounds.timeout`, on a connection that nothing else uses.
    pub(super) fn probe_peer(&self, backend: &Backend, bounds: &ProbeBounds<'_>) -> HttpPeer {
        let mut addr = backend.addr().clone();
        if let Some(port) = bounds.port {
            addr.set_port(port);
        }
        let mut peer = self.peer_at(addr, bounds.tls, &backend.host());
        let timeout = Some(bounds.timeout.max(SHORTEST));
        let options = &mut peer.options;
        options.connection_timeout = timeout;
        options.total_connection_timeout = timeout;
        options.read_timeout = timeout;
        options.write_timeout = timeout;
        options.alpn = bounds.alpn.clone();
        if let Some(version) = self.introduces {
            options.custom_l4 = Some(Arc::new(Dial {
                header: proxy_protocol::write(version, None),
                counted: None,
                from: self.source_for(backend.addr()),
                patience: bounds.timeout,
            }));
        }
        if options.ca.is_none() {
            options.ca = bounds.roots.cloned();
        }
        peer
    }
}

/// How a probe's peer differs from that of requests.
pub(super) struct ProbeBounds<'a> {
    /// Another port of the same address.
    pub(super) port: Option<u16>,
    /// Whether it speaks TLS.
    pub(super) tls: bool,
    /// The bound on each step.
    pub(super) timeout: Duration,
    /// The protocol.
    pub(super) alpn: ALPN,
    /// The roots that are trusted where the upstream names none; none: those of the connector.
    pub(super) roots: Option<&'a Roots>,
}

/// The system's roots.
///
/// # Errors
/// [`BuildError::NoRoots`] where there are none.
pub(super) fn system_roots() -> Result<Roots, BuildError> {
    let roots: Vec<WrappedX509> = load_native_certs().unwrap_or_default().iter().filter_map(root).collect();
    if roots.is_empty() { Err(BuildError::NoRoots) } else { Ok(roots.into()) }
}

/// The host and port of a backend as written: without scheme. `localhost` for a unix socket.
#[must_use]
pub fn authority_of(name: &str) -> &str {
    if name.starts_with("unix:") {
        return "localhost";
    }
    name.split_once("://").map_or(name, |(_, authority)| authority)
}

fn options(upstream: &plan::Upstream, verify: bool, ca: Option<Arc<CaType>>) -> PeerOptions {
    let timeouts = &upstream.timeouts;
    let mut options = PeerOptions::new();
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    // One bound for each read of an answer, its head included: the longer of the two, so that neither is cut short.
    options.read_timeout = Some(timeouts.idle.max(timeouts.first_byte));
    options.write_timeout = Some(timeouts.idle);
    options.idle_timeout = Some(upstream.keepalive.idle);
    options.verify_cert = verify;
    options.verify_hostname = verify;
    options.alpn = alpn(upstream.protocol);
    if upstream.protocol != plan::UpstreamProtocol::Http1 {
        // Over HTTP/2 Pingora's timeout would run while the request is still being sent; the watch of the request runs from its end.
        options.read_timeout = None;
        options.max_h2_streams = STREAMS;
        options.h2_stream_window_size = Some(STREAM_WINDOW);
        options.h2_connection_window_size = Some(STREAM_WINDOW * STREAMS as u32);
    }
    options.ca = ca;
    options.tcp_keepalive = Some(TCP_KEEPALIVE);
    options
}

/// The protocols that are offered to a backend.
pub(super) const fn alpn(protocol: plan::UpstreamProtocol) -> ALPN {
    match protocol {
        plan::UpstreamProtocol::Http1 => ALPN::H1,
        plan::UpstreamProtocol::Http2 => ALPN::H2,
        plan::UpstreamProtocol::Auto => ALPN::H2H1,
    }
}

/// Pingora's pool tells peers apart by address, scheme, SNI, serial of the certificate and verification, but not by the
/// roots they trust: a connection of one upstream must never serve another that would not have trusted it.
fn group_key(name: &str, verify: bool, ca: Option<&CaType>, identity: Option<&CertKey>) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    verify.hash(&mut hasher);
    for root in ca.unwrap_or_default() {
        root.borrow_raw_cert().hash(&mut hasher);
    }
    if let Some(identity) = identity {
        identity.leaf().borrow_raw_cert().hash(&mut hasher);
    }
    hasher.finish()
}

/// The same for the connections of one client alone.
fn group_of(group: u64, client: Option<Ends>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (group, client).hash(&mut hasher);
    hasher.finish()
}

/// The same for a process that gives its upstreams these roots.
fn trusted_by(group: u64, roots: &CaType) -> u64 {
    let mut hasher = DefaultHasher::new();
    group.hash(&mut hasher);
    roots.iter().for_each(|root| root.borrow_raw_cert().hash(&mut hasher));
    hasher.finish()
}

/// The roots in a file, PEM.
///
/// # Errors
/// [`BuildError`], which names the file.
pub fn read_roots(path: &Path) -> Result<Roots, BuildError> {
    Ok(certificate::roots(path)?.iter().map(x509).collect())
}

/// A root of the system's that both rustls and Pingora can read: Pingora panics on one that it cannot.
fn root(der: &CertificateDer<'static>) -> Option<WrappedX509> {
    RootCertStore::empty().add(der.clone()).ok()?;
    x509_parser::parse_x509_certificate(der).ok()?;
    Some(x509(der))
}

/// A certificate as Pingora takes it: one that has been parsed before.
fn x509(der: &CertificateDer<'_>) -> WrappedX509 {
    WrappedX509::new(der.to_vec(), parse_x509)
}

fn read_identity((cert, key): &(PathBuf, PathBuf)) -> Result<CertKey, BuildError> {
    let chain = Chain::read(cert)?;
    chain.with_key(cert, key)?;
    let private = certificate::private_key(key)?.secret_der().to_vec();
    // Pingora guesses the key's format from its bytes at each handshake, and panics where it cannot.
    PrivateKeyDer::try_from(private.as_slice()).map_err(|why| Fault::Key { path: key.clone(), why: why.to_owned() })?;
    Ok(CertKey::new(chain.certificates.iter().map(|der| der.to_vec()).collect(), private))
}

#[cfg(test)]
mod tests {
    use pingora_core::upstreams::peer::Peer as _;

    use super::*;
    use crate::upstream::fixture::{self, Authority};

    fn upstream(name: &str, change: impl FnOnce(&mut plan::UpstreamTls)) -> plan::Upstream {
        let mut tls = plan::UpstreamTls { sni: None, ca: None, verify: true, identity: None };
        change(&mut tls);
        plan::Upstream { tls: Some(Arc::new(tls)), ..fixture::upstream(name) }
    }

    fn peer(upstream: &plan::Upstream, addr: &str, host: &str, tls: bool) -> HttpPeer {
        let mut member = fixture::member(addr);
        member.tls = tls;
        member.host = host.into();
        PeerTemplate::build(upstream).unwrap().peer(&fixture::backend(&member), None)
    }

    #[test]
    fn a_peer_has_the_deadlines_of_its_upstream() {
        let peer = peer(&fixture::upstream("web"), "127.0.0.1:80", "127.0.0.1", false);
        assert_eq!(peer.address().to_string(), "127.0.0.1:80");
        assert!(!peer.is_tls() && peer.sni().is_empty());
        assert_eq!(peer.options.connection_timeout, Some(Duration::from_secs(3)));
        assert_eq!(peer.options.total_connection_timeout, Some(Duration::from_secs(3)));
        assert_eq!(peer.options.write_timeout, Some(Duration::from_secs(60)));
        assert_eq!(peer.options.idle_timeout, Some(Duration::from_secs(55)));
    }

    #[test]
    fn the_name_to_verify_is_the_configured_one_else_the_host_as_written() {
        let plain = upstream("web", |_| ());
        assert_eq!(peer(&plain, "127.0.0.1:443", "web.internal", true).sni(), "web.internal");
        assert_eq!(peer(&plain, "127.0.0.1:443", "127.0.0.1", true).sni(), "127.0.0.1");
        assert_eq!(peer(&plain, "unix:/run/app.sock", "", true).sni(), "localhost");
        let named = upstream("web", |tls| tls.sni = Some("api.internal".to_owned()));
        assert_eq!(peer(&named, "127.0.0.1:443", "web.internal", true).sni(), "api.internal");
        assert!(peer(&plain, "127.0.0.1:443", "a", true).verify_cert());
        let blind = peer(&upstream("web", |tls| tls.verify = false), "127.0.0.1:443", "a", true);
        assert!(!blind.verify_cert() && !blind.verify_hostname());
    }

    #[test]
    fn a_pooled_connection_serves_no_upstream_that_trusts_others() {
        let (one, two) = (Authority::new(), Authority::new());
        let hash = |upstream: &plan::Upstream| peer(upstream, "127.0.0.1:443", "a", true).reuse_hash();
        let trusting_one = upstream("web", |tls| tls.ca = Some(one.path("ca.pem")));
        let trusting_two = upstream("web", |tls| tls.ca = Some(two.path("ca.pem")));
        assert_eq!(hash(&trusting_one), hash(&trusting_one));
        assert_ne!(hash(&trusting_one), hash(&trusting_two));
        assert_ne!(hash(&upstream("web", |_| ())), hash(&upstream("api", |_| ())));
    }

    #[test]
    fn a_bad_file_is_named() {
        let authority = Authority::new();
        authority.issue("me");
        authority.issue("you");
        std::fs::write(authority.path("junk.pem"), "nothing here").unwrap();
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(authority.path("garbled.pem"), garbled).unwrap();
        let identity = |cert: &str, key: &str| Some((authority.path(cert), authority.path(key)));
        let fault = |upstream: &plan::Upstream| PeerTemplate::build(upstream).unwrap_err().to_string();

        for (upstream, file, what) in [
            (upstream("web", |tls| tls.ca = Some(authority.path("gone.pem"))), "gone.pem", "cannot read"),
            (upstream("web", |tls| tls.ca = Some(authority.path("junk.pem"))), "junk.pem", "holds no certificate"),
            (
                upstream("web", |tls| tls.ca = Some(authority.path("garbled.pem"))),
                "garbled.pem",
                "cannot be trusted as a root",
            ),
            (upstream("web", |tls| tls.identity = identity("garbled.pem", "me.key")), "garbled.pem", "certificate"),
            (upstream("web", |tls| tls.identity = identity("me.pem", "me.pem")), "me.pem", "holds no private key"),
            (upstream("web", |tls| tls.identity = identity("me.pem", "you.key")), "you.key", "does not belong"),
        ] {
            let said = fault(&upstream);
            assert!(said.contains(file) && said.contains(what), "{said}");
        }
        assert!(PeerTemplate::build(&upstream("web", |tls| tls.identity = identity("me.pem", "me.key"))).is_ok());
    }

    #[test]
    fn the_authority_of_a_backend_is_its_name_without_the_scheme() {
        assert_eq!(authority_of("10.0.0.1:8080"), "10.0.0.1:8080");
        assert_eq!(authority_of("https://web.internal:443"), "web.internal:443");
        assert_eq!(authority_of("unix:/run/app.sock"), "localhost");
    }
}
