//! Names: keys of publishers, ids of contents, names of renditions, roots of payloads.

mod content_id;
mod keys;
mod rendition;

pub use content_id::{ContentId, ContentIdError};
pub use keys::{KeyError, PublisherKey, Signature, SigningKey};
pub use rendition::{Rendition, RenditionError};

use std::fmt;

/// The BLAKE3 hash of a payload, which is also the root of its verification tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        keys::write_hex(f, &self.0)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({self})")
    }
}

impl std::str::FromStr for Root {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        keys::parse_hex(text).map(Self)
    }
}

/// What names exactly one version of one content in the world.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentKey {
    /// Who signs it.
    pub publisher: PublisherKey,
    /// Its name, unique per publisher.
    pub content_id: ContentId,
    /// 1 for the first publication under this name, higher for each later one.
    pub version: u32,
}
