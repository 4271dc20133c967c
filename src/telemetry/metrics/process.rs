//! What the kernel tells of this process (`/proc/self`), under the names that all Prometheus clients use. Where there is
//! no `/proc` nothing is told.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::text::{Family, Kind};

/// The kernel counts CPU time for user space in hundredths of a second (`USER_HZ`), whatever its own tick is.
const USER_HZ: f64 = 100.0;

/// Appends the `process_*` metrics.
pub(super) fn write(out: &mut String) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
        counter(out, "process_cpu_seconds_total", "CPU time used, user and system.", stat.cpu_seconds);
        gauge(out, "process_threads", "Threads.", stat.threads as f64);
        gauge(out, "process_virtual_memory_bytes", "Virtual memory.", stat.virtual_bytes as f64);
        if let Some(booted) = boot_time() {
            gauge(
                out,
                "process_start_time_seconds",
                "When the process started, as seconds since 1970.",
                booted as f64 + stat.started,
            );
        }
    }
    if let Some(bytes) = resident_bytes() {
        gauge(out, "process_resident_memory_bytes", "Memory in use.", bytes as f64);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The directory itself is open while it is read.
        gauge(out, "process_open_fds", "Open file descriptors.", entries.count().saturating_sub(1) as f64);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        gauge(out, "process_max_fds", "The most file descriptors that may be open.", soft as f64);
    }
}

fn counter(out: &mut String, name: &'static str, help: &'static str, value: f64) {
    Family::new(out, Kind::Counter, name, help).sample(&[], value);
}

fn gauge(out: &mut String, name: &'static str, help: &'static str, value: f64) {
    Family::new(out, Kind::Gauge, name, help).sample(&[], value);
}

/// What is used of `/proc/self/stat` (proc(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// Seconds from the boot of the machine.
    started: f64,
    virtual_bytes: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, which may hold anything.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / USER_HZ,
            threads: field(20)?,
            started: field(22)? as f64 / USER_HZ,
            virtual_bytes: field(23)?,
        })
    }
}

/// When the machine was booted, in seconds since 1970.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kibibytes.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_any_name_is_understood() {
        let text = "7 (a) b) R 1 1 1 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 9 0 12345 1048576 200 18446744073709551615";
        assert_eq!(
            Stat::parse(text),
            Some(Stat { cpu_seconds: 3.0, threads: 9, started: 123.45, virtual_bytes: 1_048_576 })
        );
        assert_eq!(Stat::parse("7 (a"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_everything() {
        let mut out = String::new();
        write(&mut out);
        assert_eq!(out.lines().filter(|line| line.starts_with("process_")).count(), 7, "{out}");
    }
}
