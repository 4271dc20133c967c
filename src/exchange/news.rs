//! What happens to backends, told beyond the log: to the metrics and to the journal of events.

use std::sync::Arc;

use crate::exchange::snapshot::Lasting;
use crate::upstream::Change;
use crate::upstream::pool::Pool;
use crate::upstream::state::State;

/// Lets metrics and events hear of every change in a new pool.
pub(super) fn report(pool: &Pool, lasting: &Lasting) {
    let (registry, events) = (Arc::clone(&lasting.registry), Arc::clone(&lasting.events));
    pool.on_change(Box::new(move |change: &Change| {
        let (backend, transition) = (&change.backend, &change.transition);
        if transition.to == State::Ejected {
            let series = backend.series().get_or_init(|| registry.backend(&change.upstream, backend.address()));
            series.ejected();
        }
        let (upstream, address) = (&change.upstream, backend.address());
        let text = format!(
            "{upstream}/{address} is {}, was {}: {}",
            words(transition.to),
            words(transition.from),
            transition.why
        );
        events.tell(
            "backend",
            text,
            vec![
                ("upstream", change.upstream.to_string()),
                ("backend", backend.address().to_string()),
                ("from", transition.from.as_str().to_owned()),
                ("to", transition.to.as_str().to_owned()),
                ("why", transition.why.to_string()),
            ],
        );
    }));
}

fn words(state: State) -> &'static str {
    match state {
        State::SlowStart => "in slow start",
        state => state.as_str(),
    }
}
