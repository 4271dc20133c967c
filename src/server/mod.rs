//! The process: everything is built here, in order, from the plan; then Pingora's `Server` runs it.
//!
//! `sockets` claims what is listened on, `process` and `daemon` are the process among others, `conf` speaks Pingora's words.
//! `accept` serves at the `doors`, `operators` is the admin listener, `reload` changes what serves, `lifecycle` says when it all
//! ends.

pub mod accept;
pub mod attend;
mod conf;
pub mod daemon;
pub mod doors;
pub mod files;
pub mod handover;
pub mod lifecycle;
pub mod listen;
pub mod notify;
mod opened;
mod operators;
pub mod process;
pub mod pulse;
pub mod reload;
mod sockets;
mod threads;
pub mod traces;
pub mod upgrade;
pub mod watch;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::background::background_service;
use pingora_proxy::HttpProxy;
use tokio::sync::{Semaphore, mpsc};

use self::accept::{Accept, AfterClose, Listeners};
use self::conf::{check_system_roots, server_conf, tell_of_keys};
use self::daemon::{Parent, Side};
use self::doors::{Doors, Leave};
use self::files::FileWatch;
use self::handover::predecessor::Predecessor;
use self::handover::successor::Launch;
use self::lifecycle::{Life, Lifecycle};
use self::listen::Inherited;
use self::notify::Notify;
use self::opened::{Opened, Relief};
use self::process::{Identity, PidFile, Start};
use self::pulse::Pulse;
use self::reload::{Parts, Reloader};
use self::sockets::Sockets;
use self::traces::Traces;
use self::upgrade::{Front, Share, Upgrades};
use self::watch::{ConfigurationWatch, Files};
use crate::admin::Rules;
use crate::base::crypto;
use crate::config::plan::{LogPath, Plan};
use crate::edge::connection::{Audience, Edge};
use crate::edge::limits::Connections;
use crate::exchange::snapshot::{Current, Lasting, Snapshot, Target};
use crate::lane::Lane;
use crate::proxy::Flow;
use crate::telemetry;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log::ProcessLog;
use crate::telemetry::metrics::series::Probe;
use crate::upstream::connection::Connector;
use crate::upstream::discovery::dns::Resolver;
use crate::upstream::health::{ProbeListener, Prober};
use crate::upstream::supervisor::{Charge, Supervisor};

/// How many clients may be told at once that there is no room.
const FAREWELLS: usize = 256;
/// How long the parent of a daemon waits where the configuration does not say.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the end of the process waits for the access log.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How the process is to be started, beside its plan.
#[derive(Debug, Default)]
pub struct Options {
    /// The configuration's file, to be read again by a reload and by a new process; none where there is none.
    pub file: Option<PathBuf>,
    /// Go into the background.
    pub daemon: bool,
    /// Take the listening sockets over from a running process, by Pingora's protocol.
    pub upgrade: bool,
    /// The process that has started this one to take its place.
    pub predecessor: Option<Predecessor>,
}

impl Options {
    fn start(&self) -> Start {
        match (&self.predecessor, self.upgrade) {
            (Some(_), _) => Start::Heir,
            (None, true) => Start::InPlaceOfAnother,
            (None, false) => Start::Afresh,
        }
    }
}

/// How a process ends.
enum Ending {
    /// With this status.
    Status(ExitCode),
    /// Another serves in its place, and it stays in front of that.
    Stays,
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// It cannot start; the error is one line with the remedy.
pub fn run(plan: Plan, mut options: Options) -> io::Result<ExitCode> {
    // A daemon goes to another directory.
    options.file = options.file.as_deref().map(std::path::absolute).transpose()?;
    // A process that takes the place of a daemon is one already.
    let daemon = (options.daemon || plan.server.daemon) && options.predecessor.is_none();
    if !daemon {
        let teller = options.predecessor.as_ref().map(Predecessor::teller).unwrap_or_default();
        let ending = start(plan, options, &Parent::default());
        return match ending.inspect_err(|error| teller.fail(&error.to_string()))? {
            Ending::Status(status) => Ok(status),
            Ending::Stays => attend::until_all_have_ended(),
        };
    }
    warn_of_lost_lines(&plan);
    let patience = plan.server.daemon_ready_timeout_seconds.map_or(PATIENCE, Duration::from_secs);
    match daemon::daemonize(patience)? {
        Side::Parent(status) => Ok(status),
        Side::Daemon(parent) => daemon::detach(plan.server.working_directory.as_deref())
            .and_then(|()| start(plan, Options { daemon: true, ..options }, &parent))
            .map(|_| ExitCode::SUCCESS)
            .or_else(|error| if parent.failed(&error.to_string()) { Ok(ExitCode::FAILURE) } else { Err(error) }),
    }
}

/// What the process opens again, or answers at, once it is another user: logs, after a rotation, and the admin socket.
fn files_in_use(plan: &Plan) -> impl Iterator<Item = &Path> {
    let access_log = plan.access_log.as_ref().and_then(|log| match &log.path {
        LogPath::File(path) => Some(path.as_path()),
        LogPath::Stdout | LogPath::Stderr => None,
    });
    plan.server.error_log.as_deref().into_iter().chain(access_log).chain([plan.admin.socket.as_path()])
}

/// A daemon has neither stdout nor stderr.
fn warn_of_lost_lines(plan: &Plan) {
    let mut stderr = io::stderr();
    // Who has closed stderr does not want to know.
    if plan.server.error_log.is_none() && plan.log.level != log::LevelFilter::Off {
        let _ =
            writeln!(stderr, "roundel: warning: a daemon has no stderr, its log is lost (write `server.error_log`)");
    }
    if plan.access_log.as_ref().is_some_and(|log| matches!(log.path, LogPath::Stdout | LogPath::Stderr)) {
        let _ = writeln!(
            stderr,
            "roundel: warning: a daemon has no stdout, its access log is lost (write a file in `access_log.path`, or `none`)"
        );
    }
}

/// Starts in order of what is likeliest to fail: files, sockets, the user, and only then threads.
fn start(plan: Plan, mut options: Options, parent: &Parent) -> io::Result<Ending> {
    crypto::install();
    check_system_roots()?;
    let identity = Identity::of(&plan.server)?;
    let log = telemetry::log::init(plan.log.level, plan.server.error_log.as_deref()).map_err(io::Error::other)?;
    process::prepare_runtime_directory(&plan.server.runtime_directory)?;
    identity.own(&plan.server.runtime_directory)?;
    let access_log = plan.access_log.as_ref().map(AccessLog::open).transpose()?.map(Arc::new);
    process::raise_descriptor_limit(&plan);
    let inherited = match &mut options.predecessor {
        Some(predecessor) => predecessor.take_sockets()?.into(),
        None if options.upgrade => Inherited::receive(&plan.server.upgrade_sock)?,
        None => Inherited::default(),
    };
    let sockets = Sockets::claim(&plan, inherited)?;
    let pid_file = Arc::new(PidFile::write(&plan.server.pid_file, options.start())?);
    if options.predecessor.is_none() {
        identity.own(&plan.server.pid_file)?;
    }
    for file in files_in_use(&plan) {
        identity.own_file(file)?;
    }
    let rules = operators::rules(&plan.admin)?;
    identity.assume()?;

    tell_of_keys(&plan.server);

    let plan = Arc::new(plan);
    let mut lasting = Lasting::new(plan.server.threads, access_log);
    let generation = options.predecessor.as_ref().map_or(1, Predecessor::generation);
    let snapshot = Snapshot::build(plan.clone(), generation, &mut lasting).map_err(io::Error::other)?;
    if let Some(predecessor) = &mut options.predecessor
        && let Some(estate) = predecessor.take_estate()?
    {
        estate.settle(&snapshot, &lasting.rate_limits);
    }
    let life = Life::default();
    let notify = Notify::from_environment();
    let front = match options.daemon || options.predecessor.is_some() || notify.is_heard() {
        true => Front::Goes,
        false => Front::Stays,
    };
    let built = Built { file: options.file.take(), current: Current::new(snapshot), lasting, sockets, rules, log };
    serve(built, &life, Place { front, notify, pid_file: pid_file.clone(), parent, predecessor: options.predecessor })?;
    if life.has_served() {
        pid_file.forget_predecessor();
    }
    Ok(if life.is_relieved() && front == Front::Stays { Ending::Stays } else { Ending::Status(ExitCode::SUCCESS) })
}

/// The process among others.
struct Place<'a> {
    front: Front,
    notify: Notify,
    pid_file: Arc<PidFile>,
    parent: &'a Parent,
    predecessor: Option<Predecessor>,
}

/// What has been built when the process begins to serve.
struct Built {
    file: Option<PathBuf>,
    current: Current,
    lasting: Lasting,
    sockets: Sockets,
    rules: Rules,
    log: ProcessLog,
}

/// Runs Pingora's server over what was built.
fn serve(built: Built, life: &Life, place: Place<'_>) -> io::Result<()> {
    let Built { file, current, lasting, sockets, rules, log } = built;
    let plan = current.load().plan.clone();
    let mut server = Server::new_with_opt_and_conf(None, server_conf(&plan.server));
    let Sockets { listeners, admin, predecessor, abandoned } = sockets;
    let bound_at: Vec<_> = listeners.iter().map(|bound| bound.local().to_string()).collect();
    let connections = Arc::new(Connections::default());
    let edge = edge(&current, life.draining());
    let planned = plan.listeners.iter().cloned().map(Arc::new);
    let doors = Doors::new(edge, connections.clone(), planned.zip(listeners).collect());
    let (orders, ordered) = mpsc::channel(1);
    let admin_doors = operators::doors(operators::admin(&current, life, rules, orders), admin);
    let sockets: Share = Arc::new({
        let (doors, admin_doors) = (doors.clone(), admin_doors.clone());
        move || Ok(doors.sockets()?.into_iter().chain(admin_doors.sockets()?).collect())
    });
    let directory = &plan.server.runtime_directory;
    let launch = file.as_deref().map(|file| Launch::of_this_process(file, directory)).transpose()?;
    let gifts = upgrade::gifts(current.clone(), lasting.rate_limits.clone(), sockets.clone());
    let upgrades =
        Upgrades::new(launch, place.front, place.notify.clone(), place.pid_file.clone(), gifts, life.clone());
    let opened = Opened {
        life: life.clone(),
        parent: place.parent.clone(),
        notify: place.notify.clone(),
        pid_file: place.pid_file,
        relief: Mutex::new(match (place.predecessor, predecessor) {
            (Some(predecessor), _) => Relief::Ours(predecessor),
            (None, Some(predecessor)) => Relief::Pingoras(predecessor),
            (None, None) => Relief::Nobody,
        }),
        abandoned: Mutex::new(abandoned),
        generation: current.load().generation,
        listeners: bound_at.join(","),
        source: plan.source.display().to_string(),
    };

    let supervisor = background_service("upstreams", supervisor(&current.load())?);
    let watched = supervisor.task();
    let files = file.map(|file| Arc::new(Files::new(file, &plan)));
    let reloader = Reloader::new(Parts {
        files: files.clone(),
        life: life.clone(),
        upgrades: Arc::downgrade(&upgrades),
        current: current.clone(),
        lasting: tokio::sync::Mutex::new(lasting),
        supervisor: supervisor.task(),
        doors: doors.clone(),
        operators: admin_doors.clone(),
        log: log.clone(),
        unasked: Semaphore::new(1),
    });
    // It is set once, here.
    let _ = admin_doors.app().reload.set(Box::new(reloader.clone()));
    server.add_service(supervisor);
    server.add_service(background_service("traces", Traces { current: current.clone() }));
    server.add_service(background_service("pulse", Pulse { current: current.clone() }));
    server.add_service(background_service("files", FileWatch { current: current.clone() }));
    if let Some(files) = files {
        let watch = ConfigurationWatch { files, current: current.clone(), reloader: reloader.clone() };
        server.add_service(background_service("configuration", watch));
    }
    server.add_service(Accept {
        name: "listeners",
        threads: None,
        doors: doors.clone(),
        opening: Mutex::new(Some(Box::pin(async move { watched.first_round().await }))),
        opened: Box::new(move || opened.tell()),
        close: life.draining(),
        listeners: Box::new({
            let (life, upgrades) = (life.clone(), Arc::downgrade(&upgrades));
            move || match life.is_relieved() || upgrades.upgrade().is_some_and(|upgrades| upgrades.is_under_way()) {
                true => Listeners::AnotherProcess,
                false => Listeners::WeAlone,
            }
        }),
        after_close: AfterClose::Drain,
        closed: Box::new({
            let life = life.clone();
            move || life.closed()
        }),
    });
    server.add_service(operators::service(admin_doors.clone(), life));
    if !plan.server.daemon_wait_for_ready {
        place.parent.started();
    }
    let lifecycle = Lifecycle {
        life: life.clone(),
        current: current.clone(),
        connections,
        log,
        reloader,
        sockets,
        orders: Mutex::new(Some(ordered)),
        upgrades,
        notify: place.notify,
        upgrade_sock: plan.server.upgrade_sock.clone(),
    };
    server.run(RunArgs { shutdown_signal: Box::new(lifecycle) });
    if let Some(log) = &current.load().access_log {
        log.flush(LAST_LINES);
    }
    let leave = socket_files(life);
    doors.forget(leave);
    admin_doors.forget(leave);
    Ok(())
}

/// What serves the connections of clients by `current`; no connection carries another request once `draining` turns true.
#[must_use]
pub fn edge(current: &Current, draining: ShutdownWatch) -> Edge<HttpProxy<Flow>> {
    let conf = Arc::new(server_conf(&current.load().plan.server));
    let connector = Arc::new(Connector::new(&conf, current.clock().clone()));
    let highest_descriptor = process::highest_descriptor_of_clients();
    // Clients that are told that there is no room take of what is kept for connections to backends.
    let few = usize::try_from(highest_descriptor / 12).unwrap_or(FAREWELLS);
    Edge {
        app: Arc::new(pingora_proxy::http_proxy(&conf, Flow { draining, connector: connector.clone() })),
        audience: Audience::Clients,
        highest_descriptor,
        current: current.clone(),
        farewells: Arc::new(Semaphore::new(FAREWELLS.min(few))),
        lane: Some(Lane::new(connector)),
    }
}

/// Which files of unix sockets stay when the process ends: those on which another process listens, be it the one that has
/// taken the sockets over, or the one whose place this one has not come to take.
fn socket_files(life: &Life) -> Leave {
    match (life.is_relieved(), life.has_served()) {
        (true, _) => Leave::All,
        (false, false) => Leave::Inherited,
        (false, true) => Leave::Nothing,
    }
}

/// What finds and probes the backends of all upstreams.
///
/// # Errors
/// The system's resolver cannot be set up.
pub fn supervisor(snapshot: &Snapshot) -> io::Result<Supervisor> {
    let registry = snapshot.counters.registry().clone();
    let listener: ProbeListener = Box::new(move |upstream, backend, result| {
        let series = backend.series().get_or_init(|| registry.backend(&upstream.into(), backend.address()));
        series.probed(if result.is_ok() { Probe::Success } else { Probe::Failure });
    });
    let resolver = Resolver::system().map_err(io::Error::other)?;
    let supervisor = Supervisor::new(Prober::new(&snapshot.plan.server), resolver, listener, snapshot.clock.clone());
    supervisor.look_after(charges(snapshot));
    Ok(supervisor)
}

/// The upstreams of a snapshot, as the supervisor looks after them.
fn charges(snapshot: &Snapshot) -> Vec<Charge> {
    let charge = |target: &Arc<Target>| Charge { pool: target.pool.clone(), peers: target.peers.clone() };
    snapshot.targets.iter().map(charge).collect()
}
