//! The admin listener as part of the process: where it listens, and what it may know.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::accept::{Accept, AfterClose, Listeners, Opening};
use super::doors::Doors;
use super::lifecycle::{Life, Phase};
use super::listen::Bound;
use crate::admin::upgrade::Orders;
use crate::admin::{Admin, Readers, Readiness, Rules};
use crate::config::plan::{self, ListenAddress};
use crate::edge::connection::{Audience, Edge};
use crate::edge::limits::Connections;
use crate::exchange::snapshot::Current;

/// Operators and their tools at once, at each address.
const MOST_CONNECTIONS: usize = 256;

/// Where the admin listener of a plan is.
pub(super) fn addresses(admin: &plan::Admin) -> Vec<ListenAddress> {
    let Some(address) = &admin.address else { return Vec::new() };
    let socket = ListenAddress::Unix(admin.socket.clone());
    if *address == socket { vec![socket] } else { vec![address.clone(), socket] }
}

/// Who may ask what, by a plan.
///
/// # Errors
/// The token cannot be read; the error names its file.
pub(super) fn rules(admin: &plan::Admin) -> io::Result<Rules> {
    let token = admin.token_file.as_deref().map(read_token).transpose()?;
    Ok(Rules { hosts: admin.hosts.clone(), token })
}

fn read_token(path: &Path) -> io::Result<String> {
    let fault = |why: String| io::Error::other(format!("admin.token_file {}: {why}", path.display()));
    let token = std::fs::read_to_string(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    match token.trim() {
        "" => Err(fault("is empty (write the token into it)".into())),
        token => Ok(token.to_owned()),
    }
}

/// The admin API over what is being served.
pub(super) fn admin(current: &Current, life: &Life, rules: Rules, upgrades: Orders) -> Admin {
    Admin {
        current: current.clone(),
        readiness: readiness(life),
        rules: ArcSwap::from_pointee(rules),
        upgrades,
        reload: OnceLock::new(),
        readers: Readers::default(),
    }
}

/// The doors of the admin listener.
pub(super) fn doors(admin: Admin, sockets: Vec<Bound>) -> Arc<Doors<Admin>> {
    let current = admin.current.clone();
    let edge = Edge {
        app: Arc::new(admin),
        audience: Audience::Operators,
        // They come when there is trouble.
        highest_descriptor: RawFd::MAX,
        current,
        farewells: Arc::new(Semaphore::new(1)),
        lane: None,
    };
    let listeners = sockets.into_iter().map(|bound| (listener(bound.address.clone()), bound)).collect();
    Doors::new(edge, Arc::new(Connections::default()), listeners)
}

/// The service of the admin listener.
pub(super) fn service(doors: Arc<Doors<Admin>>, life: &Life) -> Accept<Admin> {
    // On a socket that was handed over the old process answers until this one serves: nobody who asks whether the proxy is
    // ready is told of an upgrade.
    let inherited = doors.any_inherited();
    let serving = life.clone();
    let opening: Opening = Box::pin(async move {
        if inherited {
            serving.until_serving().await;
        }
    });
    Accept {
        name: "admin",
        threads: Some(1),
        doors,
        opening: Mutex::new(Some(opening)),
        opened: Box::new(|| ()),
        close: life.relieved(),
        listeners: Box::new(|| Listeners::AnotherProcess),
        // Readiness is asked for to the very end.
        after_close: AfterClose::Serve,
        closed: Box::new(|| ()),
    }
}

/// What the admin listener needs of a listener: generous deadlines, small bounds.
pub(super) fn listener(address: ListenAddress) -> Arc<plan::Listener> {
    Arc::new(plan::Listener {
        name: "admin".into(),
        address,
        protocols: plan::Protocols::Http1,
        trusted_proxies: Arc::new([]),
        max_connections: MOST_CONNECTIONS,
        lane: plan::Lane::Off,
        tls: None,
        redirect: None,
        proxy_protocol: None,
        timeouts: plan::ListenerTimeouts {
            tls_handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            write_idle: Duration::from_secs(10),
            tunnel_idle: Duration::from_secs(10),
            keepalive: Duration::from_secs(75),
        },
        limits: plan::ListenerLimits {
            header_bytes: 16 * 1024,
            header_count: 64,
            body: Some(0),
            keepalive_requests: 1000,
            h2_streams: 1,
            connections_per_client: None,
        },
        errors: plan::ErrorPages::new(),
    })
}

fn readiness(life: &Life) -> Box<dyn Fn() -> Readiness + Send + Sync> {
    let life = life.clone();
    Box::new(move || match life.phase() {
        Phase::Starting => Readiness::NotReady("backends are being probed for the first time"),
        Phase::Serving => Readiness::Ready,
        Phase::Leaving | Phase::Draining => Readiness::NotReady("the process is draining"),
    })
}
