//! `roundel demo`: three sample backends inside the process, and the proxy over them.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::print;
use crate::config::{self, Paint};
use crate::server::{self, Options};

/// The backends by name.
const NAMES: [&str; 3] = ["amber", "birch", "cedar"];

/// Which backends are up. Any of them may be asked to fail any other.
type Up = Arc<[AtomicBool; 3]>;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen (127.0.0.1:8080, or another port where that is taken)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where the admin listener listens (127.0.0.1:9901, or another port where that is taken)
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let up = Up::new([const { AtomicBool::new(true) }; 3]);
    let backends = (0..NAMES.len()).map(|which| start_backend(which, &up)).collect::<io::Result<Vec<_>>>()?;
    let listen = args.listen.map_or_else(|| free(8080), Ok)?;
    let admin = args.admin.map_or_else(|| free(9901), Ok)?;
    let text = configuration(listen, admin, &backends);
    let loaded = config::load_text("demo", &text, &config::process_environment)
        .map_err(|faults| io::Error::other(faults.render(Paint::Plain).to_string()))?;
    print(welcome(listen, admin, &text))?;
    server::run(loaded.plan, Options::default())
}

fn configuration(listen: SocketAddr, admin: SocketAddr, backends: &[SocketAddr]) -> String {
    let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
    format!(
        "listeners:\n  - address: {listen}\nadmin:\n  address: {admin}\nupstreams:\n  web:\n    backends: [{}]\n    \
         health_check: {{ type: http, path: /healthz, interval: 2s, timeout: 1s }}\n",
        backends.join(", ")
    )
}

fn welcome(listen: SocketAddr, admin: SocketAddr, text: &str) -> String {
    let text = text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "Roundel runs over three sample backends ({}), with this configuration:\n\n{text}\n\
         Try in another terminal:\n\n    \
         curl http://{listen}/                again and again: they take turns\n    \
         curl http://{listen}/fail/birch      birch is down: its probes fail, requests go elsewhere\n    \
         curl http://{listen}/heal/birch      and back\n    \
         curl http://{admin}/api/v1/status  what the proxy knows of each backend, and why\n    \
         curl http://{admin}/metrics\n\n\
         Ctrl-C ends it. Each request is a line below.\n\n",
        NAMES.join(", ")
    )
}

/// The usual port where it is free, else any.
fn free(port: u16) -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind("127.0.0.1:0"))?.local_addr()
}

/// A backend that lives as long as the process. It says who it is, and fails on request.
fn start_backend(which: usize, up: &Up) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let up = up.clone();
    thread::Builder::new().name(format!("demo-{}", NAMES[which])).spawn(move || {
        for stream in listener.incoming().flatten() {
            let up = up.clone();
            // A sample backend that cannot start another thread drops the connection: the proxy copes.
            let _ = thread::Builder::new().spawn(move || converse(which, stream, &up));
        }
    })?;
    Ok(address)
}

/// Answers requests without bodies on one connection until it ends.
fn converse(which: usize, stream: TcpStream, up: &Up) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(path) = next_path(&mut reader)? {
        let (status, body) = respond(which, &path, up);
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Backend: {}\r\n\r\n{body}",
            body.len(),
            NAMES[which]
        );
        writer.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn next_path(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(path) = line.split(' ').nth(1).map(ToOwned::to_owned) else { return Ok(None) };
    while !matches!(line.as_str(), "\r\n" | "\n" | "") {
        line.clear();
        reader.read_line(&mut line)?;
    }
    Ok(Some(path))
}

fn respond(which: usize, path: &str, up: &Up) -> (&'static str, String) {
    let switch = |name: &str, state: bool| match NAMES.iter().position(|known| *known == name) {
        Some(found) => {
            up[found].store(state, Relaxed);
            ("200 OK", format!("{name} is {} from now on.\n", if state { "up" } else { "down" }))
        }
        None => ("404 Not Found", format!("The backends are {}.\n", NAMES.join(", "))),
    };
    if let Some(name) = path.strip_prefix("/fail/") {
        return switch(name, false);
    }
    if let Some(name) = path.strip_prefix("/heal/") {
        return switch(name, true);
    }
    if up[which].load(Relaxed) {
        ("200 OK", format!("Hello from {}.\n", NAMES[which]))
    } else {
        ("500 Internal Server Error", format!("{} is down.\n", NAMES[which]))
    }
}
