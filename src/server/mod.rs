//! The process: everything is built here, in order, from the plan; then Pingora's `Server` runs it.

pub mod accept;
pub mod daemon;
pub mod files;
pub mod lifecycle;
pub mod listen;
pub mod process;

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;
use pingora_core::tls::load_native_certs;
use tokio::sync::{Semaphore, watch};

use self::accept::{Accept, Door, Opening};
use self::daemon::{Parent, Side};
use self::files::FileWatch;
use self::lifecycle::{Life, Lifecycle, Phase};
use self::listen::{Access, Bound, Inherited, Predecessor, SocketFile};
use self::process::{Identity, PidFile, Start};
use crate::admin::{Admin, Guard, Readiness, Writers};
use crate::base::clock::Clock;
use crate::config::plan::{self, ListenAddress, LogPath, Plan};
use crate::edge::connection::{Audience, Edge};
use crate::edge::limits::{Connections, Gate};
use crate::exchange::snapshot::{Current, Lasting, Snapshot, Target};
use crate::lane::Lane;
use crate::proxy::Flow;
use crate::telemetry;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log::ProcessLog;
use crate::telemetry::metrics::Registry;
use crate::telemetry::metrics::series::Probe;
use crate::upstream::connection::Connector;
use crate::upstream::discovery::dns::Resolver;
use crate::upstream::health::{ProbeListener, Prober};
use crate::upstream::peer::default_roots;
use crate::upstream::supervisor::{Charge, Supervisor};

/// How many clients may be told at once that there is no room.
const FAREWELLS: usize = 256;
/// How long the parent of a daemon waits where the configuration does not say.
const PATIENCE: Duration = Duration::from_secs(600);
/// Operators and their tools at once.
const ADMIN_CONNECTIONS: usize = 256;

/// How the process is to be started, beside its plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Go into the background.
    pub daemon: bool,
    /// Take the listening sockets over from a running process.
    pub upgrade: bool,
}

impl Options {
    fn start(self) -> Start {
        if self.upgrade { Start::InPlaceOfAnother } else { Start::Afresh }
    }
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
    warn_of_lost_lines(&plan);
    let patience = plan.server.daemon_ready_timeout_seconds.map_or(PATIENCE, Duration::from_secs);
    match daemon::daemonize(patience, plan.server.working_directory.as_deref())? {
        Side::Parent(status) => Ok(status),
        Side::Daemon(parent) => daemon::detach()
            .and_then(|()| start(plan, options, &parent))
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
fn start(plan: Plan, options: Options, parent: &Parent) -> io::Result<ExitCode> {
    check_roots(plan.server.ca_file.as_deref())?;
    let identity = Identity::of(&plan.server)?;
    let log = telemetry::log::init(plan.log.level, plan.server.error_log.as_deref()).map_err(io::Error::other)?;
    process::prepare_runtime_directory(&plan.server.runtime_directory)?;
    identity.own(&plan.server.runtime_directory)?;
    let access_log = plan.access_log.as_ref().map(AccessLog::open).transpose()?.map(Arc::new);
    let sockets = Sockets::claim(&plan, options.upgrade)?;
    let mut pid_file = PidFile::write(&plan.server.pid_file, options.start())?;
    identity.own(&plan.server.pid_file)?;
    for file in files_in_use(&plan) {
        identity.own_file(file)?;
    }
    let token = plan.admin.token_file.as_deref().map(read_token).transpose()?;
    identity.assume()?;

    let plan = Arc::new(plan);
    let mut lasting = Lasting {
        clock: Clock::start(),
        pseudonym: format!("roundel-{:08x}", fastrand::u32(..)).into(),
        registry: Arc::new(Registry::new(plan.server.threads)),
        access_log,
        pools: HashMap::new(),
    };
    let snapshot = Snapshot::build(plan.clone(), 1, &mut lasting).map_err(io::Error::other)?;
    let life = Life::default();
    serve(&plan, Current::new(snapshot), &life, sockets, token, log, parent)?;
    if life.has_served() {
        pid_file.forget_predecessor();
    }
    Ok(ExitCode::SUCCESS)
}

/// The sockets of a plan, bound.
struct Sockets {
    listeners: Vec<Bound>,
    admin: Vec<Bound>,
    predecessor: Option<Predecessor>,
}

impl Sockets {
    fn claim(plan: &Plan, upgrade: bool) -> io::Result<Self> {
        let mut inherited = if upgrade { Inherited::receive(&plan.server.upgrade_sock)? } else { Inherited::default() };
        let predecessor = inherited.predecessor();
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
        Ok(Self { listeners, admin, predecessor })
    }

    /// The files of unix sockets, to be removed when the process ends.
    fn files(&mut self) -> Files {
        let all = self.listeners.iter_mut().chain(&mut self.admin);
        let (inherited, own): (Vec<_>, Vec<_>) = all.partition(|bound| bound.is_inherited());
        let take = |bounds: Vec<&mut Bound>| bounds.into_iter().filter_map(Bound::take_file).collect();
        Files { own: take(own), inherited: take(inherited) }
    }

    fn names(&self) -> Vec<(String, std::os::fd::RawFd)> {
        let all = self.listeners.iter().chain(&self.admin);
        all.map(|bound| (bound.address.to_string(), bound.fd())).collect()
    }
}

/// The files of unix sockets.
struct Files {
    own: Vec<SocketFile>,
    inherited: Vec<SocketFile>,
}

impl Files {
    /// Removes them when the process ends, but for those on which another process listens: the one that has taken the
    /// sockets over, or the one whose place this one has not come to take.
    fn remove(self, life: &Life) {
        let leave = |files: Vec<SocketFile>| files.into_iter().for_each(SocketFile::leave);
        if life.is_relieved() {
            leave(self.own);
            leave(self.inherited);
        } else if !life.has_served() {
            leave(self.inherited);
        }
    }
}

fn admin_addresses(admin: &plan::Admin) -> Vec<ListenAddress> {
    let Some(address) = &admin.address else { return Vec::new() };
    let socket = ListenAddress::Unix(admin.socket.clone());
    if *address == socket { vec![socket] } else { vec![address.clone(), socket] }
}

/// Runs Pingora's server over what was built.
fn serve(
    plan: &Arc<Plan>,
    current: Current,
    life: &Life,
    mut sockets: Sockets,
    token: Option<String>,
    log: ProcessLog,
    parent: &Parent,
) -> io::Result<()> {
    let conf = Arc::new(server_conf(&plan.server));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(&plan.server));
    let connections = Arc::new(Connections::default());
    let (names, files) = (sockets.names(), sockets.files());
    let addresses = sockets.listeners.iter().map(|bound| bound.local().to_string()).collect();

    let supervisor = background_service("upstreams", supervisor(&current.load())?);
    let watched = supervisor.task();
    let edge = Edge {
        app: Arc::new(pingora_proxy::http_proxy(&conf, Flow { draining: life.draining() })),
        audience: Audience::Clients,
        current: current.clone(),
        farewells: Arc::new(Semaphore::new(FAREWELLS)),
        draining: life.draining(),
        lane: Some(Lane::new(Connector::new(&conf))),
    };
    let accept = Accept {
        name: "listeners",
        threads: None,
        doors: Mutex::new(doors(&plan.listeners, sockets.listeners, &connections, &current.load())),
        edge: Arc::new(edge),
        opening: Mutex::new(Some(Box::pin(async move { watched.first_round().await }))),
        opened: opened(addresses, plan, life, sockets.predecessor, parent),
        close: life.draining(),
        closed: Box::new({
            let life = life.clone();
            move || life.closed()
        }),
    };
    server.add_service(supervisor);
    server.add_service(background_service("files", FileWatch { current: current.clone() }));
    server.add_service(accept);
    for admin in admin_services(plan, &current, life, sockets.admin, token) {
        server.add_service(admin);
    }
    if !plan.server.daemon_wait_for_ready {
        parent.started();
    }
    let lifecycle = Lifecycle {
        life: life.clone(),
        current: current.clone(),
        connections,
        log,
        sockets: names,
        upgrade_sock: plan.server.upgrade_sock.clone(),
    };
    server.run(RunArgs { shutdown_signal: Box::new(lifecycle) });
    if let Some(log) = &current.load().access_log {
        log.flush(Duration::from_secs(2));
    }
    files.remove(life);
    Ok(())
}

/// What finds and probes the backends of all upstreams.
fn supervisor(snapshot: &Snapshot) -> io::Result<Supervisor> {
    let registry = snapshot.counters.registry().clone();
    let listener: ProbeListener = Box::new(move |upstream, backend, result| {
        let series = backend.series().get_or_init(|| registry.backend(&upstream.into(), backend.address()));
        series.probed(if result.is_ok() { Probe::Success } else { Probe::Failure });
    });
    let resolver = Resolver::system().map_err(io::Error::other)?;
    let supervisor = Supervisor::new(Prober::new(&snapshot.plan.server), resolver, listener, snapshot.clock);
    let charge = |target: &Arc<Target>| Charge { pool: target.pool.clone(), peers: target.peers.clone() };
    supervisor.look_after(snapshot.targets.iter().map(charge).collect());
    Ok(supervisor)
}

/// The doors of a list of listeners, each with its socket and its count.
fn doors(listeners: &[plan::Listener], sockets: Vec<Bound>, all: &Arc<Connections>, snapshot: &Snapshot) -> Vec<Door> {
    let door = |(listener, bound): (&plan::Listener, Bound)| Door {
        plan: Arc::new(listener.clone()),
        bound,
        gate: Gate::new(all.clone(), listener.max_connections),
        counts: snapshot.counters.listener(&listener.name).cloned(),
    };
    listeners.iter().zip(sockets).map(door).collect()
}

/// What is done once the listeners are open.
fn opened(
    addresses: Vec<String>,
    plan: &Plan,
    life: &Life,
    predecessor: Option<Predecessor>,
    parent: &Parent,
) -> Box<dyn Fn() + Send + Sync> {
    let (life, parent, source) = (life.clone(), parent.clone(), plan.source.display().to_string());
    let predecessor = Mutex::new(predecessor);
    Box::new(move || {
        life.serving();
        if let Some(mut predecessor) = predecessor.lock().take() {
            predecessor.relieve();
        }
        parent.started();
        log::info!("serving: listeners={} configuration={source}", addresses.join(","));
    })
}

/// What the admin listener needs of a listener: generous deadlines, small bounds.
fn admin_listener(address: ListenAddress) -> plan::Listener {
    plan::Listener {
        name: "admin".into(),
        address,
        trusted_proxies: Arc::new([]),
        max_connections: ADMIN_CONNECTIONS,
        lane: plan::Lane::Off,
        timeouts: plan::ListenerTimeouts {
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
        },
        errors: plan::ErrorPages::new(),
    }
}

/// The services of the admin listener: one for its address, one for its socket, because different rules say who may ask.
fn admin_services(
    plan: &Plan,
    current: &Current,
    life: &Life,
    sockets: Vec<Bound>,
    token: Option<String>,
) -> Vec<Accept<Admin>> {
    let all = Arc::new(Connections::default());
    let service = |bound: Bound| {
        let address = bound.address.clone();
        let admin = Admin {
            current: current.clone(),
            readiness: readiness(life),
            guard: Guard {
                hosts: plan.admin.hosts.clone(),
                read_token: token.clone().filter(|_| is_beyond_loopback(&address)),
                write: match (&address, &token) {
                    (ListenAddress::Unix(_), _) => Writers::Anybody,
                    (ListenAddress::Inet(_), Some(token)) => Writers::Bearer(token.clone()),
                    (ListenAddress::Inet(_), None) => Writers::Nobody,
                },
                check_host: matches!(address, ListenAddress::Inet(_)),
            },
        };
        let edge = Edge {
            app: Arc::new(admin),
            audience: Audience::Operators,
            current: current.clone(),
            farewells: Arc::new(Semaphore::new(1)),
            // Readiness is asked for to the very end.
            draining: watch::channel(false).1,
            lane: None,
        };
        let listener = admin_listener(address);
        // On a socket that was handed over the old process answers until this one serves: nobody who asks whether the
        // proxy is ready is told of an upgrade.
        let inherited = bound.is_inherited();
        let (serving, relieved) = (life.clone(), life.relieved());
        let opening: Opening = Box::pin(async move {
            if inherited {
                serving.until_serving().await;
            }
        });
        Accept {
            name: "admin",
            threads: Some(1),
            doors: Mutex::new(doors(&[listener], vec![bound], &all, &current.load())),
            edge: Arc::new(edge),
            opening: Mutex::new(Some(opening)),
            opened: Box::new(|| ()),
            close: relieved,
            closed: Box::new(|| ()),
        }
    };
    sockets.into_iter().map(service).collect()
}

fn is_beyond_loopback(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Inet(inet) if !inet.ip().is_loopback())
}

fn read_token(path: &Path) -> io::Result<String> {
    let fault = |why: String| io::Error::other(format!("admin.token_file {}: {why}", path.display()));
    let token = std::fs::read_to_string(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    match token.trim() {
        "" => Err(fault("is empty (write the token into it)".into())),
        token => Ok(token.to_owned()),
    }
}

fn readiness(life: &Life) -> Box<dyn Fn() -> Readiness + Send + Sync> {
    let life = life.clone();
    Box::new(move || match life.phase() {
        Phase::Starting => Readiness::NotReady("backends are being probed for the first time"),
        Phase::Serving => Readiness::Ready,
        Phase::Leaving | Phase::Draining => Readiness::NotReady("the process is draining"),
    })
}

/// Pingora panics where it cannot read the roots that backends are verified with. A system that has none is no fault of the
/// start: backends that need some are told apart when they are connected to.
fn check_roots(ca_file: Option<&Path>) -> io::Result<()> {
    if let Some(path) = ca_file {
        default_roots(Some(path)).map_err(|error| io::Error::other(format!("server.ca_file: {error}")))?;
    }
    // Those of the system are read even where others are written.
    load_native_certs().map(drop).map_err(|error| {
        io::Error::other(format!(
            "the system's root certificates cannot be read: {error} (correct or unset SSL_CERT_FILE and SSL_CERT_DIR)"
        ))
    })
}

/// Pingora's configuration. What Roundel does itself (the daemon, the user, the pid file, the drain) stays at Pingora's
/// defaults, which do nothing of it.
fn server_conf(server: &plan::Server) -> ServerConf {
    let text = |path: &Path| path.display().to_string();
    ServerConf {
        threads: server.threads,
        listener_tasks_per_fd: server.listener_tasks_per_fd,
        work_stealing: server.work_stealing,
        ca_file: server.ca_file.as_deref().map(text),
        pid_file: text(&server.pid_file),
        upgrade_sock: text(&server.upgrade_sock),
        grace_period_seconds: Some(server.grace_period.as_secs()),
        client_bind_to_ipv4: server.client_bind_to_ipv4.clone(),
        client_bind_to_ipv6: server.client_bind_to_ipv6.clone(),
        upstream_keepalive_pool_size: server.upstream_keepalive_pool_size,
        upstream_connect_offload_threadpools: server.upstream_connect_offload_threadpools,
        upstream_connect_offload_thread_per_pool: server.upstream_connect_offload_thread_per_pool,
        upstream_debug_ssl_keylog: server.upstream_debug_ssl_keylog,
        max_blocking_threads: server.max_blocking_threads,
        blocking_threads_ttl_seconds: server.blocking_threads_ttl_seconds,
        // How often a request is tried is decided by `exchange::retry`; Pingora's bound must never come first.
        max_retries: usize::MAX,
        ..ServerConf::default()
    }
}
