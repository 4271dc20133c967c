//! Any text as an authority: no panic, and a compared form that is lower case, bounded, and its own wherever it is a host.

use roundel::base::host::{LONGEST, normalise, port, without_port};

/// Holds the promise to these bytes, where they are text.
pub fn holds(bytes: &[u8]) {
    let Ok(authority) = std::str::from_utf8(bytes) else { return };
    assert!(authority.starts_with(without_port(authority)));
    if let Some(port) = port(authority) {
        let named = authority.rsplit(':').next().and_then(|text| text.parse().ok());
        assert_eq!(named, Some(port));
    }
    let (mut room, mut again) = ([0; LONGEST], [0; LONGEST]);
    let Some(host) = normalise(authority, &mut room) else { return };
    assert!(!host.is_empty() && host.len() <= LONGEST);
    assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase()));
    // What is left of a second colon or a second dot at the end is no host.
    if host.starts_with('[') && host.ends_with(']')
        || !host.contains(':') && !host.ends_with('.') && !host.starts_with('[')
    {
        assert_eq!(normalise(host, &mut again), Some(host));
    }
}
