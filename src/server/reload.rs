//! A reload: read, check everything, build, prepare, commit.
//!
//! All that can fail comes before the commit, which cannot: so a reload happens as a whole or not at all. Building touches
//! nothing that lives; what is prepared (sockets, log files) is dropped again where something else fails. Before upstreams
//! that are new get their first request, their backends have had their first probes.
//!
//! What is kept over a reload lives outside of the snapshot: pools with the health of their backends, series of metrics, the
//! doors of listeners that stay. Connections and requests notice nothing: each request pins its snapshot.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use pingora_proxy::HttpProxy;
use tokio::sync::{Mutex, Semaphore};

use super::doors::{Doors, Opening};
use super::lifecycle::{Life, Phase};
use super::upgrade::Upgrades;
use super::watch::{Files, Named};
use super::{charges, operators};
use crate::admin::{Admin, Done, Refusal, Reload, Rules, Wish};
use crate::config::plan::{self, ListenAddress, Plan};
use crate::config::{self, Diagnostics, Diff, Loaded};
use crate::exchange::snapshot::{Current, Lasting, Snapshot};
use crate::proxy::Flow;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log::{self as process_log, ProcessLog};
use crate::telemetry::metrics::series;
use crate::upstream::supervisor::{Charge, Supervisor};

/// Reloads the configuration of this process.
#[derive(Clone)]
pub struct Reloader(Arc<Parts>);

/// Everything that a reload may change.
pub struct Parts {
    /// The configuration's files; none where it does not come from any.
    pub files: Option<Arc<Files>>,
    /// Whether the process serves.
    pub life: Life,
    /// Whether another process is about to serve in its place. Not held: the pid file goes with the upgrades, and whoever
    /// reloads lives to the very end of the process.
    pub upgrades: Weak<Upgrades>,
    /// What is being served.
    pub current: Current,
    /// What lives longer. Its lock is held by the one reload that is under way.
    pub lasting: Mutex<Lasting>,
    /// What finds and probes backends.
    pub supervisor: Arc<Supervisor>,
    /// The listeners.
    pub doors: Arc<Doors<HttpProxy<Flow>>>,
    /// The admin listener.
    pub operators: Arc<Doors<Admin>>,
    /// The process's log.
    pub log: ProcessLog,
    /// A place for one who has come by a signal and waits for its turn: what others want meanwhile, it does for them.
    pub unasked: Semaphore,
}

/// A new configuration, built and not used.
struct Draft {
    plan: Arc<Plan>,
    warnings: Diagnostics,
    diff: Diff,
    /// What of the files that the plan names is new.
    files: Vec<PathBuf>,
    named: Named,
    snapshot: Snapshot,
    lasting: Lasting,
    rules: Rules,
}

/// What is open already, and not in use.
struct Prepared {
    listeners: Vec<Arc<plan::Listener>>,
    doors: Opening,
    operator_listeners: Vec<Arc<plan::Listener>>,
    operators: Opening,
    log: process_log::Opened,
}

#[async_trait]
impl Reload for Reloader {
    async fn reload(&self, wish: Wish) -> Result<Done, Refusal> {
        let parts = Arc::clone(&self.0);
        // Whoever asks may go away; what has begun is brought to its end.
        let task = tokio::spawn(async move { parts.reload(wish).await });
        task.await.unwrap_or_else(|_| Err(Refusal::Broken("the reload itself failed (this is a bug)".to_owned())))
    }
}

impl Reloader {
    /// Reloads what `parts` are.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Reloads without anybody who waits for the answer: the log has it.
    pub async fn reload_unasked(&self) {
        if let Ok(place) = self.0.unasked.try_acquire() {
            let _turn = self.0.lasting.lock().await;
            // From here on a change of the file may be missed: who comes now waits for a turn of its own.
            drop(place);
        } else {
            return;
        }
        // The log tells what became of it.
        let _ = self.reload(Wish::default()).await;
    }
}

impl Parts {
    async fn reload(&self, wish: Wish) -> Result<Done, Refusal> {
        self.life.until_serving().await;
        let mut lasting = self.lasting.lock().await;
        let outcome = self.attempt(wish, &mut lasting).await;
        if !wish.dry_run {
            self.tell(&outcome);
        }
        outcome
    }

    async fn attempt(&self, wish: Wish, lasting: &mut Lasting) -> Result<Done, Refusal> {
        self.check_life()?;
        // The new process has been handed the sockets of the present configuration, and reads the file by itself.
        if !wish.dry_run && self.upgrades.upgrade().is_some_and(|upgrades| upgrades.is_under_way()) {
            return Err(Refusal::NotNow("an upgrade is under way (reload again once it has ended)"));
        }
        let draft = self.draft(wish, lasting.clone()).await?;
        let Draft { diff, .. } = &draft;
        let keys = diff.beyond_a_reload();
        if !keys.is_empty() {
            return Err(Refusal::BeyondAReload(keys, Box::new(draft.diff)));
        }
        if diff.grave_losses().next().is_some() && !wish.confirm_loss {
            return Err(Refusal::GraveLoss(Box::new(draft.diff)));
        }
        if wish.dry_run {
            let present = self.current.load();
            return Ok(draft.done(present.generation));
        }
        let prepared = self.prepare(&draft).map_err(|error| draft.unusable(&error))?;
        let draft = self.warm_up(draft).await?;
        let done = self.commit(draft, prepared, lasting);
        Ok(done)
    }

    fn check_life(&self) -> Result<(), Refusal> {
        match self.life.phase() {
            Phase::Starting | Phase::Serving => Ok(()),
            Phase::Leaving | Phase::Draining => Err(Refusal::NotNow("the process is draining")),
        }
    }

    /// Reads, checks and builds. It reads files and may take a while, so that a thread of its own does it.
    async fn draft(&self, wish: Wish, lasting: Lasting) -> Result<Draft, Refusal> {
        let (files, present) = (self.files.clone().ok_or(Refusal::NoFile)?, self.current.load());
        let drafted = tokio::task::spawn_blocking(move || Draft::read(&files, wish, &present, lasting)).await;
        drafted.unwrap_or_else(|error| Err(Refusal::Broken(format!("the configuration was not built: {error}"))))
    }

    /// Opens what a new configuration needs, so that the commit has nothing to ask for.
    fn prepare(&self, draft: &Draft) -> io::Result<Prepared> {
        let plan = &draft.plan;
        let log = self.log.open(plan.server.error_log.as_deref())?;
        let listeners: Vec<_> = plan.listeners.iter().cloned().map(Arc::new).collect();
        let operator_listeners: Vec<_> =
            operators::addresses(&plan.admin).into_iter().map(operators::listener).collect();
        let clients = listeners.iter().map(|listener| &listener.address);
        let operators = operator_listeners.iter().map(|listener| &listener.address);
        for (address, mine, other) in clients
            .map(|address| (address, self.doors.hold(address), self.operators.hold(address)))
            .chain(operators.map(|address| (address, self.operators.hold(address), self.doors.hold(address))))
        {
            if other && !mine {
                return Err(swapped(address));
            }
        }
        let doors = self.doors.prepare(&listeners)?;
        let operators = self.operators.prepare(&operator_listeners)?;
        Ok(Prepared { listeners, doors, operator_listeners, operators, log })
    }

    /// Lets the backends of new upstreams have their first probes. Nothing else happens, and nothing can go wrong; only the
    /// process may be told to end meanwhile.
    async fn warm_up(&self, draft: Draft) -> Result<Draft, Refusal> {
        let present = self.current.load();
        let known = |charge: &Charge| present.pools().any(|pool| Arc::ptr_eq(pool, &charge.pool));
        let new: Vec<_> = charges(&draft.snapshot).into_iter().filter(|charge| !known(charge)).collect();
        if !new.is_empty() {
            self.supervisor.look_after_too(&new);
            self.supervisor.verdicts(&new).await;
        }
        self.check_life().inspect_err(|_| self.supervisor.look_after(charges(&present)))?;
        Ok(draft)
    }

    /// Lets the new configuration serve. Nothing here can fail. Whoever sees the new snapshot finds everything as it says.
    fn commit(&self, draft: Draft, prepared: Prepared, lasting: &mut Lasting) -> Done {
        let generation = draft.snapshot.generation;
        let done = draft.done(generation);
        let Draft { plan, snapshot, rules, named, lasting: new, .. } = draft;
        if let Some(files) = &self.files {
            files.are_in_use(named);
        }
        for target in &snapshot.targets {
            target.pool.set_plan(target.plan.clone());
        }
        self.supervisor.look_after(charges(&snapshot));
        self.log.go_on_in(prepared.log);
        self.log.set_level(plan.log.level);
        self.operators.app().rules.store(Arc::new(rules));
        self.current.replace(snapshot);
        self.doors.commit(prepared.doors, &prepared.listeners);
        self.operators.commit(prepared.operators, &prepared.operator_listeners);
        new.registry.prune();
        *lasting = new;
        done
    }

    fn tell(&self, outcome: &Result<Done, Refusal>) {
        let snapshot = self.current.load();
        let process = snapshot.counters.registry().process();
        let event = |outcome: &str, text: String| {
            let facts = vec![("outcome", outcome.to_owned()), ("generation", snapshot.generation.to_string())];
            snapshot.events.tell("reload", text, facts);
        };
        match outcome {
            Ok(done) => {
                event("success", format!("configuration reloaded: {}", done.summary()));
                process.reloaded(series::Reload::Success);
                let (generation, changes) = (done.generation, done.summary());
                log::info!("configuration reloaded: generation={generation} changes=\"{changes}\"");
                done.warnings.iter().for_each(|warning| log::warn!("{warning}"));
            }
            Err(refusal) => {
                event("failure", format!("configuration not reloaded: {}", refusal.words()));
                process.reloaded(series::Reload::Failure);
                log::error!("configuration not reloaded, the old one serves on: {}", refusal.words());
                refusal.faults().into_iter().flatten().for_each(|fault| log::error!("{fault}"));
            }
        }
    }
}

impl Draft {
    fn read(files: &Files, wish: Wish, present: &Snapshot, lasting: Lasting) -> Result<Self, Refusal> {
        let before = files.before_reading(&present.plan);
        let loaded = config::load_again(files.file(), &present.plan.source, &config::process_environment);
        let plan = loaded.as_ref().map_or(&*present.plan, |loaded| &loaded.plan);
        let named = before.named(plan);
        if !wish.dry_run {
            files.have_been_read(before, plan);
        }
        let read_again = files.read_again(&named);
        Self::build(loaded.map_err(Refusal::Faulty)?, (read_again, named), present, lasting)
    }

    fn build(
        Loaded { plan, warnings, .. }: Loaded,
        (files, named): (Vec<PathBuf>, Named),
        present: &Snapshot,
        mut lasting: Lasting,
    ) -> Result<Self, Refusal> {
        let diff = Diff::between(&present.plan, &plan);
        let plan = Arc::new(plan);
        let unusable = |why: String| Refusal::Unusable(why, Box::new(diff.clone()));
        let rules = operators::rules(&plan.admin).map_err(|error| unusable(error.to_string()))?;
        if plan.access_log != present.plan.access_log {
            let opened = plan.access_log.as_ref().map(AccessLog::open).transpose();
            lasting.access_log = opened.map_err(|error| unusable(error.to_string()))?.map(Arc::new);
        }
        let snapshot = Snapshot::build(Arc::clone(&plan), present.generation + 1, &mut lasting)
            .map_err(|error| unusable(error.to_string()))?;
        // Those of upstreams that are gone live as long as requests are under way there.
        lasting.pools.retain(|name, _| plan.upstreams.iter().any(|upstream| upstream.name == *name));
        Ok(Self { plan, warnings, diff, files, named, snapshot, lasting, rules })
    }

    fn unusable(&self, error: &io::Error) -> Refusal {
        Refusal::Unusable(error.to_string(), Box::new(self.diff.clone()))
    }

    fn done(&self, generation: u64) -> Done {
        let (diff, warnings) = (self.diff.clone(), self.warnings.clone());
        Done { diff, files: self.files.clone(), warnings, generation, hash: self.plan.hash.clone() }
    }
}

/// The admin listener and the others cannot exchange an address at once: who came by it just then would meet the wrong one.
fn swapped(address: &ListenAddress) -> io::Error {
    io::Error::other(format!(
        "cannot listen on {address}: this process listens there, for operators or for clients, and a reload cannot turn one \
         into the other (take the address away with one reload and give it with the next, or use `roundel upgrade`)"
    ))
}
