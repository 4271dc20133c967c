//! A certificate chain and its private key in PEM files: read, matched and judged.
//!
//! `roundel check` tells what is wrong with them by the same functions that the listeners read them with.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crypto;

/// The largest file of certificates or keys, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;
/// A certificate that ends within this time is about to expire, whatever its lifetime.
const SOON: Duration = Duration::from_secs(14 * 24 * 3_600);

/// Why files cannot serve as a certificate and its key; each names the file at fault.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum Fault {
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} holds no certificate", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds a certificate that cannot be used: {why}", .path.display())]
    Certificate { path: PathBuf, why: String },
    #[error("{} holds no certificate", .path.display())]
    NoRoot { path: PathBuf },
    #[error("{} holds a certificate that cannot be trusted as a root: {why}", .path.display())]
    Root { path: PathBuf, why: String },
    #[error("{} holds no private key", .path.display())]
    NoKey { path: PathBuf },
    #[error("the private key in {} is encrypted", .path.display())]
    Encrypted { path: PathBuf },
    #[error("the private key in {} cannot be used: {why}", .path.display())]
    Key { path: PathBuf, why: String },
    #[error("the key in {} does not belong to the first certificate in {}", .key.display(), .cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
}

impl Fault {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreadable { .. } => {
                "write the path of a PEM file of at most 4MiB that this user may read".to_owned()
            }
            Self::NoCertificate { .. } | Self::Certificate { .. } => {
                "write the certificate chain as PEM, the server's own certificate first".to_owned()
            }
            Self::NoRoot { .. } | Self::Root { .. } => {
                "write the certificates of the authorities that are trusted, as PEM".to_owned()
            }
            Self::NoKey { .. } | Self::Key { .. } => {
                "write the private key as PEM (RSA of 2048 bits or more, ECDSA or Ed25519)".to_owned()
            }
            Self::Encrypted { path } => {
                format!("write it without a passphrase: `openssl pkey -in {} -out FILE`", path.display())
            }
            Self::Mismatch { .. } => {
                "write the key that the certificate was issued for, and that certificate first".to_owned()
            }
        }
    }

    /// Whether the file of the key is at fault.
    #[must_use]
    pub const fn is_of_the_key(&self) -> bool {
        matches!(self, Self::NoKey { .. } | Self::Encrypted { .. } | Self::Key { .. } | Self::Mismatch { .. })
    }
}

/// What can be said of the time in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It does not begin yet.
    NotYet,
    /// Nothing stands against it.
    Good,
    /// It ends soon: within 14 days, and within a quarter of its lifetime (short-lived certificates are renewed late).
    EndsSoon,
    /// It has ended.
    Ended,
}

/// A certificate chain.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The certificates, the server's own first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The DNS names that the first bears, in lower case; some with a leading `*.`.
    pub names: Vec<String>,
    /// The IP addresses that it bears.
    pub addresses: Vec<IpAddr>,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ceases to be valid.
    pub not_after: SystemTime,
}

impl Chain {
    /// Reads a chain.
    ///
    /// # Errors
    /// The file cannot be read, holds no certificate, or one that is no X.509.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        Self::parse(&contents(path)?, path)
    }

    /// Reads the chain that the file at `path` holds.
    ///
    /// # Errors
    /// It holds no certificate, or one that is no X.509, be it the first or another.
    pub fn parse(pem: &[u8], path: &Path) -> Result<Self, Fault> {
        let fault = |why: String| Fault::Certificate { path: path.to_owned(), why };
        let certificates = certificates(pem).map_err(fault)?;
        let first = certificates.first().ok_or_else(|| Fault::NoCertificate { path: path.to_owned() })?;
        let (_, leaf) = X509Certificate::from_der(first).map_err(|error| fault(error.to_string()))?;
        let (names, addresses) = names(&leaf);
        let validity = leaf.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { names, addresses, not_before: at(not_before), not_after: at(not_after), certificates })
    }

    /// Whether it is good for a host: a name in lower case, or an IP address (RFC 9525, 6.3).
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        if let Ok(address) = name.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        self.names.iter().any(|known| known == name || wildcard_of(name).is_some_and(|wildcard| *known == wildcard))
    }

    /// What can be said of its time now.
    #[must_use]
    pub fn validity(&self, now: SystemTime) -> Validity {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        match self.not_after.duration_since(now) {
            Err(_) => Validity::Ended,
            Ok(_) if now < self.not_before => Validity::NotYet,
            Ok(left) if left < SOON && left < lifetime / 4 => Validity::EndsSoon,
            Ok(_) => Validity::Good,
        }
    }

    /// The chain with its key, ready to prove who we are.
    ///
    /// # Errors
    /// The key cannot be read or used, or belongs to another certificate.
    pub fn with_key(&self, cert: &Path, key: &Path) -> Result<CertifiedKey, Fault> {
        let private = private_key(key)?;
        CertifiedKey::from_der(self.certificates.clone(), private, &crypto::provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Fault::Mismatch { cert: cert.to_owned(), key: key.to_owned() },
            rustls::Error::InvalidCertificate(why) => {
                Fault::Certificate { path: cert.to_owned(), why: format!("{why:?}") }
            }
            error => Fault::Key { path: key.to_owned(), why: error.to_string() },
        })
    }
}

/// `*.example.com` for `www.example.com`: the one wildcard that covers a name.
#[must_use]
pub fn wildcard_of(name: &str) -> Option<String> {
    let (label, rest) = name.split_once('.')?;
    (!label.is_empty() && !rest.is_empty()).then(|| format!("*.{rest}"))
}

/// The certificates of a file of roots. Each can be trusted: [`RootCertStore::add`] takes it.
///
/// # Errors
/// The file cannot be read, holds none, or one that cannot be a root.
pub fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let fault = |why: String| Fault::Root { path: path.to_owned(), why };
    let roots = certificates(&contents(path)?).map_err(fault)?;
    if roots.is_empty() {
        return Err(Fault::NoRoot { path: path.to_owned() });
    }
    let mut store = RootCertStore::empty();
    for (index, root) in roots.iter().enumerate() {
        store.add(root.clone()).map_err(|error| fault(format!("the {}: {error}", ordinal(index))))?;
    }
    Ok(roots)
}

/// The certificates in a PEM file, each of them X.509.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| words(&error))?;
    match found.iter().position(|der| X509Certificate::from_der(der).is_err()) {
        Some(index) => Err(format!("the {} in it is no X.509 certificate", ordinal(index))),
        None => Ok(found),
    }
}

/// The day of a certificate's time, in UTC, as `2026-01-31`; empty where no calendar has it.
#[must_use]
pub fn day(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.strftime("%F").to_string()).unwrap_or_default()
}

fn ordinal(index: usize) -> String {
    match index {
        0 => "first".to_owned(),
        1 => "second".to_owned(),
        2 => "third".to_owned(),
        _ => format!("{}th", index + 1),
    }
}

/// What is wrong with a PEM file, without a byte of it: it may be a private key's.
fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end, the file is not whole".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a line that begins a section is garbled".to_owned(),
        pem::Error::Base64Decode(_) => "a section is not in base64".to_owned(),
        other => other.to_string(),
    }
}

/// The bytes of a regular file of at most 4 MiB.
///
/// # Errors
/// [`Fault::Unreadable`].
pub fn contents(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |error| Fault::Unreadable { path: path.to_owned(), error };
    // Opening a named pipe would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(unreadable(io::Error::other("it is larger than 4MiB")));
    }
    Ok(bytes)
}

/// The first private key of a file.
///
/// # Errors
/// The file cannot be read, or holds none that can be used without a passphrase.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    let pem = contents(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        // PKCS #8 says it in its label, older forms in a header.
        _ if memchr::memmem::find(&pem, b"ENCRYPTED").is_some() => Fault::Encrypted { path: path.to_owned() },
        rustls_pki_types::pem::Error::NoItemsFound => Fault::NoKey { path: path.to_owned() },
        error => Fault::Key { path: path.to_owned(), why: words(&error) },
    })
}

fn names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let mut found = (Vec::new(), Vec::new());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    for name in alternative.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default() {
        match name {
            GeneralName::DNSName(name) => found.0.push(name.trim_end_matches('.').to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => found.1.extend(address(bytes)),
            _ => {}
        }
    }
    found
}

/// An address as X.509 writes it: 4 or 16 bytes (RFC 5280, 4.2.1.6).
#[must_use]
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Seconds since 1970, as a time. What lies before 1970 is 1970.
fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
