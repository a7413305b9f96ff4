//! Looking for contents by words. All contents are looked at, so each has to cost little.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::store::Content;

/// What a content has to hold, each word of it in its title or id, or at the start of its
/// publisher's key.
pub(super) struct Words {
    words: Vec<String>,
    /// Title and id of a content as they are compared; the same memory for all.
    text: String,
}

impl Words {
    pub(super) fn of(search: &str) -> Self {
        let mut text = String::new();
        fold_into(&mut text, search);
        let words = text.split_whitespace().map(str::to_owned).collect();
        Self { words, text }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether a content holds every word.
    pub(super) fn are_in(&mut self, content: &Content) -> bool {
        let Self { words, text } = self;
        if words.is_empty() {
            return true;
        }
        text.clear();
        fold_into(text, &content.title);
        // No word holds it, so none is found half in the title and half in the id.
        text.push('\n');
        fold_into(text, content.key.content_id.as_str());
        let key = &content.key.publisher.0;
        let mut words = words.iter();
        words.all(|word| text.contains(word.as_str()) || begins(key, word))
    }
}

/// Whether the text form of a key begins with a word.
fn begins(key: &[u8; 32], word: &str) -> bool {
    let digits = key.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.map(|digit| char::from_digit(u32::from(digit), 16));
    word.len() <= 2 * key.len() && word.chars().map(Some).eq(digits.take(word.len()))
}

/// Adds a text without case and accents: who looks for a title does not type them.
fn fold_into(folded: &mut String, text: &str) {
    if text.is_ascii() {
        let start = folded.len();
        folded.push_str(text);
        folded[start..].make_ascii_lowercase();
        return;
    }
    let plain = text.nfkd().filter(|c| !is_combining_mark(*c));
    folded.push_str(&plain.collect::<String>().to_lowercase());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_found_without_case_and_accents() {
        let folded = |text| {
            let mut folded = String::new();
            fold_into(&mut folded, text);
            folded
        };
        assert_eq!(folded("\u{c9}T\u{c9} 2026"), "ete 2026");
        assert_eq!(folded("Stra\u{df}e"), "stra\u{df}e");
        assert_eq!(folded("\u{0} \u{1f3ac}"), "\u{0} \u{1f3ac}");
    }

    #[test]
    fn keys_are_found_by_their_first_digits() {
        let mut key = [0; 32];
        key[..3].copy_from_slice(&[0x0f, 0xa1, 0xb2]);
        for word in ["0", "0f", "0fa1b", "0fa1b2"] {
            assert!(begins(&key, word), "{word}");
        }
        for word in ["f", "0fb", "0fa1b2\u{e9}", "0g", "0F"] {
            assert!(!begins(&key, word), "{word}");
        }
        let whole = format!("0fa1b2{}", "0".repeat(58));
        assert!(begins(&key, &whole) && !begins(&key, &(whole + "0")));
    }
}
