//! A bound on lines of the process log that others provoke: a few at once, then one a second, and how many were left out.

use std::time::Duration;

use parking_lot::Mutex;

use crate::base::clock::Moment;
use crate::base::gcra::Gcra;

/// Lines at once.
const BURST: u32 = 10;

/// What lets some of many lines through.
#[derive(Debug)]
pub struct Sparing {
    bound: Gcra,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    full_at: Moment,
    left_out: u64,
}

impl Default for Sparing {
    fn default() -> Self {
        Self { bound: Gcra::new(1, Duration::from_secs(1), BURST), state: Mutex::default() }
    }
}

impl Sparing {
    /// Whether a line may be written at `now`: with how many were left out since the last one.
    pub fn pass(&self, now: Moment) -> Option<u64> {
        let mut state = self.state.lock();
        match self.bound.take(state.full_at, now) {
            Ok(full_at) => {
                state.full_at = full_at;
                Some(std::mem::take(&mut state.left_out))
            }
            Err(_) => {
                state.left_out += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_line_is_told_or_counted_and_no_more_than_the_bound_are_told(
            pauses in prop::collection::vec(0_u64..3_000, 1..200),
        ) {
            let sparing = Sparing::default();
            let (mut now, mut told, mut left_out) = (Moment::after_start(Duration::from_secs(60)), 0, 0);
            for pause in &pauses {
                now = now + Duration::from_millis(*pause);
                if let Some(before) = sparing.pass(now) {
                    told += 1;
                    left_out += before;
                }
            }
            let open = sparing.state.lock().left_out;
            prop_assert_eq!(told + left_out + open, pauses.len() as u64);
            prop_assert!(told <= u64::from(BURST) + pauses.iter().sum::<u64>() / 1_000);
        }
    }
}
