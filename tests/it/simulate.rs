//! `roundel simulate health`: what it says of a configuration, for people and for machines.

use std::process::Output;

use serde_json::Value;

use crate::harness::{Setup, roundel};

const DEFAULTS: &str = "upstreams: { web: { backends: [127.0.0.1:8081, 127.0.0.1:8082, 127.0.0.1:8083] } }";

async fn simulate(yaml: &str, arguments: &[&str]) -> Output {
    let setup = Setup::new(&[]);
    let path = setup.write(yaml);
    let path = path.to_str().expect("the path is text");
    roundel(&[&["simulate", "health", "-c", path, "--runs", "10"], arguments].concat()).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn each_kind_of_failure_is_told_with_its_detection_its_losses_and_its_cost() {
    let output = simulate(DEFAULTS, &["--rate", "2/s"]).await;

    assert!(output.status.success(), "{output:?}");
    let page = text(&output.stdout);
    for promised in
        ["0.1 a second", "chance of 0.86% a day", "p50", "p99", "one try only", "with retries", "tries at it"]
    {
        assert!(page.contains(promised), "{promised}: {page}");
    }
    for failure in ["crash", "unreachable", "hang", "errors=20%", "flapping=30s"] {
        assert!(page.contains(&format!("\n{failure}: ")), "{failure}: {page}");
    }
}

#[tokio::test]
async fn machines_read_the_same_numbers_every_time() {
    let arguments = ["--failure", "crash", "--rate", "10/s", "--seed", "7", "--json"];
    let first = simulate(DEFAULTS, &arguments).await;
    let report = json(&first)["upstreams"][0].clone();

    assert_eq!(report["upstream"], "web", "{report}");
    assert_eq!(report["probes"]["per_second"], 0.1);
    let crash = &report["breakdowns"][0];
    assert_eq!(crash["failure"], "crash");
    assert!(crash["by_probes"]["p99_s"].as_f64().is_some_and(|seconds| seconds < 13.3), "{crash}");
    let retried = crash["losses"].as_array().expect("a list").iter().filter(|losses| losses["retries"] == true);
    assert!(retried.clone().count() > 0 && retried.into_iter().all(|losses| losses["lost"] == 0.0), "{crash}");
    assert_eq!(simulate(DEFAULTS, &arguments).await.stdout, first.stdout);
}

#[tokio::test]
async fn what_cannot_be_simulated_is_refused_with_the_remedy() {
    for (arguments, remedy) in [
        (&["--upstream", "api"][..], "write one of: web"),
        (&["--failure", "fire"], "errors=20%"),
        (&["--failure", "flapping=1ms"], "between `100ms` and `1h`"),
        (&["--rate", "fast"], "100/s"),
        (&["--rate", "1000000000/s"], "lower `--rate`"),
        (&["--probe-loss", "2"], "2%"),
    ] {
        let output = simulate(DEFAULTS, arguments).await;
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(remedy), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[tokio::test]
async fn the_page_on_health_shows_what_the_command_says() {
    let setup = Setup::new(&[]);
    let path = setup.write(DEFAULTS);
    let path = path.to_str().expect("the path is text");
    let output = roundel(&["simulate", "health", "-c", path, "--failure", "crash"]).await;

    let page = include_str!("../../docs/health.md");
    // The charts depend on the locale, and say nothing that the numbers do not.
    for line in text(&output.stdout).lines().filter(|line| !line.contains('|')) {
        assert!(page.contains(line), "docs/health.md does not show: {line}");
    }
}
