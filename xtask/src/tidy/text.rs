//! Rules for every text: white space, columns, notes that were left behind, length of page files.

use super::Finding;

/// Columns of a line of code.
pub const COLUMNS_MAX: usize = 100;

/// Lines of a `.ts` or `.svelte` file of the page.
pub const PAGE_LINES_MAX: usize = 400;

/// Endings and names of the files that are read as text.
const TEXT_ENDINGS: &[&str] = &[
    ".rs",
    ".toml",
    ".md",
    ".sh",
    ".ts",
    ".mts",
    ".svelte",
    ".js",
    ".mjs",
    ".css",
    ".html",
    ".json",
    ".yml",
    ".yaml",
    ".allow",
    ".gitignore",
    ".editorconfig",
    "Makefile",
    ".ci/run",
];

/// Where a line may not be longer than [`COLUMNS_MAX`]; the page has its own formatter.
const COLUMN_ENDINGS: &[&str] = &[".rs", ".sh", "Makefile", ".ci/run"];

/// Words that promise to do something later, put together so that this file passes.
const NOTES: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Whether the file at `path` is read as text.
pub fn is_text_path(path: &str) -> bool {
    has_ending(path, TEXT_ENDINGS)
}

fn has_ending(path: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| path.ends_with(ending))
}

/// Checks one text.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Not `lines`, which would hide a carriage return.
    for (index, line) in text.split('\n').enumerate() {
        check_line(path, index + 1, line, &mut findings);
    }
    if !text.is_empty() && !text.ends_with('\n') {
        let message = "ends without a line feed";
        findings.push(Finding::new(
            path,
            text.lines().count(),
            "final-newline",
            message,
        ));
    }
    if text.ends_with("\n\n") {
        let message = "ends with an empty line";
        findings.push(Finding::new(
            path,
            text.lines().count(),
            "final-newline",
            message,
        ));
    }
    let lines = text.lines().count();
    let of_page = path.starts_with("web/src/") && has_ending(path, &[".ts", ".svelte"]);
    if of_page && lines > PAGE_LINES_MAX {
        let message = format!("{lines} lines, the limit is {PAGE_LINES_MAX}: split it");
        findings.push(Finding::new(path, 0, "file-length", message));
    }
    findings
}

fn check_line(path: &str, number: usize, line: &str, findings: &mut Vec<Finding>) {
    let mut add = |rule, message: String| findings.push(Finding::new(path, number, rule, message));
    if line.ends_with([' ', '\t', '\r']) {
        add("trailing-space", "white space at the end".to_owned());
    }
    let columns = line.chars().count();
    // A URL cannot be broken.
    if columns > COLUMNS_MAX && has_ending(path, COLUMN_ENDINGS) && !line.contains("://") {
        add(
            "columns",
            format!("{columns} columns, the limit is {COLUMNS_MAX}"),
        );
    }
    // Documents may speak of the words; code may not leave them behind.
    if !path.ends_with(".md") && !path.ends_with(".json") {
        for note in NOTES
            .iter()
            .filter(|note| words_of(line).any(|word| word == **note))
        {
            add("note", format!("{note}: do it now, or open an issue"));
        }
    }
}

/// The runs of letters and digits of a line.
pub fn words_of(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
}
