//! What a diff tells, and what it judges a loss.

use super::*;
use crate::config::{Support, load_text_with};

fn plan(text: &str) -> Plan {
    match load_text_with("test", text, &|_| None, Support::Everything) {
        Ok(loaded) => loaded.plan,
        Err(faults) => panic!("{faults}"),
    }
}

fn diff(old: &str, new: &str) -> Diff {
    Diff::between(&plan(old), &plan(new))
}

/// An upstream `web` with these backends.
fn web(backends: &str) -> String {
    format!("upstreams: {{ web: {{ backends: [{backends}] }} }}\n")
}

#[test]
fn the_same_meaning_written_otherwise_is_no_change() {
    let diff = diff(
        "upstreams: { web: { backends: [10.0.0.1:80] } }",
        "log: { level: info }\nupstreams:\n  web:\n    backends: [{ address: 10.0.0.1:80, weight: 1 }]\n",
    );
    assert!(diff.is_empty(), "{diff}");
    assert_eq!(diff.summary(), "nothing changes");
}

#[test]
fn a_backend_that_goes_is_told_with_its_share_of_the_weight() {
    let diff =
        diff(&web("10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80"), &web("10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80"));
    assert_eq!(diff.summary(), "upstream web loses 1 of 4 backends (25 % of its weight)");
    assert_eq!(
        diff.to_string(),
        "~ upstream web: loses 1 of 4 backends (25 % of its weight)\n    backends: - 10.0.0.4:80\n"
    );
    assert_eq!(diff.grave_losses().count(), 0);
}

#[test]
fn more_than_half_of_the_weight_is_a_grave_loss_and_half_is_not() {
    let four = "10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80";
    let grave = |old: &str, new: &str| diff(&web(old), &web(new)).grave_losses().count() > 0;
    assert!(!grave(four, "10.0.0.1:80, 10.0.0.2:80"));
    assert!(grave(four, "10.0.0.1:80"));
    let heavy = "10.0.0.1:80, { address: 10.0.0.2:80, weight: 9 }";
    assert!(grave(heavy, "10.0.0.1:80"));
    assert!(!grave(heavy, "{ address: 10.0.0.2:80, weight: 9 }"));
    assert!(grave(heavy, "10.0.0.1:80, { address: 10.0.0.2:80, weight: 0 }"), "a weight of 0 is as good as gone");
    assert!(grave(heavy, "10.0.0.1:80, { address: 10.0.0.2:80, backup: true }"), "and so is standing by");
}

#[test]
fn backends_that_come_make_up_for_those_that_go() {
    let grave = |old: &str, new: &str| diff(&web(old), &web(new)).grave_losses().count() > 0;
    let moved = diff(&web("10.0.0.1:80, 10.0.0.2:80"), &web("10.0.1.1:80, 10.0.1.2:80"));
    assert_eq!(moved.summary(), "upstream web exchanges 2 of 2 backends");
    assert!(!grave("10.0.0.1:80, 10.0.0.2:80", "10.0.1.1:80, 10.0.1.2:80"));
    assert!(grave("10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80", "10.0.1.1:80"));
    // Other weights throughout are no other strength.
    assert!(!grave("10.0.0.1:80", "{ address: 10.0.1.1:80, weight: 100 }"));
    assert!(!grave("{ address: 10.0.0.1:80, weight: 100 }", "10.0.1.1:80"));
    let scaled = "{ address: 10.0.0.1:80, weight: 100 }, { address: 10.0.9.9:80, weight: 1 }";
    assert!(grave("10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80", scaled), "a light newcomer does not replace two");
    // A shift of weights between backends that stay takes nothing away.
    assert!(!grave("{ address: 10.0.0.1:80, weight: 9 }, 10.0.0.2:80", "10.0.0.1:80, 10.0.0.2:80"));
}

#[test]
fn an_upstream_that_goes_is_a_loss_unless_its_requests_are_served_elsewhere() {
    let two = |routes: &str| {
        format!(
            "upstreams: {{ a: {{ backends: [10.0.0.1:80] }}, b: {{ backends: [10.0.0.2:80] }} }}\nroutes:\n{routes}"
        )
    };
    let one = |routes: &str| format!("upstreams: {{ b: {{ backends: [10.0.0.2:80] }} }}\nroutes:\n{routes}");
    let old = two("- { name: x, hosts: [x.example], to: a }\n- { name: y, hosts: [y.example], to: b }\n");
    let kept = "- { name: y, hosts: [y.example], to: b }\n";

    let vanished = diff(&old, &one(kept));
    assert_eq!(vanished.grave_losses().count(), 1);
    assert!(vanished.summary().contains("upstream a goes with all it served (1 backend)"), "{}", vanished.summary());

    let moved = diff(&old, &one(&format!("- {{ name: x, hosts: [x.example], to: b }}\n{kept}")));
    assert_eq!(moved.grave_losses().count(), 0, "its route goes elsewhere");
    let renamed = diff(&old, &one(&format!("- {{ name: z, hosts: [x.example], to: b }}\n{kept}")));
    assert_eq!(renamed.grave_losses().count(), 0, "another route takes the same requests");
    let unused = diff(&two(kept), &one(kept));
    assert_eq!(unused.grave_losses().count(), 0, "nobody used it");
}

#[test]
fn each_key_is_told_by_its_path() {
    let old = "upstreams: { web: { backends: [10.0.0.1:80], timeouts: { connect: 1s } } }";
    let new = "upstreams: { web: { backends: [{ address: 10.0.0.1:80, weight: 3 }], timeouts: { connect: 2s } } }\n\
               log: { level: debug }";
    let diff = diff(old, new);
    assert_eq!(diff.summary(), "upstream web changed, log changed");
    assert_eq!(
        diff.to_string(),
        "~ upstream web\n    backends[10.0.0.1:80].weight: 1 → 3\n    timeouts.connect: 1s → 2s\n\
         ~ section log\n    level: info → debug\n"
    );
}

#[test]
fn what_comes_and_goes_is_counted() {
    let old = "listeners: [{ name: one, address: \"127.0.0.1:81\" }]\nupstreams: { web: { backends: [10.0.0.1:80] } }";
    let new = "listeners: [{ name: one, address: \"127.0.0.1:82\" }, { name: two, address: \"127.0.0.1:83\" }]\n\
               upstreams: { web: { backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80] } }";
    let words = diff(old, new).summary();
    assert_eq!(
        words,
        "listener two added, listener one moves from 127.0.0.1:81 to 127.0.0.1:82, upstream web gains 2 backends"
    );
}

#[test]
fn a_value_that_is_not_shown_is_told_as_changed_without_it() {
    let with = |value: &str| {
        format!(
            "{}routes:\n- {{ name: api, filters: [{{ request_headers: {{ set: {{ authorization: {value} }} }} }}], to: web }}",
            web("10.0.0.1:80")
        )
    };
    let diff = diff(&with("secret-one"), &with("secret-two"));
    assert_eq!(diff.summary(), "route api changed");
    assert!(diff.to_string().contains("not shown"));
    assert!(!format!("{diff} {}", diff.to_json()).contains("secret"));
}

#[test]
fn a_route_does_not_change_with_its_upstream() {
    let diff = diff(&web("10.0.0.1:80"), &web("10.0.0.1:80, 10.0.0.2:80"));
    assert!(diff.changes.iter().all(|change| change.subject == Subject::Upstream), "{diff}");
}

#[test]
fn keys_that_only_a_new_process_can_follow_are_named() {
    let server = |keys: &str| format!("server: {{ threads: 2{keys} }}\n{}", web("10.0.0.1:80"));
    let live = diff(&server(""), &server(", error_log: /tmp/x.log, grace_period_seconds: 5"));
    assert!(live.beyond_a_reload().is_empty() && !live.is_empty());
    let fixed = diff(&server(""), &server(", work_stealing: false, user: nobody"));
    assert_eq!(fixed.beyond_a_reload(), ["server.user", "server.work_stealing"]);
}

#[test]
fn the_json_says_the_same() {
    let diff = diff(&web("10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80"), &web("10.0.0.1:80"));
    let json = diff.to_json();
    assert_eq!(json["losses"][0]["upstream"], "web");
    assert_eq!(json["losses"][0]["grave"], true);
    assert_eq!(json["changes"][0]["edits"][0], serde_json::json!({ "path": "backends", "loses": "10.0.0.2:80" }));
}
