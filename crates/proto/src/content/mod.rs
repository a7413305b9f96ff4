//! What is said of segments and contents, and signed by their publisher.

mod manifest;
mod merkle;
mod mime;
mod priority;
pub(crate) mod record;

pub use manifest::{Manifest, ManifestError, RenditionInfo, SignedManifest};
pub use merkle::{Leaf, MerkleTree, leaf, merkle_root, prove_range, verify_range};
pub use mime::{MimeError, MimeType};
pub use priority::{Priority, PriorityError};
pub use record::{Kind, Proof, RecordError, SegmentRecord, clean_title, is_hidden};

use crate::ids::PublisherKey;
use crate::limits::ADDRESSEES_MAX;

/// Something whose signature, hash or origin was not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified<T>(T);

impl<T> Unverified<T> {
    /// Marks a value that came from outside.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// A look at the claim, for deciding which key or hash to check it against.
    pub const fn claim(&self) -> &T {
        &self.0
    }
}

/// Something that was checked against its publisher's key. Only this crate makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The checked value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// More nodes than a content can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a content can be for {ADDRESSEES_MAX} nodes at most, not for {0}")]
pub struct TooManyAddressees(pub usize);

/// The nodes that a content is for as a manifest names them: each once, in the order of their keys.
pub fn addressees(mut nodes: Vec<PublisherKey>) -> Result<Vec<PublisherKey>, TooManyAddressees> {
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.len() > ADDRESSEES_MAX {
        return Err(TooManyAddressees(nodes.len()));
    }
    Ok(nodes)
}
