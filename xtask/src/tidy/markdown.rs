//! Rules for Markdown: one title, at the top, and links that lead somewhere.

use super::Finding;

/// Checks one document; `files` are the paths that a link may lead to.
pub fn check(path: &str, text: &str, files: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("# ") {
        findings.push(Finding::new(
            path,
            1,
            "title",
            "begins without a `# ` title",
        ));
    }
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            if index > 0 && line.starts_with("# ") {
                findings.push(Finding::new(path, index + 1, "title", "is a second title"));
            }
            for link in links(&without_code(line)) {
                if !leads_somewhere(path, &link, files) {
                    let message = format!("link to '{link}' leads nowhere");
                    findings.push(Finding::new(path, index + 1, "link", message));
                }
            }
        }
    }
    findings
}

/// A line without its `code`, where brackets are no links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Targets of `[text](target)` and of `[label]: target`.
fn links(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, _) in line.match_indices("](") {
        let rest = &line[start + 2..];
        let end = rest.find(')').unwrap_or(rest.len());
        found.extend(target(&rest[..end]));
    }
    if let Some((_, definition)) = line.split_once("]: ").filter(|_| line.starts_with('[')) {
        found.extend(target(definition));
    }
    found
}

/// A target without its title and angle brackets.
fn target(written: &str) -> Option<String> {
    let word = written.split_whitespace().next()?;
    Some(
        word.trim_start_matches('<')
            .trim_end_matches('>')
            .to_owned(),
    )
}

/// Whether a link stays on its page, leaves the repository, or names a committed file or folder.
fn leads_somewhere(page: &str, link: &str, files: &[String]) -> bool {
    let link = link.split('#').next().unwrap_or_default();
    if link.is_empty() || link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let Some(path) = resolve(page, link) else {
        return false;
    };
    let folder = format!("{path}/");
    path.is_empty()
        || files
            .iter()
            .any(|file| *file == path || file.starts_with(&folder))
}

/// The path from the root that `link` means on `page`; none when it climbs out of the root.
fn resolve(page: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    if link.starts_with('/') {
        parts.clear();
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
