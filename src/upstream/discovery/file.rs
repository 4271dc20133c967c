//! A file with a YAML list of backends, watched: what another program writes there is served within a second or two.
//!
//! A file that cannot be used changes nothing: the last good list stays, and the fault is told.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::Found;
use super::dns::{LONGEST_REFRESH, Resolver};
use super::fixed::Entries;
use crate::config::plan;

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);
/// A longer file is refused.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;
/// More backends are refused.
const MOST_BACKENDS: usize = 65_535;
/// The longest path of a unix socket (`sun_path`, without its final zero).
const LONGEST_SOCKET_PATH: usize = 107;

/// The file and what it said last.
pub(super) struct WatchedFile {
    path: PathBuf,
    tls: bool,
    /// What the file looked like when it was read; none before the first reading.
    seen: Option<Result<Stamp, String>>,
    fault: Option<String>,
    next_look: Instant,
    entries: Entries,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl WatchedFile {
    /// All backends speak TLS where `tls` is set, else those written `https://`.
    pub(super) fn new(path: PathBuf, tls: bool, resolver: Arc<Resolver>) -> Self {
        let entries = Entries::new(Vec::new(), resolver, LONGEST_REFRESH);
        Self { path, tls, seen: None, fault: None, next_look: Instant::now(), entries }
    }

    /// What is known by now.
    pub(super) fn found(&self) -> Found {
        let mut found = self.entries.found();
        found.complete &= self.seen.is_some();
        if let Some(fault) = &self.fault {
            found.unresolved.push((self.path.display().to_string().into(), fault.clone()));
        }
        found
    }

    /// Waits until what is known has changed. May be dropped and called again: nothing is lost.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = self.entries.changed() => return,
                () = tokio::time::sleep_until(self.next_look) => {}
            }
            let stamp = stamp(&self.path).await;
            self.next_look = Instant::now() + POLL;
            if self.seen.as_ref() != Some(&stamp) {
                let read = match &stamp {
                    Ok(_) => read(&self.path, self.tls).await,
                    Err(fault) => Err(fault.clone()),
                };
                self.seen = Some(stamp);
                self.take_in(read);
                return;
            }
        }
    }

    fn take_in(&mut self, read: Result<Vec<plan::Backend>, String>) {
        let path = self.path.display();
        match read {
            Ok(backends) => {
                log::info!("backends read; file={path} backends={}", backends.len());
                self.entries.replace(backends);
                self.fault = None;
            }
            Err(fault) => {
                log::error!("backends not read, the last good list stays; file={path} reason={fault}");
                self.fault = Some(fault);
            }
        }
    }
}

async fn stamp(path: &Path) -> Result<Stamp, String> {
    let data = tokio::fs::metadata(path).await.map_err(|error| format!("cannot be read: {error}"))?;
    Ok(Stamp {
        inode: data.ino(),
        bytes: data.len(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
    })
}

async fn read(path: &Path, tls: bool) -> Result<Vec<plan::Backend>, String> {
    let fault = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await.map_err(fault)?;
    file.take(LONGEST_FILE + 1).read_to_string(&mut text).await.map_err(fault)?;
    if text.len() as u64 > LONGEST_FILE {
        return Err("longer than 4 MiB".to_owned());
    }
    parse(&text, tls)
}

/// One item of the list, where it is more than an address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    address: String,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    backup: bool,
}

const fn one() -> u32 {
    1
}

fn parse(text: &str, tls: bool) -> Result<Vec<plan::Backend>, String> {
    let list: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let serde_yaml::Value::Sequence(items) = list else {
        return Err("not a list (write one backend a line: `- 10.0.0.1:8080`)".to_owned());
    };
    if items.len() > MOST_BACKENDS {
        return Err(format!("more than {MOST_BACKENDS} backends"));
    }
    let backend = |(index, item)| backend(item, tls).map_err(|fault| format!("[{index}]: {fault}"));
    items.into_iter().enumerate().map(backend).collect()
}

fn backend(item: serde_yaml::Value, tls: bool) -> Result<plan::Backend, String> {
    let item = match item {
        serde_yaml::Value::String(address) => Item { address, weight: one(), backup: false },
        other => serde_yaml::from_value(other).map_err(|error| error.to_string())?,
    };
    let (target, https) = target(&item.address)?;
    Ok(plan::Backend { name: item.address.into(), target, tls: tls || https, weight: item.weight, backup: item.backup })
}

/// The place that `text` names, and whether it says `https`.
fn target(text: &str) -> Result<(plan::Target, bool), String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(|target| (target, false));
    }
    let (scheme, authority) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let https = match scheme {
        None | Some("http") => false,
        Some("https") => true,
        Some(other) => return Err(format!("{other:?} is no scheme of a backend (write http or https)")),
    };
    if let Ok(address) = authority.parse() {
        return Ok((plan::Target::Inet(address), https));
    }
    let Some((host, port)) = authority.rsplit_once(':') else {
        return Err(format!("port missing (write \"{authority}:8080\")"));
    };
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{port:?} is no port"))?;
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if is_host_name(&host) {
        Ok((plan::Target::Name(host.into(), port), https))
    } else {
        Err(format!("{host:?} is no host name"))
    }
}

fn unix(path: &str) -> Result<plan::Target, String> {
    if !path.starts_with('/') {
        return Err("the path of a unix socket must be absolute (write \"unix:/run/app.sock\")".to_owned());
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(format!("the path of a unix socket is limited to {LONGEST_SOCKET_PATH} bytes"));
    }
    Ok(plan::Target::Unix(path.into()))
}

/// RFC 1123, 2.1, and underscores, which container networks use. A name that looks like an IPv4 address is not one.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric_end = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(label) && !numeric_end
}
