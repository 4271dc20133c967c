//! A proxy as the tests see it.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Act, Model};
use super::report::*;

/// Two upstreams, one of them in trouble.
pub(super) fn report() -> Report {
    let backend = |address: &str, state: &str, reason: &str, p50: Option<f64>| Backend {
        address: address.into(),
        name: address.into(),
        state: state.into(),
        since: "2026-03-01T11:58:00Z".parse().ok(),
        reason: reason.into(),
        weight: 1,
        backup: false,
        in_flight: p50.map_or(0, |ms| ms as u64),
        requests: 48_211,
        failures: u64::from(p50.is_none()) * 7,
        latency_ms: Latency { p50, p99: p50.map(|ms| ms * 7.5) },
        last_probe: Some(Probe {
            at: "2026-03-01T11:59:58Z".parse().ok(),
            ok: p50.is_some(),
            duration_ms: p50,
            error: p50.is_none().then(|| "connection refused".to_owned()),
        }),
    };
    let web = Upstream {
        name: "web".into(),
        balance: "round_robin".into(),
        backends: vec![
            backend("10.0.0.1:8080", "healthy", "2 probes were good in a row", Some(1.2)),
            backend("10.0.0.2:8080", "slow_start", "its weight rises after a rest", Some(3.4)),
            backend("10.0.0.3:8080", "unhealthy", "3 probes failed in a row: connection refused", None),
        ],
        ..Upstream::default()
    };
    let api = Upstream {
        name: "api".into(),
        balance: "least_requests".into(),
        backends: vec![
            backend("10.1.0.1:9000", "drained", "drained by the operator", Some(12.0)),
            Backend { backup: true, ..backend("unix:/run/api.sock", "healthy", "its first probe was good", Some(0.4)) },
        ],
        unresolved: vec![Unresolved { name: "api.internal:9000".into(), reason: "name does not exist".into() }],
        limits: Limits { pending: 2 },
    };
    let wave = |low: u64, high: u64| (0..300).map(|at: u64| low + (high - low) * (at % 60) / 60).collect::<Vec<_>>();
    let some = |all: Vec<u64>| all.into_iter().map(|one| Some(one as f64 / 10.0)).collect::<Vec<_>>();
    let sums = Sums { requests: wave(20, 400), errors: vec![0; 300] };
    Report {
        status: Status {
            version: "0.1.0".into(),
            pid: 4711,
            generation: 3,
            config_hash: "8fb8fda0193824bb".into(),
            started_at: "2026-03-01T09:00:00Z".parse().ok(),
            listeners: vec![
                Listener { name: "public".into(), address: "0.0.0.0:443".into(), connections: Some(212) },
                Listener { name: "127.0.0.1:8080".into(), address: "127.0.0.1:8080".into(), connections: Some(3) },
            ],
            upstreams: vec![web, api],
        },
        history: History {
            good: wave(20, 400),
            client_errors: wave(0, 4),
            server_errors: wave(0, 30).into_iter().map(|one| one.saturating_sub(25)).collect(),
            p50_ms: some(wave(8, 20)),
            p99_ms: some(wave(60, 400)),
            upstreams: [("web".to_owned(), sums.clone()), ("api".to_owned(), sums)].into(),
        },
    }
}

/// A model that has heard a report each second for two minutes.
pub(super) fn watching(report: Report) -> Model {
    const SECONDS: u64 = 120;
    let mut model = Model::default();
    let wall: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
    for second in 0..=SECONDS {
        let mut then = report.clone();
        for (upstream, each) in then.status.upstreams.iter_mut().zip([100, 40]) {
            for backend in upstream.backends.iter_mut().filter(|backend| backend.usable()) {
                // More of them lately than before.
                let left = SECONDS - second;
                backend.requests -= left * each - left * left * each / (3 * SECONDS);
            }
        }
        model.tick(Duration::from_secs(600 + second), wall);
        model.hear(Ok(then));
    }
    model
}

pub(super) fn press(model: &mut Model, code: KeyCode) -> Option<Act> {
    model.press(KeyEvent::new(code, KeyModifiers::NONE))
}

/// Presses a key for each letter; a line feed is Enter.
pub(super) fn type_in(model: &mut Model, text: &str) {
    for letter in text.chars() {
        press(model, if letter == '\n' { KeyCode::Enter } else { KeyCode::Char(letter) });
    }
}
