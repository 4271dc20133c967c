//! From failure to reason: the only place where an error gets its status.

use std::time::Duration;

use crate::exchange::grpc::Pushback;
use crate::telemetry::reason::Reason;
use crate::upstream;
use crate::upstream::connection::Fault;
use crate::upstream::lease::{Lease, NoBackend};

/// How a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// The backend refused it, or could not be reached.
    Refused,
    /// It took too long.
    TimedOut,
    /// The TLS handshake failed.
    Tls,
    /// The backend's certificate is not trusted.
    Certificate,
    /// This process has no descriptor left for it.
    OutOfDescriptors,
}

impl From<Fault> for Connect {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused => Self::Refused,
            Fault::TimedOut => Self::TimedOut,
            Fault::Tls => Self::Tls,
            Fault::Certificate => Self::Certificate,
            Fault::OutOfDescriptors => Self::OutOfDescriptors,
        }
    }
}

/// How a try failed, in terms of HTTP and not of any library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection: nothing was sent.
    Connect(Connect),
    /// The backend has said that it did not begin with the request (RFC 9113, 8.7): it may be sent again whatever its method.
    Unprocessed,
    /// The backend closed or reset the connection before a byte of its answer.
    Closed,
    /// What the backend sent is no HTTP.
    NotHttp,
    /// The backend did not answer, or stopped answering, in time.
    TooSlow,
    /// The backend's answer broke off.
    Incomplete,
    /// The backend answered with a status that the operator may have chosen for another try.
    Status {
        /// The status.
        status: u16,
        /// How long its `Retry-After` asks to wait.
        after: Option<Duration>,
    },
    /// The backend answered a gRPC call with nothing but a status.
    Grpc {
        /// The status.
        status: u8,
        /// What it says of another try.
        pushback: Pushback,
    },
    /// The request's own time is over.
    OutOfTime,
    /// It is the client's doing.
    Client(Reason),
    /// It is ours.
    Internal,
}

impl Failure {
    /// The reason that the request ends with, where no other try follows.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Connect(Connect::Refused) => Reason::ConnectionRefused,
            Self::Connect(Connect::TimedOut) => Reason::ConnectionTimeout,
            Self::Connect(Connect::Tls) => Reason::TlsProtocolError,
            Self::Connect(Connect::Certificate) => Reason::TlsCertificateError,
            Self::Connect(Connect::OutOfDescriptors) => Reason::ConnectionLimitReached,
            Self::Unprocessed | Self::Closed => Reason::ConnectionTerminated,
            Self::NotHttp => Reason::HttpProtocolError,
            Self::TooSlow => Reason::HttpResponseTimeout,
            Self::Incomplete => Reason::HttpResponseIncomplete,
            Self::Status { .. } | Self::Grpc { .. } => Reason::DestinationUnavailable,
            Self::OutOfTime => Reason::RequestTimeout,
            Self::Client(reason) => reason,
            Self::Internal => Reason::ProxyInternalError,
        }
    }

    /// What the operator reads as the cause, where the failure speaks against the backend.
    #[must_use]
    pub const fn against_backend(self) -> Option<&'static str> {
        match self {
            Self::Connect(Connect::Refused) => Some("connection refused"),
            Self::Connect(Connect::TimedOut) => Some("connect timed out"),
            Self::Connect(Connect::Tls) => Some("TLS handshake failed"),
            Self::Connect(Connect::Certificate) => Some("certificate not trusted"),
            Self::Closed => Some("closed before answering"),
            Self::NotHttp => Some("answer is not HTTP"),
            Self::TooSlow => Some("no answer in time"),
            Self::Incomplete => Some("answer broke off"),
            // An answer speaks for itself when it comes.
            Self::Connect(Connect::OutOfDescriptors)
            | Self::Unprocessed
            | Self::Status { .. }
            | Self::Grpc { .. }
            | Self::OutOfTime
            | Self::Client(_)
            | Self::Internal => None,
        }
    }

    /// Tells the backend's health, where the failure speaks against it.
    pub fn tell(self, lease: &mut Lease) {
        let Some(why) = self.against_backend() else { return };
        let kind = match self {
            Self::Connect(_) => upstream::Failure::Connect,
            _ => upstream::Failure::Gateway,
        };
        lease.failed(kind, why);
    }
}

/// The reason of a request for which no backend could be had. Where tries were made, their last failure is the better
/// answer, because it says what the backends did.
#[must_use]
pub fn no_backend(why: &NoBackend, last: Option<Failure>) -> Reason {
    match (why, last) {
        (NoBackend::AllTried, Some(failure)) => failure.reason(),
        (NoBackend::AtLimit | NoBackend::QueueFull, _) => Reason::ConnectionLimitReached,
        (NoBackend::WaitedTooLong, _) => Reason::PendingTimeout,
        // Each upstream has a backend in the plan, or a name, or a file: where there is none, no name has resolved.
        (NoBackend::Empty, _) => Reason::DnsError,
        _ => Reason::DestinationUnavailable,
    }
}
