//! One probe of one backend: the check that its plan asks for, on the way its requests take, within its timeout.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use pingora_core::connectors::http::Connector;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::upstreams::peer::{ALPN, HttpPeer, Peer as _};
use pingora_error::Result;
use pingora_load_balancing::Backend as Target;
use pingora_load_balancing::health_check::{HealthCheck, TcpHealthCheck};

use super::cause::{explain, timed_out, unexpected};
use super::http::{BodyCheck, Checks};
use super::{grpc, http, tcp};
use crate::config::plan;
use crate::upstream::backend::Backend;
use crate::upstream::peer::{PeerTemplate, ProbeBounds, Roots, authority_of, system_roots};

/// A connector reads its roots from a file, twice, each time one is made. Those of probes are brought along by each peer
/// that needs any, so that the connectors themselves read none.
const NO_ROOTS: &str = "/dev/null";

/// Sends probes. Nothing in it belongs to one upstream.
pub struct Prober {
    tcp: TcpHealthCheck,
    handshakes: Arc<TransportConnector>,
    http: Checks,
    sessions: Arc<Connector>,
    /// The system's roots, for upstreams for which nothing names any, read when the first such probe is sent; or why there are
    /// none.
    roots: OnceLock<Result<Roots, String>>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

impl Prober {
    /// Probes leave from the same addresses as requests, and their TLS keys are written where those of requests are.
    #[must_use]
    pub fn new(server: &plan::Server) -> Self {
        let mut options = ConnectorOptions::new(1);
        options.ca_file = Some(NO_ROOTS.to_owned());
        options.debug_ssl_keylog = server.upstream_debug_ssl_keylog;
        options.bind_to_v4 = source_addresses(&server.client_bind_to_ipv4);
        options.bind_to_v6 = source_addresses(&server.client_bind_to_ipv6);
        Self {
            tcp: tcp::plain(TransportConnector::new(Some(options.clone()))),
            handshakes: Arc::new(TransportConnector::new(Some(options.clone()))),
            sessions: Arc::new(Connector::new(Some(options.clone()))),
            http: Checks::new(options),
            roots: OnceLock::new(),
        }
    }

    /// Probes `backend` once, as `check` says. It never takes longer than the probe's timeout.
    ///
    /// # Errors
    /// The cause, in words for the operator.
    pub async fn probe(
        &self,
        check: &plan::HealthCheck,
        peers: &PeerTemplate,
        backend: &Backend,
    ) -> Result<(), String> {
        match tokio::time::timeout(check.timeout, self.run(check, peers, backend)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(explain(&error, check.timeout)),
            Err(_) => Err(timed_out(check.timeout)),
        }
    }

    async fn run(&self, check: &plan::HealthCheck, peers: &PeerTemplate, backend: &Backend) -> Result<()> {
        let peer = self.peer(check, peers, backend)?;
        let target = Target { addr: peer.address().clone(), weight: 1, ext: Default::default() };
        let name = backend.name();
        match &check.probe {
            plan::Probe::Tcp if peer.is_tls() => {
                let connector = Arc::clone(&self.handshakes);
                tcp::Handshake { peer, connector }.check(&target).await
            }
            plan::Probe::Tcp => self.tcp.check(&target).await,
            plan::Probe::Http(probe) => {
                let request = http::request(probe, authority_of(&name))?;
                let status = probe.expect_status.clone();
                let Some(body) = probe.expect_body.clone() else {
                    return self.http.run(&target, peer, request, status).await;
                };
                let connector = Arc::clone(&self.sessions);
                BodyCheck { peer, request, status, body, connector }.check(&target).await
            }
            plan::Probe::Grpc { service } => {
                let (authority, service) = (authority_of(&name).to_owned(), service.clone());
                let connector = Arc::clone(&self.sessions);
                grpc::GrpcCheck { peer, authority, service, connector }.check(&target).await
            }
        }
    }

    fn peer(&self, check: &plan::HealthCheck, peers: &PeerTemplate, backend: &Backend) -> Result<HttpPeer> {
        let tls = check.tls.unwrap_or_else(|| backend.tls());
        let roots = if tls && !peers.names_roots() { Some(self.roots()?) } else { None };
        let alpn = match (&check.probe, peers.alpn()) {
            (plan::Probe::Grpc { .. }, _) => ALPN::H2,
            // What listens on another port is asked in what it chooses, or in what everybody speaks.
            (_, ALPN::H2) if check.port.is_some() => ALPN::H2H1,
            (_, alpn) => alpn,
        };
        let bounds = ProbeBounds { port: check.port, tls, timeout: check.timeout, alpn, roots };
        Ok(peers.probe_peer(backend, &bounds))
    }

    fn roots(&self) -> Result<&Roots> {
        let read = || system_roots().map_err(|error| error.to_string());
        self.roots.get_or_init(read).as_ref().map_err(|why| unexpected(why.as_str()))
    }
}

/// Pingora binds to any of these, with a port from the system.
fn source_addresses(written: &[String]) -> Vec<SocketAddr> {
    let ip = |text: &String| text.parse::<IpAddr>().ok();
    written.iter().filter_map(ip).map(|ip| SocketAddr::new(ip, 0)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};

    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::upstream::fixture::{self, Authority};

    /// An origin on loopback: what it was asked, and where it is.
    struct Origin {
        addr: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Origin {
        /// Answers every request with `answer` and closes; an empty answer closes at once.
        async fn answering(answer: &'static str) -> Self {
            Self::over(answer, None).await
        }

        async fn over(answer: &'static str, tls: Option<ServerConfig>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
            let heads = Arc::clone(&asked);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (heads, acceptor) = (Arc::clone(&heads), acceptor.clone());
                    tokio::spawn(async move {
                        match acceptor {
                            None => serve(stream, answer, &heads).await,
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    serve(stream, answer, &heads).await;
                                }
                            }
                        }
                    });
                }
            });
            Self { addr, asked }
        }

        /// Accepts and never says a word.
        async fn hanging() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            tokio::spawn(async move {
                let mut held = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    held.push(stream);
                }
            });
            Self { addr, asked: Arc::default() }
        }
    }

    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str, asked: &Mutex<Vec<String>>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        asked.lock().push(String::from_utf8_lossy(&head).to_lowercase());
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\nall systems go\n";

    fn http(change: impl FnOnce(&mut plan::HttpProbe)) -> plan::HealthCheck {
        let mut probe = fixture::http_probe();
        change(&mut probe);
        fixture::health_check(plan::Probe::Http(probe))
    }

    fn plain() -> PeerTemplate {
        PeerTemplate::build(&fixture::upstream("test")).unwrap()
    }

    async fn probe(check: &plan::HealthCheck, addr: &str) -> Result<(), String> {
        Prober::new(&fixture::server()).probe(check, &plain(), &fixture::backend(&fixture::member(addr))).await
    }

    /// An address where nobody listens.
    fn closed() -> String {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_tcp_probe_tells_who_listens_from_who_does_not() {
        let origin = Origin::hanging().await;
        let check = fixture::health_check(plan::Probe::Tcp);
        assert_eq!(probe(&check, &origin.addr).await, Ok(()));
        assert_eq!(probe(&check, &closed()).await, Err("connection refused".to_owned()));
    }

    #[tokio::test]
    async fn an_http_probe_is_good_where_the_status_is_expected() {
        let origin = Origin::answering(OK).await;
        assert_eq!(probe(&http(|_| ()), &origin.addr).await, Ok(()));
        let origin = Origin::answering("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(probe(&http(|_| ()), &origin.addr).await, Ok(()));
        let origin = Origin::answering("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(probe(&http(|_| ()), &origin.addr).await, Err("status 500".to_owned()));
        assert_eq!(probe(&http(|p| p.expect_status = plan::StatusSet(vec![(500, 500)])), &origin.addr).await, Ok(()));
    }

    #[tokio::test]
    async fn an_http_probe_asks_what_is_configured() {
        let origin = Origin::answering(OK).await;
        assert_eq!(probe(&http(|_| ()), &origin.addr).await, Ok(()));
        let check = http(|probe| {
            probe.method = ::http::Method::HEAD;
            probe.path = "/health?deep=1".to_owned();
            probe.host = Some(::http::HeaderValue::from_static("web.internal"));
            probe.headers =
                vec![(::http::HeaderName::from_static("x-probe"), ::http::HeaderValue::from_static("roundel"))];
        });
        let _ = probe(&check, &origin.addr).await;

        let asked = origin.asked.lock();
        assert!(asked[0].starts_with("get / http/1.1\r\n"), "{}", asked[0]);
        assert!(asked[0].contains(&format!("host: {}\r\n", origin.addr)), "{}", asked[0]);
        assert!(asked[0].contains("user-agent: roundel/"), "{}", asked[0]);
        assert!(asked[1].starts_with("head /health?deep=1 http/1.1\r\n"), "{}", asked[1]);
        assert!(
            asked[1].contains("host: web.internal\r\n") && asked[1].contains("x-probe: roundel\r\n"),
            "{}",
            asked[1]
        );
    }

    #[tokio::test]
    async fn a_probe_never_outlasts_its_timeout() {
        let origin = Origin::hanging().await;
        let with_body = http(|probe| probe.expect_body = Some("ok".to_owned()));
        let grpc = fixture::health_check(plan::Probe::Grpc { service: String::new() });
        for mut check in [http(|_| ()), with_body, grpc] {
            check.timeout = Duration::from_millis(200);
            let started = tokio::time::Instant::now();
            assert_eq!(probe(&check, &origin.addr).await, Err("timed out after 200ms".to_owned()));
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn causes_are_plain_words() {
        let closing = Origin::answering("").await;
        assert_eq!(probe(&http(|_| ()), &closing.addr).await, Err("closed before answering".to_owned()));
        let chatting = Origin::answering("220 mail.example ESMTP\r\n\r\n").await;
        assert_eq!(probe(&http(|_| ()), &chatting.addr).await, Err("answer is not HTTP".to_owned()));
        let missing = probe(&fixture::health_check(plan::Probe::Tcp), "unix:/nonexistent/roundel.sock").await;
        assert_eq!(missing, Err("socket does not exist".to_owned()));
    }

    #[tokio::test]
    async fn a_body_is_searched_where_one_is_expected() {
        let origin = Origin::answering(OK).await;
        let wants = |text: &str| http(|probe| probe.expect_body = Some(text.to_owned()));
        assert_eq!(probe(&wants("systems go"), &origin.addr).await, Ok(()));
        let missing = probe(&wants("ok"), &origin.addr).await;
        assert_eq!(missing, Err("body does not contain \"ok\"".to_owned()));
        let bad = Origin::answering("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(probe(&wants("ok"), &bad.addr).await, Err("status 503".to_owned()));
    }

    #[tokio::test]
    async fn a_body_is_searched_across_chunks_and_no_further_than_64_kib() {
        let wants_ok = http(|probe| probe.expect_body = Some("ok".to_owned()));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nxxo\r\n1\r\nk\r\n0\r\n\r\n";
        assert_eq!(probe(&wants_ok, &Origin::answering(chunked).await.addr).await, Ok(()));
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n";
        for (before, verdict) in [(65_534, Ok(())), (65_535, Err("body does not contain \"ok\"".to_owned()))] {
            let body = format!("{head}{}ok{}", "x".repeat(before), "x".repeat(69_998 - before));
            let origin = Origin::answering(body.leak()).await;
            assert_eq!(probe(&wants_ok, &origin.addr).await, verdict, "{before}");
        }
    }

    #[tokio::test]
    async fn another_port_is_probed_where_one_is_configured() {
        let origin = Origin::answering(OK).await;
        let port = origin.addr.rsplit_once(':').unwrap().1.parse().unwrap();
        for mut check in [fixture::health_check(plan::Probe::Tcp), http(|_| ())] {
            check.port = Some(port);
            assert_eq!(probe(&check, &closed()).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn unix_sockets_are_probed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let heads = Arc::clone(&heads);
                tokio::spawn(async move { serve(stream, OK, &heads).await });
            }
        });
        let addr = format!("unix:{}", path.display());
        assert_eq!(probe(&fixture::health_check(plan::Probe::Tcp), &addr).await, Ok(()));
        assert_eq!(probe(&http(|_| ()), &addr).await, Ok(()));
        assert_eq!(probe(&http(|probe| probe.expect_body = Some("go".to_owned())), &addr).await, Ok(()));
        assert!(asked.lock()[0].contains("host: localhost\r\n"));
    }

    fn server_config(authority: &Authority, name: &str, wants_client: bool) -> ServerConfig {
        crate::base::crypto::install();
        let chain = CertificateDer::pem_file_iter(authority.path(&format!("{name}.pem")))
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
        let builder = ServerConfig::builder();
        let builder = if wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(chain, key).unwrap()
    }

    fn tls(change: impl FnOnce(&mut plan::UpstreamTls)) -> PeerTemplate {
        let mut upstream = fixture::upstream("test");
        let mut tls = plan::UpstreamTls { sni: None, ca: None, verify: true, identity: None };
        change(&mut tls);
        upstream.tls = Some(Arc::new(tls));
        PeerTemplate::build(&upstream).unwrap()
    }

    async fn probe_tls(check: &plan::HealthCheck, peers: &PeerTemplate, addr: &str) -> Result<(), String> {
        let mut member = fixture::member(addr);
        member.tls = true;
        member.host = "web.internal".into();
        Prober::new(&fixture::server()).probe(check, peers, &fixture::backend(&member)).await
    }

    #[tokio::test]
    async fn a_tls_backend_must_prove_who_it_is() {
        let authority = Authority::new();
        authority.issue("web.internal");
        let origin = Origin::over(OK, Some(server_config(&authority, "web.internal", false))).await;
        let ca = Some(authority.path("ca.pem"));
        let trusting = tls(|tls| tls.ca.clone_from(&ca));
        let other_name = tls(|tls| {
            tls.ca.clone_from(&ca);
            tls.sni = Some("api.internal".to_owned());
        });
        let blind = tls(|tls| tls.verify = false);
        let with_body = http(|probe| probe.expect_body = Some("go".to_owned()));

        for check in [fixture::health_check(plan::Probe::Tcp), http(|_| ()), with_body] {
            assert_eq!(probe_tls(&check, &trusting, &origin.addr).await, Ok(()));
            assert_eq!(probe_tls(&check, &blind, &origin.addr).await, Ok(()));
            let untrusted = probe_tls(&check, &tls(|_| ()), &origin.addr).await;
            assert_eq!(untrusted, Err("TLS: certificate not trusted".to_owned()));
            let misnamed = probe_tls(&check, &other_name, &origin.addr).await;
            assert_eq!(misnamed, Err("TLS: certificate is for another name".to_owned()));
        }
    }

    #[tokio::test]
    async fn a_probe_may_speak_tls_where_requests_do_not_and_the_other_way_round() {
        let authority = Authority::new();
        authority.issue("127.0.0.1");
        let origin = Origin::over(OK, Some(server_config(&authority, "127.0.0.1", false))).await;
        let peers = tls(|tls| tls.ca = Some(authority.path("ca.pem")));
        let mut check = http(|_| ());
        check.tls = Some(true);
        let backend = fixture::backend(&fixture::member(&origin.addr));
        assert_eq!(Prober::new(&fixture::server()).probe(&check, &peers, &backend).await, Ok(()));

        let origin = Origin::answering(OK).await;
        check.tls = Some(false);
        assert_eq!(probe_tls(&check, &peers, &origin.addr).await, Ok(()));
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_where_one_is_configured() {
        let authority = Authority::new();
        authority.issue("web.internal");
        authority.issue("me");
        let origin = Origin::over(OK, Some(server_config(&authority, "web.internal", true))).await;
        let named = tls(|tls| {
            tls.ca = Some(authority.path("ca.pem"));
            tls.identity = Some((authority.path("me.pem"), authority.path("me.key")));
        });
        assert_eq!(probe_tls(&http(|_| ()), &named, &origin.addr).await, Ok(()));
        let nameless = tls(|tls| tls.ca = Some(authority.path("ca.pem")));
        assert_eq!(
            probe_tls(&http(|_| ()), &nameless, &origin.addr).await,
            Err("TLS: peer wants a client certificate".to_owned())
        );
    }
}
