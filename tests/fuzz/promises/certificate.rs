//! Any bytes as a file of certificates: no panic, and a chain, or a fault with its remedy.
//!
//! What begins as DER does (with a SEQUENCE) is put in the armour of PEM first, in which the fuzzer would hardly find its way.

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roundel::base::certificate::Chain;

/// How DER begins a certificate (X.690, 8.9).
const SEQUENCE: u8 = 0x30;

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    if bytes.first() == Some(&SEQUENCE) {
        let armoured = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(bytes));
        return check(armoured.as_bytes());
    }
    check(bytes);
}

fn check(bytes: &[u8]) {
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
