//! The walls between the rooms of crates/node: which of its modules may use which, by their paths.

use super::{Finding, source};

const RULE: &str = "wall";
/// Where the rooms are.
const FOLDER: &str = "crates/node/src/";

/// The rooms, and what each may use of the others: a whole room, or `room::Item` alone.
const ROOMS: &[(&str, &[&str])] = &[
    ("health", &[]),
    ("identity", &[]),
    ("signals", &[]),
    ("store", &[]),
    ("link", &[]),
    // Whom a link can name, and what is known of it, is part of what can be configured.
    (
        "config",
        &[
            "identity",
            "link::LinkKind",
            "link::LinkProfile",
            "link::Target",
            "link::TargetError",
        ],
    ),
    ("playlist", &["store"]),
    // What the store is told of the bytes that it keeps.
    ("shown", &["store"]),
    ("delivery", &["store", "link", "health", "shown"]),
    ("authority", &[]),
    (
        "live",
        &["authority", "identity", "playlist", "shown", "store"],
    ),
    ("hooks", &["authority", "live"]),
    (
        "http",
        &[
            "authority",
            "config",
            "health",
            "identity",
            "live",
            "playlist",
            "shown",
            "store",
            // The handle, and what it tells of peers.
            "delivery::Handle",
            "delivery::Peer",
            "delivery::PeerState",
            "delivery::Source",
        ],
    ),
    // It works from another machine as well: it knows a node by its API.
    ("shell", &[]),
    // These two put the rooms together.
    ("doctor", &["config", "shell"]),
    (
        "run",
        &[
            "authority",
            "config",
            "health",
            "hooks",
            "http",
            "identity",
            "link",
            "live",
            "delivery",
            "store",
        ],
    ),
];

/// The rooms whose code runs as tasks, which nothing may block.
const ASYNC: &[&str] = &["authority", "delivery", "hooks", "http", "live"];

/// Checks a file; nothing is found in files of other crates, in tests, and in `lib.rs`.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let Some(inside) = path.strip_prefix(FOLDER) else {
        return Vec::new();
    };
    let is_test = |part: &str| part == "tests" || part.ends_with("tests.rs");
    if inside == "lib.rs" || inside.split('/').any(is_test) {
        return Vec::new();
    }
    let own = inside.split('/').next().unwrap_or_default();
    let own = own.trim_end_matches(".rs");
    let Some((_, may_use)) = ROOMS.iter().find(|(room, _)| *room == own) else {
        let message = format!("{own} is new: say in xtask/src/tidy/rooms.rs what it may use");
        return vec![Finding::new(path, 0, RULE, message)];
    };
    let masked = source::mask(text);
    // Test modules come last in a file.
    let end = masked.find("\n#[cfg(test)]\nmod tests {");
    let code = &masked[..end.unwrap_or(masked.len())];
    let mut findings = Vec::new();
    for (at, used) in uses(code) {
        let room = used.split("::").next().unwrap_or_default();
        let may = room == own || may_use.iter().any(|it| *it == room || *it == used);
        if !may {
            let line = code[..at].matches('\n').count() + 1;
            let message = format!("{own} may not use {used}");
            findings.push(Finding::new(path, line, RULE, message));
        }
    }
    if ASYNC.contains(&own) {
        findings.extend(held_stores(code).map(|at| {
            let line = code[..at].matches('\n').count() + 1;
            let message = format!("{own} runs tasks: it holds an AsyncStore, a Store blocks");
            Finding::new(path, line, RULE, message)
        }));
    }
    findings
}

/// Where `code` holds a `Store`: work that may block borrows one.
fn held_stores(code: &str) -> impl Iterator<Item = usize> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(": Store")
        .filter_map(move |(at, found)| {
            let after = code[at + found.len()..].chars().next();
            (!after.is_some_and(is_name)).then_some(at)
        })
}

/// What `code` names of rooms, as `room::Item` or `room`, and where.
fn uses(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
                continue;
            }
            let mut paths = Vec::new();
            spread(&code[at + root.len()..], "", &mut paths);
            // `super::` leads out of a room only where it names one; others are the room's own.
            let is_room = |path: &String| {
                let room = path.split("::").next().unwrap_or_default();
                ROOMS.iter().any(|(known, _)| *known == room)
            };
            paths.retain(|path| root == "crate::" || is_room(path));
            found.extend(paths.into_iter().map(|path| (at, path)));
        }
    }
    found
}

/// The first two names of each path that a tree such as `a::{b, c::d}` holds.
pub(super) fn spread(tree: &str, before: &str, paths: &mut Vec<String>) {
    let tree = tree.trim_start();
    if let Some(list) = tree.strip_prefix('{') {
        for branch in branches(list) {
            spread(branch, before, paths);
        }
        return;
    }
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let length = tree.find(|letter| !is_name(letter)).unwrap_or(tree.len());
    let (name, rest) = tree.split_at(length);
    let path = match (before, name) {
        ("", _) => name.to_owned(),
        (_, "self" | "") => before.to_owned(),
        _ => format!("{before}::{name}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) if before.is_empty() => spread(rest, &path, paths),
        _ if !path.is_empty() => paths.push(path),
        _ => {}
    }
}

/// The parts of a list between its braces, without the closing one.
fn branches(list: &str) -> Vec<&str> {
    let (mut depth, mut begun) = (0, 0);
    let mut parts = Vec::new();
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&list[begun..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[begun..at]);
                begun = at + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}
