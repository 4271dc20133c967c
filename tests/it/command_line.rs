//! The command line: every command says what it has to say, and every failure exits non-zero with what to do.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::harness::{Address, Connection, Origin, PATIENCE, Proxy, Setup, free_address, get, roundel, until};

const GOOD: &str = "upstreams: { web: { backends: [127.0.0.1:8081, 127.0.0.1:8082] } }";

const FAULTY: &str = "
upstreams:
  web:
    backends:
      - { address: 127.0.0.1:8081, wieght: 3 }
    timeouts: { connect: 3 }
";

async fn with_file(yaml: &str, arguments: &[&str]) -> Output {
    let setup = Setup::new(&[]);
    let path = setup.write(yaml);
    let path = path.to_str().expect("the path is text");
    roundel(&[arguments, &["-c", path]].concat()).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn check_is_content_with_a_good_file() {
    let output = with_file(GOOD, &["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn check_tells_all_faults_at_once_with_place_and_remedy() {
    let output = with_file(FAULTY, &["check"]).await;

    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("wieght") && said.contains("`weight`"), "{said}");
    assert!(said.contains("roundel.yaml:5:"), "the place of the first: {said}");
    assert!(said.contains("roundel.yaml:6:"), "the place of the second: {said}");
    assert!(!said.contains('\u{1b}'), "no colours where there is no terminal: {said:?}");
}

#[tokio::test]
async fn strict_tells_what_is_seldom_meant_and_lets_it_count() {
    let yaml = "upstreams: { web: { backends: [127.0.0.1:8081], keepalive: { idle: 75s } } }";

    let lenient = with_file(yaml, &["check"]).await;
    let strict = with_file(yaml, &["check", "--strict"]).await;

    assert_eq!((lenient.status.code(), text(&lenient.stderr).as_str()), (Some(0), ""));
    assert_eq!(strict.status.code(), Some(1), "{strict:?}");
    assert!(text(&strict.stderr).contains("most servers close idle connections sooner"), "{strict:?}");
}

#[tokio::test]
async fn test_mode_checks_and_starts_nothing() {
    assert_eq!(with_file(GOOD, &["-t"]).await.status.code(), Some(0));
    assert_ne!(with_file(FAULTY, &["-t"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn a_faulty_file_does_not_start() {
    let output = with_file(FAULTY, &[]).await;

    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("wieght"), "{output:?}");
}

/// Runs a command with this on its standard input.
async fn with_input(yaml: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("cargo has built the binary");
    let mut input = child.stdin.take().expect("it is piped");
    // A command that refuses to read does not take it.
    let _ = input.write_all(yaml.as_bytes()).await;
    drop(input);
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("it is ours to wait for")
}

#[tokio::test]
async fn commands_that_need_no_proxy_read_standard_input() {
    for arguments in [
        &["check", "-c", "-"][..],
        &["-t", "-c", "-"],
        &["explain", "-c", "-", "GET", "http://localhost/"],
        &["simulate", "health", "-c", "-", "--runs", "5", "--failure", "crash"],
    ] {
        let good = with_input(GOOD, arguments).await;
        assert_eq!(good.status.code(), Some(0), "{arguments:?}: {good:?}");
        let faulty = with_input(FAULTY, arguments).await;
        assert_eq!(faulty.status.code(), Some(2), "{arguments:?}: {faulty:?}");
        assert!(text(&faulty.stderr).contains("--> <stdin>:5:"), "{arguments:?}: {faulty:?}");
    }
}

#[tokio::test]
async fn what_runs_or_is_asked_is_known_by_its_file() {
    for arguments in [&["-c", "-"][..], &["status", "-c", "-"], &["reload", "-c", "-"], &["healthcheck", "-c", "-"]] {
        let refused = with_input(GOOD, arguments).await;
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {refused:?}");
        assert!(text(&refused.stderr).contains("file"), "{arguments:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_missing_file_is_told_by_its_name() {
    let output = roundel(&["check", "-c", "/nowhere/roundel.yaml"]).await;

    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("/nowhere/roundel.yaml"), "{output:?}");
    assert!(!text(&output.stderr).contains("panicked"), "{output:?}");
}

#[tokio::test]
async fn the_schema_is_json_and_knows_the_shortest_file() {
    let output = roundel(&["schema"]).await;

    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is a schema");
    let file = |yaml| serde_yaml::from_str::<Value>(yaml).expect("the file is YAML");
    assert!(validator.is_valid(&file(GOOD)));
    assert!(!validator.is_valid(&file(FAULTY)));
}

#[tokio::test]
async fn healthcheck_tells_a_running_proxy_from_a_missing_one() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    let config = proxy.config().to_str().expect("the path is text").to_owned();

    assert_eq!(roundel(&["healthcheck", "-c", &config]).await.status.code(), Some(0));
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    proxy.wait_exit().await;
    let output = roundel(&["healthcheck", "-c", &config]).await;

    assert!(!output.status.success());
    assert_eq!(text(&output.stderr).trim_end().lines().count(), 1, "{output:?}");
}

#[tokio::test]
async fn completions_and_the_manual_page_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let output = roundel(&["completions", shell]).await;
        assert!(output.status.success() && text(&output.stdout).contains("roundel"), "{shell}: {output:?}");
    }
    let output = roundel(&["man"]).await;
    assert!(output.status.success() && text(&output.stdout).contains(".TH"), "{output:?}");
}

#[tokio::test]
async fn version_and_help() {
    let version = roundel(&["--version"]).await;
    assert!(version.status.success() && text(&version.stdout).contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    let help = text(&roundel(&["--help"]).await.stdout);
    for command in ["check", "healthcheck", "schema", "completions"] {
        assert!(help.contains(command), "{command}: {help}");
    }
}

#[tokio::test]
async fn an_unknown_command_is_refused() {
    let output = roundel(&["frobnicate"]).await;
    assert!(!output.status.success() && !output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_closed_or_full_stdout_ends_no_command_in_a_panic() {
    let program = env!("CARGO_BIN_EXE_roundel");
    for command in ["schema", "man", "completions bash", "--help"] {
        for script in
            [format!("{program} {command} | head -c 1"), format!("{program} {command} > /dev/full 2> /dev/full")]
        {
            let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await.expect("sh runs");
            assert!(!text(&output.stderr).contains("panicked"), "{script}: {output:?}");
            assert_ne!(output.status.code(), Some(101), "{script}: a panic that could not be told");
        }
    }
}

#[tokio::test]
async fn a_daemon_lets_go_of_its_streams_and_ends_by_its_pid_file() {
    let a = Origin::start("a").await;
    let yaml = "server: { threads: 1, daemon: true, daemon_wait_for_ready: true, pid_file: \"{dir}/roundel.pid\" }\n\
                upstreams: { web: { backends: [{a}] } }";
    let setup = Setup::new(&[&a]);
    let run = setup.dir().join("run");
    let config = setup.write(yaml);
    let start = async || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
        command.arg("-c").arg(&config).env("RUNTIME_DIRECTORY", &run);
        // Returns at the end of the streams: never, if the daemon kept them.
        tokio::time::timeout(crate::harness::PATIENCE, command.output())
            .await
            .expect("the command ends")
            .expect("it runs")
    };

    let started = start().await;
    assert!(started.status.success(), "{started:?}");
    assert!(text(&started.stderr).contains("server.error_log"), "{started:?}");
    let again = start().await;
    assert!(!again.status.success() && text(&again.stderr).contains("cannot listen"), "{again:?}");

    let pid = std::fs::read_to_string(setup.dir().join("roundel.pid")).expect("the second start left the file alone");
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().expect("it is a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the daemon runs");
    crate::harness::until("the daemon has ended", async || nix::sys::signal::kill(pid, None).is_err()).await;
    assert!(!setup.dir().join("roundel.pid").exists());
}

#[tokio::test]
async fn top_without_a_terminal_says_what_to_run_in_its_place() {
    let output = with_file(GOOD, &["top"]).await;

    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("needs a terminal") && text(&output.stderr).contains("roundel status"));
    assert!(output.stdout.is_empty(), "nothing is drawn into a pipe: {output:?}");
}

/// A command of the binary that goes on by itself; it does not outlive its test.
fn go_on(arguments: &[&str]) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY").stdin(Stdio::null());
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("cargo has built the binary")
}

#[tokio::test]
async fn the_demonstration_serves_where_it_is_told_to_and_heals_what_fails() {
    let (listen, admin) = (free_address(), free_address());
    let runtime = tempfile::tempdir().expect("the temporary directory is writable");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    command.args(["demo", "--listen", &listen.to_string(), "--admin", &admin.to_string()]);
    command.env("XDG_RUNTIME_DIR", runtime.path()).env_remove("RUNTIME_DIRECTORY").stdin(Stdio::null());
    let _demo = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("it runs");
    let asked = async |address: &Address, path: &str| match Connection::try_open(address).await {
        Ok(mut connection) => connection.ask("GET", path, "", b"").await.map_or(0, |answer| answer.status),
        Err(_) => 0,
    };
    until("it is ready", async || asked(&admin, "/readyz").await == 200).await;
    let names = async || {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..6 {
            names.insert(
                get(&listen, "/").await.text().split_whitespace().find(|word| is_a_tree(word)).map(str::to_owned),
            );
        }
        names.len()
    };
    assert_eq!(names().await, 3);
    assert_eq!(asked(&listen, "/fail/birch").await, 200);
    until("one is out", async || names().await == 2).await;
    assert_eq!(asked(&listen, "/heal/birch").await, 200);
    until("it is back", async || names().await == 3).await;
}

fn is_a_tree(word: &str) -> bool {
    ["amber", "birch", "cedar"].iter().any(|name| word.contains(name))
}

#[tokio::test]
async fn what_has_happened_is_told_in_the_number_that_is_asked_for() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], "upstreams: { web: { backends: [{a}, {b}] } }").await;
    let admin = proxy.admin_address().to_string();
    // Both came up at the start, and each is told.
    for (last, json) in [("1", true), ("2", false)] {
        let format = if json { &["--json"][..] } else { &[] };
        let mut events = go_on(&[&["events", "--last", last, "--admin", &admin], format].concat());
        let mut lines = tokio::io::BufReader::new(events.stdout.take().expect("it is piped")).lines();
        let mut told = Vec::new();
        let count: usize = last.parse().expect("it is a number");
        while told.len() < count {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it is told");
            told.push(line.expect("it is text").expect("the stream goes on"));
        }
        assert!(told.iter().all(|line| serde_json::from_str::<Value>(line).is_ok() == json), "{told:?}");
        // The next to be told is what happens next.
        let backend = format!("/api/v1/upstreams/web/backends/{}/drain?force=true", a.address());
        assert_eq!(proxy.admin_post(&backend).await.0, 200);
        let next = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it is told");
        assert!(next.expect("it is text").is_some_and(|line| line.contains("drain")), "after {told:?}");
        assert_eq!(proxy.admin_post(&backend.replace("drain?force=true", "resume")).await.0, 200);
    }
}

#[tokio::test]
async fn a_list_of_requests_is_as_long_as_is_asked_for() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    for path in ["/one", "/two", "/three"] {
        get(proxy.address(), path).await;
        let id = proxy.log_for(path).await["request_id"].as_str().unwrap_or_default().to_owned();
        proxy.remembered(&id).await;
    }
    let admin = proxy.admin_address().to_string();
    for (limit, count) in [("1", 1), ("2", 2), ("20", 3)] {
        let output = roundel(&["why", "--last", "all", "--limit", limit, "--json", "--admin", &admin]).await;
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(list["requests"].as_array().map(Vec::len), Some(count), "{list:#}");
        assert_eq!(list["requests"][0]["path"], "/three", "the last comes first");
    }
}

#[tokio::test]
async fn diagnostics_can_be_read_by_machines() {
    let output = with_file(FAULTY, &["check", "--json"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let list = told.as_array().or_else(|| told["diagnostics"].as_array()).expect("it is a list");
    assert_eq!((output.status.code(), list.len()), (Some(2), 2), "{told:#}");
    assert!(list.iter().all(|one| one["line"].is_number() || one["place"].is_object()), "{told:#}");
}

#[tokio::test]
async fn the_level_of_the_environment_stands_in_place_of_the_files() {
    let a = Origin::start("a").await;
    for (level, told) in [("error", false), ("info", true)] {
        let yaml = "log: { level: warn }\nupstreams: { web: { backends: [{a}] } }";
        let proxy = Setup::new(&[&a]).environment("RUST_LOG", level).start(yaml).await;
        proxy.signal(nix::sys::signal::Signal::SIGTERM);
        let mut proxy = proxy;
        proxy.wait_exit().await;
        assert_eq!(proxy.settled_stderr().await.contains("INFO"), told, "{level}");
    }
}

#[tokio::test]
async fn no_value_of_a_flag_ends_a_command_in_a_panic() {
    for arguments in [
        &["top", "--interval", "0s", "--admin", "127.0.0.1:1"][..],
        &["top", "--interval", "1", "--admin", "127.0.0.1:1"],
        &["why", "--last", "all", "--limit", "0", "--admin", "127.0.0.1:1"],
        &["why", "--last", "all", "--limit", "-1", "--admin", "127.0.0.1:1"],
        &["events", "--last", "99999999999", "--admin", "127.0.0.1:1"],
        &["drain", "web/a", "--wait", "forever", "--admin", "127.0.0.1:1"],
        &["drain", "web", "--admin", "127.0.0.1:1"],
        &["drain", "/", "--admin", "127.0.0.1:1"],
        &["upgrade", "--timeout", "0s", "--admin", "127.0.0.1:1"],
        &["status", "--admin", "unix:"],
        &["status", "--admin", ""],
        &["status", "--admin", "localhost"],
        &["status", "--token-file", "/nowhere"],
        &["demo", "--listen", "here"],
        &["demo", "--listen", "127.0.0.1:0", "--admin", "192.0.2.1:1"],
        &["completions", "tcsh"],
    ] {
        let output = roundel(arguments).await;
        let said = text(&output.stderr);
        assert!(!output.status.success() && !said.trim().is_empty(), "{arguments:?}: {output:?}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}
