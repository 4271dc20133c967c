//! The sockets of a plan, bound or taken over before anything else is started.

use std::io;
use std::path::Path;

use super::listen::{Access, Bound, Inherited, Predecessor};
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
}

impl Sockets {
    /// Binds them; with `upgrade_sock`, takes over from the process that hands sockets over there what it has of them.
    pub(super) fn claim(plan: &Plan, upgrade_sock: Option<&Path>) -> io::Result<Self> {
        let mut inherited = upgrade_sock.map(Inherited::receive).transpose()?.unwrap_or_default();
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
        for name in inherited.unclaimed() {
            log::info!("listener closed, the new configuration does not name it: address={name}");
        }
        Ok(Self { listeners, admin, predecessor })
    }
}
