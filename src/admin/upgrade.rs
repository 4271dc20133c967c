//! An order to upgrade: taken in here, carried out by the process, answered when the new one serves or has failed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::Answer;
use crate::base::units::parse_duration;
use crate::config::plan::ListenAddress;

/// Where the order is given.
pub(super) const PATH: &str = "/api/v1/upgrade";
/// How long a new process may take to serve where the order does not say.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may be given.
const LONGEST: Duration = Duration::from_secs(3600);

/// An order to upgrade.
#[derive(Debug)]
pub struct Order {
    /// The binary; none: the one that runs, by its path.
    pub binary: Option<PathBuf>,
    /// How long the new process may take to serve.
    pub patience: Duration,
    /// Where the outcome is told.
    pub outcome: oneshot::Sender<Outcome>,
}

/// What became of an order.
#[derive(Debug)]
pub enum Outcome {
    /// Another process serves now. What comes along is dropped when the operator has been answered.
    Upgraded(NewProcess, oneshot::Sender<()>),
    /// This one serves on: why.
    Failed(String),
    /// Nothing was begun: why.
    Refused(String),
}

/// The process that serves now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProcess {
    /// Its process id.
    pub pid: u32,
    /// The generation of what it serves by.
    pub generation: u64,
    /// Its version.
    pub version: String,
}

/// Where orders are carried out.
pub type Orders = mpsc::Sender<Order>;

/// Gives the order that a query describes, and waits for its outcome.
pub(super) async fn answer(orders: &Orders, query: &str, address: &ListenAddress) -> Answer {
    let begun = Instant::now();
    let (outcome, told) = oneshot::channel();
    let order = match order(query, address, outcome) {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let ending = || Answer::problem(StatusCode::CONFLICT, "not upgraded: the process is about to end");
    if orders.send(order).await.is_err() {
        return ending();
    }
    match told.await {
        Ok(Outcome::Upgraded(new, answered)) => {
            let told = json!({
                "old_pid": std::process::id(),
                "pid": new.pid,
                "generation": new.generation,
                "version": new.version,
                "duration_ms": u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            Answer { held: Some(answered), ..Answer::json(StatusCode::OK, &told) }
        }
        Ok(Outcome::Failed(why)) => Answer::problem(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Ok(Outcome::Refused(why)) => Answer::problem(StatusCode::CONFLICT, &why),
        Err(_) => ending(),
    }
}

fn order(query: &str, address: &ListenAddress, outcome: oneshot::Sender<Outcome>) -> Result<Order, Answer> {
    let fault = |detail| Err(Answer::problem(StatusCode::BAD_REQUEST, detail));
    let mut order = Order { binary: None, patience: PATIENCE, outcome };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("timeout", text)) => match parse_duration(text) {
                Ok(patience) if !patience.is_zero() => order.patience = patience.min(LONGEST),
                _ => return fault("`timeout` is no duration above zero (write `timeout=60s`)"),
            },
            // Whoever bears the token may restart the proxy, but not run a program of his choice as its user.
            Some(("binary", _)) if !matches!(address, ListenAddress::Unix(_)) => {
                let detail =
                    "another binary can only be named on a unix socket (use the admin socket, or replace the file)";
                return Err(Answer::problem(StatusCode::FORBIDDEN, detail));
            }
            Some(("binary", path)) => {
                let path = PathBuf::from(percent_decode_str(path).decode_utf8_lossy().into_owned());
                if !path.is_absolute() {
                    return fault("`binary` is no absolute path");
                }
                order.binary = Some(path);
            }
            _ => return fault("unknown parameter (an upgrade knows `timeout=60s` and `binary=/PATH`)"),
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, address: &ListenAddress) -> Result<Order, u16> {
        order(query, address, oneshot::channel().0).map_err(|answer| answer.status.as_u16())
    }

    #[test]
    fn a_binary_is_named_on_a_unix_socket_alone() {
        let socket = ListenAddress::Unix("/run/roundel/admin.sock".into());
        let tcp = ListenAddress::Inet("127.0.0.1:9901".parse().unwrap());
        let order = read("binary=%2Fopt%2Froundel&timeout=5s", &socket).unwrap();
        assert_eq!((order.binary, order.patience), (Some("/opt/roundel".into()), Duration::from_secs(5)));
        assert_eq!(read("binary=%2Fopt%2Froundel", &tcp).unwrap_err(), 403);
        assert_eq!(read("", &tcp).unwrap().binary, None);
        for wrong in ["binary=roundel", "timeout=0s", "timeout=5", "force=true"] {
            assert_eq!(read(wrong, &socket).unwrap_err(), 400, "{wrong}");
        }
    }
}
