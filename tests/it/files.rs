//! Every file that the configuration names: its new content serves once the configuration is read again, and the reload says so.
//! Files that are read again by themselves have their tests with their subject.

use std::fs;

use serde_json::Value;

use crate::harness::{Authority, Origin, Proxy, Road, Setup, get, on_both_roads, until};

on_both_roads!(new_roots_hold_for_requests_and_probes, a_new_identity_is_shown_to_backends);

/// `POST /api/v1/reload`, which must succeed.
async fn reload(proxy: &Proxy, query: &str) -> Value {
    let (status, text) = proxy.admin_post(&format!("/api/v1/reload{query}")).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

/// Writes files anew and reloads: nothing changes but them.
async fn renew(proxy: &Proxy, files: &[(&str, &str)]) {
    for (name, content) in files {
        fs::write(proxy.dir().join(name), content).expect("the directory is ours");
    }
    let paths: Vec<_> = files.iter().map(|(name, _)| proxy.dir().join(name).display().to_string()).collect();
    let told = reload(proxy, "").await;
    let summary = format!("nothing changes in the configuration, files read again: {}", paths.join(", "));
    assert_eq!((&told["summary"], &told["files"]), (&summary.as_str().into(), &paths.into()), "{told:#}");
}

async fn outcome(proxy: &Proxy, path: &str) -> (u16, Value) {
    let lines = proxy.log().len();
    let status = get(proxy.address(), path).await.status;
    until("its line is written", async || proxy.log().len() > lines).await;
    (status, proxy.log()[lines]["reason"].clone())
}

async fn new_roots_hold_for_requests_and_probes(road: Road) {
    for (of_process, of_upstream) in [("ca_file: roots.pem, ", ""), ("", ", tls: { ca: roots.pem }")] {
        let (old, new) = (Authority::new(), Authority::new());
        let a = Origin::start_tls("a", &old, &["127.0.0.1"]).await;
        // The general road makes the connections of `auto` by a connector of its own.
        let yaml = format!(
            "
server: {{ {of_process}threads: 2 }}
upstreams:
  web: {{ backends: [\"https://{{a}}\"], health_check: none, outlier: none {of_upstream} }}
  auto: {{ backends: [\"https://{{a}}\"], health_check: none, outlier: none, protocol: auto {of_upstream} }}
  probed:
    {{ backends: [\"https://{{a}}\"], health_check: {{ interval: 1s, timeout: 900ms, fast_interval: 100ms }} {of_upstream} }}
routes:
  - {{ match: [{{ path: /web }}], to: web }}
  - {{ match: [{{ path: /auto }}], to: auto }}
  - {{ match: [{{ path: /probed }}], to: probed }}
"
        );
        let proxy = Setup::new(&[&a]).on(road).file("roots.pem", old.pem()).start(&yaml).await;
        for (roots, status, reason, state) in [
            (None, 200, Value::Null, "healthy"),
            (Some(&new), 502, "tls_certificate_error".into(), "unhealthy"),
            (Some(&old), 200, Value::Null, "healthy"),
        ] {
            if let Some(roots) = roots {
                renew(&proxy, &[("roots.pem", roots.pem())]).await;
            }
            for path in ["/web", "/auto"] {
                assert_eq!(outcome(&proxy, path).await, (status, reason.clone()), "{of_process}{of_upstream} {path}");
            }
            proxy.until_state("probed", a.address(), state).await;
        }
    }
}

async fn a_new_identity_is_shown_to_backends(road: Road) {
    let (authority, friends, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let a = Origin::start_mutual("a", &authority, &["127.0.0.1"], &friends).await;
    let yaml = "
upstreams:
  web:
    backends: [\"https://{a}\"]
    health_check: none
    outlier: none
    tls: { ca: ca.pem, cert: me.pem, key: me.key }
";
    let (friend, stranger) = (friends.issue(&["me.example"]), strangers.issue(&["me.example"]));
    let setup = Setup::new(&[&a]).on(road).file("ca.pem", authority.pem());
    let proxy = setup.file("me.pem", stranger.pem()).file("me.key", stranger.key_pem()).start(yaml).await;
    assert_eq!(outcome(&proxy, "/").await.0, 502);

    renew(&proxy, &[("me.key", &friend.key_pem()), ("me.pem", &friend.pem())]).await;
    assert_eq!(outcome(&proxy, "/").await, (200, Value::Null));

    renew(&proxy, &[("me.key", &stranger.key_pem()), ("me.pem", &stranger.pem())]).await;
    assert_eq!(outcome(&proxy, "/").await.0, 502, "the connection of the old identity is not used again");
}

const PAGES: &str = "
errors: { 404: page.txt }
admin: { address: \"{admin}\", token_file: token }
upstreams: { web: { backends: [{a}] } }
routes: [{ name: web, match: [{ path: /web }], filters: [{ auth: { basic: { users: users } } }], to: web }]
";
const USERS: &str = "anna:$2y$04$kNYiDvPW57IgzATMCGfStOYZu4TNq5iPzdDHAsxoYK01DrfCQbdwS\n";

#[tokio::test]
async fn what_is_read_again_is_told_by_every_reload_and_by_none_twice() {
    let a = Origin::start("a").await;
    let setup = Setup::new(&[&a]).file("page.txt", "one").file("token", "first").file("users", USERS);
    let proxy = setup.start(PAGES).await;
    let path = |name: &str| proxy.dir().join(name).display().to_string();
    assert_eq!(reload(&proxy, "").await["summary"], "nothing changes");

    renew(&proxy, &[("token", "second"), ("users", &USERS.replace("anna", "berta"))]).await;
    assert_eq!(reload(&proxy, "").await["files"], serde_json::json!([]));

    fs::write(path("page.txt"), "two").unwrap();
    for query in ["?dry_run=true", "?dry_run=true", ""] {
        let told = reload(&proxy, query).await;
        let end = format!(" changed, files read again: {}", path("page.txt"));
        assert!(told["summary"].as_str().is_some_and(|told| told.ends_with(&end)), "{query}: {told:#}");
    }
    assert_eq!(get(proxy.address(), "/").await.text(), "two");

    // What a reload that was refused has read is new for the next one.
    fs::write(path("token"), "third").unwrap();
    proxy.rewrite_config("upstreams: fault");
    assert_eq!(proxy.admin_post("/api/v1/reload").await.0, 422);
    proxy.rewrite_config(PAGES);
    assert_eq!(reload(&proxy, "").await["files"], serde_json::json!([path("token")]));
    until("the log says it too", async || proxy.stderr().contains(&format!("files read again: {}", path("token"))))
        .await;
}

#[tokio::test]
async fn the_roots_of_the_process_are_watched_and_can_be_others_without_a_new_process() {
    let (old, new) = (Authority::new(), Authority::new());
    let a = Origin::start_tls("a", &old, &["127.0.0.1"]).await;
    let yaml = |name: &str| {
        format!(
            "reload: watch\nserver: {{ threads: 2, ca_file: {name} }}\n\
             upstreams: {{ web: {{ backends: [\"https://{{a}}\"], health_check: none, outlier: none }} }}"
        )
    };
    let setup = Setup::new(&[&a]).file("one.pem", old.pem()).file("two.pem", old.pem());
    let proxy = setup.start(&yaml("one.pem")).await;
    assert_eq!(get(proxy.address(), "/").await.status, 200);

    fs::write(proxy.dir().join("one.pem"), new.pem()).unwrap();
    until("the new roots hold", async || get(proxy.address(), "/").await.status == 502).await;

    proxy.rewrite_config(&yaml("two.pem"));
    until("the other file holds", async || get(proxy.address(), "/").await.status == 200).await;
}
