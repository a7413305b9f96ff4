//! The vocabulary: words for which lavant has another one, so that a thing has one name.

use super::Finding;

/// A word, alone or with an `s`, and the one to use.
const BANNED: &[(&str, &str)] = &[
    ("shard", "stripe"),
    ("superpeer", "supernode"),
    ("super-peer", "supernode"),
    ("super-node", "supernode"),
    ("registrar", "tracker"),
    ("seeder", "node"),
    ("leecher", "node"),
    ("rendezvous server", "tracker"),
    ("play-head", "playhead"),
    ("play head", "playhead"),
    ("whitelist", "allow-list"),
    ("blacklist", "deny-list"),
];

const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".ts", ".svelte", ".html", ".sh"];

/// Finds banned words in code, documents and the page.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    if !ENDINGS.iter().any(|ending| path.ends_with(ending)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        for (banned, instead) in BANNED
            .iter()
            .filter(|(banned, _)| holds_word(&lower, banned))
        {
            let message = format!("'{banned}': lavant says '{instead}'");
            findings.push(Finding::new(path, index + 1, "vocabulary", message));
        }
    }
    findings
}

/// Whether `line` holds `word` on its own; an underscore ends a word, as in `shard_id`.
fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, found)| {
        let before = line[..start].chars().next_back();
        let rest = &line[start + found.len()..];
        let after = rest.strip_prefix('s').unwrap_or(rest).chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}
