//! Ed25519 keys (RFC 8032) of nodes and publishers.

use std::fmt;

use ed25519_dalek::Signer;

/// Why a key or a signature was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 64 hexadecimal digits.
    #[error("a key is written as 64 hexadecimal digits")]
    NotHex,
    /// The 32 bytes are no point of the curve.
    #[error("these 32 bytes are not an Ed25519 public key")]
    NotAKey,
    /// The signature does not belong to this key and these bytes.
    #[error("the signature does not match the publisher's key")]
    BadSignature,
}

/// The public key that names a node or a publisher. Its text form is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublisherKey(pub [u8; 32]);

impl PublisherKey {
    /// Whether `text` has the form of a publisher key, which no `content_id` may have.
    #[must_use]
    pub fn is_form(text: &str) -> bool {
        text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// Reads the text form of a key that was checked when it was written; nothing when it has
    /// another form. That the bytes are a point of the curve is not asked again, and what is none
    /// has no valid signature.
    #[must_use]
    pub fn from_hex_unchecked(text: &str) -> Option<Self> {
        parse_hex(text).ok().map(Self)
    }

    /// Checks that `signature` was made by this key over `domain` followed by `message`.
    ///
    /// Strict verification (RFC 8032 section 5.1.7, no small-order keys), so that a signature
    /// means the same for every node.
    pub fn verify(
        &self,
        domain: &[u8],
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), KeyError> {
        let key =
            ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| KeyError::NotAKey)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(&signed_bytes(domain, message), &signature)
            .map_err(|_| KeyError::BadSignature)
    }
}

impl fmt::Display for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherKey({self})")
    }
}

impl std::str::FromStr for PublisherKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // It was typed or copied by somebody: what is no point of the curve is nobody's key.
        let key = Self(parse_hex(text)?);
        ed25519_dalek::VerifyingKey::from_bytes(&key.0).map_err(|_| KeyError::NotAKey)?;
        Ok(key)
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The beginning is enough to tell two apart in a log.
        f.write_str("Signature(")?;
        write_hex(f, &self.0[..8])?;
        f.write_str("..)")
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl std::str::FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // Checked, as byte 64 may lie inside of a letter.
        let (head, tail) = text.split_at_checked(64).ok_or(KeyError::NotHex)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&parse_hex(head)?);
        bytes[32..].copy_from_slice(&parse_hex(tail)?);
        Ok(Self(bytes))
    }
}

/// A secret key; never printed by `Debug`, wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// From 32 secret bytes, which the caller drew at random.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The 32 secret bytes, for storing them.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn publisher(&self) -> PublisherKey {
        PublisherKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `domain` followed by `message`.
    #[must_use]
    pub fn sign(&self, domain: &[u8], message: &[u8]) -> Signature {
        Signature(self.0.sign(&signed_bytes(domain, message)).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The public half: the secret one must not come into a log.
        write!(f, "SigningKey(of {})", self.publisher())
    }
}

fn signed_bytes(domain: &[u8], message: &[u8]) -> Vec<u8> {
    [domain, message].concat()
}

pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(crate) fn parse_hex(text: &str) -> Result<[u8; 32], KeyError> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return Err(KeyError::NotHex);
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = hex_digit(digits[0])? << 4 | hex_digit(digits[1])?;
    }
    Ok(bytes)
}

fn hex_digit(digit: u8) -> Result<u8, KeyError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(KeyError::NotHex),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_covers_domain_message_and_key() {
        let key = SigningKey::from_seed(&[7; 32]);
        let signature = key.sign(b"a", b"message");
        assert_eq!(key.publisher().verify(b"a", b"message", &signature), Ok(()));
        let bad = Err(KeyError::BadSignature);
        assert_eq!(key.publisher().verify(b"b", b"message", &signature), bad);
        assert_eq!(key.publisher().verify(b"a", b"massage", &signature), bad);
        let other = SigningKey::from_seed(&[8; 32]).publisher();
        assert_eq!(other.verify(b"a", b"message", &signature), bad);
    }

    #[test]
    fn text_form_round_trips_and_wrong_text_is_refused() {
        let key = SigningKey::from_seed(&[7; 32]).publisher();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!(PublisherKey::is_form(&key.to_string()));
        assert_eq!("abc".parse::<PublisherKey>(), Err(KeyError::NotHex));
        assert_eq!(
            "zz".repeat(32).parse::<PublisherKey>(),
            Err(KeyError::NotHex)
        );
        let signature = SigningKey::from_seed(&[7; 32]).sign(b"a", b"b");
        assert_eq!(signature.to_string().parse(), Ok(signature));
        assert_eq!("00".repeat(63).parse::<Signature>(), Err(KeyError::NotHex));
    }

    #[test]
    fn debug_never_shows_the_secret() {
        let key = SigningKey::from_seed(&[0xab; 32]);
        assert!(!format!("{key:?}").contains("abababab"));
    }
}
