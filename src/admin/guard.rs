//! Who may ask the admin API what.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{Method, StatusCode};
use pingora_http::RequestHeader;

use super::Answer;

/// The endpoints that never need a token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// Who may write.
#[derive(Clone)]
pub enum Writers {
    /// Whoever can reach the listener: only its own user can.
    Anybody,
    /// Whoever bears this token.
    Bearer(String),
    /// Nobody: it is reached by TCP, and no token is configured.
    Nobody,
}

/// What a request must bring.
#[derive(Clone)]
pub struct Guard {
    /// Further host names under which the listener is known.
    pub hosts: Vec<String>,
    /// The token that reading needs; none on loopback and on a unix socket.
    pub read_token: Option<String>,
    /// The token that writing needs; none on a unix socket, whose permissions say who may.
    pub write: Writers,
    /// Whether the `Host` field is checked: not on a unix socket, which no browser reaches.
    pub check_host: bool,
}

impl Guard {
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
        match &self.read_token {
            Some(token) if !bears(header, token) => Err(Answer::problem(
                StatusCode::UNAUTHORIZED,
                "beyond loopback every request needs the token of admin.token_file (Authorization: Bearer TOKEN)",
            )),
            _ => Ok(()),
        }
    }

    fn admit_writing(&self, header: &RequestHeader) -> Result<(), Answer> {
        match &self.write {
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

    fn guard(read_token: Option<&str>) -> Guard {
        Guard {
            hosts: vec!["proxy.internal".into()],
            read_token: read_token.map(Into::into),
            write: read_token.map_or(Writers::Nobody, |token| Writers::Bearer(token.into())),
            check_host: true,
        }
    }

    #[test]
    fn only_known_names_and_address_literals_are_hosts() {
        let status = |host| guard(None).admit(&request(&[("host", host)])).err().map(|answer| answer.status.as_u16());
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
        assert_eq!(guard(None).admit(&header).err().unwrap().status.as_u16(), 403);
        let header = request(&[("host", "127.0.0.1"), ("origin", "http://127.0.0.1:9901")]);
        assert!(guard(None).admit(&header).is_ok());
    }

    #[test]
    fn writing_by_tcp_needs_the_token_and_nobody_has_one_where_there_is_none() {
        let mut header = request(&[("host", "127.0.0.1")]);
        header.set_method(Method::POST);
        assert_eq!(guard(None).admit(&header).err().unwrap().status.as_u16(), 403);
        assert_eq!(guard(Some("s3cret")).admit(&header).err().unwrap().status.as_u16(), 401);
        header.insert_header("authorization", "Bearer s3cret").unwrap();
        assert!(guard(Some("s3cret")).admit(&header).is_ok());
    }

    #[test]
    fn beyond_loopback_the_token_is_needed() {
        let admits =
            |value| guard(Some("s3cret")).admit(&request(&[("host", "10.0.0.1"), ("authorization", value)])).is_ok();
        assert!(admits("Bearer s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", ""] {
            assert!(!admits(wrong), "{wrong}");
        }
    }
}
