//! Certificates by the names that they are for. Pure: what is chosen follows from what the client offers alone.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use crate::base::certificate::wildcard_of;

/// The certificates of a listener, immutable: another set is another store.
#[derive(Debug)]
pub(super) struct Store {
    all: Vec<Arc<CertifiedKey>>,
    /// The places in `all` of the certificates for a name (in lower case, a wildcard with its `*.`), in the order of the file.
    by_name: HashMap<String, Vec<usize>>,
}

impl Store {
    /// The certificates, each with the names it bears, in the order of the file.
    pub(super) fn new(certificates: Vec<(Vec<String>, Arc<CertifiedKey>)>) -> Self {
        let mut store = Self { all: Vec::with_capacity(certificates.len()), by_name: HashMap::new() };
        for (names, key) in certificates {
            for name in names {
                store.by_name.entry(name).or_default().push(store.all.len());
            }
            store.all.push(key);
        }
        store
    }

    /// The certificate for a client: one for the very name it asks for, else one for the wildcard above it, else the first.
    /// Among several for one name the first whose kind of signature the client can check.
    pub(super) fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |at: &&usize| self.all[**at].key.choose_scheme(schemes).is_some();
        let places = name.and_then(|name| self.places(name)).unwrap_or_default();
        let chosen = places.iter().find(usable).or(places.first()).copied();
        self.all.get(chosen.unwrap_or(0)).cloned()
    }

    fn places(&self, name: &str) -> Option<&[usize]> {
        let exact = self.by_name.get(name);
        exact.or_else(|| self.by_name.get(&wildcard_of(name)?)).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::base::crypto;

    const BOTH: &[SignatureScheme] = &[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];

    fn certificate(names: &[&str], kind: &'static SignatureAlgorithm) -> (Vec<String>, Arc<CertifiedKey>) {
        let key = KeyPair::generate_for(kind).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names.clone()).unwrap().self_signed(&key).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let certified = CertifiedKey::from_der(vec![certificate.der().clone()], private, &crypto::provider()).unwrap();
        (names, Arc::new(certified))
    }

    /// A store of these certificates, and the place of the one that is chosen.
    fn chosen(
        certificates: &[(Vec<String>, Arc<CertifiedKey>)],
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> usize {
        let chosen = Store::new(certificates.to_vec()).choose(name, schemes).unwrap();
        certificates.iter().position(|(_, key)| Arc::ptr_eq(key, &chosen)).unwrap()
    }

    #[test]
    fn the_exact_name_wins_then_the_wildcard_then_the_first() {
        let all = [
            certificate(&["first.example"], &PKCS_ED25519),
            certificate(&["*.example.org"], &PKCS_ED25519),
            certificate(&["www.example.org"], &PKCS_ED25519),
        ];
        for (name, place) in [
            (Some("www.example.org"), 2),
            (Some("api.example.org"), 1),
            (Some("a.b.example.org"), 0),
            (Some("example.org"), 0),
            (Some("elsewhere.example"), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(&all, name, BOTH), place, "{name:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_a_name_the_one_that_the_client_can_check_is_sent() {
        let all = [certificate(&["a.example"], &PKCS_ED25519), certificate(&["a.example"], &PKCS_ECDSA_P256_SHA256)];
        assert_eq!(chosen(&all, Some("a.example"), BOTH), 0);
        assert_eq!(chosen(&all, Some("a.example"), &[SignatureScheme::ECDSA_NISTP256_SHA256]), 1);
        assert_eq!(chosen(&all, Some("a.example"), &[SignatureScheme::RSA_PSS_SHA256]), 0);
    }
}
