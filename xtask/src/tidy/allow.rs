//! The exceptions: `xtask/tidy.allow`, one a line, as `path rule reason`.

use super::Finding;

/// Where the exceptions are.
pub const PATH: &str = "xtask/tidy.allow";

const RULE: &str = "allow-list";

struct Entry<'a> {
    line: usize,
    path: &'a str,
    rule: &'a str,
    used: bool,
}

/// Takes away the findings that are excepted; adds one for each line that is wrong or unused.
pub fn apply(list: &str, findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept = Vec::new();
    let mut entries = Vec::new();
    for (index, line) in list.lines().enumerate() {
        let line_number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(path), Some(rule), Some(_reason)) => {
                entries.push(Entry {
                    line: line_number,
                    path,
                    rule,
                    used: false,
                });
            }
            _ => kept.push(Finding::new(
                PATH,
                line_number,
                RULE,
                "write: path rule reason",
            )),
        }
    }
    for finding in findings {
        let matching = entries
            .iter_mut()
            .find(|entry| entry.path == finding.path && entry.rule == finding.rule);
        match matching {
            Some(entry) => entry.used = true,
            None => kept.push(finding),
        }
    }
    for entry in entries.iter().filter(|entry| !entry.used) {
        let message = format!(
            "{} needs no exception from {}: remove it",
            entry.path, entry.rule
        );
        kept.push(Finding::new(PATH, entry.line, RULE, message));
    }
    kept
}
