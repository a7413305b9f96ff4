//! Rust source with its strings and comments blanked out, so that simple rules read it rightly.

/// `text` with every letter of a comment, string or character literal replaced by a space.
///
/// Line feeds stay, so that line numbers do.
pub fn mask(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = literal_end(&letters, at);
        if end == at {
            masked.push(letters[at]);
            at += 1;
            continue;
        }
        masked.extend(
            letters[at..end]
                .iter()
                .map(|&it| if it == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    masked
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none begins there.
fn literal_end(letters: &[char], at: usize) -> usize {
    let next = letters.get(at + 1).copied();
    match letters[at] {
        '/' if next == Some('/') => line_end(letters, at),
        '/' if next == Some('*') => block_comment_end(letters, at),
        '"' => quoted_end(letters, at),
        '\'' => character_end(letters, at),
        'r' | 'b' | 'c' if at == 0 || !is_name(letters[at - 1]) => prefixed_end(letters, at),
        _ => at,
    }
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn line_end(letters: &[char], at: usize) -> usize {
    letters[at..]
        .iter()
        .position(|&it| it == '\n')
        .map_or(letters.len(), |length| at + length)
}

/// Block comments nest.
fn block_comment_end(letters: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < letters.len() {
        match (letters[at], letters.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    letters.len()
}

/// The end of a string with escapes, whose opening quote is at `start`.
fn quoted_end(letters: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < letters.len() {
        match letters[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    letters.len()
}

/// The end of a character literal; `start` when the apostrophe begins a lifetime.
fn character_end(letters: &[char], start: usize) -> usize {
    if letters.get(start + 1) == Some(&'\\') {
        // The escaped letter itself may be an apostrophe.
        let rest = letters.get(start + 3..).unwrap_or_default();
        return rest
            .iter()
            .position(|&it| it == '\'')
            .map_or(letters.len(), |length| start + 3 + length + 1);
    }
    if letters.get(start + 2) == Some(&'\'') {
        start + 3
    } else {
        start
    }
}

/// The end of `b"..."`, `c"..."`, `b'.'`, `r"..."`, `br#"..."#` and the like.
fn prefixed_end(letters: &[char], start: usize) -> usize {
    let prefix = letters[start..]
        .iter()
        .take_while(|it| matches!(it, 'r' | 'b' | 'c'))
        .count();
    let raw = letters[start..start + prefix].contains(&'r');
    let hashes = letters[start + prefix..]
        .iter()
        .take_while(|&&it| it == '#')
        .count();
    let quote = start + prefix + hashes;
    match letters.get(quote) {
        Some('"') if raw => raw_end(letters, quote, hashes),
        Some('"') if hashes == 0 => quoted_end(letters, quote),
        Some('\'') if hashes == 0 && !raw => {
            let end = character_end(letters, quote);
            if end == quote { start } else { end }
        }
        _ => start,
    }
}

fn raw_end(letters: &[char], quote: usize, hashes: usize) -> usize {
    let mut at = quote + 1;
    while at < letters.len() {
        let closing = letters[at + 1..]
            .iter()
            .take(hashes)
            .filter(|&&it| it == '#')
            .count();
        if letters[at] == '"' && closing == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    letters.len()
}
