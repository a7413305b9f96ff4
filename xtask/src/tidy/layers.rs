//! The layers of the store: a module uses only those that stand before it, so that there is no
//! circle among them.

use super::rooms::spread;
use super::{Finding, source};

const RULE: &str = "layer";
const FOLDER: &str = "crates/node/src/store/";

/// The modules from the ground up, by layer.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "model",
        &[
            "locked", "error", "clock", "standing", "rows", "catalog", "change", "convert",
        ],
    ),
    (
        "files",
        &[
            "disk",
            "layout",
            "settings",
            "lock_file",
            "payload",
            "pieces",
            "flush",
            "manifest",
            "place",
        ],
    ),
    (
        "index",
        &[
            "index", "limit", "partials", "counts", "effects", "tx", "queues",
        ],
    ),
    (
        "operations",
        &["removals", "supersede", "expire", "room", "insert"],
    ),
    (
        "engine",
        &[
            "hot", "shared", "writer", "uploads", "engine", "reserve", "stage", "partial",
            "append", "adopt", "admit", "upload", "publish", "finish", "feed",
        ],
    ),
    (
        "start",
        &["recover", "rebuild", "open", "check", "snapshot", "backup"],
    ),
    ("api", &["read", "handle"]),
];

/// Checks a file of the store; `mod.rs` and tests may use all of it.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let Some(inside) = path.strip_prefix(FOLDER) else {
        return Vec::new();
    };
    let parts: Vec<&str> = inside.split('/').collect();
    let own = parts[0].trim_end_matches(".rs");
    if own == "mod" || own == "tests" || parts.contains(&"simulated.rs") {
        return Vec::new();
    }
    let Some((place, layer)) = place_of(own) else {
        let message = format!("{own} is new: say in xtask/src/tidy/layers.rs where it stands");
        return vec![Finding::new(path, 0, RULE, message)];
    };
    let masked = source::mask(text);
    let end = masked.find("\n#[cfg(test)]\nmod tests {");
    let code = &masked[..end.unwrap_or(masked.len())];
    // In a folder of its own `super` is the module itself.
    let roots: &[&str] = if parts.len() == 1 {
        &["super::", "crate::store::"]
    } else {
        &["crate::store::"]
    };
    let mut findings = Vec::new();
    for root in roots {
        for (at, _) in code.match_indices(root) {
            let mut used = Vec::new();
            spread(&code[at + root.len()..], "", &mut used);
            for path_used in used {
                let name = path_used.split("::").next().unwrap_or_default();
                let message = match place_of(name) {
                    Some((other, _)) if other <= place => continue,
                    Some((_, above)) => {
                        format!(
                            "{own} ({layer}) may not use {name} ({above}), which stands above it"
                        )
                    }
                    None => format!("{own} may not use {name} by the room: name its module"),
                };
                let line = code[..at].matches('\n').count() + 1;
                findings.push(Finding::new(path, line, RULE, message));
            }
        }
    }
    findings
}

/// Where a module stands, counted from the ground, and in which layer.
fn place_of(module: &str) -> Option<(usize, &'static str)> {
    let modules = LAYERS
        .iter()
        .flat_map(|(layer, modules)| modules.iter().map(move |module| (*module, *layer)));
    modules
        .enumerate()
        .find(|(_, (name, _))| *name == module)
        .map(|(place, (_, layer))| (place, layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(module: &str, code: &str) -> Vec<String> {
        let findings = check(&format!("{FOLDER}{module}"), code);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_module_uses_only_what_stands_below_it() {
        assert!(
            found(
                "tx.rs",
                "use super::{payload, rows::META};\nuse super::limit::Limit;"
            )
            .is_empty()
        );
        assert!(found("mod.rs", "use read::Segment;").is_empty());
        assert!(found("tests.rs", "use super::writer::Writer;").is_empty());
        let above = found(
            "tx.rs",
            "\nuse super::{\n    payload,\n    writer::Writer,\n};",
        );
        assert_eq!(above.len(), 1, "{above:?}");
        assert!(
            above[0].contains("tx (index) may not use writer (engine)"),
            "{above:?}"
        );
        let nested = found(
            "catalog/content.rs",
            "use crate::store::tx::Tx;\nuse super::Catalog;",
        );
        assert!(
            nested.len() == 1 && nested[0].contains("may not use tx"),
            "{nested:?}"
        );
        let room = found("tx.rs", "use super::Settings;");
        assert!(
            room.len() == 1 && room[0].contains("name its module"),
            "{room:?}"
        );
        assert!(found("news.rs", "")[0].contains("news is new"));
        // What a test module uses is its own affair.
        assert!(
            found(
                "tx.rs",
                "\n#[cfg(test)]\nmod tests {\n use super::read::Segment; }"
            )
            .is_empty()
        );
    }
}
