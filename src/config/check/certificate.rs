//! `listeners.tls`: certificates and keys, read while the configuration is checked, so that what is wrong with them is told
//! at their place and before anything starts.

use std::path::PathBuf;
use std::time::SystemTime;

use super::Checker;
use crate::base::certificate::{self, Chain, Fault, Validity};
use crate::config::file::collection::OrNone;
use crate::config::file::leaf::FilePath;
use crate::config::file::listener::{self as file, Certificate, ClientAuth, Tls};
use crate::config::file::term::{Field, Spanned};
use crate::config::plan;
use crate::config::read::At;

/// TLS toward clients as it will run.
pub(super) fn listener_tls(
    field: &Field<OrNone<Tls>>,
    protocols: plan::Protocols,
    checker: &mut Checker<'_, '_>,
) -> Option<plan::ListenerTls> {
    let Spanned { value, at } = field.given()?;
    let tls = value.as_some()?;
    check_acme(tls, checker);
    match tls.certificates.given() {
        None if tls.certificates.is_absent() && tls.acme.is_absent() => {
            checker.error(*at, "TLS needs a certificate", "write `certificates: [{ cert: site.pem, key: site.key }]`");
        }
        Some(Spanned { value: list, at }) if list.items.is_empty() && !list.is_partial => {
            checker.error(
                *at,
                "no certificate is written",
                "write `certificates: [{ cert: site.pem, key: site.key }]`",
            );
        }
        _ => {}
    }
    let certificates = tls.certificates.value().map_or(&[][..], |list| &list.items);
    Some(plan::ListenerTls {
        certificates: certificates.iter().filter_map(|item| one(item, checker)).collect(),
        client_auth: client_auth(&tls.client_auth, checker),
        min_version: match tls.min_version() {
            file::TlsVersion::V12 => plan::TlsVersion::V12,
            file::TlsVersion::V13 => plan::TlsVersion::V13,
        },
        alpn: protocols.alpn(),
    })
}

fn check_acme(tls: &Tls, checker: &mut Checker<'_, '_>) {
    if let Some(Spanned { value: OrNone::Some(acme), at }) = tls.acme.given()
        && (acme.hosts.is_absent() || acme.storage.is_absent())
    {
        checker.error(*at, "`acme` needs `hosts` and `storage`", "write both");
    }
}

fn one(item: &Spanned<Certificate>, checker: &mut Checker<'_, '_>) -> Option<plan::CertificateFiles> {
    let written = &item.value;
    if written.cert.is_absent() || written.key.is_absent() {
        checker.error(item.at, "a certificate needs `cert` and `key`", "write both");
    }
    let chain = written.cert.given().and_then(|cert| chain(cert, checker));
    if let (Some(chain), Some(cert)) = (&chain, written.cert.given())
        && chain.names.is_empty()
        && chain.addresses.is_empty()
    {
        let message =
            format!("the certificate in {} names no host, so that no client trusts it", cert.value.0.display());
        checker.warning(cert.at, message, "have it issued with a subject alternative name (RFC 9525)");
    }
    let (cert, key) = pair(&written.cert, &written.key, chain.as_ref(), checker)?;
    let ocsp = staple(&written.ocsp, checker);
    Some(plan::CertificateFiles { cert, key, ocsp })
}

/// The certificate and key that backends are shown, where both are written.
pub(super) fn identity(
    cert: &Field<FilePath>,
    key: &Field<FilePath>,
    checker: &mut Checker<'_, '_>,
) -> Option<(PathBuf, PathBuf)> {
    let chain = cert.given().and_then(|cert| chain(cert, checker));
    pair(cert, key, chain.as_ref(), checker)
}

/// A file of roots.
pub(super) fn roots(field: &Field<FilePath>, checker: &mut Checker<'_, '_>) -> Option<PathBuf> {
    let Spanned { value: FilePath(path), at } = field.given()?;
    read(certificate::roots(path), *at, checker);
    Some(path.clone())
}

fn chain(cert: &Spanned<FilePath>, checker: &mut Checker<'_, '_>) -> Option<Chain> {
    let chain = read(Chain::read(&cert.value.0), cert.at, checker)?;
    judge_time(&chain, cert, checker);
    Some(chain)
}

/// The two files, where both are written; whether they belong together, where the certificate can be used.
fn pair(
    cert: &Field<FilePath>,
    key: &Field<FilePath>,
    chain: Option<&Chain>,
    checker: &mut Checker<'_, '_>,
) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = (cert.given()?, key.given()?);
    match chain.map(|chain| chain.with_key(&cert.value.0, &key.value.0)) {
        None | Some(Ok(_)) => {}
        Some(Err(fault)) if fault.is_of_the_key() => refuse(&fault, key.at, checker),
        Some(Err(fault @ Fault::Unreadable { .. })) => refuse(&fault, key.at, checker),
        Some(Err(fault)) => refuse(&fault, cert.at, checker),
    }
    checker.warn_if_others_can_read(&key.value.0, key.at);
    Some((cert.value.0.clone(), key.value.0.clone()))
}

/// What is worth telling of the time of a certificate that can be used.
fn judge_time(chain: &Chain, cert: &Spanned<FilePath>, checker: &mut Checker<'_, '_>) {
    let path = cert.value.0.display();
    let (begins, ends) = (certificate::day(chain.not_before), certificate::day(chain.not_after));
    let doubt = match chain.validity(SystemTime::now()) {
        Validity::Good => None,
        Validity::NotYet => {
            Some((format!("the certificate in {path} is not valid before {begins}"), "check the clock"))
        }
        Validity::EndsSoon => Some((format!("the certificate in {path} ends on {ends}"), "renew it")),
        Validity::Ended => Some((format!("the certificate in {path} ended on {ends}"), "renew it")),
    };
    if let Some((message, help)) = doubt {
        checker.warning(cert.at, message, help);
    }
}

fn staple(field: &Field<FilePath>, checker: &mut Checker<'_, '_>) -> Option<PathBuf> {
    let Spanned { value: FilePath(path), at } = field.given()?;
    match certificate::contents(path) {
        Err(fault) => checker.error(*at, fault.to_string(), "write the path of an OCSP response in DER"),
        // An OCSP response is a sequence whose first member is a status (RFC 6960, 4.2.1).
        Ok(bytes) if bytes.first() != Some(&0x30) => {
            checker.error(
                *at,
                format!("{} holds no OCSP response in DER", path.display()),
                "write it with `openssl ocsp -respout FILE`",
            );
        }
        Ok(_) => {}
    }
    Some(path.clone())
}

fn client_auth(field: &Field<OrNone<ClientAuth>>, checker: &mut Checker<'_, '_>) -> Option<plan::ClientAuth> {
    let Spanned { value, at } = field.given()?;
    let written = value.as_some()?;
    checker.required(&written.ca, *at, "`client_auth` needs roots to verify with", "write `ca: clients.pem`");
    let ca = roots(&written.ca, checker)?;
    let mode = match written.mode() {
        file::ClientAuthMode::Required => plan::ClientAuthMode::Required,
        file::ClientAuthMode::Optional => plan::ClientAuthMode::Optional,
    };
    Some(plan::ClientAuth { ca, mode })
}

fn read<T>(result: Result<T, Fault>, at: At, checker: &mut Checker<'_, '_>) -> Option<T> {
    result.map_err(|fault| refuse(&fault, at, checker)).ok()
}

fn refuse(fault: &Fault, at: At, checker: &mut Checker<'_, '_>) {
    checker.error(at, fault.to_string(), fault.remedy());
}
