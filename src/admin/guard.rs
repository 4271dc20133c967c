//! Who may ask the admin API what.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{Method, StatusCode};
use pingora_http::RequestHeader;

use super::Answer;
use crate::config::plan::ListenAddress;

/// The endpoints that never need a token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// Who may ask what, by the configuration.
#[derive(Clone)]
pub struct Rules {
    /// Further host names under which the listener is known.
    pub hosts: Vec<String>,
    /// The token, where there is one.
    pub token: Option<String>,
}

impl Rules {
    /// What a request that came in at `address` must bring: beyond loopback the token for everything, on loopback to write,
    /// and on a unix socket none, whose permissions say who may. No browser reaches a unix socket, so that `Host` is not
    /// checked there.
    pub(super) fn guard(&self, address: &ListenAddress) -> Guard<'_> {
        let token = self.token.as_deref();
        match address {
            ListenAddress::Unix(_) => {
                Guard { hosts: &self.hosts, read_token: None, write: Writers::Anybody, check_host: false }
            }
            ListenAddress::Inet(inet) => Guard {
                hosts: &self.hosts,
                read_token: token.filter(|_| !inet.ip().is_loopback()),
                write: token.map_or(Writers::Nobody, Writers::Bearer),
                check_host: true,
            },
        }
    }
}

/// Who may write.
#[derive(Clone, Copy)]
enum Writers<'a> {
    /// Whoever can reach the listener: only its own user can.
    Anybody,
    /// Whoever bears this token.
    Bearer(&'a str),
    /// Nobody: it is reached by TCP, and no token is configured.
    Nobody,
}

/// What a request must bring.
#[derive(Clone)]
pub(super) struct Guard<'a> {
    /// Further host names under which the listener is known.
    hosts: &'a [String],
    /// The token that reading needs.
    read_token: Option<&'a str>,
    /// The token that writing needs.
    write: Writers<'a>,
    /// Whether the `Host` field is checked.
    check_host: bool,
}

impl Guard<'_> {
    /// Lets a request in, or says why not.
    pub(super) fn admit(&self, header: &RequestHeader) -> Result<(), Answer> {
        if self.check_host {
            self.check_host(header)?;
        }
        if OPEN.contains(&path(header)) {
            return Ok(());
        }
        if !matches!(header.method, Method::GET | Method::HEAD) {
            return self.admit_writing(header);
        }
        match self.read_token {
            Some(token) if !bears(header, token) => Err(Answer::problem(
                StatusCode::UNAUTHORIZED,
                "beyond loopback every request needs the token of admin.token_file (Authorization: Bearer TOKEN)",
            )),
            _ => Ok(()),
        }
    }

    fn admit_writing(&self, header: &RequestHeader) -> Result<(), Answer> {
        match self.write {
            Writers::Anybody => Ok(()),
            Writers::Bearer(token) if bears(header, token) => Ok(()),
            Writers::Bearer(_) => Err(Answer::problem(
                StatusCode::UNAUTHORIZED,
                "writing needs the token of admin.token_file (Authorization: Bearer TOKEN)",
            )),
            Writers::Nobody => Err(Answer::problem(
                StatusCode::FORBIDDEN,
                "nobody may write here: set admin.token_file, or use the admin socket in the runtime directory",
            )),
        }
    }

    fn check_host(&self, header: &RequestHeader) -> Result<(), Answer> {
        let host = header.headers.get(HOST).and_then(|host| host.to_str().ok()).map(without_port).unwrap_or_default();
        if !self.knows(host) {
            let detail = "this listener is not known by that name (add it to admin.hosts)";
            return Err(Answer::problem(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        let foreign = |origin: &str| {
            let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
            !self.knows(without_port(authority))
        };
        match header.headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or("null")) {
            Some(origin) if foreign(origin) => {
                Err(Answer::problem(StatusCode::FORBIDDEN, "pages of another origin may not ask"))
            }
            _ => Ok(()),
        }
    }

    fn knows(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }
}

/// The path of a request, without its query.
pub(super) fn path(header: &RequestHeader) -> &str {
    let target = std::str::from_utf8(header.raw_path()).unwrap_or_default();
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// The query of a request, without its question mark.
pub(super) fn query(header: &RequestHeader) -> &str {
    let target = std::str::from_utf8(header.raw_path()).unwrap_or_default();
    target.split_once('?').map_or("", |(_, query)| query)
}

fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

fn bears(header: &RequestHeader, token: &str) -> bool {
    let brought = header
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, brought)| brought.trim());
    brought.is_some_and(|brought| same(brought.as_bytes(), token.as_bytes()))
}

/// Compares in a time that depends on nothing but the lengths.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut header = RequestHeader::build("GET", b"/api/v1/status", None).unwrap();
        for (name, value) in fields {
            header.insert_header(*name, *value).unwrap();
        }
        header
    }

    /// Whether a request is admitted beyond loopback, or with what status it is refused.
    fn admit(token: Option<&str>, header: &RequestHeader) -> Result<(), u16> {
        let rules = Rules { hosts: vec!["proxy.internal".into()], token: token.map(Into::into) };
        let address = ListenAddress::Inet("10.0.0.1:9901".parse().unwrap());
        rules.guard(&address).admit(header).map_err(|answer| answer.status.as_u16())
    }

    #[test]
    fn only_known_names_and_address_literals_are_hosts() {
        let status = |host| admit(None, &request(&[("host", host)])).err();
        for host in ["127.0.0.1:9901", "[::1]:9901", "localhost", "LOCALHOST:1", "proxy.internal"] {
            assert_eq!(status(host), None, "{host}");
        }
        for host in ["evil.example", "", "localhost.evil.example", "127.0.0.1.evil.example:9901"] {
            assert_eq!(status(host), Some(421), "{host}");
        }
    }

    #[test]
    fn pages_of_another_origin_are_refused() {
        let header = request(&[("host", "127.0.0.1"), ("origin", "https://evil.example")]);
        assert_eq!(admit(None, &header), Err(403));
        let header = request(&[("host", "127.0.0.1"), ("origin", "http://127.0.0.1:9901")]);
        assert_eq!(admit(None, &header), Ok(()));
    }

    #[test]
    fn writing_by_tcp_needs_the_token_and_nobody_has_one_where_there_is_none() {
        let mut header = request(&[("host", "127.0.0.1")]);
        header.set_method(Method::POST);
        assert_eq!(admit(None, &header), Err(403));
        assert_eq!(admit(Some("s3cret"), &header), Err(401));
        header.insert_header("authorization", "Bearer s3cret").unwrap();
        assert_eq!(admit(Some("s3cret"), &header), Ok(()));
    }

    #[test]
    fn beyond_loopback_the_token_is_needed() {
        let admits = |value| {
            let header = request(&[("host", "10.0.0.1"), ("authorization", value)]);
            admit(Some("s3cret"), &header).is_ok()
        };
        assert!(admits("Bearer s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", ""] {
            assert!(!admits(wrong), "{wrong}");
        }
    }
}
