//! Any text as a duration, a size, a share, a rate or an address: no panic, and what is taken is the same when it is written again.

use roundel::base::address::{parse_host, parse_host_port};
use roundel::base::units;

/// Holds the promise to these bytes, where they are text.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(duration) = units::parse_duration(text) {
        assert!(duration <= units::LONGEST);
        assert_eq!(units::parse_duration(&units::format_duration(duration)), Ok(duration));
    }
    if let Ok(size) = units::parse_size(text) {
        assert_eq!(units::parse_size(&units::format_size(size)), Ok(size));
    }
    if let Ok(share) = units::parse_share(text) {
        assert!((0.0..=1.0).contains(&share));
        let again = units::parse_share(&units::format_share(share)).expect("what we write we read");
        assert!((again - share).abs() < 1e-5, "{share} became {again}");
    }
    if let Ok((count, per)) = units::parse_rate(text) {
        assert_eq!(units::parse_rate(&units::format_rate(count, per)), Ok((count, per)));
    }
    let _ = parse_host(text);
    let _ = parse_host_port(text);
}
