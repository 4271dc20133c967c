//! What the documented defaults are worth when a backend breaks down.

use super::*;
use crate::config;

const TERMS: Terms = Terms { rate: 10.0, probe_loss: 0.01, runs: 10, seed: 1 };

fn upstream(rest: &str) -> Arc<plan::Upstream> {
    let text = format!("upstreams: {{ web: {{ backends: [127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3], {rest} }} }}");
    let loaded = config::load_text_with("test", &text, &|_| None, config::Support::Everything);
    Arc::clone(&loaded.unwrap().plan.upstreams[0])
}

fn finding(rest: &str, breakdown: Breakdown) -> Finding {
    rehearse(&upstream(rest), &[breakdown], TERMS).unwrap().breakdowns.remove(0)
}

fn by_probes(rest: &str, breakdown: Breakdown) -> Spread {
    let terms = Terms { rate: 0.02, runs: 200, ..TERMS };
    rehearse(&upstream(rest), &[breakdown], terms).unwrap().breakdowns.remove(0).by_probes.unwrap()
}

fn lost(finding: &Finding) -> Vec<f64> {
    finding.losses.iter().map(|losses| losses.lost).collect()
}

fn within(time: Option<Duration>, seconds: std::ops::Range<f64>) -> bool {
    time.is_some_and(|time| seconds.contains(&time.as_secs_f64()))
}

#[test]
fn by_default_probes_see_a_crash_within_an_interval_and_two_quick_looks() {
    let seen = by_probes("", Breakdown::Crash);
    assert_eq!((seen.runs, seen.seen), (200, 200));
    // 11 s with the jitter, and twice 1.1 s.
    assert!(within(seen.p50, 6.0..8.0) && within(seen.p99, 10.0..13.2), "{seen:?}");
}

#[test]
fn by_default_probes_see_a_lost_machine_three_timeouts_later() {
    let seen = by_probes("", Breakdown::Unreachable);
    assert!(seen.seen == seen.runs && within(seen.p50, 15.0..17.0) && within(seen.p99, 19.0..22.2), "{seen:?}");
}

#[test]
fn a_probe_of_the_port_never_sees_a_hang_and_one_of_the_application_does() {
    let seen = by_probes("", Breakdown::Hang);
    assert_eq!(seen.seen, 0);
    let seen = by_probes("health_check: { type: http }", Breakdown::Hang);
    assert!(seen.seen == seen.runs && within(seen.p99, 19.0..22.2), "{seen:?}");
}

#[test]
fn with_retries_a_crash_loses_no_request() {
    let finding = finding("", Breakdown::Crash);
    let lost = lost(&finding);
    assert!(lost[0] > 10.0, "one try only: {lost:?}");
    assert!(lost[2] > 0.0 && lost[2] < lost[0], "ejection alone: {lost:?}");
    assert_eq!((lost[1], lost[3]), (0.0, 0.0), "retries: {lost:?}");
    assert!(finding.losses[3].saved > 0.0);
}

#[test]
fn errors_that_are_answers_are_not_tried_again() {
    let lost = lost(&finding("", Breakdown::Errors(0.2)));
    assert!(lost[0] > 20.0 && lost[1] > 20.0, "{lost:?}");
}

#[test]
fn ejection_takes_a_hanging_backend_out_where_probes_do_not() {
    let finding = finding("timeouts: { first_byte: 1s }", Breakdown::Hang);
    assert!(within(finding.in_use.p99, 1.0..3.0), "{:?}", finding.in_use);
    assert_eq!(lost(&finding)[3], 0.0);
}

#[test]
fn recovery_includes_the_slow_start() {
    let quick = finding("", Breakdown::Crash).recovery;
    assert!(quick.seen == quick.runs && within(quick.p50, 1.0..13.2), "{quick:?}");
    let slow = finding("slow_start: 20s", Breakdown::Crash).recovery;
    assert!(slow.seen == slow.runs && within(slow.p50, 21.0..34.2), "{slow:?}");
}

#[test]
fn the_share_of_the_failing_backend_falls_to_nothing_and_comes_back() {
    let chart = finding("", Breakdown::Crash).chart;
    assert!(chart.share[0] > 0.25 && chart.share[PARTS / 2] == 0.0 && chart.share[PARTS - 1] > 0.25, "{chart:?}");
}

#[test]
fn the_same_seed_brings_the_same_report() {
    let report = |seed| rehearse(&upstream("balance: peak_ewma"), &Breakdown::EACH[..1], Terms { seed, ..TERMS });
    assert_eq!(report(7), report(7));
    assert_ne!(report(7), report(8));
}

#[test]
fn what_would_take_too_long_is_refused() {
    let refused =
        |rest: &str, rate| rehearse(&upstream(rest), &[Breakdown::Crash], Terms { rate, ..TERMS }).unwrap_err();
    assert!(matches!(refused("health_check: { interval: 24h }", 1.0), Refusal::TooSlow(..)));
    assert!(matches!(refused("", 1e9), Refusal::TooMany(_)));
}

#[test]
fn an_upstream_without_checks_is_rehearsed_as_it_is() {
    let finding = finding("health_check: none, outlier: none", Breakdown::Crash);
    assert_eq!((finding.by_probes, finding.in_use.seen, finding.losses.len()), (None, 0, 2));
}
