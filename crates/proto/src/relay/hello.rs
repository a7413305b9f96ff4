//! The first message of each side: what it wants, and proof that it knows the group's token.

use std::collections::BTreeSet;

use crate::content::record::read_content_key;
use crate::ids::{ContentId, ContentKey, PublisherKey};
use crate::limits::CONTENT_ID_BYTES_MAX;
use crate::wire::{DecodeError, Reader, Writer};

/// The version of the relay protocol.
pub const VERSION: u64 = 1;
/// Most publishers, and most contents, that an interest names.
const NAMES_MAX: u64 = 512;
/// Longest name of a node, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Whose contents a node takes from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Those of all publishers.
    pub all: bool,
    /// Those of these publishers; a node's own key is always among them.
    pub publishers: BTreeSet<PublisherKey>,
    /// Single contents: of one publisher, or of any.
    pub contents: BTreeSet<(ContentId, Option<PublisherKey>)>,
}

impl Interest {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Whether a content is asked for by its own name.
    #[must_use]
    pub fn names(&self, key: &ContentKey) -> bool {
        let id = &key.content_id;
        !self.contents.is_empty()
            && (self.contents.contains(&(id.clone(), None))
                || self.contents.contains(&(id.clone(), Some(key.publisher))))
    }

    /// Whether a content is of interest.
    #[must_use]
    pub fn covers(&self, key: &ContentKey) -> bool {
        self.all || self.publishers.contains(&key.publisher) || self.names(key)
    }

    fn write(&self, w: &mut Writer) {
        w.byte(u8::from(self.all));
        w.number(self.publishers.len() as u64);
        for publisher in &self.publishers {
            w.bytes(&publisher.0);
        }
        w.number(self.contents.len() as u64);
        for (id, publisher) in &self.contents {
            w.text(id.as_str()).byte(u8::from(publisher.is_some()));
            if let Some(publisher) = publisher {
                w.bytes(&publisher.0);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut interest = Self {
            all: flag(r, "all")?,
            ..Self::default()
        };
        for _ in 0..r.number("publishers", NAMES_MAX)? {
            let key = PublisherKey(r.array("publisher")?);
            interest.publishers.insert(key);
        }
        for _ in 0..r.number("contents", NAMES_MAX)? {
            let id = r.text("content_id", CONTENT_ID_BYTES_MAX)?;
            let id = ContentId::new(id).map_err(|_| DecodeError::Invalid("content_id"))?;
            let publisher = if flag(r, "publisher")? {
                Some(PublisherKey(r.array("publisher")?))
            } else {
                None
            };
            interest.contents.insert((id, publisher));
        }
        Ok(interest)
    }
}

/// The first message of each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol's version.
    pub version: u64,
    /// The node's name, for people.
    pub name: String,
    /// What it takes.
    pub interest: Interest,
    /// Proof that it knows the token of the group; none when it has no token.
    pub proof: Option<[u8; 32]>,
}

impl Hello {
    pub(super) fn write(&self, w: &mut Writer) {
        w.number(self.version).text(&self.name);
        self.interest.write(w);
        w.byte(u8::from(self.proof.is_some()));
        if let Some(proof) = &self.proof {
            w.bytes(proof);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            version: r.number("version", u64::MAX)?,
            name: crate::content::clean_title(r.text("name", NAME_BYTES_MAX)?),
            interest: Interest::read(r)?,
            proof: if flag(r, "proof")? {
                Some(r.array("proof")?)
            } else {
                None
            },
        })
    }
}

pub(super) fn flag(r: &mut Reader<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match r.byte(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid(what)),
    }
}

pub(super) fn read_key(r: &mut Reader<'_>) -> Result<ContentKey, DecodeError> {
    read_content_key(r)
}

/// What all nodes of a group know: a key made of the text that people give their nodes. It is
/// never sent, but whoever gets a proof can try texts until one gives the same proof, so making
/// the key of a text has to be slow; that is done where texts are read, not here.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// From the key that was made of the text.
    #[must_use]
    pub const fn from_key(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// What `prover` shows `verifier`: a hash, keyed with the token, over both keys, which the
    /// channel has authenticated. It is of no use to show to anybody else.
    #[must_use]
    pub fn proof(&self, prover: &PublisherKey, verifier: &PublisherKey) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&prover.0).update(&verifier.0);
        *hasher.finalize().as_bytes()
    }

    /// Whether a proof is right; takes the same time whatever it says.
    #[must_use]
    pub fn accepts(
        &self,
        proof: &[u8; 32],
        prover: &PublisherKey,
        verifier: &PublisherKey,
    ) -> bool {
        blake3::Hash::from_bytes(*proof) == blake3::Hash::from_bytes(self.proof(prover, verifier))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_direction_between_two_nodes() {
        let [a, b, c] = [1, 2, 3].map(|n| PublisherKey([n; 32]));
        let token = Token::from_key([4; 32]);
        let proof = token.proof(&a, &b);
        assert!(token.accepts(&proof, &a, &b));
        assert!(!token.accepts(&proof, &b, &a));
        assert!(!token.accepts(&proof, &a, &c));
        assert!(!Token::from_key([5; 32]).accepts(&proof, &a, &b));
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn an_interest_covers_publishers_and_named_contents() {
        let key = |publisher: u8, id: &str| ContentKey {
            publisher: PublisherKey([publisher; 32]),
            content_id: ContentId::new(id).unwrap(),
            version: 1,
        };
        let mut interest = Interest::default();
        interest.publishers.insert(PublisherKey([1; 32]));
        interest
            .contents
            .insert((ContentId::new("news").unwrap(), None));
        assert!(interest.covers(&key(1, "film")));
        assert!(interest.covers(&key(2, "news")));
        assert!(!interest.covers(&key(2, "film")));
        assert!(!interest.names(&key(1, "film")));
        assert!(Interest::everything().covers(&key(9, "any")));
    }
}
