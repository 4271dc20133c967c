//! TLS toward clients: the right certificate, the right version, sessions resumed, clients who prove who they are.

use std::fs;

use rcgen::{DnType, SanType};
use tokio::io::AsyncWriteExt;
use tokio_rustls::rustls::{NamedGroup, ProtocolVersion};

use crate::harness::{
    Authority, Connection, Fault, Issued, Load, Origin, Proxy, Setup, TlsClient, get, request, roundel, until,
};

const SITE: &str = "
listeners:
  - name: public
    address: \"{listen}\"
    tls: { certificates: [{ cert: site.pem, key: site.key }] }
upstreams: { web: { backends: [\"{a}\"] } }
";

trait WithCertificate {
    fn certificate(self, name: &str, issued: &Issued) -> Self;
}

impl WithCertificate for Setup {
    fn certificate(self, name: &str, issued: &Issued) -> Self {
        self.file(&format!("{name}.pem"), issued.pem()).file(&format!("{name}.key"), issued.key_pem())
    }
}

/// A proxy with one certificate for `site.example`, and a client for it.
async fn site(origin: &Origin, yaml: &str) -> (Proxy, TlsClient, Authority) {
    let authority = Authority::new();
    let setup = Setup::new(&[origin]).certificate("site", &authority.issue(&["site.example"]));
    let proxy = setup.start(yaml).await;
    let client = TlsClient::new(&authority, "site.example");
    (proxy, client, authority)
}

#[tokio::test]
async fn a_request_over_tls_is_served_and_told_as_such() {
    let origin = Origin::start("a").await;
    let (proxy, client, _) = site(&origin, SITE).await;

    let (answer, handshake) = client.get(proxy.address(), "/x").await;

    assert_eq!((answer.status, answer.origin()), (200, "a"));
    assert_eq!(handshake.version, ProtocolVersion::TLSv1_3);
    assert_eq!(handshake.group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(origin.received_for("/x").head.field("x-forwarded-proto"), Some("https"));
    let line = proxy.log_for("/x").await;
    assert_eq!((&line["scheme"], &line["tls"]), (&"https".into(), &"TLSv1.3".into()));
}

#[tokio::test]
async fn bodies_of_all_sizes_pass_both_ways_over_one_connection() {
    let origin = Origin::start("a").await;
    let (proxy, client, _) = site(&origin, SITE).await;
    let (mut connection, _) = client.try_connect(proxy.address()).await.unwrap();

    for size in [0_usize, 1, 16_384, 16_385, 65_536, 3_000_000] {
        let body = vec![b'x'; size];
        origin.next(crate::harness::Reply::ok(body.clone()));
        let answer = connection.ask("POST", "/", "", &body).await.unwrap();
        assert_eq!((answer.status, answer.body.bytes.len()), (200, size));
    }
    assert!(origin.received().iter().all(|request| request.connection == origin.received()[0].connection));
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_asked_for() {
    let origin = Origin::start("a").await;
    let authority = Authority::new();
    let all = [&["first.example"][..], &["*.wild.example"], &["www.wild.example", "other.example"]];
    let all = all.map(|hosts| authority.issue(hosts));
    let mut setup = Setup::new(&[&origin]);
    for (number, issued) in all.iter().enumerate() {
        setup = setup.certificate(&number.to_string(), issued);
    }
    let pairs = (0..3).map(|n| format!("{{ cert: {n}.pem, key: {n}.key }}")).collect::<Vec<_>>().join(", ");
    let yaml = SITE.replace("{ cert: site.pem, key: site.key }", &pairs);
    let proxy = setup.start(&yaml).await;
    let client = TlsClient::new(&authority, "first.example");

    for (host, place) in [("first.example", 0), ("api.wild.example", 1), ("www.wild.example", 2), ("other.example", 2)]
    {
        let (_, handshake) = client.asking_for(host).get(proxy.address(), "/").await;
        assert_eq!(handshake.certificate, all[place].der(), "{host}");
    }
    let (_, handshake) = client.nameless().get(proxy.address(), "/").await;
    assert_eq!(handshake.certificate, all[0].der(), "no name is asked for");
    let wrong = client.asking_for("nobody.example").try_connect(proxy.address()).await;
    assert!(matches!(wrong, Err(Fault::Broken(why)) if why.contains("not valid for name")), "the first answers");
}

#[tokio::test]
async fn the_lowest_version_is_the_one_that_is_written() {
    let origin = Origin::start("a").await;
    let (proxy, _, authority) = site(&origin, SITE).await;
    let (_, handshake) = TlsClient::old(&authority, "site.example").get(proxy.address(), "/").await;
    assert_eq!(handshake.version, ProtocolVersion::TLSv1_2);
    assert_eq!(proxy.log_for("/").await["tls"], "TLSv1.2");

    let (proxy, client, authority) = site(&origin, &SITE.replace("tls: {", "tls: { min_version: \"1.3\",")).await;
    assert!(TlsClient::old(&authority, "site.example").try_connect(proxy.address()).await.is_err());
    assert_eq!(client.get(proxy.address(), "/").await.0.status, 200);
}

#[tokio::test]
async fn sessions_are_resumed_in_both_versions() {
    let origin = Origin::start("a").await;
    let (proxy, client, authority) = site(&origin, SITE).await;

    for client in [client, TlsClient::old(&authority, "site.example")] {
        let (_, first) = client.get(proxy.address(), "/").await;
        let (_, second) = client.get(proxy.address(), "/").await;
        assert_eq!((first.resumed, second.resumed), (false, true), "{:?}", second.version);
    }
}

#[tokio::test]
async fn http_1_1_is_agreed_upon_by_alpn_and_what_nobody_speaks_is_refused() {
    let origin = Origin::start("a").await;
    let (proxy, client, _) = site(&origin, SITE).await;

    let (_, handshake) = client.offering(&["http/1.1"]).get(proxy.address(), "/").await;
    assert_eq!(handshake.alpn.as_deref(), Some(&b"http/1.1"[..]));
    let (_, handshake) = client.get(proxy.address(), "/").await;
    assert_eq!(handshake.alpn, None);
    assert!(client.offering(&["gopher"]).try_connect(proxy.address()).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_is_ended_with_a_close_notify() {
    let origin = Origin::start("a").await;
    let yaml = SITE.replace("    tls:", "    timeouts: { keepalive: 100ms }\n    tls:");
    let (proxy, client, _) = site(&origin, &yaml).await;
    let (mut connection, _) = client.try_connect(proxy.address()).await.unwrap();
    connection.get("/").await;

    // Without the notice rustls reports an unexpected end.
    assert_eq!(connection.rest().await, Ok(Vec::new()));
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let origin = Origin::start("a").await;
    let (proxy, _, _) = site(&origin, SITE).await;

    let answer = get(proxy.address(), "/plain").await;

    assert_eq!((answer.status, answer.closes()), (400, true));
    assert!(answer.text().contains("HTTPS"), "{}", answer.text());
    let line = proxy.log_for("/plain").await;
    assert_eq!((&line["status"], &line["scheme"]), (&400.into(), &"http".into()));
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let origin = Origin::start("a").await;
    let yaml = SITE.replace("    tls:", "    timeouts: { tls_handshake: 200ms }\n    tls:");
    let (proxy, client, _) = site(&origin, &yaml).await;

    let mut silent = Connection::open(proxy.address()).await;
    let mut slow = Connection::open(proxy.address()).await;
    slow.send(b"\x16\x03\x01\x02\x00\x01").await;
    silent.expect_close().await;
    slow.expect_close().await;

    assert_eq!(client.get(proxy.address(), "/").await.0.status, 200);
    until("nothing is open", async || proxy.metric("roundel_connections", &[("listener", "public")]).await == 0.0)
        .await;
}

#[tokio::test]
async fn rubbish_in_place_of_a_handshake_ends_the_connection() {
    let origin = Origin::start("a").await;
    let (proxy, client, _) = site(&origin, SITE).await;

    for rubbish in [&b"\x16\x03\x01\xff\xff\x00\x00\x00"[..], b"\x80\x2e\x01\x03\x01", b"\x00\x00\x00\x00\x00\x00\x00"]
    {
        let mut connection = Connection::open(proxy.address()).await;
        connection.send(rubbish).await;
        // An alert may come before the end.
        let _ = connection.rest().await;
    }
    assert_eq!(client.get(proxy.address(), "/").await.0.status, 200);
}

#[tokio::test]
async fn a_failed_handshake_is_told_with_client_and_cause_and_a_silent_client_is_not() {
    let origin = Origin::start("a").await;
    let (proxy, client, authority) = site(&origin, &SITE.replace("tls: {", "tls: { min_version: \"1.3\",")).await;
    let counted = async || proxy.metric("roundel_connections_refused_total", &[("reason", "tls_handshake")]).await;

    let mut silent = Connection::open(proxy.address()).await;
    silent.finish().await;
    silent.expect_close().await;
    let stranger = client.asking_for("nobody.example").try_connect(proxy.address()).await;
    let old = TlsClient::old(&authority, "site.example").try_connect(proxy.address()).await;
    assert!(stranger.is_err() && old.is_err());
    let mut half = Connection::open(proxy.address()).await;
    half.send(b"\x16\x03\x01\x02\x00\x01").await;
    half.finish().await;

    until("three are counted", async || counted().await == 3.0).await;
    for cause in
        ["does not accept the listener's certificate", "no version of TLS", "closed the connection before it was done"]
    {
        until(cause, async || proxy.stderr().contains(cause)).await;
    }
    let told = proxy.stderr();
    let lines: Vec<_> = told.lines().filter(|line| line.contains("TLS handshake failed")).collect();
    assert_eq!(lines.len(), 3, "{told}");
    for line in lines {
        assert!(line.contains(" INFO ") && line.contains("listener=public client=127.0.0.1:"), "{line}");
    }
}

#[tokio::test]
async fn failed_handshakes_do_not_flood_the_log() {
    let origin = Origin::start("a").await;
    let (proxy, _, _) = site(&origin, SITE).await;
    let fail = async || {
        let mut connection = Connection::open(proxy.address()).await;
        connection.send(b"\x16\x03\x01\xff\xff\x00\x00\x00").await;
        let _ = connection.rest().await;
    };
    for _ in 0..100 {
        fail().await;
    }
    let lines = || proxy.stderr().lines().filter(|line| line.contains("TLS handshake failed")).count();
    assert!((1..100).contains(&lines()), "{}", lines());
    until("a later line says how many were left out", async || {
        fail().await;
        proxy.stderr().contains(" left_out=")
    })
    .await;
}

const CLIENTS: &str = "
listeners:
  - name: public
    address: \"{listen}\"
    tls:
      certificates: [{ cert: site.pem, key: site.key }]
      client_auth: { ca: clients.pem, mode: MODE }
upstreams: { web: { backends: [\"{a}\"] } }
routes:
  - name: all
    to: web
    filters:
      - request_headers:
          set:
            x-subject: \"{tls_client_subject}\"
            x-sans: \"{tls_client_sans}\"
            x-fingerprint: \"{tls_client_fingerprint}\"
            x-sni: \"{tls_sni}\"
            x-cipher: \"{tls_cipher}\"
";

/// A proxy that asks clients for certificates of the second authority.
async fn asking(origin: &Origin, mode: &str) -> (Proxy, Authority, Authority) {
    let (site, clients) = (Authority::new(), Authority::new());
    let setup = Setup::new(&[origin]).certificate("site", &site.issue(&["site.example"]));
    let proxy = setup.file("clients.pem", clients.pem()).start(&CLIENTS.replace("MODE", mode)).await;
    (proxy, site, clients)
}

fn alice(authority: &Authority) -> Issued {
    authority.issue_with(&[], |params| {
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.subject_alt_names = vec![SanType::URI("spiffe://example/alice".try_into().expect("it is ASCII"))];
    })
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let origin = Origin::start("a").await;
    let (proxy, site, clients) = asking(&origin, "required").await;
    let stranger = alice(&Authority::new());

    for client in [TlsClient::new(&site, "site.example"), TlsClient::showing(&site, "site.example", &stranger)] {
        // In TLS 1.3 the client's handshake is done before the server has judged its certificate.
        if let Ok((mut connection, _)) = client.try_connect(proxy.address()).await {
            assert!(connection.ask("GET", "/", "", b"").await.is_err());
        }
    }
    assert_eq!(origin.requests(), 0);
    let known = TlsClient::showing(&site, "site.example", &alice(&clients));
    assert_eq!(known.get(proxy.address(), "/").await.0.status, 200);
}

#[tokio::test]
async fn a_client_that_is_refused_hears_why_even_while_it_sends() {
    let origin = Origin::start("a").await;
    let (proxy, site, _) = asking(&origin, "required").await;
    let nobody = TlsClient::new(&site, "site.example");
    let (mut connection, _) = nobody.try_connect(proxy.address()).await.expect("it is judged later");
    let refused = [("listener", "public"), ("reason", "tls_handshake")];
    until("it is judged", async || proxy.metric("roundel_connections_refused_total", &refused).await == 1.0).await;

    // A connection that is closed at once answers the first with a reset, and the second fails.
    connection.send(b"GET / HTTP/1.1\r\n").await;
    connection.send(b"Host: site.example\r\n\r\n").await;

    let Err(Fault::Broken(why)) = connection.rest().await else { panic!("an alert ends the connection") };
    assert!(why.contains("CertificateRequired"), "{why}");
    until("nothing is open", async || proxy.metric("roundel_connections", &[("listener", "public")]).await == 0.0)
        .await;
}

#[tokio::test]
async fn who_the_client_is_reaches_the_backend_also_when_the_session_is_resumed() {
    let origin = Origin::start("a").await;
    let (proxy, site, clients) = asking(&origin, "optional").await;
    let client = TlsClient::showing(&site, "site.example", &alice(&clients));

    for (path, resumed) in [("/1", false), ("/2", true)] {
        let (answer, handshake) = client.get(proxy.address(), path).await;
        assert_eq!((answer.status, handshake.resumed), (200, resumed));
        let head = origin.received_for(path).head;
        let field = |name| head.field(name).unwrap_or_default().to_owned();
        assert!(field("x-subject").contains("CN=alice"), "{}", field("x-subject"));
        assert_eq!(field("x-sans"), "URI:spiffe://example/alice");
        assert_eq!((field("x-fingerprint").len(), field("x-sni").as_str()), (64, "site.example"));
        assert!(field("x-cipher").starts_with("TLS_"), "{}", field("x-cipher"));
    }
}

#[tokio::test]
async fn a_client_that_shows_nothing_cannot_claim_to_be_somebody() {
    let origin = Origin::start("a").await;
    let (proxy, site, _) = asking(&origin, "optional").await;
    let (mut connection, _) = TlsClient::new(&site, "site.example").try_connect(proxy.address()).await.unwrap();

    let answer = connection.ask("GET", "/x", "x-subject: CN=admin\r\nx-sans: DNS:admin\r\n", b"").await.unwrap();

    assert_eq!(answer.status, 200);
    let head = origin.received_for("/x").head;
    assert_eq!((head.field("x-subject"), head.field("x-sans")), (None, None));
}

/// Puts files in place of others, each in one step.
fn replace(proxy: &Proxy, files: &[(&str, String)]) {
    for (name, content) in files {
        let new = proxy.dir().join(format!("{name}.new"));
        fs::write(&new, content).expect("the directory is ours");
        fs::rename(&new, proxy.dir().join(name)).expect("the directory is ours");
    }
}

#[tokio::test]
async fn a_hundred_new_certificates_under_load_fail_no_request() {
    let origin = Origin::start("a").await;
    let (proxy, client, authority) = site(&origin, SITE).await;
    let load = Load::of(usize::MAX, 4).over_tls(&client).start(proxy.address());
    let (mut standing, _) = client.try_connect(proxy.address()).await.unwrap();
    assert_eq!(standing.get("/").await.status, 200);

    let mut last = Vec::new();
    for _ in 0..100 {
        let issued = authority.issue(&["site.example"]);
        last = issued.der().to_vec();
        replace(&proxy, &[("site.key", issued.key_pem()), ("site.pem", issued.pem())]);
        load.after(20).await;
        assert_eq!(client.get(proxy.address(), "/").await.0.status, 200);
    }
    // A session that is resumed shows the certificate it began with.
    let fresh = || TlsClient::new(&authority, "site.example");
    until("the last certificate is shown", async || fresh().get(proxy.address(), "/").await.1.certificate == last)
        .await;

    load.stop().await.expect_all_ok();
    assert_eq!(standing.get("/").await.status, 200, "a connection that stood all the time");
}

#[tokio::test]
async fn a_bad_pair_is_refused_aloud_and_the_old_one_serves_on() {
    let origin = Origin::start("a").await;
    let (proxy, client, authority) = site(&origin, SITE).await;
    let before = client.get(proxy.address(), "/").await.1.certificate;
    let fresh = || TlsClient::new(&authority, "site.example");

    let (one, other) = (authority.issue(&["site.example"]), authority.issue(&["site.example"]));
    replace(&proxy, &[("site.pem", one.pem()), ("site.key", other.key_pem())]);
    until("it is told", async || proxy.stderr().contains("does not belong")).await;
    assert_eq!(fresh().get(proxy.address(), "/").await.1.certificate, before);

    replace(&proxy, &[("site.key", one.key_pem())]);
    until("the good pair serves", async || fresh().get(proxy.address(), "/").await.1.certificate == one.der()).await;
}

#[tokio::test]
async fn a_pair_whose_times_and_sizes_are_those_of_the_old_one_is_seen() {
    let origin = Origin::start("a").await;
    let (proxy, client, authority) = site(&origin, SITE).await;
    client.get(proxy.address(), "/").await;
    let names = ["site.pem", "site.key"];
    let modified = names.map(|name| fs::metadata(proxy.dir().join(name)).and_then(|data| data.modified()).unwrap());
    let size = |text: &str| text.len();
    let old = names.map(|name| fs::read_to_string(proxy.dir().join(name)).unwrap());
    // Signatures differ in length by a byte or two.
    let issued = std::iter::repeat_with(|| authority.issue(&["site.example"]))
        .find(|new| [size(&new.pem()), size(&new.key_pem())] == [size(&old[0]), size(&old[1])])
        .expect("it repeats for ever");

    // As `rsync --inplace --times` and `cp --preserve` write, over the very files.
    for ((name, modified), text) in names.iter().zip(modified).zip([issued.pem(), issued.key_pem()]) {
        let path = proxy.dir().join(name);
        fs::write(&path, text).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }

    let fresh = || TlsClient::new(&authority, "site.example");
    until("the new pair serves", async || fresh().get(proxy.address(), "/").await.1.certificate == issued.der()).await;
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_told_in_the_log_when_it_serves_and_when_it_is_renewed() {
    let origin = Origin::start("a").await;
    let (proxy, _, authority) = site(&origin, SITE).await;
    let ended = authority.issue_with(&["site.example"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 2));

    replace(&proxy, &[("site.pem", ended.pem()), ("site.key", ended.key_pem())]);
    until("it is told", async || proxy.stderr().contains("certificate has ended (renew it)")).await;
    assert!(proxy.stderr().contains("ended=2020-01-02"), "{}", proxy.stderr());

    let good = authority.issue(&["site.example"]);
    replace(&proxy, &[("site.pem", good.pem()), ("site.key", good.key_pem())]);
    until("it is good", async || proxy.stderr().contains("certificate is good again")).await;
    assert_eq!(proxy.stderr().matches("certificate has ended").count(), 1, "it is told once");
}

#[tokio::test]
async fn what_the_authority_says_of_a_certificate_is_sent_along_and_read_again() {
    let origin = Origin::start("a").await;
    let authority = Authority::new();
    let said = |text: &str| [&[0x30, text.len() as u8], text.as_bytes()].concat();
    let setup = Setup::new(&[&origin]).certificate("site", &authority.issue(&["site.example"]));
    let yaml = SITE.replace("key: site.key", "key: site.key, ocsp: site.ocsp");
    let proxy = setup.file("site.ocsp", said("good")).start(&yaml).await;
    for client in [TlsClient::new, TlsClient::old] {
        let client = client(&authority, "site.example");
        client.get(proxy.address(), "/").await;
        assert_eq!(client.stapled(), said("good"));
    }
    fs::write(proxy.dir().join("site.ocsp"), said("revoked")).expect("the directory is ours");
    until("the new one is sent", async || {
        let client = TlsClient::new(&authority, "site.example");
        client.get(proxy.address(), "/").await;
        client.stapled() == said("revoked")
    })
    .await;
    let (bare, client, _) = site(&origin, SITE).await;
    client.get(bare.address(), "/").await;
    assert!(client.stapled().is_empty());
}

#[tokio::test]
async fn new_roots_for_clients_end_the_sessions_of_the_old() {
    let origin = Origin::start("a").await;
    let (proxy, site, clients) = asking(&origin, "required").await;
    let old = TlsClient::showing(&site, "site.example", &alice(&clients));
    assert_eq!(old.get(proxy.address(), "/").await.0.status, 200);

    let newcomers = Authority::new();
    replace(&proxy, &[("clients.pem", newcomers.pem().to_owned())]);

    let new = TlsClient::showing(&site, "site.example", &alice(&newcomers));
    let serves = async |client: &TlsClient| match client.try_connect(proxy.address()).await {
        Ok((mut connection, _)) => connection.ask("GET", "/", "", b"").await.is_ok(),
        Err(_) => false,
    };
    until("the new roots hold", async || serves(&new).await).await;
    assert!(!serves(&old).await, "neither its certificate nor its session is good any longer");
}

#[tokio::test]
async fn the_end_of_each_certificate_is_in_the_metrics() {
    let origin = Origin::start("a").await;
    let (proxy, _, _) = site(&origin, SITE).await;
    let name = proxy.dir().join("site.pem").display().to_string();

    // The certificates of the tests end in the year 4096.
    let ends = proxy.metric("roundel_certificate_expiry_timestamp_seconds", &[("name", &name)]).await;
    assert_eq!(ends, 67_090_118_400.0);
}

#[tokio::test]
async fn a_connection_reset_in_the_middle_of_a_handshake_harms_nobody() {
    let origin = Origin::start("a").await;
    let (proxy, client, _) = site(&origin, SITE).await;
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(proxy.address().to_string()).await.unwrap();
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        stream.set_zero_linger().unwrap();
    }
    assert_eq!(client.get(proxy.address(), "/").await.0.status, 200);
    until("nothing is left", async || proxy.metric("roundel_connections", &[("listener", "public")]).await == 0.0)
        .await;
}

#[tokio::test]
async fn a_listener_sends_plain_http_to_https_in_one_line() {
    let origin = Origin::start("a").await;
    let yaml = "
listeners: [{ name: plain, address: \"{listen}\", redirect: https }]
upstreams: { web: { backends: [\"{a}\"] } }
";
    let proxy = Proxy::start(&[&origin], yaml).await;

    let answer = request(proxy.address(), "POST", "/a/b?c=d", "Host: site.example:8080\r\n", b"body").await;

    assert_eq!((answer.status, answer.field("location")), (308, Some("https://site.example/a/b?c=d")));
    assert_eq!(origin.requests(), 0);
    let config = proxy.config().to_str().expect("the path is text");
    let explained = roundel(&["explain", "-c", config, "GET", "http://site.example/"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("308"), "{explained:?}");
}
