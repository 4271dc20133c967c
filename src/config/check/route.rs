//! `routes`: which request goes where.

use std::sync::Arc;

use super::Checker;
use crate::config::file::File;
use crate::config::plan::{Action, Filters, Route, RouteMatch, Split, Upstream};

pub(super) fn plan(file: &File, upstreams: &[Arc<Upstream>], checker: &mut Checker<'_, '_>) -> Vec<Arc<Route>> {
    let _ = checker;
    match upstreams {
        [only] if file.routes.is_absent() => vec![Arc::new(everything(only))],
        _ => Vec::new(),
    }
}

/// The route of a configuration without routes: everything goes to the only upstream.
fn everything(upstream: &Arc<Upstream>) -> Route {
    Route {
        name: "default".into(),
        hosts: Vec::new(),
        matches: vec![RouteMatch::default()],
        filters: Filters::default(),
        request_timeout: None,
        body_limit: None,
        errors: Default::default(),
        action: Action::Forward(vec![Split { upstream: upstream.clone(), weight: 1 }]),
    }
}
