//! Any text as a file of backends: no panic, no hang, and a list of backends that can be asked for, or a fault in words.

use roundel::config::plan::Target;
use roundel::upstream::discovery::file::parse;

/// Holds the promise to these bytes, where they are text.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse(text, false) {
        Err(fault) => assert!(!fault.is_empty()),
        Ok(backends) => {
            for backend in backends {
                match &backend.target {
                    Target::Inet(_) => {}
                    Target::Unix(path) => assert!(path.is_absolute()),
                    Target::Name(name, port) => assert!(!name.is_empty() && name.len() <= 253 && *port > 0),
                }
            }
        }
    }
}
