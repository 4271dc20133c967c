//! The workshop of the integration tests: an origin that misbehaves on demand, the real binary in front of it, and a
//! client that sends raw bytes.
//!
//! Nothing here speaks HTTP through a library, so that a test can say on the wire whatever a hostile peer could say. What a
//! test promises stands in the test's own file.

// A kit: a tool that no test needs today stays in the box.
#![allow(dead_code)]

pub(crate) mod client;
pub(crate) mod h2;
pub(crate) mod origin;
pub(crate) mod proxy;
pub(crate) mod tls;
pub(crate) mod wire;

pub(crate) use client::{Answer, Connection, Load, get, request};
pub(crate) use origin::{Authority, Blackhole, Origin, Received, Reply, Script, Step};
pub(crate) use proxy::{Proxy, Road, Setup, free_address, roundel, roundel_with, takes_the_lane};
pub(crate) use tls::{Issued, TlsClient};
pub(crate) use wire::{Address, Fault};

/// Declares tests that hold on both roads: each is a function of a [`Road`] in the same file, and becomes the tests
/// `lane::NAME` and `general::NAME`.
macro_rules! on_both_roads {
    ($($name:ident),+ $(,)?) => {
        mod lane {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::harness::Road::Lane).await;
                }
            )+
        }
        mod general {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::harness::Road::General).await;
                }
            )+
        }
    };
}
pub(crate) use on_both_roads;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything in a test may take before the test is called hung. No test asserts a duration: this is a guard.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
///
/// # Panics
/// After [`PATIENCE`], saying `what` has not come true.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
