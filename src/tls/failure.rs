//! Why a handshake failed, in words for an operator who has the address of the client and its complaint.

use std::io;

use rustls::{AlertDescription, Error, PeerIncompatible};

/// Why the handshake that ended with `error` failed. A client that has not said a word is for the caller to tell apart.
#[must_use]
pub fn why(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None => of_connection(error),
    }
}

fn of_connection(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "it was not done in time (`timeouts.tls_handshake`)".to_owned(),
        io::ErrorKind::UnexpectedEof => "the client closed the connection before it was done".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "the client reset the connection before it was done".to_owned()
        }
        _ => error.to_string(),
    }
}

fn of_tls(error: &Error) -> String {
    match error {
        Error::AlertReceived(alert) if is_about_our_certificate(*alert) => {
            format!("the client does not accept the listener's certificate (alert {alert:?})")
        }
        Error::AlertReceived(alert) => format!("the client gave up (alert {alert:?})"),
        Error::NoCertificatesPresented => "the client sent no certificate, which `client_auth` requires".to_owned(),
        Error::InvalidCertificate(fault) => format!("the client's certificate is not accepted: {fault}"),
        Error::NoApplicationProtocol => "the client speaks no protocol of the listener (ALPN)".to_owned(),
        Error::PeerIncompatible(kind) if is_about_the_version(kind) => {
            format!("the client speaks no version of TLS that the listener does ({kind:?})")
        }
        Error::PeerIncompatible(kind) => {
            format!("client and listener have no way of encryption in common ({kind:?})")
        }
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => format!("what came is no TLS ({error})"),
        _ => error.to_string(),
    }
}

/// Whether an alert speaks of the certificate that the client was shown (RFC 8446, 6.2).
const fn is_about_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
    )
}

const fn is_about_the_version(kind: &PeerIncompatible) -> bool {
    use PeerIncompatible as Kind;
    matches!(
        kind,
        Kind::SupportedVersionsExtensionRequired
            | Kind::Tls12NotOffered
            | Kind::Tls12NotOfferedOrEnabled
            | Kind::ServerTlsVersionIsDisabledByOurConfig
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_common_cause_has_its_words() {
        let tls = |error: Error| why(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (told, wanted) in [
            (tls(Error::AlertReceived(AlertDescription::UnknownCA)), "does not accept the listener's certificate"),
            (tls(Error::AlertReceived(AlertDescription::HandshakeFailure)), "gave up (alert HandshakeFailure)"),
            (tls(Error::NoCertificatesPresented), "`client_auth`"),
            (tls(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)), "no version of TLS"),
            (tls(Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)), "no way of encryption"),
            (tls(Error::DecryptError), "cannot decrypt"),
            (why(&io::ErrorKind::UnexpectedEof.into()), "closed the connection"),
            (why(&io::ErrorKind::TimedOut.into()), "`timeouts.tls_handshake`"),
        ] {
            assert!(told.contains(wanted), "{told}");
        }
    }
}
