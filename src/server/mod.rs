//! The process: everything is built here, in order, from the plan; then Pingora's `Server` runs it.

pub mod accept;
pub mod daemon;
pub mod lifecycle;
pub mod listen;
pub mod process;

use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;
use tokio::sync::Semaphore;

use self::accept::{Accept, Door};
use self::daemon::{Parent, Side};
use self::lifecycle::{Life, Lifecycle, Phase};
use self::listen::{Access, Bound, Inherited};
use self::process::{Identity, PidFile};
use crate::admin;
use crate::base::clock::Clock;
use crate::config::plan::{self, ListenAddress, Plan};
use crate::edge::connection::{Audience, Edge};
use crate::edge::limits::{Connections, Gate};
use crate::exchange::counters::Counters;
use crate::exchange::snapshot::{Current, Lasting, Snapshot};
use crate::proxy::Flow;
use crate::telemetry;
use crate::telemetry::access_log::AccessLog;
use crate::upstream::discovery;
use crate::upstream::health;

/// How many clients may be told at once that there is no room.
const FAREWELLS: usize = 256;
/// How long the parent of a daemon waits where the configuration does not say.
const PATIENCE: Duration = Duration::from_secs(600);

/// How the process is to be started, beside its plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Go into the background.
    pub daemon: bool,
    /// Take the listening sockets over from a running process.
    pub upgrade: bool,
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// It cannot start; the error is one line with the remedy.
pub fn run(plan: Plan, options: Options) -> io::Result<ExitCode> {
    let daemon = options.daemon || plan.server.daemon;
    if !daemon {
        return start(plan, options, &Parent::default());
    }
    let patience = plan.server.daemon_ready_timeout_seconds.map_or(PATIENCE, Duration::from_secs);
    match daemon::daemonize(patience, plan.server.working_directory.as_deref())? {
        Side::Parent(status) => Ok(status),
        Side::Daemon(parent) => start(plan, options, &parent).or_else(|error| {
            if parent.failed(&error.to_string()) { Ok(ExitCode::FAILURE) } else { Err(error) }
        }),
    }
}

/// Starts in order of what is likeliest to fail: files, sockets, the user, and only then threads.
fn start(plan: Plan, options: Options, parent: &Parent) -> io::Result<ExitCode> {
    let identity = Identity::of(&plan.server)?;
    telemetry::log::init(plan.log.level, plan.server.error_log.as_deref())?;
    process::prepare_runtime_directory(&plan.server.runtime_directory)?;
    identity.own(&plan.server.runtime_directory)?;
    let access_log = plan.access_log.as_ref().map(AccessLog::open).transpose()?.map(Arc::new);
    let sockets = Sockets::claim(&plan, options.upgrade)?;
    let pid_file = PidFile::write(&plan.server.pid_file)?;
    identity.own(&plan.server.pid_file)?;
    if options.daemon || plan.server.daemon {
        daemon::detach()?;
    }
    identity.assume()?;

    let plan = Arc::new(plan);
    let mut lasting = Lasting {
        clock: Clock::start(),
        pseudonym: format!("roundel-{:08x}", fastrand::u32(..)).into(),
        counters: Arc::new(Counters::new()),
        access_log,
        pools: HashMap::new(),
    };
    let snapshot = Snapshot::build(plan.clone(), 1, &mut lasting).map_err(io::Error::other)?;
    serve(&plan, Current::new(snapshot), sockets, parent)?;
    drop(pid_file);
    Ok(ExitCode::SUCCESS)
}

/// The sockets of a plan, bound.
struct Sockets {
    listeners: Vec<Bound>,
    admin: Vec<Bound>,
}

impl Sockets {
    fn claim(plan: &Plan, upgrade: bool) -> io::Result<Self> {
        let mut inherited =
            if upgrade { Inherited::receive(&plan.server.upgrade_sock)? } else { Inherited::default() };
        let listeners = plan
            .listeners
            .iter()
            .map(|listener| Bound::claim(&listener.address, Access::Anybody, &mut inherited))
            .collect::<io::Result<_>>()?;
        let admin = admin_addresses(&plan.admin)
            .into_iter()
            .map(|address| Bound::claim(&address, Access::Owner, &mut inherited))
            .collect::<io::Result<_>>()?;
        for name in inherited.unclaimed() {
            log::info!("listener closed, the new configuration does not name it: address={name}");
        }
        Ok(Self { listeners, admin })
    }

    fn names(&self) -> Vec<(String, std::os::fd::RawFd)> {
        let all = self.listeners.iter().chain(&self.admin);
        all.map(|bound| (listen::handover_name(&bound.address), bound.fd())).collect()
    }
}

fn admin_addresses(admin: &plan::Admin) -> Vec<ListenAddress> {
    let Some(address) = &admin.address else { return Vec::new() };
    let socket = ListenAddress::Unix(admin.socket.clone());
    if *address == socket { vec![socket] } else { vec![address.clone(), socket] }
}

/// Runs Pingora's server over what was built.
fn serve(plan: &Arc<Plan>, current: Current, sockets: Sockets, parent: &Parent) -> io::Result<()> {
    let conf = Arc::new(server_conf(&plan.server));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(&plan.server));
    let life = Life::default();
    let connections = Arc::new(Connections::default());
    let names = sockets.names();

    let pools: Vec<_> = current.load().pools().cloned().collect();
    let probes = health::Probes::new(&current.load().targets.iter().map(|t| (t.pool.clone(), t.peers.clone())).collect::<Vec<_>>());
    let first_round = probes.first_round();
    let discovery = discovery::Service::new(&pools);

    let edge = Edge {
        app: Arc::new(pingora_proxy::http_proxy(&conf, Flow)),
        audience: Audience::Clients,
        current: current.clone(),
        farewells: Arc::new(Semaphore::new(FAREWELLS)),
        draining: life.draining(),
    };
    let accept = Accept {
        name: "listeners",
        threads: None,
        doors: Mutex::new(doors(&plan.listeners, sockets.listeners, &connections)),
        edge: Arc::new(edge),
        opening: Mutex::new(Some(Box::pin(first_round))),
        opened: opened(plan, &life, parent),
        life: Some(life.clone()),
    };
    server.add_service(background_service("discovery", discovery));
    server.add_service(background_service("probes", probes));
    server.add_service(accept);
    if !sockets.admin.is_empty() {
        server.add_service(admin_service(plan, &current, &life, sockets.admin));
    }
    if !plan.server.daemon_wait_for_ready {
        parent.started();
    }
    let lifecycle = Lifecycle {
        life,
        current: current.clone(),
        connections,
        sockets: names,
        upgrade_sock: plan.server.upgrade_sock.clone(),
    };
    server.run(RunArgs { shutdown_signal: Box::new(lifecycle) });
    if let Some(log) = &current.load().access_log {
        log.flush(Duration::from_secs(2));
    }
    Ok(())
}
