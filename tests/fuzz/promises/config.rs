//! Any text as a configuration: no panic, no hang, and a plan whose routes and filters can be built.

use roundel::config::{self, Paint};
use roundel::filter::Chain;
use roundel::route::RouteTable;

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Included files are this machine's, and not the fuzzer's.
    if text.contains("include") {
        return;
    }
    match config::load_text("fuzz", text, &environment) {
        Ok(loaded) => {
            let _ = RouteTable::build(&loaded.plan.routes);
            for route in &loaded.plan.routes {
                // A file of users may be missing; that is told, and no panic.
                let _ = Chain::build(&route.filters, &route.action, Default::default());
            }
        }
        Err(faults) => {
            assert!(faults.has_errors());
            // Each fault is shown with its line: that must work for any text too.
            let _ = faults.render(Paint::Plain);
        }
    }
}

fn environment(name: &str) -> Option<String> {
    (name == "SET").then(|| "a: [b".to_owned())
}
