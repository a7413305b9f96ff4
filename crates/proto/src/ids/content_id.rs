//! Ids of contents: readable in any script, safe in paths and URLs, hard to imitate.

use std::fmt;
use std::sync::Arc;

use unicode_normalization::{UnicodeNormalization, is_nfc};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::PublisherKey;
use crate::limits::{CONTENT_ID_BYTES_MAX, CONTENT_ID_CHARS_MAX};

/// Why a content id was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentIdError {
    /// Nothing was given.
    #[error("a content_id must not be empty")]
    Empty,
    /// Longer than a URL should be.
    #[error("a content_id has at most {CONTENT_ID_BYTES_MAX} bytes in UTF-8; shorten it")]
    TooLong,
    /// A character that is no letter, mark or digit of any script, nor `_`, `-`, `.`.
    #[error(
        "a content_id has letters and digits of any script, '_', '-' and '.'; {0:?} is neither"
    )]
    Character(char),
    /// `.`, `-` or a combining mark at the start.
    #[error("a content_id starts with a letter, a digit or '_', not with {0:?}")]
    Start(char),
    /// The same text has a shorter standard spelling.
    #[error("a content_id must be in Unicode normalisation form C")]
    NotNormal,
    /// It could be taken for a publisher's key.
    #[error("a content_id must not look like a publisher's key (64 hexadecimal digits)")]
    LooksLikeKey,
    /// It could be taken for a playlist's file name.
    #[error("a content_id must not end in .m3u8")]
    LooksLikePlaylist,
}

/// The name of a content, unique per publisher.
///
/// Letters, marks and digits of any script, `_`, `-` and `.`, in Unicode normalisation form C, at
/// most [`CONTENT_ID_BYTES_MAX`] bytes; it never starts with `.`, so no path is climbed with it.
/// A clone shares the text: each content is named in several tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(Arc<str>);

impl ContentId {
    /// Checks a given id; it is kept exactly as written.
    pub fn new(id: &str) -> Result<Self, ContentIdError> {
        if id.len() > CONTENT_ID_BYTES_MAX {
            return Err(ContentIdError::TooLong);
        }
        let first = id.chars().next().ok_or(ContentIdError::Empty)?;
        if let Some(bad) = id.chars().find(|c| !is_legal(*c)) {
            return Err(ContentIdError::Character(bad));
        }
        // A dot could climb a path, a dash is an option to a program, a mark joins what stands
        // before it.
        if matches!(first, '.' | '-') || is_mark(first) {
            return Err(ContentIdError::Start(first));
        }
        if !is_nfc(id) {
            return Err(ContentIdError::NotNormal);
        }
        // A path names a content alone or behind its publisher: the two must not be mixed up.
        // People take a key for one in capitals, too.
        if PublisherKey::is_form(&id.to_lowercase()) {
            return Err(ContentIdError::LooksLikeKey);
        }
        // The last part of a play path is a playlist.
        if id.to_ascii_lowercase().ends_with(".m3u8") {
            return Err(ContentIdError::LooksLikePlaylist);
        }
        Ok(Self(id.into()))
    }

    /// Makes an id from a title in any script.
    ///
    /// The title is normalised (NFKC), lower-cased, and all that is no letter, mark or digit
    /// becomes one `_`. Where something is lost (a long title is cut, or no letter is left), six
    /// hex digits of the title's BLAKE3 hash are added, so that two titles do not meet in one id.
    #[must_use]
    pub fn from_title(title: &str) -> Self {
        let mut id = String::new();
        for c in title.nfkc().flat_map(char::to_lowercase) {
            // A mark needs a letter before it.
            if is_word(c) && !(id.is_empty() && is_mark(c)) {
                id.push(c);
            } else if !id.is_empty() && !id.ends_with('_') {
                id.push('_');
            }
        }
        // Lower-casing may have left a form that is not C.
        let id: String = id.trim_end_matches('_').nfc().collect();
        let fits = id.chars().count() <= CONTENT_ID_CHARS_MAX && id.len() <= CONTENT_ID_BYTES_MAX;
        if fits && let Ok(id) = Self::new(&id) {
            return id;
        }
        Self::shortened(&id, title)
    }

    /// This id with a suffix that depends on `what`: for a second content whose id would be the
    /// same as, or look like, one that exists.
    #[must_use]
    pub fn distinguished(&self, what: &str) -> Self {
        Self::shortened(&self.0, what)
    }

    fn shortened(id: &str, hashed: &str) -> Self {
        let hash = blake3::hash(hashed.as_bytes()).to_hex();
        let suffix = &hash[..6];
        let mut head = String::new();
        let stem = if id.is_empty() { "content" } else { id };
        // Seven are the dash and the six digits.
        for c in stem.chars().take(CONTENT_ID_CHARS_MAX - 7) {
            if head.len() + c.len_utf8() + 7 > CONTENT_ID_BYTES_MAX {
                break;
            }
            head.push(c);
        }
        let head = head.trim_end_matches(['_', '-', '.']);
        // What is left of a cut may be no id; the hash alone always gives one.
        Self::new(&format!("{head}-{suffix}"))
            .unwrap_or_else(|_| Self(format!("content-{suffix}").into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the id looks like: equal for ids that a reader can mistake for each other
    /// (UTS #39 confusable skeleton of the lower-cased id, joiners between words removed).
    #[must_use]
    pub fn skeleton(&self) -> String {
        let lower = self.0.to_lowercase();
        unicode_security::skeleton(&lower)
            .filter(|c| !matches!(c, '_' | '-' | '.'))
            .collect()
    }

    /// The id percent-encoded for one segment of a URL path (RFC 3986 section 2.3).
    #[must_use]
    pub fn to_url(&self) -> String {
        let mut url = String::new();
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                url.push(char::from(byte));
            } else {
                url.push_str(&format!("%{byte:02X}"));
            }
        }
        url
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_legal(c: char) -> bool {
    is_word(c) || matches!(c, '_' | '-' | '.')
}

fn is_word(c: char) -> bool {
    // Most characters of most ids, without the table of all of them.
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    let group = c.general_category_group();
    matches!(
        group,
        GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number | GeneralCategoryGroup::Mark
    )
}

fn is_mark(c: char) -> bool {
    !c.is_ascii() && c.general_category_group() == GeneralCategoryGroup::Mark
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn titles_of_any_script_stay_readable() {
        let cases = [
            ("My Film", "my_film"),
            ("  Caf\u{e9} -- M\u{fc}nchen! ", "caf\u{e9}_m\u{fc}nchen"),
            (
                "\u{41a}\u{438}\u{43d}\u{43e} 2",
                "\u{43a}\u{438}\u{43d}\u{43e}_2",
            ),
            ("\u{6620}\u{753b}", "\u{6620}\u{753b}"),
            (
                "\u{0939}\u{093f}\u{0928}\u{094d}\u{0926}\u{0940}",
                "\u{0939}\u{093f}\u{0928}\u{094d}\u{0926}\u{0940}",
            ),
            ("\u{ff21}\u{ff22}\u{ff23}", "abc"),
            ("../../etc/passwd", "etc_passwd"),
            ("a\0b\u{202e}c", "a_b_c"),
        ];
        for (title, id) in cases {
            assert_eq!(ContentId::from_title(title).as_str(), id, "{title:?}");
        }
    }

    #[test]
    fn what_is_lost_from_a_title_is_kept_as_a_hash() {
        let smiles = ContentId::from_title("\u{1f600}");
        assert!(smiles.as_str().starts_with("content-"), "{smiles}");
        assert_ne!(smiles, ContentId::from_title("\u{1f601}"));
        let long = "very ".repeat(40);
        let (one, two) = (format!("{long}one"), format!("{long}two"));
        assert_ne!(ContentId::from_title(&one), ContentId::from_title(&two));
        assert!(ContentId::from_title(&one).as_str().chars().count() <= CONTENT_ID_CHARS_MAX);
    }

    #[test]
    fn dangerous_ids_are_refused_with_the_reason() {
        use ContentIdError::*;
        let key = "ab".repeat(32);
        let cases = [
            ("", Empty),
            ("..", Start('.')),
            (".hidden", Start('.')),
            ("-rf", Start('-')),
            ("a/b", Character('/')),
            ("a\\b", Character('\\')),
            ("a b", Character(' ')),
            ("a\0", Character('\0')),
            ("a\n", Character('\n')),
            ("a\u{202e}b", Character('\u{202e}')),
            ("a\u{200d}b", Character('\u{200d}')),
            ("a%2f", Character('%')),
            ("\u{301}a", Start('\u{301}')),
            ("e\u{301}", NotNormal),
            (key.as_str(), LooksLikeKey),
            ("index.m3u8", LooksLikePlaylist),
        ];
        for (id, error) in cases {
            assert_eq!(ContentId::new(id), Err(error), "{id:?}");
        }
        assert_eq!(ContentId::new(&"a".repeat(121)), Err(TooLong));
    }

    #[test]
    fn look_alikes_share_a_skeleton_and_can_be_told_apart() {
        let skeleton = |id: &str| ContentId::new(id).unwrap().skeleton();
        assert_eq!(skeleton("paypal"), skeleton("p\u{430}yp\u{430}l"));
        assert_eq!(skeleton("my_film"), skeleton("My-Film"));
        assert_ne!(skeleton("film1"), skeleton("film2"));
        let id = ContentId::new("film").unwrap();
        assert_ne!(
            id.distinguished("a").skeleton(),
            id.distinguished("b").skeleton()
        );
    }

    #[test]
    fn urls_are_percent_encoded() {
        assert_eq!(
            ContentId::new("caf\u{e9}.1").unwrap().to_url(),
            "caf%C3%A9.1"
        );
    }

    proptest! {
        #[test]
        fn every_title_gives_a_valid_id(title in any::<String>()) {
            let id = ContentId::from_title(&title);
            prop_assert_eq!(ContentId::new(id.as_str()), Ok(id));
        }

        #[test]
        fn distinguished_ids_are_valid(title in any::<String>(), what in any::<String>()) {
            let id = ContentId::from_title(&title).distinguished(&what);
            prop_assert_eq!(ContentId::new(id.as_str()), Ok(id));
        }
    }
}
