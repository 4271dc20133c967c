//! `roundel upgrade` as the running process carries it out: one order at a time, until one has succeeded.
//!
//! The conversation with the new process is `handover`'s; what the old one does when it is relieved, `lifecycle`'s.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::attend;
use super::handover::estate::Estate;
use super::handover::successor::{Attempt, Canceller, Gifts, Launch, Served};
use super::lifecycle::Life;
use super::listen::Named;
use super::notify::Notify;
use super::process::PidFile;
use crate::admin::upgrade::{NewProcess, Order, Outcome};
use crate::exchange::snapshot::Current;
use crate::filter::rate_limit::tables::Tables;

/// How long an operator's answer may take to be sent before the process goes on to drain.
const ANSWER: Duration = Duration::from_secs(2);
/// How long an upgrade that is called off may take to end: more than a new process that has accepted clients is given.
const CALLING_OFF: Duration = Duration::from_secs(8);

/// Who else must know of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Whoever started this process knows it alone, and ends when it ends: it stays in front of those who follow.
    Stays,
    /// systemd is told of the new process, an older one stays in front, or nobody minds.
    Goes,
}

/// The listening sockets as they are now, by the names under which they are handed over.
pub type Share = Arc<dyn Fn() -> io::Result<Named> + Send + Sync>;

/// What a new process is given by one that serves `current` at `sockets` and counts in `limits`.
#[must_use]
pub fn gifts(
    current: Current,
    limits: Arc<Tables>,
    sockets: Share,
) -> Box<dyn Fn() -> io::Result<Gifts> + Send + Sync> {
    Box::new(move || {
        let (learnt, limits) = (current.clone(), limits.clone());
        Ok(Gifts {
            sockets: sockets()?,
            generation: current.load().generation + 1,
            estate: Box::new(move || Estate::of(&learnt.load(), &limits).to_text()),
        })
    })
}

/// Carries out orders to upgrade.
pub struct Upgrades {
    /// What a new process is started with; none: this one has no configuration file that could be read again.
    pub launch: Option<Launch>,
    /// Whether this process stays in front of the new one.
    pub front: Front,
    /// Who is told of the new main process.
    pub notify: Notify,
    /// The pid file, which is written anew where a failed upgrade has changed it.
    pub pid_file: Arc<PidFile>,
    /// What a new process is given.
    pub gifts: Box<dyn Fn() -> io::Result<Gifts> + Send + Sync>,
    /// Where the process is in its life.
    pub life: Life,
    under_way: watch::Sender<UnderWay>,
    relieved: watch::Sender<bool>,
    /// Whether nobody waits for an answer.
    answered: watch::Sender<bool>,
}

/// What is under way.
#[derive(Debug, Clone)]
enum UnderWay {
    Nothing,
    Ours(Canceller),
    /// One by Pingora's protocol, with SIGQUIT.
    Pingoras,
}

impl Upgrades {
    /// Nothing is under way.
    #[must_use]
    pub fn new(
        launch: Option<Launch>,
        front: Front,
        notify: Notify,
        pid_file: Arc<PidFile>,
        gifts: Box<dyn Fn() -> io::Result<Gifts> + Send + Sync>,
        life: Life,
    ) -> Arc<Self> {
        let (under_way, relieved) = (watch::Sender::new(UnderWay::Nothing), watch::Sender::new(false));
        let answered = watch::Sender::new(true);
        Arc::new(Self { launch, front, notify, pid_file, gifts, life, under_way, relieved, answered })
    }

    /// Whether an upgrade is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        !matches!(*self.under_way.borrow(), UnderWay::Nothing)
    }

    /// An upgrade by Pingora's protocol begins, or has failed: as long as it goes on, orders are refused.
    pub fn pingoras(&self, goes_on: bool) {
        self.under_way.send_replace(if goes_on { UnderWay::Pingoras } else { UnderWay::Nothing });
    }

    /// Resolves when a new process serves in place of this one.
    pub async fn relieved(&self) {
        // The sender lives in `self`.
        let _ = self.relieved.subscribe().wait_for(|relieved| *relieved).await;
    }

    /// Resolves when whoever gave the order that succeeded has been answered, or cannot be.
    pub async fn answered(&self) {
        // The sender lives in `self`.
        let _ = self.answered.subscribe().wait_for(|answered| *answered).await;
    }

    /// Calls off what is under way: the process ends, and the new one must not serve.
    pub async fn call_off(&self) {
        let mut under_way = self.under_way.subscribe();
        let canceller = match &*under_way.borrow() {
            UnderWay::Ours(canceller) => canceller.clone(),
            UnderWay::Nothing | UnderWay::Pingoras => return,
        };
        canceller.cancel();
        let ended = under_way.wait_for(|under_way| !matches!(under_way, UnderWay::Ours(_)));
        if tokio::time::timeout(CALLING_OFF, ended).await.is_err() {
            log::error!("the new process of an upgrade that was called off may be running still");
        }
    }

    /// Carries out orders until one has succeeded, or nobody can give one any more.
    pub async fn carry_out(self: Arc<Self>, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            let upgraded = tokio::select! {
                upgraded = self.carry_out_one(order) => upgraded,
                () = refuse_all(&mut orders) => None,
            };
            if let Some((outcome, new)) = upgraded {
                return self.part(outcome, new).await;
            }
        }
    }

    /// Gives way to the new process, and tells whoever gave the order when nobody is accepted here any more.
    async fn part(&self, outcome: oneshot::Sender<Outcome>, new: NewProcess) {
        self.answered.send_replace(false);
        self.relieved.send_replace(true);
        self.life.until_closed().await;
        let (answered, has_been_answered) = oneshot::channel();
        tell(outcome, Outcome::Upgraded(new, answered));
        // Where the operator has gone, nobody need be answered.
        let _ = tokio::time::timeout(ANSWER, has_been_answered).await;
        self.answered.send_replace(true);
    }

    /// The new process that serves, if one does, and who wants to know.
    async fn carry_out_one(self: &Arc<Self>, order: Order) -> Option<(oneshot::Sender<Outcome>, NewProcess)> {
        let begun = self.begin(&order);
        let (attempt, launch, gifts) = match begun {
            Ok(begun) => begun,
            Err(why) => {
                log::error!("upgrade refused: {why}");
                tell(order.outcome, Outcome::Refused(format!("not upgraded: {why}")));
                return None;
            }
        };
        log::info!("upgrade begins: binary={} sockets={}", launch.binary.display(), gifts.sockets.len());
        let (this, patience) = (self.clone(), order.patience);
        let served = tokio::task::spawn_blocking(move || {
            let served = attempt.run(&launch, &gifts, patience)?;
            this.notify.main_pid(served.pid, "serving");
            Ok(served)
        });
        let served = served.await.unwrap_or_else(|error| Err(error.to_string()));
        let upgraded = match served {
            Ok(Served { pid, generation, version }) => {
                log::info!("upgraded: pid={pid} version={version} generation={generation}");
                Some((order.outcome, NewProcess { pid, generation, version }))
            }
            Err(why) => {
                log::error!("upgrade failed, this process serves on: {why}");
                self.pid_file.claim_again();
                tell(order.outcome, Outcome::Failed(format!("not upgraded, the old process serves on: {why}")));
                None
            }
        };
        self.under_way.send_replace(UnderWay::Nothing);
        upgraded
    }

    fn begin(&self, order: &Order) -> Result<(Attempt, Launch, Gifts), String> {
        if self.is_under_way() {
            return Err("another upgrade is under way".to_owned());
        }
        let Some(launch) = &self.launch else {
            return Err("this process was started without a configuration file".to_owned());
        };
        let binary = order.binary.clone().unwrap_or_else(|| launch.binary.clone());
        if self.front == Front::Stays {
            attend::adopt().map_err(|error| error.to_string())?;
        }
        let gifts = (self.gifts)().map_err(|error| error.to_string())?;
        let attempt = Attempt::new().map_err(|error| error.to_string())?;
        self.under_way.send_replace(UnderWay::Ours(attempt.canceller()));
        Ok((attempt, Launch { binary, ..launch.clone() }, gifts))
    }
}

/// Refuses every order that comes, while another is carried out.
async fn refuse_all(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        tell(order.outcome, Outcome::Refused("not upgraded: another upgrade is under way".to_owned()));
    }
    std::future::pending().await
}

fn tell(whom: oneshot::Sender<Outcome>, outcome: Outcome) {
    // An operator who has gone does not want to know.
    let _ = whom.send(outcome);
}
