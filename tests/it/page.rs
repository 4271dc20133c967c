//! The live page: served whole by the admin listener, with a policy that keeps it to itself.

use crate::harness::{Origin, Proxy, get, until};

const YAML: &str = "upstreams: { web: { backends: [{a}] } }";

#[tokio::test]
async fn the_page_may_run_its_own_script_and_ask_its_own_origin_only() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;

    let page = get(proxy.admin_address(), "/").await;

    assert_eq!((page.status, page.field("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.field("content-security-policy").expect("a page has a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.text().contains("<title>Roundel</title>"));
}

#[tokio::test]
async fn the_last_minutes_tell_what_was_served() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    for _ in 0..5 {
        get(proxy.address(), "/").await;
    }

    until("five requests are told", async || {
        let told = proxy.admin("/api/v1/history").await;
        let sum =
            |of: &serde_json::Value| of.as_array().into_iter().flatten().filter_map(|one| one.as_u64()).sum::<u64>();
        sum(&told["good"]) == 5 && sum(&told["upstreams"]["web"]["requests"]) == 5
    })
    .await;
}
