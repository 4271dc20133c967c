//! The sockets of a plan, bound or taken over before anything else is started.

use std::io;

use super::listen::{Abandoned, Access, Bound, Inherited, Predecessor};
use super::operators;
use crate::config::plan::Plan;

/// The sockets of a plan.
pub(super) struct Sockets {
    /// Those of the listeners, in the order of the plan.
    pub(super) listeners: Vec<Bound>,
    /// Those of the admin listener, in the order of [`operators::addresses`].
    pub(super) admin: Vec<Bound>,
    /// The process that handed them over.
    pub(super) predecessor: Option<Predecessor>,
    /// The files of unix sockets that were handed over and are not wanted any more.
    pub(super) abandoned: Abandoned,
}

impl Sockets {
    /// Takes over what has come from another process, and binds the rest.
    pub(super) fn claim(plan: &Plan, mut inherited: Inherited) -> io::Result<Self> {
        let predecessor = inherited.predecessor();
        let listeners = plan
            .listeners
            .iter()
            .map(|listener| Bound::claim(&listener.address, Access::Anybody, &mut inherited))
            .collect::<io::Result<_>>()?;
        let admin = operators::addresses(&plan.admin)
            .iter()
            .map(|address| Bound::claim(address, Access::Owner, &mut inherited))
            .collect::<io::Result<_>>()?;
        let abandoned = inherited.abandoned();
        for name in inherited.unclaimed() {
            log::info!("listener closed, the new configuration does not name it: address={name}");
        }
        Ok(Self { listeners, admin, predecessor, abandoned })
    }
}
