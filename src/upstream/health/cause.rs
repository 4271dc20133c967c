//! Why a probe failed, in a few plain words for the operator: the status page and the log show them as they are.

use std::time::Duration;

use pingora_error::{Error, ErrorType};

/// The error type of answers that are not what was expected; its context is the cause.
pub(super) const UNEXPECTED: ErrorType = ErrorType::Custom("unexpected answer");

/// An answer that is not what was expected, for the reason `cause`.
pub(super) fn unexpected(cause: impl Into<String>) -> Box<Error> {
    Error::explain(UNEXPECTED, cause.into())
}

/// A probe that took longer than `timeout`.
pub(super) fn timed_out(timeout: Duration) -> String {
    format!("timed out after {timeout:?}")
}

/// The cause of a failed probe whose bound was `timeout`.
pub(super) fn explain(error: &Error, timeout: Duration) -> String {
    use ErrorType as E;
    match error.etype() {
        E::ConnectTimedout | E::ReadTimedout | E::WriteTimedout | E::TLSHandshakeTimedout => timed_out(timeout),
        E::ConnectRefused => "connection refused".to_owned(),
        E::ConnectNoRoute => "no route to the address".to_owned(),
        E::TLSHandshakeFailure | E::InvalidCert | E::HandshakeError => tls_cause(error),
        E::ConnectError | E::InternalError | E::SocketError | E::BindError => connect_cause(error),
        E::ConnectionClosed => "closed before answering".to_owned(),
        E::ReadError | E::WriteError => read_cause(error),
        E::InvalidHTTPHeader | E::H1Error => "answer is not HTTP".to_owned(),
        E::H2Error | E::InvalidH2 | E::H2Downgrade => "answer is not HTTP/2".to_owned(),
        E::Custom(_) => error.context.as_ref().map_or("failed", |context| context.as_str()).to_owned(),
        other => format!("failed ({})", other.as_str()),
    }
}

/// Pingora turns what rustls says into text, so that the words of the chain are all there is to go by.
fn tls_cause(error: &Error) -> String {
    const KNOWN: [(&str, &str); 8] = [
        ("UnknownIssuer", "certificate not trusted"),
        ("CaUsedAsEndEntity", "certificate not trusted"),
        ("ertificate expired", "certificate has expired"),
        ("ertificate not valid yet", "certificate is not valid yet"),
        ("ertificate not valid for name", "certificate is for another name"),
        ("corrupt message", "peer does not speak TLS"),
        ("CertificateRequired", "peer wants a client certificate"),
        ("eof", "closed during the handshake"),
    ];
    let text = format!("{error}");
    let known = KNOWN.iter().find(|(sign, _)| text.contains(sign)).map(|(_, words)| *words);
    format!("TLS: {}", known.unwrap_or("handshake failed"))
}

fn connect_cause(error: &Error) -> String {
    match io_kind(error) {
        Some(std::io::ErrorKind::NotFound) => "socket does not exist".to_owned(),
        Some(std::io::ErrorKind::PermissionDenied) => "no permission to connect".to_owned(),
        Some(kind) => format!("cannot connect ({kind})"),
        None => "cannot connect".to_owned(),
    }
}

fn read_cause(error: &Error) -> String {
    // With TLS 1.3 a server tells only after the handshake that it wanted a client certificate.
    if error.root_cause().to_string().contains("CertificateRequired") {
        return "TLS: peer wants a client certificate".to_owned();
    }
    match io_kind(error) {
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => "connection was reset".to_owned(),
        Some(std::io::ErrorKind::UnexpectedEof) => "closed before answering".to_owned(),
        _ => "connection failed while waiting for the answer".to_owned(),
    }
}

fn io_kind(error: &Error) -> Option<std::io::ErrorKind> {
    let root: &(dyn std::error::Error + 'static) = error.root_cause();
    std::iter::successors(Some(root), |cause| cause.source())
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
}
