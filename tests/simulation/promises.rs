//! What a pool promises, whatever the policy.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use roundel::config::plan::{self, Balance, HashKey, Outlier, WhenNoneHealthy};
use roundel::upstream::sticky::Token;
use roundel::upstream::{Ask, Chances, Failure, Lease, Member, NoBackend, State};

use crate::world::{SECOND, World, letter, member, members, unprobed, upstream};

/// Lets the next requests that reach `who` fail, `times` of them if so many come.
fn fail(world: &World, who: char, times: usize) {
    let leases = (0..20 * times).map(|_| world.lease().unwrap());
    leases.filter(|lease| letter(lease) == who).take(times).for_each(|mut lease| lease.failed(Failure::Gateway, "502"));
}

#[test]
fn a_cold_pool_serves_nobody_before_the_first_good_probe_and_says_when_its_verdicts_are_in() {
    let world = World::new(upstream(), members(&[1, 1]));
    assert!(world.pool.verdict_pending());
    assert_eq!(world.lease().unwrap_err(), NoBackend::NoneHealthy { backends: 2 });
    world.probe('a', true);
    world.probe('b', false);
    assert!(!world.pool.verdict_pending());
    assert_eq!((world.pool.usable_count(), world.order(3)), (1, "aaa".to_owned()));
}

/// A backend that refuses until it has booted, `boot` after the proxy; when it is used, and how often it was probed until.
fn used_after(boot: Duration) -> (Duration, u32) {
    let world = World::new(upstream(), members(&[1, 1]));
    world.probe('b', true);
    let (mut now, mut probes) = (Duration::ZERO, 0);
    loop {
        world.probe('a', now >= boot);
        probes += 1;
        if world.state('a') == State::Healthy {
            return (now, probes);
        }
        let wait = world.pool.next_probe_after(&world.backend('a')).unwrap();
        world.pass(wait);
        now += wait;
    }
}

#[test]
fn a_backend_that_boots_a_little_later_than_the_proxy_is_used_soon_after() {
    for boot in 1..=600 {
        let boot = Duration::from_secs_f64(f64::from(boot) / 10.0);
        let (used, probes) = used_after(boot);
        // An eighth of its age, or a second, until it is found; another second until the second good probe.
        let bound = boot + (boot / 8).max(SECOND) + SECOND;
        assert!(used <= bound, "boots after {boot:?}, is used after {used:?}");
        assert!(probes <= 30, "boots after {boot:?}, is probed {probes} times");
    }
}

#[test]
fn those_who_leave_all_at_once_stand_in_until_as_many_of_the_others_can_serve() {
    let world = World::new(upstream(), members(&[1, 1, 1, 1]));
    let list = members(&[1, 1, 1, 1]);
    world.pool.set_members(list[..2].to_vec());
    world.probe('a', true);
    world.probe('b', true);
    world.pool.set_members(list[2..].to_vec());
    assert_eq!((world.order(4), world.state('c')), ("abab".to_owned(), State::Probing));
    world.probe('c', true);
    assert_eq!(world.pool.usable_count(), 3, "it joins those who stand in");
    world.probe('d', true);
    assert_eq!((world.pool.backends().backends.len(), world.order(4)), (2, "cdcd".to_owned()));
}

#[test]
fn nobody_stands_in_for_longer_than_the_first_verdicts_take() {
    let list = members(&[1, 1, 1]);
    let world = World::new(upstream(), list[..1].to_vec());
    world.probe('a', true);
    world.pool.set_members(list[1..].to_vec());
    world.probe('b', false);
    assert_eq!(world.order(2), "aa", "another is still to be probed");
    world.pool.drain("192.0.2.1:3");
    assert_eq!(world.lease().unwrap_err(), NoBackend::NoneHealthy { backends: 2 });

    let world = World::new(upstream(), list[..1].to_vec());
    world.probe('a', true);
    world.pool.set_members(list[1..2].to_vec());
    world.pool.set_members(list[2..].to_vec());
    assert_eq!((world.order(2), world.pool.backends().backends.len()), ("aa".to_owned(), 2), "the newest list counts");
    world.pool.set_plan(Arc::new(unprobed()));
    assert_eq!(world.order(2), "cc", "nobody waits for probes that are not sent");
}

#[test]
fn who_is_not_replaced_leaves_at_once() {
    let list = members(&[1, 1, 1]);
    let world = World::new(upstream(), list[..2].to_vec());
    world.probe_all();
    world.pool.set_members(list[1..].to_vec());
    assert_eq!((world.pool.backends().backends.len(), world.order(2)), (2, "bb".to_owned()));
    world.pool.set_members(Vec::new());
    assert_eq!(world.lease().unwrap_err(), NoBackend::Empty);
}

#[test]
fn an_empty_pool_says_so() {
    assert_eq!(World::new(upstream(), Vec::new()).lease().unwrap_err(), NoBackend::Empty);
}

#[test]
fn a_request_never_meets_a_backend_twice() {
    let world = World::balanced(Balance::RoundRobin, &[1, 1, 1]);
    let mut tried = Vec::new();
    for _ in 0..3 {
        let lease = world.pool.lease(&Ask { tried: &tried, ..Ask::default() }).unwrap();
        assert!(!tried.contains(&lease.id()));
        tried.push(lease.id());
    }
    let none = world.pool.lease(&Ask { tried: &tried, ..Ask::default() });
    assert_eq!(none.unwrap_err(), NoBackend::AllTried);
}

#[test]
fn backups_serve_only_when_no_other_is_usable_or_all_others_were_tried() {
    let mut list = members(&[1, 1, 1]);
    list[2].backup = true;
    let world = World::new(unprobed(), list);
    assert_eq!(world.order(4), "abab");
    let tried = [world.backend('a').id(), world.backend('b').id()];
    assert_eq!(letter(&world.pool.lease(&Ask { tried: &tried, ..Ask::default() }).unwrap()), 'c');
    world.pool.drain("192.0.2.1:1");
    world.pool.drain("192.0.2.1:2");
    assert_eq!(world.order(2), "cc");
    world.pool.resume("192.0.2.1:1");
    assert_eq!(world.order(2), "aa");
}

#[test]
fn errors_in_a_row_eject_and_time_and_an_answer_bring_back() {
    let world = World::balanced(Balance::RoundRobin, &[1, 1]);
    fail(&world, 'b', 5);
    assert_eq!((world.state('b'), world.order(3)), (State::Ejected, "aaa".to_owned()));
    world.time.advance(30 * SECOND);
    // No tick: the lease itself notices that the ejection is over.
    assert!(world.order(2).contains('b'));
    assert_eq!(world.state('b'), State::SlowStart);
    answer(&world, 'b');
    assert_eq!((world.state('b'), world.counts(10)), (State::Healthy, vec![5, 5]));
}

/// Lets the next request that reaches `who` be answered.
fn answer(world: &World, who: char) {
    let leases = (0..20).map(|_| world.lease().unwrap());
    leases.filter(|lease| letter(lease) == who).take(1).for_each(|mut lease| lease.succeeded(SECOND / 100));
}

/// Three backends, of which `b` has an ejection behind it.
fn after_an_ejection(balance: Balance) -> World {
    let world = World::balanced(balance, &[1; 3]);
    fail(&world, 'b', 5);
    assert_eq!(world.state('b'), State::Ejected);
    world.time.advance(30 * SECOND);
    world
}

/// Leases that are held all at once; how many of them are `who`'s.
fn hold(world: &World, count: usize, who: char) -> (Vec<Lease>, usize) {
    let leases: Vec<_> = (0..count).map(|_| world.lease().unwrap()).collect();
    let at = leases.iter().filter(|lease| letter(lease) == who).count();
    (leases, at)
}

#[test]
fn after_an_ejection_one_request_at_a_time_finds_out_whatever_the_policy() {
    let hash = Balance::Hash { key: HashKey::ClientIp, load_factor: None };
    for balance in
        [Balance::RoundRobin, Balance::LeastRequests, Balance::PeakEwma, Balance::Random { choices: 2 }, hash]
    {
        let world = after_an_ejection(balance.clone());
        for _ in 0..3 {
            // A trial that ends without a verdict, because its client has left, makes room for the next.
            let (held, at) = hold(&world, 60, 'b');
            assert_eq!((at, world.state('b')), (1, State::SlowStart), "{balance:?}");
            drop(held);
        }
        answer(&world, 'b');
        assert_eq!(world.state('b'), State::Healthy);
        assert!(hold(&world, 60, 'b').1 > 1, "{balance:?}");
    }
}

#[test]
fn a_backend_that_is_still_bad_gets_one_request_after_each_ejection() {
    let world = after_an_ejection(Balance::RoundRobin);
    for nth in 2..8 {
        let (mut held, at) = hold(&world, 100, 'b');
        held.iter_mut().filter(|lease| letter(lease) == 'b').for_each(|lease| lease.failed(Failure::Gateway, "503"));
        assert_eq!((at, world.state('b')), (1, State::Ejected));
        world.time.advance(nth * 30 * SECOND);
    }
}

#[test]
fn requests_that_were_under_way_before_an_ejection_keep_nobody_from_its_end() {
    let world = World::balanced(Balance::RoundRobin, &[1; 3]);
    let (_tunnels, at) = hold(&world, 30, 'b');
    assert_eq!(at, 10);
    fail(&world, 'b', 5);
    world.time.advance(30 * SECOND);
    assert_eq!(hold(&world, 30, 'b').1, 1);
}

#[test]
fn a_probation_binds_nobody_who_has_no_other_backend() {
    let world = after_an_ejection(Balance::RoundRobin);
    ["192.0.2.1:1", "192.0.2.1:3"].iter().for_each(|other| drop(world.pool.drain(other)));
    assert_eq!(hold(&world, 30, 'b').1, 30);
}

#[test]
fn a_trial_is_left_to_a_request_that_can_be_sent_again_but_not_for_ever() {
    let world = after_an_ejection(Balance::RoundRobin);
    let once = || world.pool.lease(&Ask { chances: Chances::One, ..Ask::default() }).unwrap();
    assert!((0..12).all(|_| letter(&once()) != 'b'), "four turns of its were left to others");
    let (mut held, at) = hold(&world, 6, 'b');
    assert_eq!(at, 1);
    held.iter_mut().filter(|lease| letter(lease) == 'b').for_each(|lease| lease.failed(Failure::Gateway, "503"));
    world.time.advance(60 * SECOND);

    // Nobody else comes.
    let at = (0..60).position(|_| letter(&once()) == 'b');
    assert!(at.is_some_and(|at| (8..60).contains(&at)), "{at:?}");
}

#[test]
fn a_request_that_is_sent_but_once_tries_a_backend_where_there_is_no_other() {
    let world = after_an_ejection(Balance::RoundRobin);
    ["192.0.2.1:1", "192.0.2.1:3"].iter().for_each(|other| drop(world.pool.drain(other)));
    let lease = world.pool.lease(&Ask { chances: Chances::One, ..Ask::default() }).unwrap();
    assert_eq!((letter(&lease), lease.is_trial()), ('b', true));
}

#[test]
fn a_cookie_does_not_lead_to_a_backend_on_trial() {
    let world = World::balanced(Balance::RoundRobin, &[1; 3]);
    let cookie = world.lease().unwrap().token().to_string();
    fail(&world, 'a', 5);
    world.time.advance(30 * SECOND);
    let back = || letter(&world.pool.lease(&Ask { sticky: Some(&cookie), ..Ask::default() }).unwrap());
    let trial = world.pool.lease(&Ask { sticky: Some(&cookie), ..Ask::default() }).unwrap();
    assert_eq!(letter(&trial), 'a');
    assert!((0..10).all(|_| back() != 'a'));
    drop(trial);
    assert_eq!(back(), 'a');
}

#[test]
fn no_more_are_ejected_than_the_ceiling_allows_and_never_the_last() {
    let world = World::balanced(Balance::RoundRobin, &[1, 1, 1]);
    fail(&world, 'a', 5);
    fail(&world, 'b', 9);
    assert_eq!((world.state('a'), world.state('b')), (State::Ejected, State::Healthy));
    let alone = World::balanced(Balance::RoundRobin, &[1]);
    fail(&alone, 'a', 20);
    assert_eq!(alone.state('a'), State::Healthy);
}

#[test]
fn when_the_ceiling_falls_those_whose_ejection_ends_first_are_freed() {
    let outlier = Outlier { max_ejected: 0.5, ..unprobed().outlier.unwrap() };
    let plan = plan::Upstream { outlier: Some(outlier), ..unprobed() };
    let world = World::new(plan.clone(), members(&[1; 4]));
    fail(&world, 'a', 5);
    world.pass(SECOND);
    fail(&world, 'b', 5);
    world.pool.set_members(members(&[1; 3]));
    assert_eq!((world.state('a'), world.state('b')), (State::Healthy, State::Ejected));
    world.pool.set_plan(Arc::new(plan::Upstream { outlier: None, ..plan }));
    assert_eq!(world.state('b'), State::Healthy);
}

#[test]
fn fail_open_sends_to_all_but_drained_ones_and_says_so() {
    let plan = plan::Upstream { when_none_healthy: WhenNoneHealthy::FailOpen, ..upstream() };
    let world = World::new(plan, members(&[1, 1, 1]));
    world.pool.drain("192.0.2.1:2");
    world.probe('c', false);
    assert!(world.pool.failing_open());
    assert_eq!(world.counts(10), [5, 0, 5]);
    world.probe('a', true);
    assert!(!world.pool.failing_open());
    assert_eq!(world.order(2), "aa");
    world.pool.drain("192.0.2.1:1");
    world.pool.drain("192.0.2.1:3");
    assert_eq!(world.lease().unwrap_err(), NoBackend::NoneHealthy { backends: 3 });
}

#[test]
fn a_drain_by_name_takes_all_its_backends_out_and_ends_with_the_last_request() {
    let named = |port| Member { name: "app.internal:80".into(), ..member(port, 1) };
    let world = World::new(unprobed(), vec![named(1), named(2), member(3, 1)]);
    let held = world.lease().unwrap();
    assert_eq!(world.pool.drain("app.internal:80").len(), 2);
    assert_eq!((world.state('a'), world.state('b')), (State::Draining, State::Drained));
    assert_eq!(world.order(3), "ccc");
    drop(held);
    assert_eq!(world.state('a'), State::Drained);
    assert_eq!(world.pool.resume("app.internal:80").len(), 2);
    assert!(world.pool.drain("nobody").is_empty());
}

#[test]
fn health_and_counters_outlive_a_change_of_weight_name_and_plan() {
    let world = World::new(upstream(), members(&[1, 1]));
    world.probe_all();
    world.order(10);
    (0..3).for_each(|_| world.probe('b', false));
    let renamed = Member { name: "b.internal:2".into(), ..member(2, 9) };
    world.pool.set_members(vec![member(1, 5), renamed]);
    world.pool.set_plan(Arc::new(plan::Upstream { balance: Balance::LeastRequests, ..upstream() }));
    let b = world.backend('b');
    assert_eq!((b.state(), b.requests(), b.weight(), &*b.name()), (State::Unhealthy, 5, 9, "b.internal:2"));
}

#[test]
fn who_leaves_gets_no_new_request_and_is_forgotten_with_its_last() {
    let world = World::balanced(Balance::RoundRobin, &[1, 1]);
    let held = world.lease().unwrap();
    world.pool.set_members(vec![member(2, 1)]);
    assert_eq!(world.order(3), "bbb");
    assert_eq!(world.pool.status().len(), 2);
    assert_eq!(held.state(), State::Draining);
    drop(held);
    assert_eq!(world.pool.status().len(), 1);
}

#[test]
fn who_comes_back_before_its_last_request_has_ended_is_the_same_backend() {
    let world = World::balanced(Balance::RoundRobin, &[1, 1]);
    let held = world.lease().unwrap();
    world.pool.set_members(vec![member(2, 1)]);
    world.pool.set_members(members(&[1, 1]));
    assert!(Arc::ptr_eq(held.backend(), &world.backend('a')));
    assert_eq!(held.state(), State::Healthy);
}

#[test]
fn a_newcomer_must_pass_a_probe_first() {
    let world = World::new(upstream(), members(&[1]));
    world.probe_all();
    world.pool.set_members(members(&[1, 1]));
    assert_eq!(world.order(2), "aa");
    world.probe('b', true);
    assert!(world.order(2).contains('b'));
}

#[test]
fn a_cookie_leads_back_to_its_backend_while_that_is_usable() {
    let world = World::balanced(Balance::RoundRobin, &[1, 1, 1]);
    let cookie = world.lease().unwrap().token().to_string();
    let back = || world.pool.lease(&Ask { sticky: Some(&cookie), ..Ask::default() }).unwrap();
    assert!((0..5).all(|_| letter(&back()) == 'a'));
    world.pool.drain("192.0.2.1:1");
    let elsewhere = back();
    assert_ne!(letter(&elsewhere), 'a');
    assert_ne!(Some(elsewhere.token()), Token::parse(&cookie));
    assert!(world.pool.lease(&Ask { sticky: Some("no such token"), ..Ask::default() }).is_ok());
}

#[test]
fn every_change_is_told_once_with_its_reason() {
    let world = World::new(upstream(), members(&[1, 1]));
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let tell = Arc::clone(&told);
    world.pool.on_change(Box::new(move |change| {
        let (backend, to) = (change.backend.address(), change.transition.to.as_str());
        tell.lock().push(format!("{}/{backend} {to}: {}", change.upstream, change.transition.why));
    }));
    world.probe('a', true);
    world.probe('a', true);
    world.pool.drain("192.0.2.1:1");
    assert_eq!(
        *told.lock(),
        [
            "web/192.0.2.1:1 healthy: its first probe was good",
            "web/192.0.2.1:1 draining: drained by the operator",
            "web/192.0.2.1:1 drained: drained by the operator",
        ]
    );
}

#[test]
fn a_storm_of_flaps_is_served_right_all_along() {
    let world = World::new(upstream(), members(&[1; 200]));
    world.probe_all();
    for flap in 0..3000u32 {
        let who = world.pool.backends().backends[(flap % 200) as usize].clone();
        let good = flap % 7 != 0;
        (0..3).for_each(|_| {
            world.pool.report_probe(&who, if good { Ok(SECOND) } else { Err("connection refused".into()) });
        });
        world.time.advance(Duration::from_micros(50));
        assert!(world.lease().unwrap().usable());
    }
}

#[test]
fn another_process_goes_on_with_the_health_of_this_one() {
    let old = World::new(upstream(), members(&[1, 1, 1]));
    old.probe_all();
    (0..3).for_each(|_| old.probe('b', false));
    old.pool.drain("192.0.2.1:3");
    let text = serde_json::to_string(&old.pool.snapshot()).unwrap();
    let new = World::new(upstream(), members(&[1, 1, 1]));
    new.pool.restore(serde_json::from_str(&text).unwrap());
    assert!(!new.pool.verdict_pending());
    assert_eq!(['a', 'b', 'c'].map(|who| new.state(who)), [State::Healthy, State::Unhealthy, State::Drained]);
    assert_eq!(new.order(2), "aa");
}

#[test]
fn the_status_tells_what_an_operator_asks() {
    let world = World::new(upstream(), members(&[3]));
    world.probe('a', true);
    world.lease().unwrap().succeeded(Duration::from_millis(8));
    let status = serde_json::to_value(world.pool.status()).unwrap();
    let a = &status[0];
    assert_eq!((&a["address"], &a["name"]), (&"192.0.2.1:1".into(), &"192.0.2.1:1".into()));
    assert_eq!((&a["state"], &a["reason"]), (&"healthy".into(), &"its first probe was good".into()));
    assert_eq!((&a["weight"], &a["in_flight"], &a["requests"]), (&3.into(), &0.into(), &1.into()));
    assert!((7.0..9.0).contains(&a["latency_ms"]["p99"].as_f64().unwrap()), "{a}");
    assert_eq!((&a["last_probe"]["ok"], &a["last_probe"]["duration_ms"]), (&true.into(), &1.0.into()));
    assert!(a["since"].as_str().unwrap().ends_with('Z'), "{a}");
}

#[test]
fn many_threads_leave_nothing_in_flight() {
    let world = World::balanced(Balance::LeastRequests, &[1; 8]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for request in 0..3000 {
                    let Ok(mut lease) = world.lease() else { continue };
                    if request % 3 == 0 {
                        lease.failed(Failure::Connect, "connection refused");
                    } else {
                        lease.succeeded(Duration::from_micros(10));
                    }
                }
            });
        }
        scope.spawn(|| {
            for flap in 0..300u16 {
                let who = format!("192.0.2.1:{}", flap % 8 + 1);
                world.pool.drain(&who);
                world.pool.set_members(members(&vec![1; 4 + usize::from(flap % 5)]));
                world.pool.resume(&who);
            }
        });
    });
    world.pool.set_members(members(&[1; 8]));
    assert_eq!(world.pool.in_flight(), 0);
    assert!(world.pool.backends().backends.iter().all(|backend| backend.in_flight() == 0));
    assert!(world.pool.backends().leaving.is_empty());
}
