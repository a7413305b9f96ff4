//! What a store does to files goes through its disk, so that tests can take the power from it.

use super::{Finding, source};

const RULE: &str = "disk";
/// Where the store is.
const FOLDER: &str = "crates/node/src/store/";
/// The one module that calls the system.
const SYSTEM: &str = "disk/system.rs";
/// A file as a type is no call; the system can be handed one that the disk gave out.
const TYPE: &str = "use std::fs::File;";
/// What leads past the disk.
const CALLS: &[&str] = &["std::fs", "std::os::unix::fs", "rustix::fs", "File::"];

/// Checks a file; nothing is found outside of the store, and in its tests.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let Some(inside) = path.strip_prefix(FOLDER) else {
        return Vec::new();
    };
    let is_test = |part: &str| part == "tests" || part == "tests.rs";
    if inside == SYSTEM || inside.split('/').any(is_test) {
        return Vec::new();
    }
    let masked = source::mask(text);
    // Test modules come last in a file.
    let end = masked.find("\n#[cfg(test)]\nmod tests {");
    let code = &masked[..end.unwrap_or(masked.len())];
    let mut findings = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let found = CALLS.iter().find(|call| names(line, call));
        if let Some(call) = found.filter(|_| line != TYPE) {
            let message = format!("{call} leads past the store's disk: use `Disk`");
            findings.push(Finding::new(path, index + 1, RULE, message));
        }
    }
    findings
}

/// Whether a line names it, and not something that only ends so.
fn names(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    })
}
