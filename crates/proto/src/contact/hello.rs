//! The first message of each side: what it wants, what the contact is for, and proof that it knows
//! the group's token.

use std::collections::BTreeSet;

use crate::ids::{ContentId, ContentKey, PublisherKey};
use crate::limits::{CONTENT_ID_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::wire::{DecodeError, Reader, Writer};

/// The version of the protocol between nodes.
pub const VERSION: u64 = 2;
/// Most publishers that an interest names, with the node itself: 16 KiB of a message.
pub const NAMES_MAX: u64 = 512;
/// Most contents that an interest names: 39 KiB of a message.
pub const CONTENTS_MAX: u64 = 256;
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
        // Hardly anybody names contents: the id is copied for the look-up only then.
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
        for _ in 0..r.number("contents", CONTENTS_MAX)? {
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

/// A way of delivery. What is said on a contact belongs to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The contact itself: hello, signs of life.
    Contact,
    /// Requests for chunk groups, whichever way asks for them.
    Piece,
    /// Carrying contents from node to node.
    Relay,
}

impl Way {
    /// The byte that stands for it on a link.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Contact => 0,
            Self::Piece => 1,
            Self::Relay => 2,
        }
    }
}

/// What one side can do and says of itself, by the number of the feature.
mod feature {
    pub(super) const NAME: u64 = 0;
    pub(super) const INTEREST: u64 = 1;
    pub(super) const PROOF: u64 = 2;
    pub(super) const WAYS: u64 = 3;
}

/// Most features in a hello, known or not.
const FEATURES_MAX: u64 = 64;
/// Most ways in a hello, known or not.
const WAYS_MAX: u64 = 32;

/// The first message of each side. The dialler says it first; the other side answers with its own
/// once it has let the dialler in, so that a stranger who dials learns nothing.
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
    /// What the contact is for, as far as this side goes: codes of ways.
    pub ways: BTreeSet<u8>,
}

impl Hello {
    /// A hello of this version.
    #[must_use]
    pub fn new(name: String, interest: Interest, proof: Option<[u8; 32]>) -> Self {
        Self {
            version: VERSION,
            name,
            interest,
            proof,
            // The way of the contact itself is spoken by all, and not named.
            ways: [Way::Piece, Way::Relay].map(Way::code).into(),
        }
    }

    /// Features stand one after another, each with its number and its length, so that those of a
    /// later version are skipped.
    pub(crate) fn write(&self, w: &mut Writer) {
        let mut features = vec![(feature::NAME, self.name.as_bytes().to_vec())];
        let mut interest = Writer::new();
        self.interest.write(&mut interest);
        features.push((feature::INTEREST, interest.finish()));
        if let Some(proof) = &self.proof {
            features.push((feature::PROOF, proof.to_vec()));
        }
        let ways: Vec<u8> = self.ways.iter().copied().collect();
        features.push((feature::WAYS, ways));
        w.number(self.version).number(features.len() as u64);
        for (number, bytes) in features {
            w.number(number).blob(&bytes);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut hello = Self {
            version: r.number("version", u64::MAX)?,
            name: String::new(),
            interest: Interest::default(),
            proof: None,
            ways: BTreeSet::new(),
        };
        let mut last = None;
        for _ in 0..r.number("features", FEATURES_MAX)? {
            let number = r.number("feature", u64::MAX)?;
            // In order and each once: nothing that was said is replaced by something later.
            if last.is_some_and(|last| last >= number) {
                return Err(DecodeError::Invalid("feature"));
            }
            last = Some(number);
            let bytes = r.blob("feature", MESSAGE_BYTES_MAX)?;
            hello.take(number, &mut Reader::new(bytes))?;
        }
        Ok(hello)
    }

    /// Takes one feature over; what is not known here is left aside.
    fn take(&mut self, number: u64, r: &mut Reader<'_>) -> Result<(), DecodeError> {
        match number {
            feature::NAME => self.name = name(r.rest())?,
            feature::INTEREST => self.interest = Interest::read(r)?,
            feature::PROOF => self.proof = Some(r.array("proof")?),
            feature::WAYS => {
                let ways = r.rest();
                if ways.len() as u64 > WAYS_MAX {
                    return Err(DecodeError::Limit("ways"));
                }
                self.ways = ways.iter().copied().collect();
            }
            // Its bytes are left unread: only a later version knows what is in them.
            _ => return Ok(()),
        }
        r.end()
    }
}

/// A name as it may be shown: without what moves a terminal's cursor.
fn name(bytes: &[u8]) -> Result<String, DecodeError> {
    if bytes.len() > NAME_BYTES_MAX {
        return Err(DecodeError::Limit("name"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid("name"))?;
    // What cannot be shown is taken out: a name is no reason to end a contact.
    Ok(crate::content::clean_title(text))
}

pub(crate) fn flag(r: &mut Reader<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match r.byte(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid(what)),
    }
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
        // The order of the keys tells both directions apart: what a node got cannot be shown back.
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
        // `blake3::Hash` compares in constant time; arrays do not.
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
        let token = Token::from_key([7; 32]);
        let proof = token.proof(&a, &b);
        assert!(token.accepts(&proof, &a, &b));
        assert!(!token.accepts(&proof, &b, &a));
        assert!(!token.accepts(&proof, &a, &c));
        assert!(!Token::from_key([8; 32]).accepts(&proof, &a, &b));
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn features_that_are_not_known_are_skipped() {
        let hello = Hello::new("ship".into(), Interest::everything(), Some([1; 32]));
        let mut w = Writer::new();
        hello.write(&mut w);
        let bytes = w.finish();
        assert_eq!(Hello::read(&mut Reader::new(&bytes)), Ok(hello.clone()));
        // The same with features that nobody has thought of yet, behind the others and none known.
        let mut w = Writer::new();
        w.number(VERSION + 5).number(3);
        w.number(0).blob(b"ship");
        w.number(900).blob(&[9; 40]).number(u64::MAX).blob(&[]);
        let bytes = w.finish();
        let read = Hello::read(&mut Reader::new(&bytes)).unwrap();
        assert_eq!((read.name.as_str(), read.version), ("ship", VERSION + 5));
        assert_eq!(read.ways.len(), 0);
        // One of them twice, or out of order.
        for numbers in [[0, 0], [3, 1]] {
            let mut w = Writer::new();
            w.number(VERSION).number(2);
            for number in numbers {
                w.number(number).blob(&[]);
            }
            let bytes = w.finish();
            assert!(Hello::read(&mut Reader::new(&bytes)).is_err());
        }
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
