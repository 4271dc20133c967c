//! Random histories: probes, requests, failures, drains, changes of members, weights and plans, in any order. After every
//! step the invariants must hold. A history is its seed; one that fails says how to run it again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use roundel::config::plan::{self, Balance, HashKey, HealthCheck, Outlier, Start, WhenNoneHealthy};
use roundel::upstream::time::VirtualTime;
use roundel::upstream::{Ask, BackendId, Chances, Failure, Lease, Member, NoBackend, Pool, State, outlier};

use crate::world::{SECOND, member, upstream};

const HISTORIES: u64 = 1500;
const STEPS: usize = 250;

#[test]
fn every_history_keeps_the_invariants() {
    let seeds = match std::env::var("SIMULATION_SEED").map(|seed| seed.parse()) {
        Ok(seed) => {
            let seed = seed.expect("SIMULATION_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..HISTORIES,
    };
    for seed in seeds {
        let _guard = Repeat(seed);
        History::new(seed).run();
    }
}

/// Says how to run a history again, if it fails.
struct Repeat(u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run this history again: SIMULATION_SEED={} cargo test --test simulation every_history", self.0);
        }
    }
}

struct History {
    rng: Rng,
    pool: Arc<Pool>,
    time: VirtualTime,
    leases: Vec<Lease>,
    states: Arc<Mutex<HashMap<BackendId, State>>>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let time = VirtualTime::default();
        let pool = Pool::simulated(Arc::new(any_plan(&mut rng)), &time, seed);
        let states: Arc<Mutex<HashMap<BackendId, State>>> = Arc::default();
        let last = Arc::clone(&states);
        pool.on_change(Box::new(move |change| {
            let (id, transition) = (change.backend.id(), &change.transition);
            if let Some(before) = last.lock().insert(id, transition.to) {
                // A backend that was forgotten and came back begins anew.
                assert!(before == transition.from || before == State::Drained, "{before:?} then {transition:?}");
            }
        }));
        pool.set_members(any_members(&mut rng));
        Self { rng, pool, time, leases: Vec::new(), states }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.step();
            self.check();
        }
        self.leases.clear();
        self.check();
        assert_eq!(self.pool.in_flight(), 0);
        assert!(self.pool.backends().leaving.is_empty());
        assert!(self.states.lock().len() <= 24);
    }

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..40 => self.request(),
            40..60 => self.end_a_request(),
            60..82 => self.probe(),
            82..90 => self.pass(),
            90..94 => self.drain_or_resume(),
            94..98 => self.pool.set_members(any_members(&mut self.rng)),
            _ => self.pool.set_plan(Arc::new(any_plan(&mut self.rng))),
        }
    }

    fn request(&mut self) {
        let ids: Vec<BackendId> = self.pool.backends().backends.iter().map(|backend| backend.id()).collect();
        let tried: Vec<BackendId> = ids.into_iter().filter(|_| self.rng.u8(..4) == 0).collect();
        let tried = if self.rng.bool() { tried } else { Vec::new() };
        let cookie = self.leases.last().map(|lease| lease.token().to_string());
        let ask = Ask {
            hash: self.rng.bool().then(|| self.rng.u64(..)),
            tried: &tried,
            sticky: cookie.as_deref().filter(|_| self.rng.u8(..5) == 0),
            chances: if self.rng.bool() { Chances::Several } else { Chances::One },
        };
        match self.pool.lease(&ask) {
            Ok(lease) => {
                self.check_choice(&lease, &tried);
                self.check_trial(&lease, &tried);
                self.leases.push(lease);
            }
            Err(why) => self.check_refusal(why, &tried),
        }
    }

    fn check_choice(&self, lease: &Lease, tried: &[BackendId]) {
        let state = lease.state();
        assert!(lease.weight() > 0 && !tried.contains(&lease.id()));
        assert!(!matches!(state, State::Draining | State::Drained));
        assert!(self.pool.backends().backends.iter().any(|backend| backend.id() == lease.id()));
        let within = |count: u64, most: Option<u64>| most.is_none_or(|most| count <= most);
        assert!(within(lease.in_flight().into(), lease.most()));
        assert!(within(self.pool.in_flight(), self.pool.limits().most));
        if !state.usable() {
            assert_eq!(self.pool.plan().when_none_healthy, WhenNoneHealthy::FailOpen);
            assert_eq!(self.pool.usable_count(), 0);
        } else if lease.backup() {
            let members = self.pool.backends();
            let mut others = members.backends.iter().filter(|other| !other.backup() && !tried.contains(&other.id()));
            assert!(others.all(|other| !other.usable() || other.weight() == 0) || self.stuck(lease));
        }
    }

    /// A backend on probation has one trial at a time, and who gets there beside it has no other of its tier to go to.
    fn check_trial(&self, lease: &Lease, tried: &[BackendId]) {
        if lease.is_trial() || !lease.on_probation() || self.pool.failing_open() {
            return;
        }
        for other in self.pool.backends().backends.iter().filter(|other| other.backup() == lease.backup()) {
            let may = other.usable() && other.weight() > 0 && other.has_room() && !tried.contains(&other.id());
            assert!(!may || other.on_probation(), "{} was free for it", other.address());
        }
    }

    /// Whether the choice may have been the cookie's.
    fn stuck(&self, lease: &Lease) -> bool {
        self.leases.last().is_some_and(|last| last.token() == lease.token())
    }

    fn check_refusal(&self, why: NoBackend, tried: &[BackendId]) {
        let members = self.pool.backends();
        let fail_open = self.pool.plan().when_none_healthy == WhenNoneHealthy::FailOpen;
        let open =
            |state| fail_open && self.pool.usable_count() == 0 && !matches!(state, State::Draining | State::Drained);
        for backend in members.backends.iter().filter(|backend| backend.weight() > 0) {
            let state = backend.state();
            let may = state.usable() || open(state);
            // A backup does not stand in for backends that are full.
            let full = !self.pool.has_room() || !backend.has_room() || (backend.backup() && why == NoBackend::AtLimit);
            assert!(!may || full || tried.contains(&backend.id()), "{why}: {} is {state:?}", backend.address());
            assert!(!may || matches!(why, NoBackend::AllTried | NoBackend::AtLimit));
            assert!(why != NoBackend::AllTried || !may || tried.contains(&backend.id()), "it may wait");
        }
        assert_eq!(why == NoBackend::Empty, members.backends.is_empty());
    }

    fn end_a_request(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let mut lease = self.leases.swap_remove(self.rng.usize(..self.leases.len()));
        match self.rng.u8(..10) {
            0..3 => lease.succeeded(Duration::from_micros(self.rng.u64(..1_000_000))),
            3..6 => lease.failed(Failure::Gateway, "503"),
            6..9 => lease.failed(Failure::Connect, "connection refused"),
            _ => drop(lease),
        }
    }

    fn probe(&mut self) {
        let members = self.pool.backends();
        let Some(backend) = self.rng.choice(members.backends.iter()) else { return };
        // Each backend leans to one side, so that rows come about.
        let good = (backend.id().0 % 4) as u8 >= self.rng.u8(..4);
        for _ in 0..self.rng.u8(1..4) {
            let result = if good { Ok(Duration::from_millis(1)) } else { Err("connection refused".to_owned()) };
            self.pool.report_probe(backend, result);
        }
        let after = self.pool.next_probe_after(backend);
        assert_eq!(after.is_some(), self.pool.plan().health_check.is_some());
    }

    fn pass(&mut self) {
        self.time.advance(SECOND * self.rng.u32(..20));
        if self.rng.bool() {
            self.pool.tick();
        }
    }

    fn drain_or_resume(&mut self) {
        let name = member(self.rng.u16(1..=12), 1).name;
        if self.rng.u8(..5) < 2 {
            self.pool.drain(&name)
        } else {
            self.pool.resume(&name)
        };
    }

    fn check(&self) {
        let members = self.pool.backends();
        let usable = members.backends.iter().filter(|backend| backend.usable() && backend.weight() > 0).count();
        assert_eq!(self.pool.usable_count(), usable);
        let ejected = members.backends.iter().filter(|backend| backend.health().ejected()).count();
        let ceiling = self.pool.plan().outlier.map_or(0, |policy| outlier::ceiling(&policy, members.backends.len()));
        assert!(ejected <= ceiling, "{ejected} of {} are ejected", members.backends.len());
        assert_eq!(self.pool.in_flight(), self.leases.len() as u64);
        for backend in members.backends.iter().chain(members.leaving.iter()) {
            let held = self.leases.iter().filter(|lease| Arc::ptr_eq(lease.backend(), backend)).count();
            assert_eq!(backend.in_flight() as usize, held);
            assert_eq!(backend.usable(), backend.state().usable());
            assert_ne!((backend.state(), held > 0), (State::Drained, true));
        }
    }
}

fn any_plan(rng: &mut Rng) -> plan::Upstream {
    let balance = match rng.u8(..6) {
        0 | 1 => Balance::RoundRobin,
        2 => Balance::LeastRequests,
        3 => Balance::PeakEwma,
        4 => Balance::Random { choices: rng.usize(1..4) },
        _ => Balance::Hash { key: HashKey::ClientIp, load_factor: rng.bool().then_some(1.25) },
    };
    let defaults = upstream();
    let check = HealthCheck {
        fall: rng.u32(1..4),
        rise: rng.u32(1..4),
        start: if rng.bool() { Start::Probe } else { Start::Healthy },
        ..defaults.health_check.as_deref().expect("the default is to probe").clone()
    };
    let outlier = Outlier {
        consecutive_errors: rng.u32(1..6),
        base_ejection: SECOND * rng.u32(1..60),
        max_ejection: SECOND * rng.u32(60..300),
        max_ejected: rng.f64(),
    };
    let requests = (rng.u8(..4) == 0).then(|| rng.u32(1..30));
    plan::Upstream {
        limits: plan::UpstreamLimits { requests, ..defaults.limits },
        balance,
        health_check: (rng.u8(..4) > 0).then(|| Arc::new(check)),
        outlier: (rng.u8(..8) > 0).then_some(outlier),
        slow_start: if rng.bool() { SECOND * rng.u32(1..60) } else { Duration::ZERO },
        when_none_healthy: if rng.u8(..3) == 0 { WhenNoneHealthy::FailOpen } else { WhenNoneHealthy::Fail },
        ..defaults
    }
}

fn any_members(rng: &mut Rng) -> Vec<Member> {
    let even = rng.bool();
    let mut list: Vec<Member> =
        (1..=12).filter(|_| rng.u8(..4) > 0).map(|port| Member { backup: port > 10, ..member(port, 1) }).collect();
    if !even {
        list.iter_mut().for_each(|member| member.weight = rng.u32(..5));
    }
    if rng.u8(..4) == 0 {
        list.iter_mut().for_each(|member| member.most = rng.bool().then(|| rng.u32(1..4)));
    }
    // The same address once more, over TLS.
    if rng.u8(..4) == 0 {
        list.extend(list.first().cloned().map(|member| Member { tls: true, ..member }));
    }
    list
}
