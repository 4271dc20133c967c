//! How much of an upstream a drain may take out of use.

use std::fmt;
use std::sync::Arc;

use super::Pool;
use crate::upstream::backend::{Admission, Backend};
use crate::upstream::members::Members;
use crate::upstream::state::Event;

/// Too little would be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortage {
    /// The share of the weight of all members that could still be used, 0.0 to 1.0.
    pub left: f64,
    /// The share that must be left.
    pub floor: f64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| (share * 100.0).floor();
        write!(
            f,
            "{}% of the upstream's weight would be left in use, less than drain.floor ({}%)",
            percent(self.left),
            percent(self.floor)
        )
    }
}

impl Pool {
    /// Drains as [`Pool::drain`] does, if `floor` (0.0 to 1.0) of the weight of all members stays usable. A backend that gets no
    /// requests anyway may always be drained: nothing is lost by it.
    ///
    /// # Errors
    /// Too little would be left; nothing is drained.
    pub fn drain_down_to(&self, name_or_address: &str, floor: f64) -> Result<Vec<Arc<Backend>>, Shortage> {
        let judge = |members: &Members, found: &[Arc<Backend>]| match left(members, found) {
            Some(left) if left < floor => Err(Shortage { left, floor }),
            _ => Ok(()),
        };
        self.command_if(name_or_address, judge, |control, backend, now| {
            self.withdraw(control, backend, Event::Drain, now);
        })
    }
}

/// The share of the weight that stays usable without `found`; none where they are not usable now.
fn left(members: &Members, found: &[Arc<Backend>]) -> Option<f64> {
    let usable = |backend: &&Arc<Backend>| backend.admits(Admission::Usable);
    let weight = |backend: &Arc<Backend>| u64::from(backend.weight());
    let goes = |backend: &Arc<Backend>| found.iter().any(|found| found.id() == backend.id());
    let lost: u64 = found.iter().filter(usable).map(weight).sum();
    let all: u64 = members.backends.iter().map(weight).sum();
    let stays: u64 = members.backends.iter().filter(usable).filter(|backend| !goes(backend)).map(weight).sum();
    (lost > 0).then(|| stays as f64 / all as f64)
}
