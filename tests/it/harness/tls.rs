//! A client that speaks TLS, and certificates for listeners and clients.

use std::sync::{Arc, Mutex};

use rcgen::{Certificate, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{ClientConnection, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    SignatureScheme, SupportedProtocolVersion, version,
};

use super::client::{Answer, Connection};
use super::origin::Authority;
use super::wire::{Address, Fault, Stream};

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) leaf: Certificate,
    pub(crate) key: KeyPair,
}

impl Issued {
    /// The certificate as PEM.
    pub(crate) fn pem(&self) -> String {
        self.leaf.pem()
    }

    /// The key as PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The certificate as it is seen in a handshake.
    pub(crate) fn der(&self) -> &[u8] {
        self.leaf.der()
    }
}

/// A client that trusts one authority and asks for one host.
#[derive(Debug, Clone)]
pub(crate) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stapled: Arc<Mutex<Vec<u8>>>,
}

/// Verifies as WebPKI does, and keeps what the server says of its certificate by OCSP.
#[derive(Debug)]
struct Witness {
    verifier: Arc<WebPkiServerVerifier>,
    stapled: Arc<Mutex<Vec<u8>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.stapled.lock().expect("nothing panics while it holds it") = stapled.to_vec();
        // What the tests staple is no answer of an authority.
        self.verifier.verify_server_cert(leaf, chain, name, &[], now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// What a handshake has settled.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The version.
    pub(crate) version: ProtocolVersion,
    /// The key exchange.
    pub(crate) group: Option<NamedGroup>,
    /// Whether an earlier session was resumed.
    pub(crate) resumed: bool,
    /// The protocol that was agreed upon.
    pub(crate) alpn: Option<Vec<u8>>,
    /// The server's certificate.
    pub(crate) certificate: Vec<u8>,
}

impl TlsClient {
    /// A client that trusts `authority` and asks for `host`.
    pub(crate) fn new(authority: &Authority, host: &str) -> Self {
        Self::build(authority, host, &[&version::TLS13, &version::TLS12], None, provider())
    }

    /// One that speaks TLS 1.2 at most.
    pub(crate) fn old(authority: &Authority, host: &str) -> Self {
        Self::build(authority, host, &[&version::TLS12], None, provider())
    }

    /// One that shows a certificate.
    pub(crate) fn showing(authority: &Authority, host: &str, identity: &Issued) -> Self {
        Self::build(authority, host, &[&version::TLS13, &version::TLS12], Some(identity), provider())
    }

    fn build(
        authority: &Authority,
        host: &str,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Issued>,
        provider: CryptoProvider,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("the authority is PEM");
        roots.add(root).expect("it is a certificate");
        let (provider, stapled) = (Arc::new(provider), Arc::<Mutex<Vec<u8>>>::default());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.build().expect("there is a root");
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider supports them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Witness { verifier, stapled: Arc::clone(&stapled) }));
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
                builder.with_client_auth_cert(vec![identity.leaf.der().clone()], key).expect("the key belongs to it")
            }
        };
        let name = ServerName::try_from(host.to_owned()).expect("it is a host name");
        Self { config: Arc::new(config), name, stapled }
    }

    /// What came stapled to the certificate in the last handshake that showed one.
    pub(crate) fn stapled(&self) -> Vec<u8> {
        self.stapled.lock().expect("nothing panics while it holds it").clone()
    }

    /// One that offers these protocols by ALPN; sessions are not shared with this one.
    pub(crate) fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// Another that asks for `host`, and shares sessions with this one.
    pub(crate) fn asking_for(&self, host: &str) -> Self {
        let name = ServerName::try_from(host.to_owned()).expect("it is a host name");
        Self { name, ..self.clone() }
    }

    /// One that sends no SNI.
    pub(crate) fn nameless(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.enable_sni = false;
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// Connects and shakes hands, or says why it could not.
    pub(crate) async fn try_connect(&self, address: &Address) -> Result<(Connection, Handshake), Fault> {
        let Address::Inet(inet) = address else { panic!("TLS tests run over TCP") };
        self.over(TcpStream::connect(inet).await?).await
    }

    /// Shakes hands on a connection that stands already.
    pub(crate) async fn over(&self, stream: TcpStream) -> Result<(Connection, Handshake), Fault> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connecting = connector.connect(self.name.clone(), stream);
        let stream = tokio::time::timeout(super::PATIENCE, connecting).await.map_err(|_| Fault::Late)??;
        let handshake = Handshake::of(stream.get_ref().1);
        let host = self.name.to_str().into_owned();
        Ok((Connection::over(Stream::over(stream), &host), handshake))
    }

    /// `GET path` over a connection of its own.
    ///
    /// # Panics
    /// If there is no answer.
    pub(crate) async fn get(&self, address: &Address, path: &str) -> (Answer, Handshake) {
        let (mut connection, handshake) =
            self.try_connect(address).await.unwrap_or_else(|fault| panic!("no connection: {fault:?}"));
        (connection.get(path).await, handshake)
    }
}

impl Handshake {
    fn of(connection: &ClientConnection) -> Self {
        Self {
            version: connection.protocol_version().expect("the handshake is done"),
            group: connection.negotiated_key_exchange_group().map(|group| group.name()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            certificate: connection
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(|der| der.to_vec())
                .unwrap_or_default(),
        }
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
