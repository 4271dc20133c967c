//! What a route is chosen by, and what it does by itself: each key by the answer that a client gets, over both protocols.

use crate::harness::h2::H2Client;
use crate::harness::{Origin, Proxy, Road, Setup, get, on_both_roads, request};

on_both_roads!(each_part_of_a_match_chooses, a_redirect_leads_where_it_is_written);

const ROUTES: &str = r#"
listeners: [{ address: "{listen}", protocols: [h2, h1] }]
upstreams: { web: { backends: [{a}], health_check: none } }
routes:
  - { name: host, hosts: [exact.example], respond: { body: host } }
  - { name: wild, hosts: ["*.wild.example"], respond: { body: wild } }
  - { name: path, match: [{ path: /path }], respond: { body: path } }
  - { name: prefix, match: [{ path_prefix: /prefix }], respond: { body: prefix } }
  - { name: regex, hosts: [u.example], match: [{ path_regex: "^/u/[0-9]+$" }], respond: { body: regex } }
  - { name: method, match: [{ path_prefix: /by, method: [PUT] }], respond: { body: method } }
  - { name: headers, match: [{ path_prefix: /by, headers: { x-beta: "1" } }], respond: { body: headers } }
  - { name: query, match: [{ path_prefix: /by, query: { debug: "yes" } }], respond: { body: query } }
  - { name: several, match: [{ path: /one }, { path: /two }], respond: { body: several } }
  - { name: rest, to: web }
"#;

async fn each_part_of_a_match_chooses(road: Road) {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).on(road).start(ROUTES).await;
    for (route, method, path, field) in [
        ("host", "GET", "/path", ("host", "exact.example")),
        ("wild", "GET", "/", ("host", "a.b.wild.example")),
        ("a", "GET", "/", ("host", "wild.example")),
        ("path", "GET", "/path", ("x", "y")),
        ("a", "GET", "/path/below", ("x", "y")),
        ("prefix", "GET", "/prefix", ("x", "y")),
        ("prefix", "GET", "/prefix/below", ("x", "y")),
        ("a", "GET", "/prefixed", ("x", "y")),
        ("regex", "GET", "/u/12", ("host", "u.example")),
        ("a", "GET", "/u/12/x", ("host", "u.example")),
        ("method", "PUT", "/by", ("x", "y")),
        ("headers", "GET", "/by", ("x-beta", "1")),
        ("a", "GET", "/by", ("x-beta", "2")),
        ("query", "GET", "/by?debug=yes", ("x", "y")),
        ("a", "GET", "/by?debug=no", ("x", "y")),
        ("several", "GET", "/one", ("x", "y")),
        ("several", "GET", "/two", ("x", "y")),
    ] {
        let fields = format!("{}: {}\r\n", field.0, field.1);
        let told = request(proxy.address(), method, path, &fields, b"").await.text();
        assert_eq!(told, route, "{method} {path} {field:?}");

        let mut client = H2Client::connect(proxy.address()).await;
        let asked = match field {
            ("host", host) => client.request(method, path).uri(format!("http://{host}{path}")),
            (name, value) => client.request(method, path).header(name, value),
        };
        let asked = asked.body(()).expect("a request");
        let told = client.send(asked, b"").await.expect("an answer").text();
        assert_eq!(told, route, "{method} {path} {field:?} over HTTP/2");
    }
}

async fn a_redirect_leads_where_it_is_written(road: Road) {
    let here = "http://shop.example:81";
    for (keys, path, status, location) in [
        ("host: b.example", "/x/y?z=1", 302, "http://b.example:81/x/y?z=1"),
        ("scheme: https", "/x/y?z=1", 302, "https://shop.example/x/y?z=1"),
        ("scheme: https, port: 8443", "/x", 302, "https://shop.example:8443/x"),
        ("port: 82", "/x", 302, "http://shop.example:82/x"),
        ("path: /new, status: 301", "/x/y?z=1", 301, "/new?z=1"),
        ("path_prefix: /new, status: 307", "/x/y?z=1", 307, "/new/y?z=1"),
        ("path_prefix: /, status: 308", "/x", 308, "/"),
    ] {
        let yaml = format!(
            "upstreams: {{ web: {{ backends: [\"127.0.0.1:1\"], health_check: none }} }}\n\
             routes: [{{ name: r, match: [{{ path_prefix: /x }}], redirect: {{ {keys} }} }}]"
        );
        let proxy = Setup::new(&[]).on(road).start(&yaml).await;
        let answer = request(proxy.address(), "GET", path, "Host: shop.example:81\r\n", b"").await;
        let whole = if location.starts_with('/') { format!("{here}{location}") } else { location.to_owned() };
        assert_eq!((answer.status, answer.field("location")), (status, Some(whole.as_str())), "{keys}");
    }
}

#[tokio::test]
async fn the_next_error_page_is_shown() {
    let yaml = r#"
errors: { 404: all.txt, 502: all.txt, 503: all.txt }
listeners: [{ name: l, address: "{listen}", errors: { 502: listener.txt, 503: listener.txt } }]
upstreams:
  out: { backends: ["127.0.0.1:1"], health_check: { interval: 1h, timeout: 1s } }
  dead: { backends: ["127.0.0.1:1"], health_check: none, outlier: none }
routes:
  - { name: mine, match: [{ path: /mine }], errors: { 503: route.txt }, to: out }
  - { name: out, match: [{ path: /out }], to: out }
  - { name: dead, match: [{ path: /dead }], errors: { 503: route.txt }, to: dead }
"#;
    let setup = Setup::new(&[]).file("all.txt", "all").file("listener.txt", "listener").file("route.txt", "route");
    let proxy = setup.start(yaml).await;
    for (path, status, page) in
        [("/mine", 503, "route"), ("/out", 503, "listener"), ("/dead", 502, "listener"), ("/nowhere", 404, "all")]
    {
        let answer = get(proxy.address(), path).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, page), "{path}");
    }
}

#[tokio::test]
async fn the_body_that_a_route_takes_is_bounded_in_place_of_the_listeners() {
    let a = Origin::start("a").await;
    let yaml = r#"
listeners: [{ address: "{listen}", limits: { body: 10B } }]
upstreams: { web: { backends: [{a}], health_check: none } }
routes:
  - { name: more, match: [{ path: /more }], limits: { body: 20B }, to: web }
  - { name: any, match: [{ path: /any }], limits: { body: none }, to: web }
  - { name: rest, to: web }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;
    for (path, length, status) in
        [("/", 10, 200), ("/", 11, 413), ("/more", 20, 200), ("/more", 21, 413), ("/any", 100_000, 200)]
    {
        let answer = request(proxy.address(), "POST", path, "", &vec![b'x'; length]).await;
        assert_eq!(answer.status, status, "{path} {length}");
    }
}
