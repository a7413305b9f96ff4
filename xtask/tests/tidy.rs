//! The repository is tidy, and each rule of the check catches a planted fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use xtask::tidy::{self, FILE_BYTES_MAX, Finding, allow, disk, rooms, source, walls};

const DOC: &str = "//! A module.\n";

/// The rules that a text breaks, each once, in the order of the findings.
fn rules(path: &str, text: &str) -> Vec<&'static str> {
    let files = ["docs/a.md", "docs/user/b.md", "README.md"].map(str::to_owned);
    let mut rules: Vec<&str> = tidy::check_text(path, text, &files)
        .iter()
        .map(|it| it.rule)
        .collect();
    rules.dedup();
    rules
}

/// A function of `lines` lines, from `fn` to its closing brace.
fn function(lines: usize) -> String {
    format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
}

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let findings = tidy::check(&root).expect("the repository can be read");
    let listing: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(listing.is_empty(), "\n{}\n", listing.join("\n"));
}

#[test]
fn a_clean_file_breaks_no_rule() {
    let text = format!("{DOC}\n/// Adds.\nfn add(a: u8) -> u8 {{\n    a + 1\n}}\n");
    assert_eq!(rules("crates/proto/src/lib.rs", &text), [""; 0]);
}

#[test]
fn a_module_without_a_doc_is_found() {
    assert_eq!(rules("a.rs", "// A module.\n"), ["module-doc"]);
    assert_eq!(rules("a.rs", "\n//! A module.\n"), ["module-doc"]);
}

#[test]
fn a_letter_beyond_ascii_is_found_only_in_rust() {
    assert_eq!(rules("a.rs", "//! Caf\u{e9}.\n"), ["ascii"]);
    assert_eq!(rules("a.ts", "// Caf\u{e9}.\n"), [""; 0]);
}

#[test]
fn white_space_at_an_end_is_found() {
    assert_eq!(rules("a.rs", "//! A module. \n"), ["trailing-space"]);
    assert_eq!(rules("a.sh", "a\t\n"), ["trailing-space"]);
    assert_eq!(rules("a.sh", "a\r\n"), ["trailing-space"]);
    assert_eq!(rules("a.rs", "//! A module."), ["final-newline"]);
    assert_eq!(rules("a.rs", "//! A module.\n\n"), ["final-newline"]);
}

#[test]
fn a_long_line_is_found_unless_it_holds_a_url() {
    let fitting = format!("//! {}\n", "x".repeat(96));
    let long = format!("//! {}\n", "x".repeat(97));
    let url = format!("//! https://example.org/{}\n", "x".repeat(97));
    assert_eq!(rules("a.rs", &fitting), [""; 0]);
    assert_eq!(rules("a.rs", &long), ["columns"]);
    assert_eq!(rules("a.rs", &url), [""; 0]);
}

#[test]
fn a_note_left_behind_is_found() {
    for note in [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ] {
        assert_eq!(rules("a.rs", &format!("//! {note}: later\n")), ["note"]);
        assert_eq!(rules("a.ts", &format!("// ({note})\n")), ["note"]);
        assert_eq!(rules("a.rs", &format!("//! M{note}S\n")), [""; 0]);
    }
    let call = concat!("dbg", "!(a)");
    assert_eq!(
        rules("a.rs", &format!("{DOC}fn a() {{\n    {call};\n}}\n")),
        ["note"]
    );
    assert_eq!(rules("a.rs", &format!("{DOC}// {call}\n")), [""; 0]);
}

#[test]
fn a_long_function_is_found() {
    assert_eq!(rules("a.rs", &format!("{DOC}{}", function(70))), [""; 0]);
    assert_eq!(
        rules("a.rs", &format!("{DOC}{}", function(71))),
        ["function-length"]
    );
    let findings = tidy::check_text("a.rs", &format!("{DOC}\n{}", function(71)), &[]);
    assert_eq!(findings[0].line, 3);
    assert!(
        findings[0].message.contains("long: 71 lines"),
        "{}",
        findings[0].message
    );
}

#[test]
fn braces_in_strings_and_comments_end_no_function() {
    let inner = "    let a = \"}\"; // }\n    let b = r#\"}\n}\n\"#;\n    let c = '}'; /* } */\n";
    let text = format!("{DOC}{}", function(70).replacen("    step();\n", inner, 1));
    assert_eq!(rules("a.rs", &text), ["function-length"]);
}

#[test]
fn a_signature_with_an_array_and_a_method_without_a_body_are_read_rightly() {
    let declared = format!(
        "{DOC}trait A {{\n    fn a(&self, b: [u8; 4]);\n}}\n{}",
        function(70)
    );
    assert_eq!(rules("a.rs", &declared), [""; 0]);
    let array = function(71).replace("long()", "long(b: [u8; 4])");
    assert_eq!(rules("a.rs", &format!("{DOC}{array}")), ["function-length"]);
}

#[test]
fn masking_keeps_lines_and_lifetimes() {
    let text =
        "fn a<'a>(b: &'a str) -> char {\n    \"x\\\"}\ny\"; b'\\''; '\\u{7d}'; br##\"}\"#\"##\n}";
    let masked = source::mask(text);
    assert_eq!(masked.lines().count(), text.lines().count());
    assert!(masked.starts_with("fn a<'a>(b: &'a str) -> char {\n"));
    assert_eq!(masked.matches('}').count(), 1, "{masked}");
    assert!(!masked.contains('"'), "{masked}");
}

#[test]
fn a_long_file_is_found_and_test_modules_count_apart() {
    let lines = |count| "// a line\n".repeat(count);
    let tests = |count| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(count));
    assert_eq!(rules("a.rs", &format!("{DOC}{}", lines(599))), [""; 0]);
    assert_eq!(
        rules("a.rs", &format!("{DOC}{}", lines(600))),
        ["file-length"]
    );
    assert_eq!(
        rules("a.rs", &format!("{DOC}{}{}", lines(599), tests(500))),
        [""; 0]
    );
    assert_eq!(
        rules("a.rs", &format!("{DOC}{}{}", lines(600), tests(500))),
        ["file-length"]
    );
    assert_eq!(
        rules("a.rs", &format!("{DOC}{}", tests(998))),
        ["file-length"]
    );
    assert_eq!(
        rules("xtask/tests/a.rs", &format!("{DOC}{}", lines(999))),
        [""; 0]
    );
    assert_eq!(
        rules("xtask/tests/a.rs", &format!("{DOC}{}", lines(1000))),
        ["file-length"]
    );
}

#[test]
fn a_long_page_file_is_found() {
    assert_eq!(rules("web/src/a.ts", &"a();\n".repeat(400)), [""; 0]);
    assert_eq!(
        rules("web/src/a.ts", &"a();\n".repeat(401)),
        ["file-length"]
    );
    assert_eq!(
        rules("web/src/a.svelte", &"<p>\n".repeat(401)),
        ["file-length"]
    );
    assert_eq!(rules("web/tests/a.ts", &"a();\n".repeat(401)), [""; 0]);
}

#[test]
fn a_document_needs_one_title() {
    assert_eq!(rules("a.md", "# A\n\n## B\n"), [""; 0]);
    assert_eq!(rules("a.md", "## A\n"), ["title"]);
    assert_eq!(rules("a.md", "# A\n\n# B\n"), ["title"]);
    assert_eq!(rules("a.md", "# A\n\n```sh\n# a comment\n```\n"), [""; 0]);
}

#[test]
fn a_broken_link_is_found() {
    let page = |link: &str| format!("# A\n\nSee [it]({link}) and `[code](no)`.\n");
    for link in [
        "a.md",
        "user/b.md#part",
        "../README.md",
        "user",
        "#here",
        "https://example.org",
    ] {
        assert_eq!(rules("docs/c.md", &page(link)), [""; 0], "{link}");
    }
    for link in ["b.md", "../docs", "../../README.md", "/user/b.md"] {
        let expected: &[&str] = if link == "../docs" { &[] } else { &["link"] };
        assert_eq!(rules("docs/c.md", &page(link)), expected, "{link}");
    }
    assert_eq!(rules("docs/c.md", "# A\n\n[b]: b.md\n"), ["link"]);
}

#[test]
fn a_banned_word_is_found_on_its_own() {
    for text in ["a shard", "Shards", "shard_id", "a \"super-peer\""] {
        assert_eq!(
            rules("a.md", &format!("# A\n\n{text}\n")),
            ["vocabulary"],
            "{text}"
        );
    }
    for text in ["shardstream", "sharding", "a stripe"] {
        assert_eq!(
            rules("a.md", &format!("# A\n\n{text}\n")),
            [""; 0],
            "{text}"
        );
    }
}

#[test]
fn an_exception_needs_a_reason_and_a_use() {
    let finding = Finding::new("a.rs", 3, "ascii", "a letter");
    let apply = |list| allow::apply(list, vec![finding.clone()]);
    assert_eq!(
        apply("# a comment\n\na.rs ascii it is a table of letters\n"),
        []
    );
    let without_reason = apply("a.rs ascii\n");
    assert_eq!(without_reason.len(), 2);
    assert_eq!(without_reason[0].rule, "allow-list");
    let unused = apply("a.rs ascii a reason\nb.rs ascii a reason\n");
    assert_eq!(unused.len(), 1);
    assert_eq!((unused[0].line, unused[0].rule), (2, "allow-list"));
}

/// What `cargo metadata --no-deps` says of one crate with one dependency.
fn metadata(name: &str, used: &str, kind: Option<&str>) -> serde_json::Value {
    let members = [
        "lavant",
        "lavant-node",
        "lavant-sim",
        "lavant-proto",
        "lavant-media",
        "xtask",
    ];
    let mut packages: Vec<_> = members
        .iter()
        .filter(|member| **member != name)
        .map(|member| json!({"name": member, "dependencies": []}))
        .collect();
    packages.push(json!({"name": name, "dependencies": [{"name": used, "kind": kind}]}));
    json!({ "packages": packages })
}

#[test]
fn a_breach_of_a_wall_is_found() {
    let breaches = |name, used, kind| walls::check_direct(&metadata(name, used, kind)).len();
    for (name, used) in [
        ("lavant", "lavant-node"),
        ("lavant-node", "lavant-proto"),
        ("lavant-sim", "lavant-media"),
        ("lavant", "clap"),
        ("lavant-node", "tokio"),
    ] {
        assert_eq!(breaches(name, used, None), 0, "{name} -> {used}");
    }
    for (name, used) in [
        ("lavant", "lavant-proto"),
        ("lavant-media", "lavant-proto"),
        ("lavant-proto", "lavant-media"),
        ("lavant-sim", "lavant-node"),
        ("lavant-node", "clap"),
        ("lavant-proto", "anyhow"),
        ("lavant-new", "serde"),
    ] {
        assert_eq!(breaches(name, used, None), 1, "{name} -> {used}");
    }
    assert_eq!(breaches("lavant", "lavant-proto", Some("dev")), 0);
    assert_eq!(breaches("lavant-media", "lavant-proto", Some("dev")), 1);
    assert_eq!(breaches("lavant-node", "lavant", Some("build")), 1);
}

#[test]
fn io_in_a_pure_crate_is_found() {
    let clean = "lavant-proto v0.1.0\nblake3 v1.8.7\nsmallvec v1.16.5 (*)\n";
    assert_eq!(walls::check_pure("lavant-proto", clean), []);
    let findings = walls::check_pure(
        "lavant-proto",
        &format!("{clean}tokio v1.54.1\nmio v1.0.0\n"),
    );
    assert_eq!(findings.len(), 2);
    assert_eq!(findings[0].path, "crates/proto/Cargo.toml");
}

#[test]
fn rooms_of_the_node_use_each_other_by_the_table_alone() {
    let breaches = |file: &str, code: &str| -> Vec<String> {
        let found = rooms::check(&format!("crates/node/src/{file}"), code);
        found.into_iter().map(|it| it.message).collect()
    };
    for (file, code) in [
        (
            "delivery/mod.rs",
            "use crate::{link::{Links, Frame}, store::Store};\n",
        ),
        (
            "http/peers.rs",
            "use crate::delivery::{Handle, Peer};\nuse super::store_of;\n",
        ),
        (
            "http/serve.rs",
            "// crate::link\nlet text = \"crate::link::x\";\n",
        ),
        (
            "store/mod.rs",
            "use crate::store::upload::Upload;\nuse super::publish;\n",
        ),
        ("store/tests/a.rs", "use crate::playlist::Ready;\n"),
        (
            "http/a.rs",
            "use crate::config::Config;\n\n#[cfg(test)]\nmod tests {\n    use crate::run;\n}\n",
        ),
        ("lib.rs", "pub use crate::run::run;\n"),
    ] {
        assert_eq!(breaches(file, code), [""; 0], "{file}: {code}");
    }
    for (file, code, breach) in [
        (
            "store/mod.rs",
            "use crate::delivery::Handle;\n",
            "store may not use delivery::Handle",
        ),
        (
            "link/tcp.rs",
            "fn f(_: &crate::store::Store) {}\n",
            "link may not use store::Store",
        ),
        (
            "http/peers.rs",
            "use crate::delivery::driver;\n",
            "http may not use delivery::driver",
        ),
        (
            "http/mod.rs",
            "use super::link::Links;\n",
            "http may not use link::Links",
        ),
        (
            "shell/client.rs",
            "use crate::http;\n",
            "shell may not use http",
        ),
        (
            "delivery/mod.rs",
            "use crate::{store::Store, http::{self, Server}};\n",
            "delivery may not use http",
        ),
        (
            "http/mod.rs",
            "struct State {\n    store: Store,\n}\n",
            "http runs tasks: it holds an AsyncStore, a Store blocks",
        ),
        (
            "new.rs",
            "",
            "new is new: say in xtask/src/tidy/rooms.rs what it may use",
        ),
    ] {
        assert_eq!(breaches(file, code)[0], breach, "{file}: {code}");
    }
    let lines: Vec<_> = rooms::check("crates/node/src/store/a.rs", "\n\nuse crate::link;\n");
    assert_eq!((lines.len(), lines[0].line), (1, 3));
    assert!(rooms::check("crates/cli/src/main.rs", "use crate::store;\n").is_empty());
}

/// A fresh folder under the build folder, made a git repository.
fn repository(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    let status = Command::new("git")
        .args(["init", "--quiet"])
        .current_dir(&folder)
        .status();
    assert!(status.expect("git runs").success());
    folder
}

#[test]
fn files_are_listed_without_the_ignored_and_large_ones_are_found() {
    let folder = repository("tidy-files");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("written");
    write(".gitignore", b"ignored\n");
    write("ignored", b"");
    write("large.bin", &vec![0; FILE_BYTES_MAX as usize + 1]);
    write("fitting.bin", &vec![0; FILE_BYTES_MAX as usize]);
    write("latin.md", b"# Caf\xe9\n");
    write("caf\u{e9}.md", b"# A\n");
    let files = tidy::committed_files(&folder).expect("git lists the files");
    assert_eq!(
        files,
        [
            ".gitignore",
            "caf\u{e9}.md",
            "fitting.bin",
            "large.bin",
            "latin.md"
        ]
    );
    let findings = tidy::check_files(&folder, &files).expect("the files can be read");
    let found: Vec<_> = findings
        .iter()
        .map(|it| (it.path.as_str(), it.rule))
        .collect();
    assert_eq!(found, [("large.bin", "file-size"), ("latin.md", "utf-8")]);
}

#[test]
fn a_store_reaches_files_through_its_disk_alone() {
    let lines = |file: &str, code: &str| -> Vec<usize> {
        let found = disk::check(&format!("crates/node/src/{file}"), code);
        found.into_iter().map(|it| it.line).collect()
    };
    let call = "fn f() {\n    let _ = std::fs::remove_file(path);\n}\n";
    assert_eq!(lines("store/a.rs", call), [2]);
    assert_eq!(
        lines("store/disk.rs", "\nuse std::fs::{self, File};\n"),
        [2]
    );
    assert_eq!(lines("store/a.rs", "let file = File::open(path)?;\n"), [1]);
    assert_eq!(
        lines("store/a.rs", "use std::os::unix::fs::FileExt;\n"),
        [1]
    );
    for (file, code) in [
        ("store/disk/system.rs", call),
        ("store/tests/a.rs", call),
        ("http/a.rs", call),
        ("store/a.rs", "use std::fs::File;\n"),
        (
            "store/a.rs",
            "// std::fs\nlet file = DiskFile::clone(&it);\n",
        ),
        (
            "store/a.rs",
            "\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n",
        ),
    ] {
        assert_eq!(lines(file, code), [0; 0], "{file}: {code}");
    }
}
