//! A file with a YAML list of backends, watched: what another program writes there is served within a second or two.
//!
//! A file that cannot be used changes nothing: the last good list stays, and the fault is told. A change counts once it has come
//! to rest, for half of a list that is being written is a list too.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::Found;
use super::dns::{LONGEST_REFRESH, Resolver};
use super::fixed::Entries;
use crate::base::stamp::{Settled, Stamp};
use crate::config::plan;

/// How often the file is looked at. A change must look the same twice.
const POLL: Duration = Duration::from_millis(500);
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
    seen: Option<Settled<Result<Stamp, String>>>,
    fault: Option<String>,
    next_look: Instant,
    entries: Entries,
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
            let rested = match &mut self.seen {
                Some(seen) => seen.rested(stamp),
                None => Some(stamp),
            };
            if let Some(stamp) = rested
                && let Some(read) = read_as_it_looks(&self.path, self.tls, &stamp).await
            {
                self.seen = Some(Settled::new(stamp));
                self.take_in(read);
                return;
            }
        }
    }

    fn take_in(&mut self, read: Result<Vec<plan::Backend>, String>) {
        let path = self.path.display();
        match read {
            Ok(backends) => {
                log::info!("backends read: file={path} backends={}", backends.len());
                self.entries.replace(backends);
                self.fault = None;
            }
            Err(fault) => {
                log::error!("backends not read, the last good list stays: file={path} reason={fault}");
                self.fault = Some(fault);
            }
        }
    }
}

async fn stamp(path: &Path) -> Result<Stamp, String> {
    let data = tokio::fs::metadata(path).await.map_err(|error| format!("cannot be read: {error}"))?;
    // To open a named pipe would wait for a writer.
    if data.is_file() { Ok(Stamp::from(&data)) } else { Err("not a regular file".to_owned()) }
}

/// What the file says, or why it cannot be used; none where it looks different now: it has changed while it was read.
async fn read_as_it_looks(
    path: &Path,
    tls: bool,
    looks: &Result<Stamp, String>,
) -> Option<Result<Vec<plan::Backend>, String>> {
    let read = match looks {
        Ok(_) => read(path, tls).await,
        Err(fault) => Err(fault.clone()),
    };
    (stamp(path).await == *looks).then_some(read)
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
    max_requests: Option<NonZeroU32>,
    max_connections: Option<NonZeroU32>,
}

const fn one() -> u32 {
    1
}

/// Reads the text of such a file. All backends speak TLS where `tls` is set, else those written `https://`.
///
/// # Errors
/// What is wrong with it, in words, and with which of its backends.
pub fn parse(text: &str, tls: bool) -> Result<Vec<plan::Backend>, String> {
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
        serde_yaml::Value::String(address) => {
            Item { address, weight: one(), backup: false, max_requests: None, max_connections: None }
        }
        other => serde_yaml::from_value(other).map_err(|error| error.to_string())?,
    };
    let (target, https) = target(&item.address)?;
    Ok(plan::Backend {
        name: item.address.into(),
        target,
        tls: tls || https,
        weight: item.weight,
        backup: item.backup,
        max_requests: item.max_requests.map(NonZeroU32::get),
        max_connections: item.max_connections.map(NonZeroU32::get),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::discovery::dns::tests::NameServer;

    fn seen(text: &str) -> Vec<(String, plan::Target, bool, u32, bool)> {
        let backends = parse(text, false).unwrap();
        backends.into_iter().map(|b| (b.name.to_string(), b.target, b.tls, b.weight, b.backup)).collect()
    }

    #[test]
    fn every_form_of_a_backend_is_read() {
        let text = "\
- 10.0.0.1:8080
- https://Web.Internal.:443
- http://[::1]:80
- unix:/run/app.sock
- { address: 10.0.0.2:8080, weight: 3, backup: true }
";
        let inet = |text: &str| plan::Target::Inet(text.parse().unwrap());
        assert_eq!(
            seen(text),
            [
                ("10.0.0.1:8080".to_owned(), inet("10.0.0.1:8080"), false, 1, false),
                (
                    "https://Web.Internal.:443".to_owned(),
                    plan::Target::Name("web.internal".into(), 443),
                    true,
                    1,
                    false
                ),
                ("http://[::1]:80".to_owned(), inet("[::1]:80"), false, 1, false),
                ("unix:/run/app.sock".to_owned(), plan::Target::Unix("/run/app.sock".into()), false, 1, false),
                ("10.0.0.2:8080".to_owned(), inet("10.0.0.2:8080"), false, 3, true),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_the_remedy() {
        for (text, fault) in [
            ("a: b", "not a list (write one backend a line: `- 10.0.0.1:8080`)"),
            ("- 10.0.0.1:80\n- web.internal", "[1]: port missing (write \"web.internal:8080\")"),
            ("- web.internal:http", "[0]: \"http\" is no port"),
            ("- web.internal:0", "[0]: \"0\" is no port"),
            ("- ftp://a:1", "[0]: \"ftp\" is no scheme of a backend (write http or https)"),
            ("- 300.0.0.1:80", "[0]: \"300.0.0.1\" is no host name"),
            ("- http://a:80/x", "[0]: \"80/x\" is no port"),
            ("- unix:app.sock", "[0]: the path of a unix socket must be absolute (write \"unix:/run/app.sock\")"),
            (
                "- { address: 'a:1', wieght: 3 }",
                "[0]: unknown field `wieght`, expected one of `address`, `weight`, `backup`, `max_requests`, `max_connections`",
            ),
            ("- [", "did not find expected node content"),
        ] {
            let said = parse(text, false).unwrap_err();
            assert!(said.contains(fault), "{text}: {said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_and_a_bad_file_keeps_the_last_good_list() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backends.yaml");
        let resolver = NameServer::start().await.resolver(Duration::from_secs(1));
        let mut file = WatchedFile::new(path.clone(), false, resolver);
        assert!(!file.found().complete);

        file.changed().await;
        assert!(file.found().complete && file.found().members.is_empty());
        assert!(file.found().unresolved[0].1.starts_with("cannot be read"), "{:?}", file.found());

        std::fs::write(&path, "- 127.0.0.1:1\n- 127.0.0.1:2\n").unwrap();
        file.changed().await;
        assert_eq!((file.found().members.len(), file.found().unresolved.len()), (2, 0));

        std::fs::write(&path, "- 127.0.0.1:1\n- nonsense\n").unwrap();
        file.changed().await;
        let found = file.found();
        assert_eq!(found.members.len(), 2);
        assert!(found.unresolved[0].1.contains("[1]: port missing"), "{:?}", found.unresolved);

        // To open this waits for a writer, for ever.
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        file.changed().await;
        assert_eq!(file.found().unresolved[0].1, "not a regular file");
        assert_eq!(file.found().members.len(), 2);

        // As programs write that take care: a new file is put in the place of the old one.
        let next = directory.path().join("next");
        std::fs::write(&next, "- 127.0.0.1:3\n").unwrap();
        std::fs::rename(&next, &path).unwrap();
        file.changed().await;
        assert_eq!((file.found().members.len(), file.found().unresolved.len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_a_list_that_is_being_written_is_not_taken_for_the_list() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backends.yaml");
        let list = |length: u16| (1..=length).map(|port| format!("- 127.0.0.1:{port}\n")).collect::<String>();
        std::fs::write(&path, list(9)).unwrap();
        let resolver = NameServer::start().await.resolver(Duration::from_secs(1));
        let mut file = WatchedFile::new(path.clone(), false, resolver);
        file.changed().await;
        assert_eq!(file.found().members.len(), 9);

        // More backends before each look: the list is taken when nothing has come for a while.
        let writes = async {
            for length in 0..=8 {
                std::fs::write(&path, list(length)).unwrap();
                tokio::time::sleep(POLL / 2).await;
            }
        };
        let mut lengths = Vec::new();
        let looks = async {
            while lengths.last() != Some(&8) {
                file.changed().await;
                lengths.push(file.found().members.len());
            }
        };
        tokio::join!(writes, looks);
        assert_eq!(lengths, [8]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = parse(&text, false);
        }
    }
}
