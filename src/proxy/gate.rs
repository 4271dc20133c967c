//! What holds back the answer to a request that may become a tunnel until Pingora knows that the request has ended.
//!
//! Pingora passes the end of a request's body to its upstream half through a channel and reads the answer meanwhile. A
//! backend that switches protocols before the upstream half has looked into the channel makes it take that end for the end of
//! the tunnel (pingora-proxy 0.9.1, `proxy_h1.rs`, `proxy_handle_upstream`: `request_done && was_upgraded()`), and the tunnel
//! is closed as soon as it is open: about once in ten thousand times with a backend on the same machine. So nothing of the answer is
//! read before the end stands in the channel.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// How often a read is put off once the gate has opened, so that who reads the channel in the same turn comes first. Once is
/// enough but where the runtime interrupts that turn.
const TURNS: u8 = 4;

/// A gate in the way of what one connection reads. Its clones are the same gate.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    shut: bool,
    /// How often the next reads are put off.
    turns: u8,
    waits: Option<Waker>,
}

impl Gate {
    /// From now on no read succeeds.
    pub(super) fn shut(&self) {
        self.0.lock().shut = true;
    }

    /// Reads succeed again, a few turns from now.
    pub(super) fn open(&self) {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.shut) {
            state.turns = TURNS;
        }
        if let Some(waits) = state.waits.take() {
            waits.wake();
        }
    }

    /// Ready when reads may succeed.
    pub(super) fn poll_passed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.shut {
            state.waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.turns > 0 {
            state.turns -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    #[test]
    fn nothing_passes_while_it_is_shut_and_who_waits_is_woken() {
        let gate = Gate::default();
        let cx = Context::from_waker(Waker::noop());
        assert!(gate.poll_passed(&cx).is_ready());
        gate.open();
        assert!(gate.poll_passed(&cx).is_ready(), "what was not shut is not opened");
        gate.shut();
        assert!(gate.poll_passed(&cx).is_pending());
        assert!(gate.0.lock().waits.is_some());
        gate.open();
        assert!(gate.0.lock().waits.is_none());
        for _ in 0..TURNS {
            assert!(gate.poll_passed(&cx).is_pending());
        }
        assert!(gate.poll_passed(&cx).is_ready());
    }
}
