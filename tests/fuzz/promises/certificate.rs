//! Any bytes as a file of certificates: no panic, and a chain, or a fault with its remedy.

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use roundel::base::certificate::Chain;

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    match Chain::parse(bytes, Path::new("fuzz.pem")) {
        Err(fault) => assert!(!fault.to_string().is_empty() && !fault.remedy().is_empty()),
        Ok(chain) => {
            assert!(!chain.certificates.is_empty());
            let _ = chain.validity(SystemTime::UNIX_EPOCH);
            for name in &chain.names {
                assert!(chain.covers(name) || name.parse::<IpAddr>().is_ok(), "{name:?}");
            }
        }
    }
}
