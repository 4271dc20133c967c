//! The promises of the health state machine, each as a short history.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn probed() -> Policy {
    let probes = ProbePolicy {
        fall: 3,
        rise: 2,
        interval: 10 * SECOND,
        fast_interval: SECOND,
        start: Start::Probe,
        asks_application: false,
    };
    let outlier =
        Outlier { consecutive_errors: 5, base_ejection: 30 * SECOND, max_ejection: 300 * SECOND, max_ejected: 0.1 };
    Policy { probes: Some(probes), outlier: Some(outlier), slow_start: Duration::ZERO }
}

fn with(change: impl FnOnce(&mut Policy, &mut ProbePolicy)) -> Policy {
    let mut policy = probed();
    let mut probes = policy.probes.unwrap();
    change(&mut policy, &mut probes);
    Policy { probes: Some(probes), ..policy }
}

fn unprobed() -> Policy {
    Policy { probes: None, ..probed() }
}

/// A backend, its policy and its time: every event comes one second after the last.
struct Story {
    policy: Policy,
    health: Health,
    now: Moment,
}

impl Story {
    fn of(policy: Policy) -> Self {
        Self { policy, health: Health::new(&policy, Entry::AtStart, Moment::START), now: Moment::START }
    }

    fn healthy() -> Self {
        Self::of(probed()).with(Event::ProbeGood)
    }

    fn with(mut self, event: Event<'_>) -> Self {
        self.then(event);
        self
    }

    fn then(&mut self, event: Event<'_>) -> Option<Transition> {
        self.now = self.now + SECOND;
        self.health.apply(&self.policy, event, self.now)
    }

    fn fails(&mut self, failure: Failure, times: usize) -> Option<Transition> {
        (0..times).map(|_| self.fails_begun(self.now, failure)).last().flatten()
    }

    fn fails_begun(&mut self, begun: Moment, failure: Failure) -> Option<Transition> {
        self.then(Event::RequestFailed { begun, failure, why: "connection refused", may_eject: true })
    }

    fn succeeds(&mut self) -> Option<Transition> {
        self.then(Event::RequestSucceeded { begun: self.now })
    }

    fn after(&mut self, span: Duration) -> Option<Transition> {
        self.now = self.now + span;
        self.health.apply(&self.policy, Event::Tick, self.now)
    }

    fn state(&self) -> State {
        self.health.state()
    }

    fn why(&self) -> &str {
        self.health.why()
    }

    fn probe_after(&self) -> Option<u64> {
        self.health.next_probe_after(&self.policy, self.now).map(|span| span.as_secs())
    }
}

#[test]
fn a_backend_is_not_used_before_its_first_good_probe_and_one_is_enough() {
    let mut story = Story::of(probed());
    assert_eq!((story.state(), story.health.usable(), story.probe_after()), (State::Probing, false, Some(1)));
    let transition = story.then(Event::ProbeGood).unwrap();
    assert_eq!((transition.from, transition.to, &*transition.why), (State::Probing, State::Healthy, story.why()));
    assert_eq!((story.why(), story.probe_after()), ("its first probe was good", Some(10)));
}

#[test]
fn the_first_verdict_counts_a_failed_first_probe_takes_it_out_at_once() {
    let story = Story::of(probed()).with(Event::ProbeFailed("connection refused"));
    assert_eq!((story.state(), story.why()), (State::Unhealthy, "its first probe failed: connection refused"));
}

#[test]
fn a_backend_that_boots_a_little_later_is_asked_again_soon_and_one_that_never_comes_less_and_less() {
    let failed = Event::ProbeFailed("connection refused");
    let mut story = Story::of(probed()).with(failed);
    assert_eq!(story.probe_after(), Some(1));
    let mut probes = 1;
    while let Some(wait @ 0..10) = story.probe_after() {
        story.after(SECOND * wait as u32 - SECOND);
        story.then(failed);
        probes += 1;
    }
    assert!(story.now >= Moment::after_start(80 * SECOND) && probes < 35, "{probes} probes until {:?}", story.now);

    let mut late = Story::of(probed()).with(failed).with(failed);
    assert_eq!((late.then(Event::ProbeGood), late.probe_after()), (None, Some(1)));
    assert_eq!(late.then(Event::ProbeGood).map(|up| up.to), Some(State::Healthy));
}

#[test]
fn a_backend_that_was_up_once_is_waited_for_no_longer() {
    let failed = Event::ProbeFailed("connection refused");
    for start in [Start::Probe, Start::Healthy] {
        let policy = with(|_, probes| probes.start = start);
        let was_up = Story::of(policy).with(Event::ProbeGood).with(failed).with(failed).with(failed);
        assert_eq!((was_up.state(), was_up.probe_after()), (State::Unhealthy, Some(10)));
    }
    let never = Story::of(with(|_, probes| probes.start = Start::Healthy)).with(failed).with(failed).with(failed);
    assert_eq!((never.state(), never.probe_after()), (State::Unhealthy, Some(1)));
}

#[test]
fn a_process_that_takes_over_waits_anew_for_what_was_never_up() {
    let failed = Event::ProbeFailed("connection refused");
    for (story, after) in
        [(Story::of(probed()).with(failed), 1), (Story::healthy().with(failed).with(failed).with(failed), 10)]
    {
        let restored = Health::restore(&story.health.snapshot(story.now), story.now);
        assert_eq!(restored.next_probe_after(&probed(), story.now), Some(SECOND * after));
    }
}

#[test]
fn start_healthy_and_unprobed_backends_are_used_at_once() {
    let start_healthy = Story::of(with(|_, probes| probes.start = Start::Healthy));
    assert_eq!((start_healthy.state(), start_healthy.probe_after()), (State::Healthy, Some(10)));
    let unprobed = Story::of(unprobed());
    assert_eq!((unprobed.state(), unprobed.probe_after()), (State::Healthy, None));
}

#[test]
fn fall_probes_in_a_row_take_it_out_rise_bring_it_back_and_between_them_probes_come_fast() {
    let mut story = Story::healthy();
    let failed = Event::ProbeFailed("timed out after 3s");
    assert_eq!((story.then(failed), story.probe_after()), (None, Some(1)));
    assert_eq!((story.then(Event::ProbeGood), story.probe_after()), (None, Some(10)));
    assert_eq!((story.then(failed), story.then(failed)), (None, None));
    let down = story.then(failed).unwrap();
    assert_eq!((down.to, &*down.why), (State::Unhealthy, "3 probes failed in a row: timed out after 3s"));
    assert_eq!(story.probe_after(), Some(10));
    assert_eq!((story.then(Event::ProbeGood), story.probe_after()), (None, Some(1)));
    assert_eq!((story.then(failed), story.probe_after()), (None, Some(10)));
    assert_eq!(story.then(Event::ProbeGood), None);
    let up = story.then(Event::ProbeGood).unwrap();
    assert_eq!((up.to, &*up.why), (State::Healthy, "2 probes were good in a row"));
}

#[test]
fn while_it_is_out_the_reason_follows_the_last_probe() {
    let mut story = Story::of(probed()).with(Event::ProbeFailed("connection refused"));
    let since = story.health.since();
    story.then(Event::ProbeFailed("no route to host"));
    assert_eq!((story.why(), story.health.since()), ("2 probes failed in a row: no route to host", since));
}

#[test]
fn errors_in_a_row_eject_and_a_success_between_them_forgives() {
    let mut story = Story::healthy();
    assert_eq!(story.fails(Failure::Gateway, 4), None);
    assert!(story.health.blemished());
    story.succeeds();
    assert!(!story.health.blemished());
    assert_eq!(story.fails(Failure::Gateway, 4), None);
    let out = story.fails(Failure::Gateway, 1).unwrap();
    assert_eq!(out.to, State::Ejected);
    assert_eq!(&*out.why, "5 requests failed in a row, the last: connection refused; ejected for 30s");
}

#[test]
fn without_leave_of_the_pool_nothing_is_ejected_until_leave_is_given() {
    let mut story = Story::healthy();
    let (begun, failure) = (story.now, Failure::Gateway);
    let refused = Event::RequestFailed { begun, failure, why: "503", may_eject: false };
    (0..9).for_each(|_| assert_eq!(story.then(refused), None));
    assert_eq!(story.fails(Failure::Gateway, 1).unwrap().to, State::Ejected);
}

/// A story of a backend on probation, which is not probed.
fn on_probation(policy: Policy) -> Story {
    let mut story = Story::of(policy);
    story.fails(Failure::Gateway, 5);
    story.after(30 * SECOND);
    story
}

#[test]
fn an_ejection_ends_by_time_in_a_probation_that_one_answer_ends() {
    let mut story = Story::of(unprobed());
    story.fails(Failure::Gateway, 5);
    assert_eq!(story.after(29 * SECOND), None);
    let back = story.after(SECOND).unwrap();
    assert_eq!(back.to, State::SlowStart);
    assert_eq!(&*back.why, "its ejection of 30s is over; one request at a time until one is answered");
    assert!(story.health.on_probation() && story.health.usable() && story.health.blemished() && story.health.ejected());
    assert_eq!(story.after(1000 * SECOND), None, "time alone makes nobody good");
    let proven = story.succeeds().unwrap();
    assert_eq!((proven.to, &*proven.why), (State::Healthy, "a request was answered after its ejection"));
    assert!(!story.health.on_probation() && !story.health.blemished() && !story.health.ejected());
}

#[test]
fn one_failure_in_a_probation_ejects_again_for_longer() {
    let mut story = on_probation(unprobed());
    let again = story.fails(Failure::Gateway, 1).unwrap();
    assert_eq!(
        (again.to, &*again.why),
        (State::Ejected, "the first request after its ejection failed: connection refused; ejected for 1m")
    );
    story.after(60 * SECOND);
    // However long nobody asked it: it has not served in that time.
    story.after(1000 * SECOND);
    let third = story.fails(Failure::Connect, 1).unwrap();
    assert_eq!(&*third.why, "the first connect after its ejection failed: connection refused; ejected for 1m30s");
}

#[test]
fn what_was_sent_before_a_probation_says_nothing_in_it() {
    let mut story = on_probation(unprobed());
    let before = Moment::START + 2 * SECOND;
    assert_eq!(story.fails_begun(before, Failure::Gateway), None);
    assert_eq!(story.then(Event::RequestSucceeded { begun: before }), None);
    assert!(story.health.on_probation());
}

#[test]
fn the_last_usable_backend_stays_on_probation_whatever_fails() {
    let mut story = on_probation(unprobed());
    let (begun, failure) = (story.now, Failure::Gateway);
    (0..9).for_each(|_| {
        assert_eq!(story.then(Event::RequestFailed { begun, failure, why: "503", may_eject: false }), None);
    });
    assert!(story.health.on_probation());
}

#[test]
fn a_probation_ends_in_a_slow_start_where_there_is_one() {
    let mut story = on_probation(Policy { slow_start: 10 * SECOND, ..unprobed() });
    assert_eq!(
        (story.health.share(&story.policy, story.now), story.health.wakes_at(&story.policy, story.now)),
        (1.0, None)
    );
    assert_eq!(story.succeeds(), None, "both are shown as a slow start");
    assert_eq!((story.state(), story.health.share(&story.policy, story.now)), (State::SlowStart, 0.1));
    assert_eq!(story.after(10 * SECOND).unwrap().to, State::Healthy);
}

#[test]
fn a_probation_ends_by_good_probes_that_would_have_ended_the_ejection() {
    let probes = |asks_application| ProbePolicy { asks_application, fall: 3, rise: 2, ..probed().probes.unwrap() };
    for (asks, after) in [(true, State::Healthy), (false, State::SlowStart)] {
        let mut story = on_probation(unprobed());
        story.policy.probes = Some(probes(asks));
        story.then(Event::ProbeGood);
        story.then(Event::ProbeGood);
        assert_eq!(story.state(), after);
    }
    let mut fallen = on_probation(unprobed());
    fallen.policy.probes = Some(probes(false));
    (0..3).for_each(|_| drop(fallen.then(Event::ProbeFailed("connection refused"))));
    assert_eq!(fallen.state(), State::Unhealthy);
}

#[test]
fn another_process_goes_on_with_the_probation() {
    let story = on_probation(unprobed());
    let there = Health::restore(&story.health.snapshot(story.now), Moment::START + SECOND);
    assert!(there.on_probation());
    assert_eq!(there.why(), story.health.why());
}

#[test]
fn good_seconds_make_the_next_ejection_short_again() {
    let mut story = on_probation(unprobed());
    story.succeeds();
    story.after(10 * SECOND);
    let again = story.fails(Failure::Gateway, 5).unwrap();
    assert!(again.why.ends_with("ejected for 30s"), "{}", again.why);
}

#[test]
fn an_ejection_for_failed_connects_ends_early_after_rise_good_probes_of_any_type() {
    let mut story = Story::healthy();
    story.fails(Failure::Connect, 5);
    assert_eq!(story.probe_after(), Some(1));
    assert_eq!(story.then(Event::ProbeGood), None);
    assert_eq!(story.then(Event::ProbeGood).unwrap().to, State::Healthy);
}

#[test]
fn a_process_that_dies_and_starts_again_is_back_after_rise_good_probes_whatever_broke_off_before() {
    let mut story = Story::healthy();
    story.fails(Failure::Gateway, 4);
    let out = story.fails(Failure::Connect, 1).unwrap();
    assert!(out.why.starts_with("5 requests failed in a row"), "{}", out.why);
    assert_eq!(story.then(Event::ProbeGood), None);
    assert_eq!(story.then(Event::ProbeGood).unwrap().to, State::Healthy);
}

#[test]
fn an_ejection_for_gateway_errors_ends_early_only_by_probes_that_ask_the_application() {
    let mut tcp = Story::healthy();
    tcp.fails(Failure::Connect, 4);
    tcp.fails(Failure::Gateway, 1);
    assert_eq!(tcp.probe_after(), Some(10));
    (0..9).for_each(|_| assert_eq!(tcp.then(Event::ProbeGood), None));

    let mut http = Story::of(with(|_, probes| probes.asks_application = true)).with(Event::ProbeGood);
    http.fails(Failure::Gateway, 5);
    assert_eq!(http.then(Event::ProbeGood), None);
    assert_eq!(http.then(Event::ProbeGood).unwrap().to, State::Healthy);
}

#[test]
fn an_ejected_backend_whose_probes_fail_is_unhealthy() {
    let mut story = Story::healthy();
    story.fails(Failure::Connect, 5);
    story.then(Event::ProbeFailed("connection refused"));
    story.then(Event::ProbeFailed("connection refused"));
    assert_eq!(story.then(Event::ProbeFailed("connection refused")).unwrap().to, State::Unhealthy);
    assert!(!story.health.ejected());
}

#[test]
fn a_backend_that_comes_up_is_ramped_up_until_its_slow_start_is_over() {
    let mut story = Story::of(with(|policy, _| policy.slow_start = 10 * SECOND));
    assert_eq!(story.then(Event::ProbeGood).unwrap().to, State::SlowStart);
    assert!(story.health.usable());
    assert_eq!(story.health.share(&story.policy, story.now), 0.1);
    assert_eq!(story.after(5 * SECOND), None);
    assert_eq!(story.health.share(&story.policy, story.now), 0.5);
    let over = story.after(5 * SECOND).unwrap();
    assert_eq!((over.to, &*over.why), (State::Healthy, "its slow start of 10s is over"));
    assert_eq!(story.health.wakes_at(&story.policy, story.now), None);
}

#[test]
fn a_newcomer_to_a_running_upstream_is_ramped_up_at_a_start_nobody_is() {
    let policy = Policy { slow_start: 10 * SECOND, ..unprobed() };
    let state = |entry| Health::new(&policy, entry, Moment::START).state();
    assert_eq!((state(Entry::AtStart), state(Entry::Later)), (State::Healthy, State::SlowStart));
}

#[test]
fn a_drain_waits_for_what_is_in_flight_and_resume_undoes_it() {
    let mut story = Story::healthy();
    assert_eq!(story.then(Event::Drain).unwrap().to, State::Draining);
    assert!(!story.health.usable() && !story.health.open());
    let drained = story.then(Event::Idle).unwrap();
    assert_eq!((drained.to, &*drained.why), (State::Drained, "drained by the operator"));
    let resumed = story.then(Event::Resume).unwrap();
    assert_eq!((resumed.to, &*resumed.why), (State::Healthy, "resumed by the operator"));
}

#[test]
fn probes_go_on_while_drained_so_that_resume_tells_the_truth() {
    let mut story = Story::healthy().with(Event::Drain).with(Event::Idle);
    (0..3).for_each(|_| assert_eq!(story.then(Event::ProbeFailed("connection refused")), None));
    assert_eq!(story.state(), State::Drained);
    let resumed = story.then(Event::Resume).unwrap();
    assert_eq!((resumed.to, &*resumed.why), (State::Unhealthy, "3 probes failed in a row: connection refused"));
}

#[test]
fn who_has_left_is_resumed_by_nobody_but_may_rejoin() {
    let mut story = Story::healthy().with(Event::Left);
    assert_eq!((story.state(), story.why()), (State::Draining, "no longer a backend of this upstream"));
    assert_eq!(story.then(Event::Resume), None);
    assert_eq!(story.then(Event::Rejoined).unwrap().to, State::Healthy);
}

#[test]
fn when_probes_are_turned_off_their_verdicts_bind_no_longer() {
    let mut story = Story::of(probed()).with(Event::ProbeFailed("connection refused"));
    story.policy = unprobed();
    assert_eq!(story.then(Event::ProbesEnded).unwrap().to, State::Healthy);
}

#[test]
fn another_process_goes_on_where_this_one_stands() {
    let mut story = Story::healthy();
    story.fails(Failure::Connect, 5);
    story.now = story.now + 10 * SECOND;
    let text = serde_json::to_string(&story.health.snapshot(story.now)).unwrap();
    let there = Moment::START + SECOND;
    let mut health = Health::restore(&serde_json::from_str(&text).unwrap(), there);
    assert_eq!((health.state(), health.why()), (State::Ejected, story.health.why()));
    assert_eq!((health.since(), health.carried()), (Moment::START, 9 * SECOND));
    assert_eq!(health.apply(&story.policy, Event::Tick, there + 19 * SECOND), None);
    assert_eq!(health.apply(&story.policy, Event::Tick, there + 20 * SECOND).unwrap().to, State::SlowStart);
}

#[test]
fn a_drain_is_handed_over_with_nothing_in_flight() {
    let story = Story::healthy().with(Event::Drain);
    assert_eq!(Health::restore(&story.health.snapshot(story.now), Moment::START).state(), State::Drained);
}

/// Long ago, or in what a state machine must take for its present.
fn begun() -> impl Strategy<Value = Moment> {
    prop_oneof![Just(Moment::START), Just(Moment::START + 1_000_000 * SECOND)]
}

fn any_event() -> impl Strategy<Value = Event<'static>> {
    let failure = prop_oneof![Just(Failure::Connect), Just(Failure::Gateway)];
    let failed = (failure, any::<bool>());
    prop_oneof![
        4 => Just(Event::ProbeGood),
        4 => Just(Event::ProbeFailed("connection refused")),
        1 => Just(Event::ProbesEnded),
        2 => begun().prop_map(|begun| Event::RequestSucceeded { begun }),
        8 => (begun(), failed).prop_map(|(begun, (failure, may_eject))| {
            Event::RequestFailed { begun, failure, why: "refused", may_eject }
        }),
        1 => Just(Event::Pardoned),
        1 => Just(Event::Drain),
        1 => Just(Event::Resume),
        1 => Just(Event::Idle),
        1 => Just(Event::Left),
        1 => Just(Event::Rejoined),
        2 => Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_transitions_chain_and_states_are_what_they_say(
        events in proptest::collection::vec((any_event(), 0u64..40), 1..200),
        slow_start in 0u32..20,
        asks_application: bool,
    ) {
        let policy = with(|policy, probes| {
            policy.slow_start = slow_start * SECOND;
            probes.asks_application = asks_application;
        });
        let mut story = Story::of(policy);
        for (event, seconds) in events {
            let before = story.state();
            story.now = story.now + Duration::from_secs(seconds);
            let transition = story.then(event);
            prop_assert_eq!(transition.is_some(), before != story.state());
            if let Some(transition) = transition {
                prop_assert_eq!((transition.from, transition.to, transition.at), (before, story.state(), story.now));
                prop_assert!(!transition.why.is_empty());
            }
            prop_assert_eq!(story.health.usable(), matches!(story.state(), State::Healthy | State::SlowStart));
            prop_assert_eq!(story.health.open(), !matches!(story.state(), State::Draining | State::Drained));
            prop_assert!(story.health.since() <= story.now);
            let there = Health::restore(&story.health.snapshot(story.now), story.now);
            prop_assert_eq!(there.usable(), story.health.usable());
        }
    }
}
