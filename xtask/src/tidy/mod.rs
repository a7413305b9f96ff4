//! The style of the repository as a check: sizes, texts, words, links and dependency walls.
//!
//! [`check`] runs all of it. `CONTRIBUTING.md` explains the rules, `xtask/tidy.allow` lists the
//! exceptions with their reasons; an exception that no longer excepts anything is a finding.

pub mod allow;
pub mod circles;
pub mod disk;
pub mod layers;
pub mod markdown;
pub mod rooms;
pub mod rust;
pub mod source;
pub mod text;
pub mod walls;
pub mod words;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// No committed file is larger, unless `tidy.allow` says why.
pub const FILE_BYTES_MAX: u64 = 512 * 1024;

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Name of the rule, as `tidy.allow` uses it.
    pub rule: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    /// A finding of `rule` at a line of a file.
    pub fn new(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            message,
        } = self;
        if *line == 0 {
            return write!(f, "{path}: [{rule}] {message}");
        }
        write!(f, "{path}:{line}: [{rule}] {message}")
    }
}

/// Checks the repository at `root`; an error means that it could not be read.
pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let files = committed_files(root)?;
    let mut findings = check_files(root, &files)?;
    findings.extend(walls::check(root)?);
    let allowed = fs::read_to_string(root.join(allow::PATH)).unwrap_or_default();
    Ok(allow::apply(&allowed, findings))
}

/// The checks that need nothing but the files.
pub fn check_files(root: &Path, files: &[String]) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    let mut circles = circles::Circles::default();
    for path in files {
        let full = root.join(path);
        let length = fs::metadata(&full)
            .map_err(|error| format!("{path}: {error}"))?
            .len();
        if length > FILE_BYTES_MAX {
            let message = format!("{length} bytes, the limit is {FILE_BYTES_MAX}");
            findings.push(Finding::new(path, 0, "file-size", message));
            continue;
        }
        if !text::is_text_path(path) {
            continue;
        }
        let bytes = fs::read(&full).map_err(|error| format!("{path}: {error}"))?;
        match String::from_utf8(bytes) {
            Ok(text) => {
                findings.extend(check_text(path, &text, files));
                circles.note(path, &text);
            }
            Err(_) => findings.push(Finding::new(path, 0, "utf-8", "is not UTF-8")),
        }
    }
    findings.extend(circles.findings());
    Ok(findings)
}

/// The checks of one text; `files` are the paths that a Markdown link may lead to.
pub fn check_text(path: &str, text: &str, files: &[String]) -> Vec<Finding> {
    let mut findings = text::check(path, text);
    findings.extend(words::check(path, text));
    if path.ends_with(".rs") {
        findings.extend(rust::check(path, text));
        findings.extend(layers::check(path, text));
        findings.extend(rooms::check(path, text));
        findings.extend(disk::check(path, text));
    }
    if path.ends_with(".md") {
        findings.extend(markdown::check(path, text, files));
    }
    findings
}

/// What is committed or about to be: tracked files and new ones that are not ignored.
pub fn committed_files(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("git")
        // A clone may belong to another user, as in a container.
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "-co",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "git ls-files: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let listed = String::from_utf8(output.stdout).map_err(|_| "a path is not UTF-8".to_owned())?;
    let mut files: Vec<String> = listed
        .split_terminator('\0')
        // A tracked file that was deleted but not yet committed is still listed.
        .filter(|path| fs::symlink_metadata(root.join(path)).is_ok_and(|meta| meta.is_file()))
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
