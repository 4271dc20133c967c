//! What a handshake has settled, in words for logs, header fields and rules.

use std::fmt::Write as _;

use rustls::server::ServerConnection;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::base::certificate;
use crate::config::plan::Alpn;

/// What a handshake has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The version: `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite, as IANA names it: `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The host the client asked for (SNI), in lower case.
    pub sni: Option<Box<str>>,
    /// The protocol that was agreed upon; none where the client offered none.
    pub alpn: Option<Alpn>,
    /// The client's certificate, verified.
    pub client: Option<Box<ClientCertificate>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// A client's certificate, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, the most specific part first (RFC 4514): `CN=alice,O=Example`.
    pub subject: String,
    /// The subject alternative names with their kinds, as OpenSSL writes them: `DNS:a.example,URI:spiffe://example/a`.
    pub sans: String,
    /// The serial number, in hexadecimal digits.
    pub serial: String,
    /// The SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
}

impl Facts {
    /// The facts of a connection whose handshake is done.
    #[must_use]
    pub fn of(connection: &ServerConnection) -> Self {
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: connection.negotiated_cipher_suite().map_or("", |suite| cipher(suite.suite())),
            sni: connection.server_name().map(Box::from),
            alpn: match connection.alpn_protocol() {
                Some(b"h2") => Some(Alpn::H2),
                Some(_) => Some(Alpn::H1),
                None => None,
            },
            client: certificate.and_then(|der| ClientCertificate::of(der)).map(Box::new),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

impl ClientCertificate {
    /// What a certificate says; none where it is no X.509, which the verifier does not let through.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        Some(Self {
            subject: distinguished_name(&certificate),
            sans: alternative_names(&certificate),
            serial: hexadecimal(certificate.raw_serial()),
            fingerprint: hexadecimal(digest.as_ref()),
        })
    }
}

/// The name of a suite as IANA registers it; rustls calls those of TLS 1.3 otherwise.
fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or_default(),
    }
}

/// The subject as RFC 4514 writes it: from the last part to the first, with what could be taken for a separator escaped.
fn distinguished_name(certificate: &X509Certificate<'_>) -> String {
    let registry = oid_registry();
    let mut text = String::new();
    let parts = certificate.subject().iter().collect::<Vec<_>>();
    for (number, part) in parts.into_iter().rev().enumerate() {
        for (place, attribute) in part.iter().enumerate() {
            match (number, place) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            let oid = attribute.attr_type();
            match oid2abbrev(oid, registry) {
                Ok(name) => text.push_str(name),
                Err(_) => text.push_str(&oid.to_id_string()),
            }
            text.push('=');
            escape(attribute.as_str().unwrap_or_default(), &mut text);
        }
    }
    text
}

/// Writes an attribute's value so that it reads as one (RFC 4514, 2.4).
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, letter) in value.char_indices() {
        match letter {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', letter]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            letter if letter.is_control() => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a string does not fail.
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            letter => text.push(letter),
        }
    }
}

/// The alternative names that a rule could name. One that holds a separator or anything but visible ASCII is left out: it
/// could pass for two names.
fn alternative_names(certificate: &X509Certificate<'_>) -> String {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let written = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::URI(name) => Some(format!("URI:{name}")),
        GeneralName::IPAddress(bytes) => certificate::address(bytes).map(|address| format!("IP:{address}")),
        _ => None,
    });
    let unambiguous = |name: &String| name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    written.filter(unambiguous).collect::<Vec<_>>().join(",")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::of(certificate.der()).unwrap()
    }

    #[test]
    fn a_subject_is_written_from_its_last_part_to_its_first() {
        let client = certificate(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
            params.distinguished_name.push(DnType::CommonName, "alice");
        });
        assert_eq!(client.subject, "CN=alice,O=Example\\, Inc.");
        assert_eq!((client.fingerprint.len(), client.sans.as_str()), (64, ""));
    }

    #[test]
    fn no_value_passes_for_two() {
        let client = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "a,CN=admin+O=x\r\n\\ ");
        });
        assert_eq!(client.subject, "CN=a\\,CN=admin\\+O=x\\0D\\0A\\\\\\ ");
    }

    #[test]
    fn alternative_names_bear_their_kinds_and_ambiguous_ones_are_left_out() {
        let text = |text: &str| Ia5String::try_from(text).unwrap();
        let client = certificate(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName(text("a.example")),
                SanType::URI(text("spiffe://example/a")),
                SanType::IpAddress([10, 0, 0, 1].into()),
                SanType::Rfc822Name(text("a@example.org")),
                SanType::DnsName(text("b.example,DNS:admin.example")),
            ];
        });
        assert_eq!(client.sans, "DNS:a.example,URI:spiffe://example/a,IP:10.0.0.1,email:a@example.org");
    }
}
