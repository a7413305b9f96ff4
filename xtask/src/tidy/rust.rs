//! Rules for Rust: module docs, ASCII, lengths of files and functions, no debugging left behind.

use super::Finding;
use super::source::mask;

/// Lines of a file, without its test modules.
pub const FILE_LINES_MAX: usize = 600;

/// Lines of a test file, or of the test modules of a file.
pub const TEST_LINES_MAX: usize = 1000;

/// Lines of a function, from `fn` to its closing brace.
pub const FUNCTION_LINES_MAX: usize = 70;

/// Lines of a function in a test file: a test tells its story in one piece.
pub const TEST_FUNCTION_LINES_MAX: usize = 100;

/// Checks one Rust file.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let masked = mask(text);
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        let message = "begins without a `//!` that says what the module is for";
        findings.push(Finding::new(path, 1, "module-doc", message));
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(letter) = line.chars().find(|letter| !letter.is_ascii()) {
            let message = format!("write {letter:?} as {}", letter.escape_unicode());
            findings.push(Finding::new(path, index + 1, "ascii", message));
        }
    }
    for (index, line) in masked.lines().enumerate() {
        if line.contains(concat!("dbg", "!(")) {
            findings.push(Finding::new(
                path,
                index + 1,
                "note",
                "debugging left behind",
            ));
        }
    }
    findings.extend(check_file_length(path, &masked));
    findings.extend(check_functions(path, &masked));
    findings
}

fn check_file_length(path: &str, masked: &str) -> Option<Finding> {
    let lines = masked.lines().count();
    let tests = if is_test_path(path) {
        lines
    } else {
        test_module_lines(masked)
    };
    let (kind, count, limit) = if tests > TEST_LINES_MAX {
        ("test lines", tests, TEST_LINES_MAX)
    } else {
        ("lines without tests", lines - tests, FILE_LINES_MAX)
    };
    (count > limit).then(|| {
        let message = format!("{count} {kind}, the limit is {limit}: split it");
        Finding::new(path, 0, "file-length", message)
    })
}

/// Whether all of a file is test code: in a `tests` folder, or `tests.rs` itself.
fn is_test_path(path: &str) -> bool {
    path.split('/')
        .any(|part| part == "tests" || part == "tests.rs")
}

/// Lines of the modules at the outermost level that only tests compile.
fn test_module_lines(masked: &str) -> usize {
    let lines: Vec<&str> = masked.lines().collect();
    let mut count = 0;
    let mut at = 0;
    while at < lines.len() {
        let start = at;
        at += 1;
        if lines[start] != "#[cfg(test)]" {
            continue;
        }
        // Further attributes may stand between.
        let item = start
            + lines[start..]
                .iter()
                .take_while(|it| it.starts_with("#["))
                .count();
        let is_module = lines
            .get(item)
            .is_some_and(|it| it.contains("mod ") && it.ends_with('{'));
        if is_module {
            let length = lines[item..].iter().position(|it| *it == "}");
            at = length.map_or(lines.len(), |length| item + length + 1);
            count += at - start;
        }
    }
    count
}

fn check_functions(path: &str, masked: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let limit = if is_test_path(path) {
        TEST_FUNCTION_LINES_MAX
    } else {
        FUNCTION_LINES_MAX
    };
    for (start, name) in functions(masked) {
        let length = masked[start..start + body_length(&masked[start..])]
            .lines()
            .count();
        if length > limit {
            let line = masked[..start].matches('\n').count() + 1;
            let message = format!("{name}: {length} lines, the limit is {limit}");
            findings.push(Finding::new(path, line, "function-length", message));
        }
    }
    findings
}

/// Where each `fn name` begins; types such as `fn(u8)` and macro patterns have no name.
fn functions(masked: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (start, _) in masked.match_indices("fn ") {
        let before = masked[..start].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        let rest = &masked[start + 3..];
        let length = rest
            .find(|it: char| !it.is_alphanumeric() && it != '_')
            .unwrap_or(rest.len());
        if length > 0 {
            found.push((start, &rest[..length]));
        }
    }
    found
}

/// Bytes from `fn` to the closing brace, or to the semicolon of a function without a body.
fn body_length(masked: &str) -> usize {
    let mut braces = 0;
    let mut brackets = 0;
    for (at, letter) in masked.char_indices() {
        match letter {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            _ => {}
        }
        let ended = match letter {
            // An array type in a signature holds a semicolon too.
            ';' => braces == 0 && brackets == 0,
            '}' => braces == 0 && brackets == 0,
            _ => false,
        };
        if ended {
            return at + 1;
        }
    }
    masked.len()
}
