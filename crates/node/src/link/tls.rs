//! TLS 1.3 with raw public keys (RFC 7250): each node proves its Ed25519 key, without X.509.

use std::sync::{Arc, PoisonError};

use lavant_proto::ids::{PublisherKey, Signature, SigningKey};
use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey as TlsSigningKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureAlgorithm, SignatureScheme,
};

use super::handshake::{Handshake, OtherKey};
use super::raw_key::{key_in, spki};

/// What both sides speak on a link.
pub(super) const ALPN: &[u8] = b"lavant/1";
/// What a dialler speaks that only wants to know the key.
pub(super) const ALPN_KEY: &[u8] = b"lavant/1/key";

#[derive(Debug)]
struct NodeSigner(SigningKey);

impl TlsSigningKey for NodeSigner {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(Self(self.0.clone())) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki(&self.0.publisher()))
    }
}

impl Signer for NodeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        // TLS puts 64 spaces and its own context before what it signs (RFC 8446 section 4.4.3),
        // which no domain of ours begins with.
        Ok(self.0.sign(b"", message).0.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Checks that the other side has the key it shows, and the expected one where there is one.
#[derive(Debug, Default)]
struct NodeVerifier {
    expected: Option<PublisherKey>,
    other: OtherKey,
}

impl NodeVerifier {
    fn check(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        let key = key_in(shown)?;
        // A raw key has no chain (RFC 7250), and nobody looks at what comes behind it.
        if !more.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        if self.expected.is_some_and(|expected| expected != key) {
            *self.other.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
            let refused = CertificateError::ApplicationVerificationFailure;
            return Err(Error::InvalidCertificate(refused));
        }
        Ok(())
    }
}

fn check_signature(
    message: &[u8],
    shown: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = Error::InvalidCertificate(CertificateError::BadSignature);
    // Strictly, as all signatures of nodes and publishers: no small-order keys.
    let signature: &[u8; 64] = signed.signature().try_into().map_err(|_| bad.clone())?;
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(bad);
    }
    key_in(shown)?
        .verify(b"", message, &Signature(*signature))
        .map_err(|_| bad)?;
    Ok(HandshakeSignatureValid::assertion())
}

fn no_older_tls() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_older_tls()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_older_tls()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Our side of every handshake.
#[derive(Clone, Debug)]
pub(super) struct TlsIdentity {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

impl TlsIdentity {
    pub(super) fn new(key: &SigningKey) -> Result<Self, Error> {
        let mut provider = ring::default_provider();
        // The cheapest where the processor has AES (measured); the last one where it has not.
        provider.cipher_suites = vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let provider = Arc::new(provider);
        let shown = CertificateDer::from(spki(&key.publisher()).to_vec());
        let signer = Arc::new(NodeSigner(key.clone()));
        let certified = Arc::new(CertifiedKey::new(vec![shown], signer));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(NodeVerifier::default()))
            .with_cert_resolver(Arc::new(RawKey(Arc::clone(&certified))));
        server.alpn_protocols = vec![ALPN.to_vec(), ALPN_KEY.to_vec()];
        // Each link proves both keys anew, so that a ticket would be of no use.
        server.send_tls13_tickets = 0;
        // The record layer is our own after the handshake.
        server.enable_secret_extraction = true;
        Ok(Self {
            provider,
            certified,
            server: Arc::new(server),
        })
    }

    /// For a connection that came in.
    pub(super) fn accept(&self) -> Result<Handshake, Error> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.server))?;
        Ok(Handshake::server(connection))
    }

    /// For a connection that goes out.
    pub(super) fn dial(
        &self,
        expected: Option<PublisherKey>,
        alpn: &[u8],
    ) -> Result<Handshake, Error> {
        let other = OtherKey::default();
        let verifier = NodeVerifier {
            expected,
            other: Arc::clone(&other),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(RawKey(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        // The name below stands for nothing, and would only tell who listens on the way what this
        // is.
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("lavant").map_err(|_| Error::UnsupportedNameType)?;
        let connection = UnbufferedClientConnection::new(Arc::new(config), name)?;
        Ok(Handshake::client(connection, other))
    }
}

#[derive(Debug)]
struct RawKey(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for RawKey {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for RawKey {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }
}
