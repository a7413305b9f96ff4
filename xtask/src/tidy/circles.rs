//! No circle among the files of a folder: of two files that use each other, neither can be read
//! without the other.

use std::collections::{BTreeMap, BTreeSet};

use super::rooms::spread;
use super::{Finding, source};

const RULE: &str = "circle";
/// The folders that have none. The modules of the store have an order of their own: `layers`.
const FOLDERS: &[&str] = &[
    "crates/media/src/ts/",
    "crates/node/src/delivery/",
    "crates/node/src/link/",
];

/// The modules of a folder that each of its modules uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// What was read of the folders.
#[derive(Default)]
pub struct Circles(BTreeMap<&'static str, Uses>);

impl Circles {
    /// Notes what a file uses of its neighbours; `mod.rs` and tests may use all of them.
    pub fn note(&mut self, path: &str, text: &str) {
        let folder = FOLDERS.iter().find(|folder| path.starts_with(**folder));
        let Some((folder, inside)) = folder.and_then(|it| Some((*it, path.strip_prefix(it)?)))
        else {
            return;
        };
        let Some(own) = inside.strip_suffix(".rs") else {
            return;
        };
        if own == "mod" || own.ends_with("tests") || own.contains('/') {
            return;
        }
        let masked = source::mask(text);
        let end = masked.find("\n#[cfg(test)]\nmod tests {");
        let code = &masked[..end.unwrap_or(masked.len())];
        let mut used = Vec::new();
        for (at, found) in code.match_indices("super::") {
            // A path that leads further out is not of a neighbour.
            let further = code[..at].ends_with("super::");
            if !further {
                spread(&code[at + found.len()..], "", &mut used);
            }
        }
        let names = used.iter().map(|path| path.split("::").next());
        let names = names.flatten().map(str::to_owned).collect();
        self.0
            .entry(folder)
            .or_default()
            .insert(own.to_owned(), names);
    }

    /// The circles, each found once, at its first module.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (folder, uses) in &self.0 {
            let mut told = BTreeSet::new();
            for start in uses.keys() {
                let Some(circle) = circle_from(start, uses) else {
                    continue;
                };
                let members: BTreeSet<String> = circle.iter().cloned().collect();
                if told.insert(members) {
                    let way = circle.join(" -> ");
                    let message = format!("{way} -> {start} is a circle: move what both need");
                    findings.push(Finding::new(
                        &format!("{folder}{start}.rs"),
                        0,
                        RULE,
                        message,
                    ));
                }
            }
        }
        findings
    }
}

/// The shortest way from a module back to itself.
fn circle_from(start: &str, uses: &Uses) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last()?;
            for next in uses.get(last).into_iter().flatten() {
                if next == start && way.len() > 1 {
                    return Some(way);
                }
                if uses.contains_key(next) && next != start && seen.insert(next.clone()) {
                    longer.push([way.as_slice(), std::slice::from_ref(next)].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let mut circles = Circles::default();
        for (name, text) in files {
            circles.note(&format!("crates/node/src/link/{name}"), text);
        }
        circles.findings().iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_circle_is_found_once_and_told_by_its_way() {
        let files = [
            ("a.rs", "use super::{b::B, d::D};"),
            ("b.rs", "use super::c::C;"),
            ("c.rs", "fn c() { super::a::a() }"),
            ("d.rs", "use crate::store::Store;"),
        ];
        assert_eq!(
            found(&files),
            [
                "crates/node/src/link/a.rs: [circle] a -> b -> c -> a is a circle: \
              move what both need"
            ]
        );
        assert_eq!(found(&files[..2]), [""; 0]);
    }

    #[test]
    fn tests_and_the_root_of_a_folder_may_use_all() {
        let files = [
            ("mod.rs", "use a::A;"),
            (
                "a.rs",
                "use super::A;\n#[cfg(test)]\nmod tests {\n    use super::b;\n}",
            ),
            ("b.rs", "use super::a::A;"),
            ("b_tests.rs", "use super::b::B;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }
}
