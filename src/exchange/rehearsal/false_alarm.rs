//! The chance that probes which get lost by themselves take a healthy backend out.
//!
//! Too rare to be counted in runs, it is reckoned: the state machine says how many lost probes in a row take a backend out,
//! and arithmetic how often that happens in a day.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::upstream::state::{Entry, Event, Health, Policy};

const DAY: Duration = Duration::from_secs(86_400);

/// The chance (0.0 to 1.0) that a healthy backend is taken out within a day at least once, where each probe is lost with the
/// chance `loss` independently of the others, and a lost one takes `timeout`. Zero where backends are not probed.
#[must_use]
pub(super) fn chance_a_day(policy: &Policy, timeout: Duration, loss: f64) -> f64 {
    let Some(waits) = waits_before_it_is_out(policy) else { return 0.0 };
    // A settled backend's probe begins a round. The round goes on for as long as probes are lost.
    let (settled, between) = waits.split_first().map_or((Duration::ZERO, &waits[..]), |(first, rest)| (*first, rest));
    let reached = |lost: usize| loss.powf(lost as f64);
    let round = between.iter().zip(1..).map(|(wait, lost)| reached(lost) * (timeout + *wait).as_secs_f64());
    let round = settled.as_secs_f64() + round.sum::<f64>();
    let alarm = reached(waits.len());
    if alarm >= 1.0 || round <= 0.0 {
        return if alarm > 0.0 { 1.0 } else { 0.0 };
    }
    -(DAY.as_secs_f64() / round * (-alarm).ln_1p()).exp_m1()
}

/// The waits before each of the probes whose loss, one after the other, takes a settled backend out, as the state machine has
/// it. None where it is not probed.
fn waits_before_it_is_out(policy: &Policy) -> Option<Vec<Duration>> {
    let mut health = Health::new(policy, Entry::AtStart, Moment::START);
    // A good probe, and the end of a slow start, settle it.
    health.apply(policy, Event::ProbeGood, Moment::START);
    let now = Moment::START + policy.slow_start;
    health.apply(policy, Event::Tick, now);
    let mut waits = Vec::new();
    while health.usable() {
        waits.push(health.next_probe_after(policy, now)?);
        health.apply(policy, Event::ProbeFailed("lost"), now);
    }
    Some(waits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Start;
    use crate::upstream::state::ProbePolicy;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn policy(fall: u32) -> Policy {
        let probes = ProbePolicy {
            fall,
            rise: 2,
            interval: Duration::from_secs(10),
            fast_interval: Duration::from_secs(1),
            start: Start::Probe,
            asks_application: false,
        };
        Policy { probes: Some(probes), outlier: None, slow_start: Duration::from_secs(30) }
    }

    #[test]
    fn where_no_probe_is_lost_there_is_no_false_alarm() {
        assert_eq!(chance_a_day(&policy(1), TIMEOUT, 0.0), 0.0);
        assert_eq!(chance_a_day(&Policy { probes: None, ..policy(3) }, TIMEOUT, 0.5), 0.0);
    }

    #[test]
    fn three_in_a_row_of_a_hundredth_happen_once_in_four_months() {
        // 8640 rounds a day less a little, a millionth each.
        let chance = chance_a_day(&policy(3), TIMEOUT, 0.01);
        assert!((0.0085..0.0087).contains(&chance), "{chance}");
    }

    #[test]
    fn a_backend_whose_every_probe_is_lost_is_out_for_certain_and_more_patience_means_fewer_alarms() {
        assert_eq!(chance_a_day(&policy(3), TIMEOUT, 1.0), 1.0);
        let chances: Vec<_> = (1..6).map(|fall| chance_a_day(&policy(fall), TIMEOUT, 0.01)).collect();
        assert!(chances.is_sorted_by(|more, less| more > less), "{chances:?}");
    }
}
