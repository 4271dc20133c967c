//! The TLS of one listener: its certificates, how clients prove who they are, and the sessions that may be resumed.
//!
//! Its files are read when it is built, and again when they have changed ([`Terminator::look`]). What is new takes effect with
//! the next handshake; connections that stand are not touched. What cannot be used changes nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SupportedProtocolVersion, version};

use super::store::Store;
use crate::base::certificate::{self, Chain, Fault, Validity};
use crate::base::crypto;
use crate::base::stamp::{Settled, Stamp};
use crate::config::plan::{self, CertificateFiles, ClientAuth, ClientAuthMode, ListenerTls};

/// Why the TLS of a listener cannot be built; each names the file at fault.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum BuildError {
    #[error("{source} ({})", .source.remedy())]
    Files {
        #[from]
        source: Fault,
    },
    #[error("the roots in {} cannot verify clients: {why}", .path.display())]
    Roots { path: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The TLS of one listener.
pub struct Terminator {
    plan: Arc<ListenerTls>,
    certificates: Arc<Certificates>,
    config: ArcSwap<ServerConfig>,
    seen: Mutex<Seen>,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// The certificates as they stand, which a handshake chooses from.
#[derive(Debug)]
struct Certificates {
    store: ArcSwap<Store>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.store.load().choose(hello.server_name(), hello.signature_schemes())
    }
}

/// A certificate that serves.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Its file.
    pub path: PathBuf,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ceases to be valid.
    pub not_after: SystemTime,
}

/// What a look at the files has found.
#[derive(Debug)]
pub enum Look {
    /// A file has changed, and what it holds serves from now on.
    Renewed(PathBuf),
    /// A file has changed and cannot be used: what was read before serves on.
    Refused(PathBuf, BuildError),
    /// What can be said of the time of a certificate that serves has changed since the last look.
    Aged(Serving, Validity),
}

/// The files as they were last seen.
struct Seen {
    pairs: Vec<Pair>,
    roots: Option<Watched>,
}

/// A certificate with its files.
struct Pair {
    files: CertificateFiles,
    watched: Watched,
    loaded: Loaded,
    /// What was last said of its time.
    told: Validity,
}

/// What was read of a certificate's files.
#[derive(Clone)]
struct Loaded {
    chain: Chain,
    key: Arc<CertifiedKey>,
}

/// How files that are looked at together were when what serves was read, or was last refused for good.
type Watched = Settled<Vec<Option<Stamp>>>;

impl Terminator {
    /// Reads the files of a plan.
    ///
    /// # Errors
    /// [`BuildError`], which names the file at fault.
    pub fn build(plan: &Arc<ListenerTls>) -> Result<Self, BuildError> {
        let pairs = plan.certificates.iter().map(Pair::read).collect::<Result<Vec<_>, _>>()?;
        let certificates = Arc::new(Certificates { store: ArcSwap::from_pointee(store(&pairs)) });
        let roots = plan.client_auth.as_ref().map(|auth| Settled::new(stamps([auth.ca.as_path()])));
        let config = server_config(plan, &certificates)?;
        Ok(Self {
            plan: plan.clone(),
            certificates,
            config: ArcSwap::from_pointee(config),
            seen: Mutex::new(Seen { pairs, roots }),
        })
    }

    /// The plan it was built from: for another one another is built.
    #[must_use]
    pub const fn plan(&self) -> &Arc<plan::ListenerTls> {
        &self.plan
    }

    /// What the next handshake needs.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// The certificates that serve, in the order of the file.
    #[must_use]
    pub fn serving(&self) -> Vec<Serving> {
        self.seen.lock().pairs.iter().map(Pair::serving).collect()
    }

    /// Reads again what has changed, and says what came of it, and what the time is doing to the certificates. It reads files,
    /// and so blocks.
    pub fn look(&self, now: SystemTime) -> Vec<Look> {
        let mut seen = self.seen.lock();
        let mut found = Vec::new();
        for pair in &mut seen.pairs {
            found.extend(pair.look());
        }
        if found.iter().any(|look| matches!(look, Look::Renewed(_))) {
            self.certificates.store.store(Arc::new(store(&seen.pairs)));
        }
        found.extend(seen.pairs.iter_mut().filter_map(|pair| pair.age(now)));
        if let (Some(auth), Some(watched)) = (&self.plan.client_auth, &mut seen.roots) {
            found.extend(self.look_at_roots(auth, watched));
        }
        found
    }

    /// New roots come with new ticket keys: a session that the old ones vouched for must not be resumed.
    fn look_at_roots(&self, auth: &ClientAuth, watched: &mut Watched) -> Option<Look> {
        let now = changed(watched, [auth.ca.as_path()])?;
        match server_config(&self.plan, &self.certificates) {
            Ok(config) => {
                *watched = Settled::new(now);
                self.config.store(Arc::new(config));
                Some(Look::Renewed(auth.ca.clone()))
            }
            Err(error) => doubt(watched, now).then(|| Look::Refused(auth.ca.clone(), error)),
        }
    }
}

impl Pair {
    fn read(files: &CertificateFiles) -> Result<Self, Fault> {
        // The files are stamped before they are read: what changes in between is read again.
        let watched = Settled::new(stamps(paths(files)));
        Ok(Self { files: files.clone(), watched, loaded: Loaded::read(files)?, told: Validity::Good })
    }

    fn serving(&self) -> Serving {
        let Chain { not_before, not_after, .. } = self.loaded.chain;
        Serving { path: self.files.cert.clone(), not_before, not_after }
    }

    fn age(&mut self, now: SystemTime) -> Option<Look> {
        let validity = self.loaded.chain.validity(now);
        let before = std::mem::replace(&mut self.told, validity);
        (before != validity).then(|| Look::Aged(self.serving(), validity))
    }

    fn look(&mut self) -> Option<Look> {
        let now = changed(&self.watched, paths(&self.files))?;
        match Loaded::read(&self.files) {
            Ok(loaded) => {
                self.watched = Settled::new(now);
                self.loaded = loaded;
                Some(Look::Renewed(self.files.cert.clone()))
            }
            Err(fault) => doubt(&mut self.watched, now).then(|| Look::Refused(self.files.cert.clone(), fault.into())),
        }
    }
}

fn paths(files: &CertificateFiles) -> impl Iterator<Item = &Path> {
    [&files.cert, &files.key].into_iter().chain(&files.ocsp).map(PathBuf::as_path)
}

impl Loaded {
    fn read(files: &CertificateFiles) -> Result<Self, Fault> {
        let chain = Chain::read(&files.cert)?;
        let mut key = chain.with_key(&files.cert, &files.key)?;
        key.ocsp = files.ocsp.as_deref().map(certificate::contents).transpose()?;
        Ok(Self { chain, key: Arc::new(key) })
    }
}

fn store(pairs: &[Pair]) -> Store {
    Store::new(pairs.iter().map(|pair| (pair.loaded.chain.names.clone(), pair.loaded.key.clone())).collect())
}

/// How the files are now, where that is new.
fn changed<'a>(watched: &Watched, paths: impl IntoIterator<Item = &'a Path>) -> Option<Vec<Option<Stamp>>> {
    let now = stamps(paths);
    (now != *watched.looks()).then_some(now)
}

/// What the files hold now is of no use. Whether that has lasted, so that it must be told; it is told once.
fn doubt(watched: &mut Watched, now: Vec<Option<Stamp>>) -> bool {
    let lasting = watched.rested(now);
    let lasts = lasting.is_some();
    lasting.into_iter().for_each(|now| *watched = Settled::new(now));
    lasts
}

fn stamps<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<Option<Stamp>> {
    paths.into_iter().map(|path| Stamp::of(path).ok()).collect()
}

/// What handshakes need. Each has ticket keys of its own: a session of one listener is not resumed at another, which may ask
/// more of its clients.
fn server_config(plan: &ListenerTls, certificates: &Arc<Certificates>) -> Result<ServerConfig, BuildError> {
    let builder = ServerConfig::builder_with_provider(crypto::provider()).with_protocol_versions(&versions(plan))?;
    let builder = match &plan.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => builder.with_client_cert_verifier(verifier(auth)?),
    };
    let mut config = builder.with_cert_resolver(certificates.clone());
    config.alpn_protocols = plan.alpn.iter().map(|alpn| alpn.as_str().into()).collect();
    // Tickets for TLS 1.2 and 1.3, under keys that change every six hours and are forgotten after twelve.
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

fn versions(plan: &ListenerTls) -> Vec<&'static SupportedProtocolVersion> {
    match plan.min_version {
        plan::TlsVersion::V12 => vec![&version::TLS13, &version::TLS12],
        plan::TlsVersion::V13 => vec![&version::TLS13],
    }
}

fn verifier(auth: &ClientAuth) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, BuildError> {
    let fault = |why: String| BuildError::Roots { path: auth.ca.clone(), why };
    let mut roots = RootCertStore::empty();
    for root in certificate::roots(&auth.ca)? {
        roots.add(root).map_err(|error| fault(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider());
    let builder = match auth.mode {
        ClientAuthMode::Required => builder,
        ClientAuthMode::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error: VerifierBuilderError| fault(error.to_string()))
}
