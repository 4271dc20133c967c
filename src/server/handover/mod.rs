//! An upgrade: the running process starts a new one, hands over its listening sockets and what it has learnt, and leaves only
//! when the new one has proved that it serves.
//!
//! Both speak over a socket pair that the new process inherits (`channel`, `message`):
//!
//! ```text
//! successor.rs (the old process)                    predecessor.rs (the new process)
//!   start it ──────────────────────────────────────▶ reads its configuration
//!   Offer, Sockets + descriptors … ────────────────▶ has them all
//!   ◀──────────────────────────────────────── Taken   binds what is new, opens logs, builds
//!   ◀──────────────────────────────────────── Ready
//!   Estate + a memory file ────────────────────────▶ goes on with health and limits; probes; opens its listeners
//!   ◀────────────────────────────── Serving {pid, …}
//!   Relieved ──────────────────────────────────────▶ writes the pid file
//!   ◀───────────────────────────────────────── Thanks
//!   drains
//! ```
//!
//! Until `Thanks` has come, whatever goes wrong leaves the old process serving: it ends the new one and tells why. Where the
//! old process is killed on the way, the new one goes on with what it has got: somebody must serve. Where the new one is
//! killed, nothing has changed.
//!
//! This is Roundel's own protocol, for `roundel upgrade`. That of Pingora's `--upgrade` and SIGQUIT, which knows neither an
//! acknowledgement nor more than 32 sockets, is in `listen`.

pub mod channel;
pub mod estate;
pub mod message;
pub mod predecessor;
pub mod successor;
