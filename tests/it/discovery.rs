//! Backends that a file names: what is written there is followed, and what cannot be used changes nothing.

use std::fs;

use crate::harness::{Load, Origin, Proxy, Setup, get, until};

const SITE: &str = "
listeners: [{ name: public, address: \"{listen}\" }]
upstreams:
  web:
    discovery: { file: backends.yaml }
    health_check: { type: tcp, interval: 200ms, timeout: 100ms }
";

/// The list that names this origin.
fn list(origin: &Origin) -> String {
    format!("- {}\n", origin.address())
}

/// Puts a list in place of the old one, in one step.
fn replace(proxy: &Proxy, list: &str) {
    fs::write(proxy.dir().join("new"), list).expect("the directory is ours");
    fs::rename(proxy.dir().join("new"), proxy.dir().join("backends.yaml")).expect("the directory is ours");
}

async fn until_served_by(proxy: &Proxy, name: &str) {
    until("the list is followed", async || get(proxy.address(), "/").await.origin() == name).await;
}

#[tokio::test]
async fn a_list_is_followed_under_load_and_no_request_is_lost() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Setup::new(&[&a, &b]).file("backends.yaml", list(&a)).start(SITE).await;
    let load = Load::of(usize::MAX, 4).start(proxy.address());

    for (name, origin) in [("b", &b), ("a", &a), ("b", &b)] {
        replace(&proxy, &list(origin));
        until_served_by(&proxy, name).await;
        load.after(50).await;
    }

    load.stop().await.expect_all_ok();
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_what_comes_after_it_is_followed() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Setup::new(&[&a, &b]).file("backends.yaml", list(&a)).start(SITE).await;
    let path = proxy.dir().join("backends.yaml");
    until_served_by(&proxy, "a").await;

    let mut told = 0;
    let faults = async |told: &mut usize| {
        *told += 1;
        let count = || proxy.stderr().matches("backends not read").count();
        until("it is told", async || count() == *told).await;
        assert_eq!(get(proxy.address(), "/").await.origin(), "a");
    };
    fs::write(&path, format!("{}- nonsense\n", list(&b))).unwrap();
    faults(&mut told).await;
    fs::write(&path, "").unwrap();
    faults(&mut told).await;
    fs::remove_file(&path).unwrap();
    faults(&mut told).await;
    // A named pipe that nobody writes to would hold up whoever opens it.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    faults(&mut told).await;

    replace(&proxy, &list(&b));
    until_served_by(&proxy, "b").await;
}

#[tokio::test]
async fn without_a_list_no_backend_is_usable() {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).start(SITE).await;

    assert_eq!(get(proxy.address(), "/missing").await.status, 503);
    assert_eq!(proxy.log_for("/missing").await["reason"], "destination_unavailable");
    replace(&proxy, "[]");
    until("it is read", async || proxy.stderr().contains("backends=0")).await;
    assert_eq!(get(proxy.address(), "/empty").await.status, 503);
    replace(&proxy, "- nobody.invalid:80\n");
    until("no name resolves", async || get(proxy.address(), "/").await.status == 502).await;

    replace(&proxy, &list(&a));
    until_served_by(&proxy, "a").await;
}
