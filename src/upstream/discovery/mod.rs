//! Where backends come from: the configuration, DNS, or a watched file.
//!
//! A [`Source`] knows the backends of one upstream by now and says when that changes. It decides nothing about health: the
//! pool does what is right with members that come, stay and go.

pub mod dns;
mod file;
mod fixed;
mod service;

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use self::dns::{LONGEST_REFRESH, Resolver};
use self::file::WatchedFile;
use self::fixed::Entries;
use self::service::Services;
use super::backend::Member;
use crate::config::plan;

/// What a source knows by now.
#[derive(Debug, Default)]
pub struct Found {
    /// The backends.
    pub members: Vec<Member>,
    /// What could not be turned into backends, as written, with the reason.
    pub unresolved: Vec<(Arc<str>, String)>,
    /// Whether every question was answered at least once, be it with an error.
    pub complete: bool,
}

/// Where the backends of one upstream come from.
pub struct Source {
    kind: Kind,
    resolver: Arc<Resolver>,
    plan: Arc<plan::Upstream>,
}

enum Kind {
    Written(Entries),
    Services(Services),
    File(WatchedFile),
}

impl Source {
    /// The source that `plan` names. Nothing is asked before [`Source::changed`] is awaited.
    #[must_use]
    pub fn new(plan: Arc<plan::Upstream>, resolver: Arc<Resolver>) -> Self {
        Self { kind: kind(&plan, &resolver), resolver, plan }
    }

    /// What is known by now.
    #[must_use]
    pub fn found(&self) -> Found {
        match &self.kind {
            Kind::Written(entries) => entries.found(),
            Kind::Services(services) => services.found(),
            Kind::File(file) => file.found(),
        }
    }

    /// Waits until what is known has changed; for ever where it cannot. May be dropped and called again: nothing is lost.
    pub async fn changed(&mut self) {
        match &mut self.kind {
            Kind::Written(entries) => entries.changed().await,
            Kind::Services(services) => services.changed().await,
            Kind::File(file) => file.changed().await,
        }
    }

    /// Follows a new plan. What is known of names that stay is kept, so that a reload asks nobody twice.
    pub fn follow(&mut self, plan: Arc<plan::Upstream>) {
        match &mut self.kind {
            Kind::Written(entries) if self.plan.discovery == plan.discovery => entries.replace(written(&plan)),
            _ if self.plan.discovery == plan.discovery && self.plan.tls.is_some() == plan.tls.is_some() => {}
            _ => self.kind = kind(&plan, &self.resolver),
        }
        self.plan = plan;
    }
}

fn kind(plan: &plan::Upstream, resolver: &Arc<Resolver>) -> Kind {
    let tls = plan.tls.is_some();
    let resolver = Arc::clone(resolver);
    match &plan.discovery {
        None => Kind::Written(Entries::new(written(plan), resolver, LONGEST_REFRESH)),
        Some(plan::Discovery::Dns { port: Some(_), refresh, .. }) => {
            Kind::Written(Entries::new(written(plan), resolver, *refresh))
        }
        Some(plan::Discovery::Dns { name, port: None, refresh }) => {
            Kind::Services(Services::new(Arc::clone(name), tls, *refresh, resolver))
        }
        Some(plan::Discovery::File { path }) => Kind::File(WatchedFile::new(path.clone(), tls, resolver)),
    }
}

/// The entries that the plan itself holds: its backends, or the one name of `discovery: { dns, port }`.
fn written(plan: &plan::Upstream) -> Vec<plan::Backend> {
    let Some(plan::Discovery::Dns { name, port: Some(port), .. }) = &plan.discovery else {
        return plan.backends.clone();
    };
    vec![plan::Backend {
        name: format!("{name}:{port}").into(),
        target: plan::Target::Name(Arc::clone(name), *port),
        tls: plan.tls.is_some(),
        weight: 1,
        backup: false,
    }]
}

/// Waits until `due`; for ever where nothing is due.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Finishes what is under way and takes it away; waits for ever where nothing is. May be dropped: it stays under way.
async fn finish<F: Future + Unpin>(under_way: &mut Option<F>) -> F::Output {
    let Some(future) = under_way else { return std::future::pending().await };
    let output = future.await;
    *under_way = None;
    output
}
