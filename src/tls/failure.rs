//! Why a handshake failed, in words for an operator who has the address of the client and its complaint.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

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
        Error::InvalidCertificate(fault) => {
            format!("the client's certificate is not accepted: {}", of_certificate(fault))
        }
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

fn of_certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::UnknownIssuer => "none of the roots of `client_auth` has signed it".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has ended".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::Other(cause) => match cause.0.to_string() {
            // `openssl x509 -req` writes version 1 where no extension is asked for.
            why if why == "UnsupportedCertVersion" => {
                "it is not X.509 version 3 (have it issued with extensions)".to_owned()
            }
            why => why,
        },
        fault => fault.to_string(),
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
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    #[test]
    fn every_common_cause_has_its_words() {
        let tls = |error: Error| why(&io::Error::new(io::ErrorKind::InvalidData, error));
        let of_version_1 = CertificateError::Other(OtherError(Arc::new(io::Error::other("UnsupportedCertVersion"))));
        for (told, wanted) in [
            (tls(Error::AlertReceived(AlertDescription::UnknownCA)), "does not accept the listener's certificate"),
            (tls(Error::AlertReceived(AlertDescription::HandshakeFailure)), "gave up (alert HandshakeFailure)"),
            (tls(Error::NoCertificatesPresented), "`client_auth`"),
            (tls(Error::InvalidCertificate(CertificateError::UnknownIssuer)), "none of the roots"),
            (tls(Error::InvalidCertificate(of_version_1)), "it is not X.509 version 3"),
            (tls(Error::InvalidCertificate(CertificateError::Expired)), "it has ended"),
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
