//! Hosts in the form in which they are compared: lower case, without port and trailing dot.
//!
//! It judges nothing: whether an authority is well formed is decided where the head is parsed.

use std::io::Write as _;
use std::net::Ipv6Addr;

/// The longest host that can be compared, in bytes: a domain name has at most 253 (RFC 1035, 2.3.4).
pub const LONGEST: usize = 255;

/// Room for one host in its compared form, so that a lookup allocates nothing.
pub type Buffer = [u8; LONGEST];

/// The host of `authority` in its compared form: lower case, without port and trailing dot, an IPv6 address in brackets and
/// in the form of RFC 5952. None where there is no host, or where it is longer than [`LONGEST`]: such a request is served
/// by routes without hosts only.
///
/// ```
/// # use roundel::base::host::{LONGEST, normalise};
/// assert_eq!(normalise("API.Example.com.:8443", &mut [0; LONGEST]), Some("api.example.com"));
/// assert_eq!(normalise("[2001:DB8:0::1]:80", &mut [0; LONGEST]), Some("[2001:db8::1]"));
/// ```
#[must_use]
pub fn normalise<'b>(authority: &str, buffer: &'b mut Buffer) -> Option<&'b str> {
    let host = without_port(authority);
    if let Some(address) = ipv6(host) {
        return write_address(address, buffer);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let room = buffer.get_mut(..host.len()).filter(|room| !room.is_empty())?;
    room.copy_from_slice(host.as_bytes());
    room.make_ascii_lowercase();
    std::str::from_utf8(room).ok()
}

/// `authority` without its port; an IPv6 address keeps its brackets.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.find(']').map_or(authority, |end| &authority[..=end]);
    }
    match authority.rsplit_once(':') {
        // More than one colon without brackets is a bare IPv6 address, which has no port.
        Some((host, _)) if !host.contains(':') => host,
        _ => authority,
    }
}

/// The port that `authority` names, if any.
#[must_use]
pub fn port(authority: &str) -> Option<u16> {
    let rest = authority.get(without_port(authority).len()..)?;
    rest.strip_prefix(':')?.parse().ok()
}

fn ipv6(host: &str) -> Option<Ipv6Addr> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    inner.contains(':').then(|| inner.parse().ok()).flatten()
}

fn write_address(address: Ipv6Addr, buffer: &mut Buffer) -> Option<&str> {
    let mut rest = &mut buffer[..];
    write!(rest, "[{address}]").ok()?;
    let written = LONGEST - rest.len();
    std::str::from_utf8(&buffer[..written]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compared(authority: &str) -> Option<String> {
        normalise(authority, &mut [0; LONGEST]).map(str::to_owned)
    }

    #[test]
    fn a_host_is_compared_without_case_port_and_trailing_dot() {
        for (authority, host) in [
            ("example.com", Some("example.com")),
            ("EXAMPLE.com:80", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com.:8080", Some("example.com")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]", Some("[::1]")),
            ("[0:0:0:0:0:0:0:1]:443", Some("[::1]")),
            ("::1", Some("[::1]")),
            ("[::1", Some("[::1")),
            ("", None),
            (".", None),
            (":80", None),
        ] {
            assert_eq!(compared(authority).as_deref(), host, "{authority:?}");
        }
    }

    #[test]
    fn a_host_beyond_every_name_has_no_compared_form() {
        assert_eq!(compared(&"a".repeat(LONGEST)).map(|host| host.len()), Some(LONGEST));
        assert_eq!(compared(&"a".repeat(LONGEST + 1)), None);
    }

    #[test]
    fn a_port_is_read_from_every_form_of_authority() {
        for (authority, expected) in
            [("a:80", Some(80)), ("a", None), ("[::1]:8443", Some(8443)), ("[::1]", None), ("::1", None), ("a:x", None)]
        {
            assert_eq!(port(authority), expected, "{authority:?}");
        }
    }

    proptest! {
        #[test]
        fn the_compared_form_is_its_own_compared_form(authority in "[a-zA-Z0-9.:\\[\\]-]{0,40}") {
            // What is left of a second colon or a second dot at the end is no host, and compared with none.
            let once = compared(&authority).filter(|host| !host.contains(':') && !host.ends_with('.'));
            if let Some(host) = &once {
                prop_assert_eq!(&compared(host), &once);
            }
        }

        #[test]
        fn no_authority_makes_it_panic(authority in ".*") {
            let _ = compared(&authority);
            let _ = port(&authority);
        }
    }
}
