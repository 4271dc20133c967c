//! The access log tells of every request, once, in the format that is written.

use std::fs;

use crate::harness::h2::H2Client;
use crate::harness::{Connection, Load, Origin, Proxy, Road, Setup, get, on_both_roads, request, until};

on_both_roads!(a_connection_that_is_made_has_its_time_and_one_that_is_used_again_none);

#[tokio::test]
async fn a_line_tells_what_happened() {
    let a = Origin::start("a").await;
    let yaml = r#"
listeners: [{ name: public, address: "{listen}" }]
upstreams: { web: { backends: [{a}] } }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;
    let fields = "Host: shop.example\r\nUser-Agent: test/1\r\nReferer: https://a.example/\r\n";

    request(proxy.address(), "POST", "/x?y=1", fields, b"four").await;

    let line = proxy.log_for("/x?y=1").await;
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("listener", "public"),
        ("method", "POST"),
        ("scheme", "http"),
        ("host", "shop.example"),
        ("protocol", "HTTP/1.1"),
        ("route", "default"),
        ("upstream", "web"),
        ("user_agent", "test/1"),
        ("referer", "https://a.example/"),
    ] {
        assert_eq!(line[field], value, "{field}: {line:#}");
    }
    assert_eq!(line["backend"], a.address().to_string());
    assert_eq!((&line["status"], &line["attempts"]), (&200.into(), &1.into()));
    assert!(line["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{line:#}");
    assert!(["duration_ms", "bytes_in", "bytes_out"].iter().all(|field| line[field].is_number()), "{line:#}");
    assert!(["reason", "tls", "trace_id"].iter().all(|field| line.get(field).is_none()), "{line:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_line_with_an_id_of_its_own() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;

    Load::of(2_000, 16).run(proxy.address()).await.expect_all_ok();

    until("2,000 lines", async || proxy.log().len() == 2_000).await;
    let mut ids = proxy.log().iter().map(|line| line["request_id"].to_string()).collect::<Vec<_>>();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2_000);
}

#[tokio::test]
async fn a_malformed_head_has_its_line_and_a_silent_connection_has_none() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    let mut silent = Connection::open(proxy.address()).await;
    silent.finish().await;
    silent.expect_close().await;

    let mut malformed = Connection::open(proxy.address()).await;
    malformed.send("\u{1}\r\n\r\n").await;
    malformed.answer().await;

    proxy.log_line("the malformed one", |line| line["status"] == 400).await;
    assert_eq!(proxy.log().len(), 1);
}

#[tokio::test]
async fn what_can_be_made_out_of_a_refused_head_is_told_and_its_client_has_the_id() {
    let a = Origin::start("a").await;
    let yaml = "listeners: [{ address: \"{listen}\", protocols: [h2, h1] }]\nupstreams: { web: { backends: [{a}] } }";
    let proxy = Proxy::start(&[&a], yaml).await;

    let head =
        "GET /broken HTTP/1.1\r\nBad Name: 1\r\nHost: shop.example\r\nUser-Agent: test/1\r\nAccept: text/html\r\n\r\n";
    let mut client = Connection::open(proxy.address()).await;
    client.send(head).await;
    let answer = client.answer().await;
    let line = proxy.log_for("/broken").await;
    assert_eq!((&line["host"], &line["protocol"]), (&"shop.example".into(), &"HTTP/1.1".into()), "{line}");
    assert_eq!(line["request_id"].as_str(), answer.field("x-request-id"), "{line}");
    assert_eq!(
        (&line["user_agent"], answer.field("content-type")),
        (&"test/1".into(), Some("text/html; charset=utf-8"))
    );

    let mut client = H2Client::connect(proxy.address()).await;
    let request = client.request("POST", "/wonders").header("expect", "wonders").body(()).expect("a request");
    let answer = client.send(request, b"1").await.expect("an answer");
    let line = proxy.log_for("/wonders").await;
    assert_eq!((answer.status, line["host"].is_string()), (417, true), "{line}");
    assert_eq!(
        (line["request_id"].as_str(), answer.field("date").is_some()),
        (answer.field("x-request-id"), true),
        "{line}"
    );
}

#[tokio::test]
async fn what_a_client_sends_cannot_forge_a_line() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;

    request(proxy.address(), "GET", "/x", "User-Agent: \"}{\"status\":200,\"é\r\n", b"").await;

    assert_eq!(proxy.log_for("/x").await["user_agent"], "\"}{\"status\":200,\"é");
}

#[tokio::test]
async fn combined_is_the_well_known_format() {
    let a = Origin::start("a").await;
    let yaml = r#"
access_log: { path: "{dir}/combined.log", format: combined }
upstreams: { web: { backends: [{a}] } }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;

    request(proxy.address(), "GET", "/x", "User-Agent: test/1\r\n", b"").await;

    let mut text = String::new();
    until("a line", async || {
        text = fs::read_to_string(proxy.dir().join("combined.log")).unwrap_or_default();
        text.ends_with('\n')
    })
    .await;
    assert!(text.starts_with("127.0.0.1 - - ["), "{text}");
    assert!(text.ends_with("] \"GET /x HTTP/1.1\" 200 1 \"-\" \"test/1\"\n"), "{text}");
}

#[tokio::test]
async fn a_template_writes_the_fields_it_names() {
    let a = Origin::start("a").await;
    let yaml = r#"
access_log: { path: "{dir}/template.log", format: "{method} {path} -> {status} {reason}" }
upstreams: { web: { backends: [{a}] } }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;

    get(proxy.address(), "/x").await;

    let written = async || fs::read_to_string(proxy.dir().join("template.log")).unwrap_or_default();
    until("the line", async || written().await == "GET /x -> 200 -\n").await;
}

#[tokio::test]
async fn it_goes_to_stdout_where_that_is_written() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "access_log: { path: stdout }\nupstreams: { web: { backends: [{a}] } }").await;

    get(proxy.address(), "/x").await;

    until("the line", async || proxy.stdout().contains("\"path\":\"/x\"")).await;
}

#[tokio::test]
async fn none_writes_nothing() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "access_log: none\nupstreams: { web: { backends: [{a}] } }").await;

    get(proxy.address(), "/never-logged").await;
    let mut proxy = proxy;
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    proxy.wait_exit().await;

    assert!(!proxy.stdout().contains("never-logged"));
    assert!(!proxy.settled_stderr().await.contains("never-logged"));
}

async fn a_connection_that_is_made_has_its_time_and_one_that_is_used_again_none(road: Road) {
    let a = Origin::start("a").await;
    let yaml = "upstreams: { web: { backends: [{a}], health_check: none } }";
    let proxy = Setup::new(&[&a]).on(road).start(yaml).await;
    for (path, reused) in [("/first", false), ("/second", true)] {
        request(proxy.address(), "POST", path, "", b"body").await;
        let line = proxy.log_for(path).await;
        assert_eq!((&line["reused"], line["connect_ms"].is_number()), (&reused.into(), !reused), "{line:#}");
        assert!(line["first_byte_ms"].as_f64() <= line["duration_ms"].as_f64(), "{line:#}");
        assert!(line["first_byte_ms"].as_f64().is_some_and(|time| time > 0.0), "{line:#}");
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&4.into(), &1.into()), "{line:#}");
    }
}

#[tokio::test]
async fn a_template_may_name_every_field_of_the_manual() {
    let a = Origin::start("a").await;
    let manual = include_str!("../../docs/access-log.md");
    let rows = manual
        .lines()
        .skip_while(|line| !line.starts_with("| field "))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let fields: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert!(fields.len() > 20, "{fields:?}");
    let template: Vec<_> = fields.iter().map(|field| format!("{field}=<{{{field}}}>")).collect();
    let yaml = format!(
        "access_log: {{ path: \"{{dir}}/template.log\", format: \"{}\" }}\n\
         tracing: {{ otlp: \"http://{{a}}\", sample: 100% }}\nupstreams: {{ web: {{ backends: [{{a}}] }} }}",
        template.join(" ")
    );
    let proxy = Proxy::start(&[&a], &yaml).await;
    request(proxy.address(), "GET", "/x", "User-Agent: test/1\r\nReferer: r\r\n", b"").await;
    let written = || fs::read_to_string(proxy.dir().join("template.log")).unwrap_or_default();
    until("the line", async || written().ends_with('\n')).await;
    let line = written();
    // A plain request that its backend has answered has all values but these.
    for field in fields {
        let none = ["reason", "dry_run", "tls"].contains(&field);
        assert_eq!(line.contains(&format!("{field}=<->")), none, "{field}: {line}");
        assert!(line.contains(&format!("{field}=<")), "{field}: {line}");
    }
}

#[tokio::test]
async fn it_goes_to_stderr_where_that_is_written() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "access_log: { path: stderr }\nupstreams: { web: { backends: [{a}] } }").await;

    get(proxy.address(), "/x").await;

    until("the line", async || proxy.stderr().contains("\"path\":\"/x\"")).await;
    assert!(!proxy.stdout().contains("\"path\""));
}

#[tokio::test]
async fn the_share_that_is_written_is_logged() {
    let a = Origin::start("a").await;
    for (sample, least, most) in [("0%", 0, 0), ("50%", 300, 700), ("100%", 1_000, 1_000)] {
        let yaml = format!(
            "access_log: {{ path: \"{{dir}}/access.log\", sample: {sample} }}\nupstreams: {{ web: {{ backends: [{{a}}] }} }}"
        );
        let mut proxy = Proxy::start(&[&a], &yaml).await;
        Load::of(1_000, 4).run(proxy.address()).await.expect_all_ok();
        proxy.signal(nix::sys::signal::Signal::SIGTERM);
        proxy.wait_exit().await;
        let lines = proxy.log().len();
        assert!((least..=most).contains(&lines), "{sample}: {lines} lines of 1,000");
    }
}
