//! What two processes say to each other during an upgrade.

use serde::{Deserialize, Serialize};

/// The version of this conversation. A process that does not know the version it is offered says so and ends.
pub const PROTOCOL: u32 = 1;

/// One message. `Sockets` and `Estate` bring descriptors along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// Old to new: how much comes, and from whom.
    Offer(Offer),
    /// Old to new: some of the listening sockets; a name for each descriptor that comes along.
    Sockets {
        /// Their addresses, as the configuration writes them.
        names: Vec<String>,
    },
    /// New to old: all sockets have come.
    Taken {
        /// How many.
        sockets: usize,
    },
    /// New to old: everything is bound and built; what the old process has learnt may come.
    Ready,
    /// Old to new: what it has learnt, in the memory file that comes along; without one, nothing.
    Estate,
    /// New to old: clients are accepted.
    Serving {
        /// The new process.
        pid: u32,
        /// The generation of what it serves by.
        generation: u64,
        /// Its version.
        version: String,
    },
    /// Old to new: go on alone.
    Relieved,
    /// New to old: it does, and the pid file names it.
    Thanks,
    /// New to old: it cannot serve.
    Failed {
        /// Why: one line, or the diagnostics of a configuration.
        why: String,
    },
    /// Old to new: the upgrade is called off.
    Cancelled,
}

/// The first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The old process.
    pub pid: u32,
    /// The generation that the new process begins with: it follows the old one's.
    pub generation: u64,
    /// How many sockets come.
    pub sockets: usize,
}
