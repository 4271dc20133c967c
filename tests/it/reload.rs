//! A reload: the configuration changes while the proxy serves, as a whole or not at all.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use roundel::config::plan::Plan;
use roundel::exchange::explain::{Explainer, Question};
use serde_json::Value;

use crate::harness::{
    Address, Connection, Load, Origin, Proxy, Script, Setup, Step, free_address, get, request, roundel, until,
};

const PLAIN: &str = "upstreams: { web: { backends: [{a}] } }";

/// `POST /api/v1/reload`: status and JSON.
async fn post(proxy: &Proxy, query: &str) -> (u16, Value) {
    let (status, text) = proxy.admin_post(&format!("/api/v1/reload{query}")).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}")))
}

/// Lets the proxy serve by another configuration.
async fn reload(proxy: &Proxy, yaml: &str) -> Value {
    proxy.rewrite_config(yaml);
    let (status, answer) = post(proxy, "").await;
    assert_eq!(status, 200, "{answer:#}\n{}", proxy.stderr());
    answer
}

/// Tries another configuration that is refused, and returns the answer.
async fn refused(proxy: &Proxy, yaml: &str) -> (u16, Value) {
    let before = generation(proxy).await;
    proxy.rewrite_config(yaml);
    let (status, answer) = post(proxy, "").await;
    assert_eq!(generation(proxy).await, before, "{answer:#}");
    (status, answer)
}

async fn generation(proxy: &Proxy) -> u64 {
    proxy.admin("/api/v1/status").await["generation"].as_u64().expect("a generation is a number")
}

async fn command(proxy: &Proxy, arguments: &[&str]) -> Output {
    let admin = proxy.admin_address().to_string();
    roundel(&[&["reload", "--admin", &admin], arguments].concat()).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn refuses(address: &Address) -> bool {
    Connection::try_open(address).await.is_err()
}

#[tokio::test]
async fn sighup_lets_the_changed_file_serve() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], PLAIN).await;
    assert_eq!(get(proxy.address(), "/").await.origin(), "a");

    proxy.rewrite_config("upstreams: { web: { backends: [{b}] } }");
    proxy.signal(Signal::SIGHUP);

    until("b serves", async || get(proxy.address(), "/").await.origin() == "b").await;
    until("the log tells", async || proxy.stderr().contains("configuration reloaded")).await;
    assert!(proxy.stderr().contains("upstream web exchanges 1 of 1 backend"), "{}", proxy.stderr());
    assert_eq!(proxy.metric("roundel_config_generation", &[]).await, 2.0);
    assert_eq!(proxy.metric("roundel_config_reloads_total", &[("outcome", "success")]).await, 1.0);
    let mut events = Connection::open(proxy.admin_address()).await;
    events.send("GET /api/v1/events?last=10 HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    events.until_read(b"configuration reloaded: upstream web exchanges").await;
}

#[tokio::test]
async fn the_answer_says_what_has_changed() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], "upstreams: { web: { backends: [{a}, {b}] } }").await;

    let answer = reload(&proxy, PLAIN).await;

    assert_eq!(answer["applied"], true);
    assert_eq!(answer["generation"], 2);
    assert_eq!(answer["summary"], "upstream web loses 1 of 2 backends (50 % of its weight)");
    assert_eq!(answer["diff"]["changes"][0]["edits"][0]["loses"], b.address().to_string());
    let status = proxy.admin("/api/v1/status").await;
    assert_eq!(status["generation"], 2);
    assert_eq!(status["config_hash"], answer["config_hash"]);
    assert_eq!(status["upstreams"][0]["backends"].as_array().map(Vec::len), Some(1), "at once: {status:#}");
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], PLAIN).await;
    proxy.rewrite_config("upstreams: { web: { backends: [{a}, {b}] } }");

    let (status, answer) = post(&proxy, "?dry_run=true").await;

    assert_eq!((status, &answer["applied"]), (200, &Value::Bool(false)));
    assert_eq!(answer["summary"], "upstream web gains 1 backend");
    assert_eq!(generation(&proxy).await, 1);
    for _ in 0..4 {
        assert_eq!(get(proxy.address(), "/").await.origin(), "a");
    }
    let told = command(&proxy, &["--dry-run"]).await;
    assert!(told.status.success());
    assert!(text(&told.stdout).ends_with("would reload: upstream web gains 1 backend\n"), "{}", text(&told.stdout));
    assert_eq!(generation(&proxy).await, 1);
}

#[tokio::test]
async fn a_file_with_faults_changes_nothing_and_every_fault_is_told() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;

    let (status, answer) =
        refused(&proxy, "upstreams:\n  web:\n    backends: [{a}]\n    wieght: 3\nlog: { level: loud }").await;

    assert_eq!(status, 422);
    assert_eq!(answer["diagnostics"].as_array().map(Vec::len), Some(2), "{answer:#}");
    assert_eq!(answer["diagnostics"][0]["line"], 4);
    assert_eq!(get(proxy.address(), "/").await.origin(), "a");
    assert_eq!(proxy.metric("roundel_config_reloads_total", &[("outcome", "failure")]).await, 1.0);

    let told = command(&proxy, &[]).await;
    assert_eq!(told.status.code(), Some(2));
    let stderr = text(&told.stderr);
    assert!(stderr.contains("error: unknown key `wieght`") && stderr.contains("loud"), "{stderr}");
    assert!(stderr.ends_with("roundel: not reloaded: the configuration has 2 faults\n"), "{stderr}");
}

#[tokio::test]
async fn a_loss_of_more_than_half_must_be_confirmed() {
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let [a, b, c] = &origins;
    let proxy = Proxy::start(&[a, b, c], "upstreams: { web: { backends: [{a}, {b}, {c}] } }").await;

    let (status, answer) = refused(&proxy, PLAIN).await;
    assert_eq!(status, 409);
    assert_eq!(answer["diff"]["losses"][0]["grave"], true);
    proxy.signal(Signal::SIGHUP);
    until("the log names the remedy", async || proxy.stderr().contains("--confirm-loss")).await;
    let told = command(&proxy, &["--dry-run"]).await;
    assert_eq!(told.status.code(), Some(1));
    assert!(text(&told.stderr).contains("loses 2 of 3 backends (67 % of its weight)"), "{}", text(&told.stderr));
    assert_eq!(generation(&proxy).await, 1);

    let told = command(&proxy, &["--confirm-loss"]).await;
    assert!(told.status.success(), "{}", text(&told.stderr));
    assert_eq!(generation(&proxy).await, 2);
}

#[tokio::test]
async fn a_key_that_only_a_new_process_can_follow_refuses_the_whole_reload() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], PLAIN).await;

    let yaml = "server: { threads: 3 }\nupstreams: { web: { backends: [{b}] } }";
    let (status, answer) = refused(&proxy, yaml).await;

    assert_eq!(status, 409);
    assert_eq!(answer["detail"], "only a new process can follow a change of server.threads (use `roundel upgrade`)");
    assert_eq!(get(proxy.address(), "/").await.origin(), "a");
}

#[tokio::test]
async fn a_port_that_is_taken_refuses_the_whole_reload() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let setup = Setup::new(&[&a, &b]).word("free", &free_address().to_string());
    let proxy = setup.start(PLAIN).await;

    let yaml = "listeners: [{ address: \"{listen}\" }, { address: \"{free}\" }, { address: \"{b}\" }]\n\
                upstreams: { web: { backends: [{b}] } }";
    let (status, answer) = refused(&proxy, yaml).await;

    assert_eq!(status, 422);
    assert!(answer["detail"].as_str().unwrap().contains("another process listens there already"), "{answer:#}");
    let told = command(&proxy, &[]).await;
    assert_eq!(told.status.code(), Some(1), "as where a start finds it taken: the file is good");
    assert!(text(&told.stderr).contains("not reloaded: cannot listen on"), "{}", text(&told.stderr));
    proxy.signal(Signal::SIGHUP);
    until("the log says the same", async || {
        proxy.stderr().contains("configuration not reloaded, the old one serves on: cannot listen on")
    })
    .await;
    assert_eq!(get(proxy.address(), "/").await.origin(), "a");
}

#[tokio::test]
async fn listeners_come_move_and_go() {
    let a = Origin::start("a").await;
    let (second, third) = (free_address(), free_address());
    let setup = Setup::new(&[&a]).word("second", &second.to_string()).word("third", &third.to_string());
    let proxy = setup.start(PLAIN).await;
    let first = proxy.address().clone();
    let mut kept = Connection::open(&first).await;
    kept.get("/").await;

    let with = |listeners: &str| format!("drain: {{ idle: 10s }}\nlisteners: [{listeners}]\n{PLAIN}");
    reload(&proxy, &with("{ address: \"{listen}\" }, { name: two, address: \"{second}\" }")).await;
    assert_eq!(get(&second, "/").await.status, 200, "it listens when the reload is over");

    let answer = reload(&proxy, &with("{ address: \"{listen}\" }, { name: two, address: \"{third}\" }")).await;
    assert!(answer["summary"].as_str().unwrap().starts_with("listener two moves from"), "{answer:#}");
    assert_eq!(get(&third, "/").await.status, 200);
    until("the old address is closed", async || refuses(&second).await).await;

    reload(&proxy, &with("{ name: two, address: \"{third}\" }")).await;
    until("the first is closed", async || refuses(&first).await).await;
    let last = kept.get("/").await;
    assert_eq!(last.status, 200, "a connection that was open may send one more request");
    assert!(last.closes());
    kept.expect_close().await;
    let status = proxy.admin("/api/v1/status").await;
    assert_eq!(status["listeners"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn idle_connections_of_a_listener_that_is_gone_are_closed() {
    let a = Origin::start("a").await;
    let other = free_address();
    let proxy = Setup::new(&[&a]).word("other", &other.to_string()).start(PLAIN).await;
    let mut idle = Connection::open(proxy.address()).await;
    idle.get("/").await;
    let mut busy = Connection::open(proxy.address()).await;
    a.hold();
    busy.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("a request is under way", async || a.in_flight() == 1).await;

    reload(&proxy, &format!("drain: {{ idle: 50ms }}\nlisteners: [{{ address: \"{{other}}\" }}]\n{PLAIN}")).await;

    idle.expect_close().await;
    a.release();
    assert_eq!(busy.answer().await.status, 200, "what is under way is finished");
    until("the listener leaves nothing behind", async || {
        let (_, text) = proxy.admin_text("/metrics").await;
        !text.contains(&format!("listener=\"{}\"", proxy.address()))
    })
    .await;
}

#[tokio::test]
async fn a_listener_moves_between_one_address_and_all_of_its_port() {
    let a = Origin::start("a").await;
    let Address::Inet(inet) = free_address() else { unreachable!() };
    let one = Address::Inet(inet);
    let setup = Setup::new(&[&a]).listen_on(&one).word("wide", &format!("0.0.0.0:{}", inet.port()));
    let proxy = setup.start(PLAIN).await;
    let mut kept = Connection::open(&one).await;

    for (address, name) in [("{wide}", "wide"), ("{listen}", "narrow"), ("{wide}", "wide again")] {
        let load = Load::of(200, 4).start(&one);
        reload(&proxy, &format!("listeners: [{{ address: \"{address}\" }}]\n{PLAIN}")).await;
        load.finish().await.expect_all_ok();
        assert_eq!(get(&one, "/").await.status, 200, "{name}");
    }
    assert_eq!(kept.get("/").await.status, 200);
}

#[tokio::test]
async fn a_changed_listener_holds_for_the_next_request_of_open_connections() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    let mut connection = Connection::open(proxy.address()).await;
    let long = format!("x-long: {}\r\n", "x".repeat(2_000));
    assert_eq!(connection.ask("GET", "/", &long, b"").await.unwrap().status, 200);

    reload(&proxy, &format!("listeners: [{{ address: \"{{listen}}\", limits: {{ header_bytes: 1KiB }} }}]\n{PLAIN}"))
        .await;

    assert_eq!(connection.ask("GET", "/", &long, b"").await.unwrap().status, 431);
}

#[tokio::test]
async fn the_bound_on_connections_changes_for_those_who_come() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    let mut first = Connection::open(proxy.address()).await;
    first.get("/").await;

    let bounded = |most| format!("listeners: [{{ address: \"{{listen}}\", max_connections: {most} }}]\n{PLAIN}");
    reload(&proxy, &bounded(1)).await;
    assert_eq!(get(proxy.address(), "/").await.status, 503);
    assert_eq!(first.get("/").await.status, 200);

    reload(&proxy, &bounded(2)).await;
    assert_eq!(get(proxy.address(), "/").await.status, 200);
}

#[tokio::test]
async fn a_new_upstream_is_probed_before_its_first_request() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], "upstreams: { one: { backends: [{a}] } }").await;

    for round in 0..10 {
        let (name, origin) = if round % 2 == 0 { ("two", "b") } else { ("one", "a") };
        let load = Load::of(100, 4).start(proxy.address());
        reload(&proxy, &format!("upstreams: {{ {name}: {{ backends: [{{{origin}}}] }} }}")).await;
        load.finish().await.expect_all_ok();
        assert_eq!(get(proxy.address(), "/").await.origin(), origin);
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_probed_no_more_and_leaves_no_series() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let check = "health_check: { type: http, interval: 100ms, timeout: 50ms, fast_interval: 50ms }";
    let with = |name: &str, origin: &str| format!("upstreams: {{ {name}: {{ backends: [{{{origin}}}], {check} }} }}");
    let proxy = Proxy::start(&[&a, &b], &with("one", "a")).await;
    get(proxy.address(), "/").await;

    reload(&proxy, &with("two", "b")).await;

    until("two is probed on", async || proxy.metric("roundel_probes_total", &[("upstream", "two")]).await > 5.0).await;
    assert_eq!(proxy.metric("roundel_probes_total", &[("upstream", "one")]).await, 0.0);
    let (_, metrics) = proxy.admin_text("/metrics").await;
    assert!(!metrics.contains("upstream=\"one\""), "{metrics}");
}

#[tokio::test]
async fn a_backend_keeps_its_health_and_its_keys() {
    let (a, mut b) = (Origin::start("a").await, Origin::start("b").await);
    let yaml = |connect: &str| {
        format!(
            "upstreams: {{ web: {{ backends: [{{a}}, {{b}}], health_check: none, \
             balance: {{ hash: {{ key: path }} }}, timeouts: {{ connect: {connect} }}, \
             outlier: {{ consecutive_errors: 1, base_ejection: 1h, max_ejection: 1h, max_ejected: 100% }} }} }}"
        )
    };
    let proxy = Proxy::start(&[&a, &b], &yaml("1s")).await;
    let paths: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
    let mut before = Vec::new();
    for path in &paths {
        before.push(get(proxy.address(), path).await.origin().to_owned());
    }
    assert!(before.iter().any(|origin| origin == "a") && before.iter().any(|origin| origin == "b"));

    reload(&proxy, &yaml("2s")).await;
    for (path, origin) in paths.iter().zip(&before) {
        assert_eq!(get(proxy.address(), path).await.origin(), origin, "{path}");
    }

    b.kill().await;
    until("b is ejected", async || {
        for path in &paths {
            get(proxy.address(), path).await;
        }
        proxy.state("web", b.address()).await == "ejected"
    })
    .await;
    let since = proxy.admin("/api/v1/status").await["upstreams"][0]["backends"][1]["since"].clone();
    b.revive().await;
    for connect in ["3s", "4s"] {
        reload(&proxy, &yaml(connect)).await;
        let backend = proxy.admin("/api/v1/status").await["upstreams"][0]["backends"][1].clone();
        assert_eq!((&backend["state"], &backend["since"]), (&Value::from("ejected"), &since));
    }
    let (status, _) =
        proxy.admin_post(&format!("/api/v1/upstreams/web/backends/{}/drain?force=true", a.address())).await;
    assert_eq!(status, 200);
    reload(&proxy, &yaml("5s")).await;
    assert_eq!(proxy.state("web", a.address()).await, "drained", "a drain is the operator's, and stays");
}

#[tokio::test]
async fn requests_under_way_keep_what_they_began_with() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], PLAIN).await;
    a.hold();
    let mut busy = Connection::open(proxy.address()).await;
    busy.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("a request is under way", async || a.in_flight() == 1).await;

    let yaml = "upstreams: { other: { backends: [{b}] } }\n\
                routes: [{ name: default, filters: [{ response_headers: { set: { x-new: \"1\" } } }], to: other }]";
    reload(&proxy, yaml).await;
    assert_eq!(get(proxy.address(), "/").await.field("x-new"), Some("1"));
    a.release();

    let answer = busy.answer().await;
    assert_eq!((answer.status, answer.origin(), answer.field("x-new")), (200, "a", None));
    assert_eq!(busy.get("/").await.origin(), "b", "the next request of the connection is served by the new one");
}

#[tokio::test]
async fn logs_change_while_they_are_written() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    get(proxy.address(), "/first").await;
    proxy.log_for("/first").await;
    let read = |name: &str| std::fs::read_to_string(proxy.dir().join(name)).unwrap_or_default();

    let yaml = "server: { threads: 2, error_log: \"{dir}/error.log\" }\nlog: { level: debug }\n\
                access_log: { path: \"{dir}/other.log\", format: \"{method} {path}\" }\n";
    reload(&proxy, &format!("{yaml}{PLAIN}")).await;
    get(proxy.address(), "/second").await;

    until("the new access log has the line", async || read("other.log") == "GET /second\n").await;
    assert!(!read("access.log").contains("/second"));
    assert!(read("error.log").contains("configuration reloaded"), "{}", read("error.log"));
    assert!(!proxy.stderr().contains("configuration reloaded"));

    reload(&proxy, &format!("access_log: none\nlog: {{ level: warn }}\n{PLAIN}")).await;
    get(proxy.address(), "/third").await;
    reload(&proxy, PLAIN).await;
    get(proxy.address(), "/fourth").await;
    proxy.log_for("/fourth").await;
    assert!(proxy.log().iter().all(|line| line["path"] != "/third"));
    until("stderr has it again", async || proxy.stderr().contains("generation=4")).await;
    assert!(!proxy.stderr().contains("generation=3"), "the level was warn: {}", proxy.stderr());
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_refuses_the_whole_reload() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], PLAIN).await;
    for section in [
        "access_log: { path: \"{dir}/no/such/dir.log\" }",
        "server: { threads: 2, error_log: \"{dir}/no/such/dir.log\" }",
    ] {
        let yaml = format!("{section}\nupstreams: {{ web: {{ backends: [{{b}}] }} }}");
        let (status, answer) = refused(&proxy, &yaml).await;
        assert_eq!(status, 422);
        assert!(answer["detail"].as_str().unwrap().contains("cannot open the log"), "{answer:#}");
    }
    assert_eq!(get(proxy.address(), "/").await.origin(), "a");
}

#[tokio::test]
async fn the_admin_listener_moves_and_its_token_changes() {
    let a = Origin::start("a").await;
    let (one, two) = (free_address(), free_address());
    let setup = Setup::new(&[&a]).word("one", &one.to_string()).word("two", &two.to_string());
    let proxy = setup.file("token", "first\n").start(PLAIN).await;
    let at = |address: &str| format!("admin: {{ address: \"{{{address}}}\", token_file: token }}\n{PLAIN}");
    let ask = async |address: &Address, token: &str| {
        request(address, "POST", "/api/v1/reload", &format!("Authorization: Bearer {token}\r\n"), b"").await.status
    };

    reload(&proxy, &at("one")).await;
    until("the old address is closed", async || refuses(proxy.admin_address()).await).await;
    assert_eq!(ask(&one, "wrong").await, 401);
    assert_eq!(ask(&one, "first").await, 200);

    std::fs::write(proxy.dir().join("token"), "second\n").unwrap();
    assert_eq!(ask(&one, "first").await, 200, "the token is read with the configuration");
    assert_eq!(ask(&one, "first").await, 401);

    proxy.rewrite_config(&at("two"));
    assert_eq!(ask(&one, "second").await, 200);
    until("it has moved", async || refuses(&one).await).await;
    assert_eq!(ask(&two, "second").await, 200);

    // The socket in the runtime directory stays where it is, and the command line finds it.
    let conf = proxy.config().display().to_string();
    let run = proxy.dir().join("run").display().to_string();
    let told = with_runtime(&run, &["reload", "-c", &conf]).await;
    assert!(told.status.success(), "{}", text(&told.stderr));
    assert_eq!(text(&told.stdout), "reloaded, generation 7: nothing changes\n");
}

async fn with_runtime(directory: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    command.args(arguments).env("RUNTIME_DIRECTORY", directory).output().await.expect("cargo has built the binary")
}

#[tokio::test]
async fn an_address_cannot_turn_from_clients_to_operators_at_once() {
    let a = Origin::start("a").await;
    let other = free_address();
    let proxy = Setup::new(&[&a]).word("other", &other.to_string()).start(PLAIN).await;

    let yaml = format!("listeners: [{{ address: \"{{other}}\" }}]\nadmin: {{ address: \"{{listen}}\" }}\n{PLAIN}");
    let (status, answer) = refused(&proxy, &yaml).await;

    assert_eq!(status, 422);
    assert!(answer["detail"].as_str().unwrap().contains("cannot turn one into the other"), "{answer:#}");
}

#[tokio::test]
async fn what_is_asked_must_be_understood() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    assert_eq!(post(&proxy, "?dryrun=true").await.0, 400);
    assert_eq!(proxy.admin_text("/api/v1/reload").await.0, 405);
    assert_eq!(generation(&proxy).await, 1);
}

#[tokio::test]
async fn a_watched_file_is_read_again_however_it_is_changed() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let watched = |origin: &str| format!("reload: watch\nupstreams: {{ web: {{ backends: [{{{origin}}}] }} }}");
    let proxy = Proxy::start(&[&a, &b], &watched("a")).await;
    let serves = async |name: &str| {
        until(&format!("{name} serves"), async || get(proxy.address(), "/").await.origin() == name).await;
    };

    proxy.rewrite_config(&watched("b"));
    serves("b").await;

    let config = proxy.config();
    let fresh = proxy.dir().join("fresh");
    let old = std::fs::read_to_string(config).unwrap();
    std::fs::write(&fresh, old.replace(&b.address().to_string(), &a.address().to_string())).unwrap();
    std::fs::rename(&fresh, config).unwrap();
    serves("a").await;

    // As Kubernetes does: the file is a link through a link, which is turned.
    for (version, origin) in [("1", &b), ("2", &a), ("3", &b)] {
        let directory = proxy.dir().join(version);
        std::fs::create_dir(&directory).unwrap();
        let text = old.replace(&b.address().to_string(), &origin.address().to_string());
        std::fs::write(directory.join("roundel.yaml"), text).unwrap();
        turn(Path::new(version), &proxy.dir().join("..data"));
        if version == "1" {
            turn(Path::new("..data/roundel.yaml"), config);
        }
        serves(origin.name()).await;
    }
}

/// Lets the link at `path` lead to `target`, without a moment in which there is none.
fn turn(target: &Path, path: &Path) {
    let fresh = path.with_file_name(format!("fresh-{}", target.display()).replace('/', "-"));
    std::os::unix::fs::symlink(target, &fresh).expect("the directory is ours");
    std::fs::rename(&fresh, path).expect("the directory is ours");
}

#[tokio::test]
async fn a_watched_file_with_a_fault_is_told_once_and_read_again_when_it_is_mended() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let yaml = "reload: watch\ninclude: [\"conf.d/*.yaml\"]\n\
                listeners: [{ address: \"{listen}\", errors: { 404: gone.html } }]";
    let setup = Setup::new(&[&a, &b]).file("gone.html", "first");
    std::fs::create_dir(setup.dir().join("conf.d")).unwrap();
    let included = setup.dir().join("conf.d/web.yaml");
    let web = |origin: &Origin| {
        format!(
            "upstreams: {{ web: {{ backends: [\"{}\"] }} }}\n\
             routes: [{{ name: web, match: [{{ path_prefix: /web }}], to: web }}]",
            origin.address()
        )
    };
    std::fs::write(&included, web(&a)).unwrap();
    let proxy = setup.start(yaml).await;

    std::fs::write(&included, "upstreams: [fault").unwrap();
    until("the fault is told", async || proxy.stderr().contains("configuration not reloaded")).await;
    assert_eq!(get(proxy.address(), "/web").await.origin(), "a");
    std::fs::write(&included, web(&b)).unwrap();
    until("it is mended", async || get(proxy.address(), "/web").await.origin() == "b").await;
    assert_eq!(proxy.stderr().matches("configuration not reloaded").count(), 1, "{}", proxy.stderr());

    std::fs::write(proxy.dir().join("gone.html"), "second").unwrap();
    until("the page is read again", async || get(proxy.address(), "/").await.text() == "second").await;

    let added = "routes: [{ name: more, match: [{ path_prefix: /more }], respond: { status: 200, body: more } }]";
    std::fs::write(proxy.dir().join("conf.d/more.yaml"), added).unwrap();
    until("a file that is new is seen", async || get(proxy.address(), "/more").await.status == 200).await;
}

/// Random configurations over the origins a, b and c; the same seed gives the same.
struct Author(fastrand::Rng);

const HOSTS: [&str; 4] = ["", "one.example", "two.example", "*.example"];
const PATHS: [&str; 4] = ["/", "/v1", "/v1/deep", "/other"];

impl Author {
    fn configuration(&mut self) -> String {
        let balances = ["round_robin", "least_requests", "peak_ewma", "random", "{ hash: { key: path } }"];
        let upstreams: Vec<_> = ["u0", "u1", "u2", "u3"].into_iter().filter(|_| self.0.u8(..) < 160).collect();
        let upstreams = if upstreams.is_empty() { vec!["u0"] } else { upstreams };
        let mut text = format!("log: {{ level: {} }}\n", self.one_of(&["info", "debug"]));
        text.push_str(
            self.one_of(&["", "listeners: [{ address: \"{listen}\" }, { address: \"unix:{dir}/second.sock\" }]\n"]),
        );
        text.push_str("upstreams:\n");
        for name in &upstreams {
            let mut backends: Vec<_> = ["{a}", "{b}", "{c}"].into_iter().filter(|_| self.0.bool()).collect();
            backends.push(self.one_of(&["{a}", "{b}", "{c}"]));
            backends.dedup();
            let backends = backends.join(", ");
            let (balance, check) = (self.one_of(&balances), self.one_of(&["none", "{ type: tcp }"]));
            text.push_str(&format!(
                "  {name}: {{ backends: [{backends}], balance: {balance}, health_check: {check} }}\n"
            ));
        }
        text.push_str("routes:\n");
        for number in 0..self.0.usize(1..6) {
            text.push_str(&self.route(number, &upstreams));
        }
        text
    }

    fn route(&mut self, number: usize, upstreams: &[&str]) -> String {
        let host = self.one_of(&HOSTS);
        let hosts = if host.is_empty() { String::new() } else { format!("hosts: [\"{host}\"], ") };
        let method = self.one_of(&["", ", method: [GET]", ", method: [POST]"]);
        let path = self.one_of(&PATHS);
        let (one, other) = (self.one_of(upstreams), self.one_of(upstreams));
        let action = match self.0.u8(0..4) {
            0 => format!("respond: {{ status: {}, body: x }}", 200 + self.0.u8(0..4)),
            1 if one != other => format!("to: [{{ upstream: {one}, weight: 1 }}, {{ upstream: {other}, weight: 2 }}]"),
            _ => format!("to: {one}"),
        };
        format!("- {{ name: r{number}, {hosts}match: [{{ path_prefix: {path}{method} }}], {action} }}\n")
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.0.usize(..words.len())]
    }
}

/// What `explain` says of a request to a configuration: the status where the proxy answers, else the backends' addresses.
fn foretell(plan: &Plan, method: &str, host: &str, path: &str) -> (Option<u16>, Vec<String>) {
    let mut fields = http::HeaderMap::new();
    fields.insert("host", host.parse().expect("the hosts here are good"));
    let peer = Some(std::net::Ipv4Addr::LOCALHOST.into());
    let question = Question { listener: &plan.listeners[0], peer, method, path, query: None, fields: &fields };
    let explanation = Explainer::new(plan).explain(&question).expect("no filter here names a file");
    let backends = explanation.deliveries.iter().flat_map(|delivery| &delivery.backends);
    (explanation.outcome.status(), backends.map(|backend| backend.address.to_string()).collect())
}

/// From each configuration to the next by a reload: afterwards the proxy is as one that was started with it.
#[tokio::test]
async fn a_reload_leads_to_what_a_start_would_have() {
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let [a, b, c] = &origins;
    let proxy = Proxy::start(&[a, b, c], PLAIN).await;
    let mut author = Author(fastrand::Rng::with_seed(20_261_122));
    let mut reloads = 0;
    while reloads < 25 {
        let yaml = author.configuration();
        proxy.rewrite_config(&yaml);
        // Two routes with an equal match are a fault, and random routes have them.
        let Ok(loaded) = roundel::config::load(proxy.config(), &|_| None) else { continue };
        let plan = loaded.plan;
        let (status, answer) = post(&proxy, "?confirm_loss=true").await;
        assert_eq!(status, 200, "{yaml}\n{answer:#}");
        reloads += 1;

        let running = proxy.admin("/api/v1/config").await;
        assert_eq!(without_origin(running), without_origin(roundel::config::dump::dump(&plan)), "{yaml}");
        for _ in 0..12 {
            let method = author.one_of(&["GET", "POST"]);
            let host = author.one_of(&["one.example", "two.example", "three.example", "else.where"]);
            let path = author.one_of(&["/", "/v1", "/v1/deep/x", "/v10", "/other"]);
            let (status, backends) = foretell(&plan, method, host, path);
            let answer = request(proxy.address(), method, path, &format!("Host: {host}\r\n"), b"").await;
            let what = format!("{method} {host}{path}: {} from {:?}\n{yaml}", answer.status, answer.origin());
            assert_eq!(answer.status, status.unwrap_or(200), "{what}");
            let origin = origins.iter().find(|origin| origin.name() == answer.origin());
            let from = origin.map(|origin| origin.address().to_string());
            assert_eq!(status.is_none(), from.is_some_and(|from| backends.contains(&from)), "{what}");
        }
    }
}

/// A shown configuration without where it comes from, and the private files that follow from that.
fn without_origin(mut shown: Value) -> Value {
    for key in ["source", "hash", "server", "admin"] {
        shown[key] = Value::Null;
    }
    shown
}

/// Many reloads under load, forth and back between two configurations: nothing is lost and nothing grows. The acceptance run
/// of this name does a thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reloads_under_load_lose_nothing() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let one = "upstreams: { web: { backends: [{a}, {b}] } }";
    let two = "listeners: [{ address: \"{listen}\", timeouts: { keepalive: 30s } }, { address: \"unix:{dir}/second.sock\" }]\n\
               upstreams:\n  web: { backends: [{ address: {a}, weight: 3 }, {b}], balance: least_requests }\n  \
               more: { backends: [{b}] }\n\
               routes: [{ name: web, to: web }, { name: more, hosts: [more.example], to: more }]";
    let proxy = Proxy::start(&[&a, &b], one).await;
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
    let mut steps = vec![Step::Send(switch.to_vec())];
    for _ in 0..60 {
        steps.extend([Step::Wait(Duration::from_millis(20)), Step::Send(b"word ".to_vec())]);
    }
    steps.push(Step::Hang);
    for origin in [&a, &b] {
        origin.on("/ws", Script::new(steps.clone()));
    }
    let mut tunnel = Connection::open(proxy.address()).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    tunnel.send(format!("GET /ws HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n")).await;

    let load = Load::of(1_000_000, 8).start(proxy.address());
    let mut files = 0;
    for round in 0..60 {
        proxy.rewrite_config(if round % 2 == 0 { two } else { one });
        // Without its route the upstream `more` goes with all it served.
        let (status, answer) = post(&proxy, "?confirm_loss=true").await;
        assert_eq!(status, 200, "{answer:#}");
        if round == 9 {
            files = proxy.open_files();
        }
    }
    load.stop().await.expect_all_ok();
    tunnel.until_read("word ".repeat(60).as_bytes()).await;

    assert_eq!(generation(&proxy).await, 61);
    until("descriptors are given back", async || proxy.open_files() <= files + 8).await;
    assert!(!proxy.dir().join("second.sock").exists(), "its file goes with the listener");
}

#[tokio::test]
async fn keys_of_the_top_level_hold_from_the_next_reload_on() {
    let a = Origin::start("a").await;
    let plain = "upstreams: { web: { backends: [{a}], health_check: none } }\n\
                 routes: [{ name: r, match: [{ path_prefix: /web }], to: web }]\n";
    let proxy = Setup::new(&[&a]).file("page.txt", "mine").start(plain).await;
    let lost = async || get(proxy.address(), "/nowhere").await;
    assert_eq!((lost().await.field("proxy-status"), lost().await.text().contains("mine")), (None, false));

    for (round, on) in [true, false, true].into_iter().enumerate() {
        let more = "expose_reason: true\nerrors: { 404: page.txt }\ntracing: { otlp: \"http://{a}\", sample: 100% }\n";
        reload(&proxy, &if on { format!("{more}{plain}") } else { plain.to_owned() }).await;
        assert_eq!(lost().await.field("proxy-status").is_some(), on);
        assert_eq!(lost().await.text() == "mine", on);
        let path = format!("/web/{round}");
        assert_eq!(get(proxy.address(), &path).await.status, 200);
        assert_eq!(a.received_for(&path).head.field("traceparent").is_some(), on);
    }
    until("spans are sent", async || a.requests_for("/v1/traces") > 0).await;

    // What a process is stopped by is what is written last.
    reload(&proxy, &format!("drain: {{ delay: 1h }}\n{plain}")).await;
    reload(&proxy, &format!("drain: {{ delay: 0s }}\n{plain}")).await;
    let mut proxy = proxy;
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_exit().await.success());
}
