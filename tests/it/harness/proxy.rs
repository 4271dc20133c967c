//! The real binary with a configuration of the test's, its admin listener, its logs and its process.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::client::Connection;
use super::origin::Origin;
use super::wire::Address;
use super::{PATIENCE, until};

/// How often a start is tried again because somebody was faster to take a port.
const STARTS: usize = 5;

/// A directory, files and a configuration: all that a proxy needs to start.
///
/// In the configuration, `{NAME}` stands for the address of the origin of that name and `{NAME_port}` for its port, `{listen}`
/// for the proxy's own address, `{admin}` for the admin listener's, `{dir}` for the test's directory. The top-level sections
/// `listeners`, `admin`, `access_log` and `server` are added where the test does not write them.
pub(crate) struct Setup {
    dir: TempDir,
    words: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    listen: Option<Address>,
    road: Road,
}

impl Setup {
    /// A setup with these origins.
    pub(crate) fn new(origins: &[&Origin]) -> Self {
        let dir = TempDir::with_prefix("roundel-it-").expect("the temporary directory is writable");
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("run")).expect("the new directory is ours");
        let road = Road::of_the_run();
        let mut setup = Self { dir, words: Vec::new(), environment: Vec::new(), listen: None, road };
        for origin in origins {
            setup = setup.word(origin.name(), &origin.address().to_string());
            if let Address::Inet(address) = origin.address() {
                setup = setup.word(&format!("{}_port", origin.name()), &address.port().to_string());
            }
        }
        let path = setup.dir.path().display().to_string();
        setup.word("dir", &path)
    }

    /// With a word of the test's own.
    pub(crate) fn word(mut self, name: &str, value: &str) -> Self {
        self.words.push((format!("{{{name}}}"), value.to_owned()));
        self
    }

    /// With a file in the directory.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.dir.path().join(name), content).expect("the directory is ours");
        self
    }

    /// With a variable in the proxy's environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With listeners that send plain requests this road, where the configuration does not say `lane` itself.
    pub(crate) fn on(mut self, road: Road) -> Self {
        self.road = road;
        self
    }

    /// With a unix socket in the directory as `{listen}`.
    pub(crate) fn listen_unix(mut self) -> Self {
        self.listen = Some(Address::Unix(self.dir.path().join("http.sock")));
        self
    }

    /// With this address as `{listen}`.
    pub(crate) fn listen_on(mut self, address: &Address) -> Self {
        self.listen = Some(address.clone());
        self
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the proxy and waits until it is ready.
    ///
    /// # Panics
    /// If it ends, or is not ready within [`PATIENCE`]; with what it wrote to stderr.
    pub(crate) async fn start(self, yaml: &str) -> Proxy {
        let mut proxy = self.launch(yaml);
        for _ in 1..STARTS {
            match proxy.ready().await {
                Ok(()) => return proxy,
                Err(why) if why.contains("cannot listen") => {
                    let Proxy { setup, process, .. } = proxy;
                    drop(process);
                    proxy = setup.launch(yaml);
                }
                Err(why) => panic!("{why}"),
            }
        }
        panic!("no start in {STARTS} tries found its ports free");
    }

    /// Starts the proxy and waits for nothing.
    pub(crate) fn launch(self, yaml: &str) -> Proxy {
        let listen = self.listen.clone().unwrap_or_else(free_address);
        let admin = self.admin();
        let config = self.write_for(yaml, &listen, &admin);
        let child = self.spawn(&config, &[]);
        Proxy::new(self, child, config, listen, admin)
    }

    fn spawn(&self, config: &Path, arguments: &[&str]) -> Child {
        command()
            .arg("-c")
            .arg(config)
            .args(arguments)
            .env("RUNTIME_DIRECTORY", self.dir.path().join("run"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // With all that it starts, so that nothing outlives the test.
            .process_group(0)
            .spawn()
            .expect("cargo has built the binary")
    }

    /// Writes the configuration without starting anything, and returns its path.
    pub(crate) fn write(&self, yaml: &str) -> PathBuf {
        self.write_for(yaml, &self.listen.clone().unwrap_or_else(free_address), &self.admin())
    }

    fn write_for(&self, yaml: &str, listen: &Address, admin: &Address) -> PathBuf {
        let config = self.dir.path().join("roundel.yaml");
        fs::write(&config, self.text(yaml, listen, admin)).expect("the directory is ours");
        config
    }

    // A socket in the test's own directory: there is no port that somebody else could take.
    fn admin(&self) -> Address {
        Address::Unix(self.dir.path().join("admin-test.sock"))
    }

    fn text(&self, yaml: &str, listen: &Address, admin: &Address) -> String {
        let mut text = yaml.to_owned();
        for (section, default) in [
            ("listeners", "listeners: [{ address: \"{listen}\" }]"),
            ("admin", "admin: { address: \"{admin}\" }"),
            ("access_log", "access_log: { path: \"{dir}/access.log\" }"),
            ("server", "server: { threads: 2 }"),
        ] {
            if !text.lines().any(|line| line.strip_prefix(section).is_some_and(|rest| rest.starts_with(':'))) {
                text.push_str(&format!("\n{default}\n"));
            }
        }
        for (word, value) in &self.words {
            text = text.replace(word, value);
        }
        let text = on_the_road(self.road, &text);
        text.replace("{listen}", &listen.to_string()).replace("{admin}", &admin.to_string())
    }
}

/// Which road plain requests take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Road {
    /// The direct lane.
    Lane,
    /// Pingora's proxy.
    General,
}

impl Road {
    /// The road of tests that name none: the lane, or with `ROUNDEL_TEST_LANE=off` in the environment the general one, so
    /// that one run holds the promises of each.
    fn of_the_run() -> Self {
        if takes_the_lane() { Self::Lane } else { Self::General }
    }

    /// What `lane` says of it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Lane => "auto",
            Self::General => "\"off\"",
        }
    }
}

/// Lets every listener that does not say otherwise send plain requests this road.
fn on_the_road(road: Road, text: &str) -> String {
    let address = "address: \"{listen}\"";
    if text.contains("lane:") {
        return text.to_owned();
    }
    let road = road.word();
    let one = |line: &str| match line.strip_suffix(address) {
        _ if line.starts_with("admin:") => line.to_owned(),
        // In a block, a key has a line of its own.
        Some(before) => format!("{line}\n{}lane: {road}", " ".repeat(before.len())),
        None => line.replace(address, &format!("{address}, lane: {road}")),
    };
    text.lines().map(one).collect::<Vec<_>>().join("\n")
}

/// Which road plain requests take in tests that name none.
pub(crate) fn takes_the_lane() -> bool {
    std::env::var("ROUNDEL_TEST_LANE").as_deref() != Ok("off")
}

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    setup: Setup,
    process: Process,
    config: PathBuf,
    listen: Address,
    admin: Address,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Proxy {
    /// A proxy in front of these origins with this configuration (see [`Setup`]), ready.
    pub(crate) async fn start(origins: &[&Origin], yaml: &str) -> Self {
        Setup::new(origins).start(yaml).await
    }

    fn new(setup: Setup, mut child: Child, config: PathBuf, listen: Address, admin: Address) -> Self {
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Self { setup, process: Process(child), config, listen, admin, stdout, stderr }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &Address {
        &self.listen
    }

    /// Where its admin listener is.
    pub(crate) fn admin_address(&self) -> &Address {
        &self.admin
    }

    /// The test's directory.
    pub(crate) fn dir(&self) -> &Path {
        self.setup.dir()
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Writes the configuration file anew; the proxy is told nothing.
    pub(crate) fn rewrite_config(&self, yaml: &str) {
        self.setup.write_for(yaml, &self.listen, &self.admin);
    }

    /// Starts another process with `--upgrade` and this configuration, and hands the sockets over to it.
    pub(crate) async fn hand_over(&mut self, yaml: &str) -> Successor {
        self.rewrite_config(yaml);
        let mut child = self.setup.spawn(&self.config, &["-u"]);
        let stderr = collect(child.stderr.take());
        let successor = Successor { process: Process(child), stderr };
        // As long as nobody waits for the sockets, the signal changes nothing.
        until("the sockets are handed over", async || {
            self.signal(Signal::SIGQUIT);
            self.stderr().contains("handed over")
        })
        .await;
        successor
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id fits"));
        signal::kill(pid, signal).expect("the child has not been waited for");
    }

    /// Waits until it is ready, or says why it will not be.
    pub(crate) async fn ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                return Err(format!(
                    "the proxy ended before it was ready ({status}):\n{}",
                    self.settled_stderr().await
                ));
            }
            if matches!(self.try_admin("GET", "/readyz").await, Some((200, _))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the proxy was not ready within {PATIENCE:?}:\n{}", self.stderr()));
            }
            sleep(super::Duration::from_millis(10)).await;
        }
    }

    /// Whether the admin listener answers at all.
    pub(crate) async fn is_listening_for_admin(&self) -> bool {
        self.try_admin("GET", "/healthz").await.is_some()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`].
    pub(crate) async fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "the proxy did not end within {PATIENCE:?}:\n{}", self.stderr());
            sleep(super::Duration::from_millis(10)).await;
        }
    }

    /// Whether, and how, it has ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.process.0.try_wait().expect("the child is ours to wait for")
    }

    /// What it has written to stdout.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.lock().expect("the collector does not panic").clone()
    }

    /// What it has written to stderr.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("the collector does not panic").clone()
    }

    /// What it has written to stderr, after its end.
    pub(crate) async fn settled_stderr(&self) -> String {
        // The collector holds the only other reference, and drops it at the end of the stream.
        until("stderr has ended", async || Arc::strong_count(&self.stderr) == 1).await;
        self.stderr()
    }

    /// `GET path` of the admin listener: status and text.
    pub(crate) async fn admin_text(&self, path: &str) -> (u16, String) {
        let answer = self.try_admin("GET", path).await;
        answer.unwrap_or_else(|| panic!("the admin listener did not answer GET {path}:\n{}", self.stderr()))
    }

    /// `GET path` of the admin listener, which must be 200 and JSON.
    pub(crate) async fn admin(&self, path: &str) -> Value {
        let (status, text) = self.admin_text(path).await;
        assert_eq!(status, 200, "GET {path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("GET {path} is no JSON ({error}): {text}"))
    }

    /// What is remembered of a request whose line stands in the access log: it is remembered right after its line is written.
    pub(crate) async fn remembered(&self, id: &str) -> Value {
        let path = format!("/api/v1/requests/{id}");
        until(&format!("{id} is remembered"), async || self.admin_text(&path).await.0 == 200).await;
        self.admin(&path).await
    }

    /// `POST path` of the admin listener: status and text.
    pub(crate) async fn admin_post(&self, path: &str) -> (u16, String) {
        let answer = self.try_admin("POST", path).await;
        answer.unwrap_or_else(|| panic!("the admin listener did not answer POST {path}:\n{}", self.stderr()))
    }

    async fn try_admin(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut connection = Connection::try_open(&self.admin).await.ok()?;
        let answer = connection.ask(method, path, "Connection: close\r\n", b"").await.ok()?;
        Some((answer.status, answer.text()))
    }

    /// The state of a backend, as the admin API tells it.
    pub(crate) async fn state(&self, upstream: &str, backend: &Address) -> String {
        let status = self.admin("/api/v1/status").await;
        let backends = status["upstreams"].as_array().into_iter().flatten();
        let found = backends
            .filter(|entry| entry["name"] == upstream)
            .flat_map(|entry| entry["backends"].as_array().into_iter().flatten())
            .find(|entry| entry["address"] == backend.to_string());
        let found = found.unwrap_or_else(|| panic!("no backend {backend} in {upstream}: {status:#}"));
        found["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a backend is in a state.
    pub(crate) async fn until_state(&self, upstream: &str, backend: &Address, state: &str) {
        until(&format!("{backend} is {state}"), async || self.state(upstream, backend).await == state).await;
    }

    /// The sum of a metric's series that carry these labels; zero where there is none.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (status, text) = self.admin_text("/metrics").await;
        assert_eq!(status, 200, "{text}");
        let wanted = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect::<Vec<_>>();
        text.lines()
            .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
            .filter(|(series, _)| series.is_empty() || series.starts_with('{'))
            .filter(|(series, _)| wanted.iter().all(|label| series.contains(label.as_str())))
            .map(|(series, value)| value.parse::<f64>().unwrap_or_else(|_| panic!("no number: {name}{series} {value}")))
            .sum()
    }

    /// The lines of the access log so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir().join("access.log")).unwrap_or_default();
        // A line that is still being written has no end yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        whole.lines().map(parse).collect()
    }

    /// Waits for a line of the access log and returns it.
    pub(crate) async fn log_line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        until(&format!("a line of the access log: {what}"), async || {
            found = self.log().into_iter().find(&wanted);
            found.is_some()
        })
        .await;
        found.unwrap_or_default()
    }

    /// Waits for the line of the access log of this path.
    pub(crate) async fn log_for(&self, path: &str) -> Value {
        self.log_line(path, |line| line["path"] == path).await
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.proc_status("VmRSS:") * 1_024
    }

    /// Threads.
    pub(crate) fn threads(&self) -> u64 {
        self.proc_status("Threads:")
    }

    /// Threads whose names begin so.
    pub(crate) fn threads_named(&self, name: &str) -> usize {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|found| found.starts_with(name)).count()
    }

    /// How often each thread that serves clients has waited for something.
    pub(crate) fn rests(&self) -> Vec<u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let serves = |status: &String| status.starts_with("Name:\tlisteners\n");
        tasks.map(status).filter(serves).map(|status| field(&status, "voluntary_ctxt_switches:")).collect()
    }

    /// Open files.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    fn proc_status(&self, key: &str) -> u64 {
        field(&fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default(), key)
    }
}

/// A number of `/proc/PID/status`; zero where it is not told.
fn field(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A process that was started to take the place of a [`Proxy`].
pub(crate) struct Successor {
    process: Process,
    stderr: Arc<Mutex<String>>,
}

impl Successor {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Tells it to drain and waits until it has ended.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id fits"));
        signal::kill(pid, Signal::SIGTERM).expect("the child has not been waited for");
        self.wait_exit().await
    }

    /// Waits until it has ended, and all that it wrote is here.
    pub(crate) async fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the new process has ended", async || {
            status = self.process.0.try_wait().expect("the child is ours to wait for");
            status.is_some() && Arc::strong_count(&self.stderr) == 1
        })
        .await;
        status.expect("it was waited for")
    }

    /// What it has written to stderr.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("the collector does not panic").clone()
    }
}

/// A child that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // All fail only where the child is gone already.
        let _ = signal::killpg(Pid::from_raw(i32::try_from(self.0.id()).expect("a process id fits")), Signal::SIGKILL);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command of the binary to its end.
///
/// # Panics
/// If it does not end within [`PATIENCE`].
pub(crate) async fn roundel(arguments: &[&str]) -> Output {
    roundel_with(&[], arguments).await
}

/// The same with variables in its environment.
pub(crate) async fn roundel_with(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(command());
    command.envs(environment.iter().copied());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(PATIENCE, command.output()).await;
    ended.unwrap_or_else(|_| panic!("roundel {arguments:?} did not end")).expect("cargo has built the binary")
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roundel"));
    // What the machine's user has set must not decide a test.
    for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "RUST_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

/// An address that was free a moment ago; a start that finds it taken is tried again.
pub(crate) fn free_address() -> Address {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").into()
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let (mut stream, into) = (stream.expect("the stream is piped"), Arc::clone(&text));
    thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            into.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    });
    text
}
