//! Any bytes as a header of the PROXY protocol: no panic, the same outcome whole and byte by byte, and what is taken says the same
//! when it is written again.

use roundel::base::proxy_protocol::{LONGEST, Outcome, Version, parse, write};

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(LONGEST + 1)];
    let whole = parse(bytes);
    let first = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|outcome| *outcome != Outcome::Partial);
    assert_eq!(first.unwrap_or(Outcome::Partial), whole);
    let Outcome::Complete { len, ends } = whole else { return };
    assert!(len <= bytes.len() && len <= LONGEST);
    for version in [Version::V1, Version::V2] {
        let again = write(version, ends);
        let Outcome::Complete { len, ends: said } = parse(&again) else { panic!("{again:?} is no header") };
        assert_eq!(len, again.len());
        // Two families become one, and then stay what they are.
        assert_eq!(said.is_some(), ends.is_some());
        assert_eq!(write(version, said), again);
    }
}
