//! A node's key as TLS carries it: a raw public key (RFC 7250).

use lavant_proto::ids::PublisherKey;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, alg_id::ED25519};
use rustls::{CertificateError, Error};

/// A key in the form in which TLS carries it.
pub(super) fn spki(key: &PublisherKey) -> SubjectPublicKeyInfoDer<'static> {
    rustls::sign::public_key_to_spki(&ED25519, key.0)
}

/// The key in a raw public key; the form is compared byte by byte, nothing is parsed.
pub(super) fn key_in(certificate: &CertificateDer<'_>) -> Result<PublisherKey, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let tail = certificate.last_chunk::<32>().ok_or_else(bad)?;
    let key = PublisherKey(*tail);
    if spki(&key).as_ref() != certificate.as_ref() {
        return Err(bad());
    }
    Ok(key)
}
