//! The one provider of cryptography for TLS, toward clients and toward backends: AWS-LC, by way of rustls.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The provider: AEAD ciphers alone, and X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) before the classic key exchanges.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes it the process's default, by which Pingora speaks TLS to backends. Whoever comes first decides: to be called
/// before Pingora makes any TLS, because Pingora would install another. Further calls change nothing.
pub fn install() {
    // It fails only where it has been installed already.
    let _ = aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    #[test]
    fn the_key_exchange_that_outlasts_quantum_computers_comes_first() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups[0], NamedGroup::X25519MLKEM768);
        assert!(groups.contains(&NamedGroup::X25519) && groups.contains(&NamedGroup::secp256r1));
    }
}
