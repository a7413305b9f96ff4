//! Names of renditions.

use std::fmt;
use std::sync::{Arc, LazyLock};

use crate::limits::RENDITION_BYTES_MAX;

/// Why a rendition name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rendition name has 1 to {RENDITION_BYTES_MAX} characters out of a-z, 0-9, '_' and '-', \
     for example 720p; this one does not: {0:?}"
)]
pub struct RenditionError(String);

/// The name of a rendition, such as `main` or `720p`: lower-case ASCII letters, digits, `_`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rendition(Arc<str>);

impl Rendition {
    /// The only rendition of a content that has one.
    pub const MAIN: &'static str = "main";

    /// Checks and wraps a name.
    pub fn new(name: &str) -> Result<Self, RenditionError> {
        let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if name.is_empty() || name.len() > RENDITION_BYTES_MAX || !name.bytes().all(legal) {
            let shown = name.chars().take(RENDITION_BYTES_MAX).collect();
            return Err(RenditionError(shown));
        }
        if name == Self::MAIN {
            return Ok(Self::main());
        }
        Ok(Self(name.into()))
    }

    /// [`Rendition::MAIN`].
    #[must_use]
    pub fn main() -> Self {
        // Nearly every content has it: all of them share one text.
        static NAME: LazyLock<Arc<str>> = LazyLock::new(|| Rendition::MAIN.into());
        Self(Arc::clone(&NAME))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Rendition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_names_pass() {
        for name in ["main", "720p", "a_b-c"] {
            assert_eq!(Rendition::new(name).unwrap().as_str(), name);
        }
        for name in ["", "..", "a/b", "A", "\u{e9}", &"a".repeat(33)] {
            assert!(Rendition::new(name).is_err(), "{name:?}");
        }
    }
}
