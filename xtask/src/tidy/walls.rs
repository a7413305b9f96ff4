//! The walls between crates: who may depend on whom, and what never enters the pure crates.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Finding;

const RULE: &str = "wall";

/// The crates of the workspace and those of them that each may use.
const WALLS: &[(&str, &[&str])] = &[
    ("lavant", &["lavant-node"]),
    ("lavant-node", &["lavant-proto", "lavant-media"]),
    ("lavant-sim", &["lavant-proto", "lavant-media"]),
    ("lavant-proto", &[]),
    ("lavant-media", &[]),
    ("xtask", &[]),
];

/// Tests of the binary may look at everything below it, and compare it with the simulator.
const CLI_TESTS_MAY_USE: &[&str] = &["lavant-node", "lavant-proto", "lavant-media", "lavant-sim"];

/// Crates that only the binary may name: a library has typed errors and no command line.
const CLI_ONLY: &[&str] = &["anyhow", "clap"];

/// The crates without IO, clock and randomness of their own.
pub const PURE: &[&str] = &["lavant-proto", "lavant-media"];

/// What a pure crate may not reach by any path.
const IMPURE: &[&str] = &[
    "async-io",
    "async-std",
    "axum",
    "getrandom",
    "hyper",
    "mio",
    "polling",
    "quinn",
    "rand",
    "redb",
    "reqwest",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "ureq",
];

/// Checks the workspace at `root` by what cargo says of it.
pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let text = cargo(
        root,
        &["metadata", "--format-version", "1", "--no-deps", "--locked"],
    )?;
    let metadata: Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let mut findings = check_direct(&metadata);
    for name in PURE {
        let tree = cargo(
            root,
            &[
                "tree", "--locked", "-p", name, "-e", "normal", "--prefix", "none", "-f", "{p}",
            ],
        )?;
        findings.extend(check_pure(name, &tree));
    }
    Ok(findings)
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo {}: {error}", arguments[0]))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo {}: {}", arguments[0], said.trim()));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("cargo {}: {error}", arguments[0]))
}

/// Checks what the crates of `cargo metadata --no-deps` name in their manifests.
pub fn check_direct(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let members: Vec<&str> = packages
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, may_use)) = WALLS.iter().find(|(member, _)| *member == name) else {
            findings.push(wall(
                name,
                "is new: say in xtask/src/tidy/walls.rs what it may use",
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            let may = may_use.contains(&used)
                || (name == "lavant" && for_tests && CLI_TESTS_MAY_USE.contains(&used));
            if members.contains(&used) && !may {
                findings.push(wall(name, &format!("may not use {used}")));
            }
            if CLI_ONLY.contains(&used) && name != "lavant" {
                findings.push(wall(
                    name,
                    &format!("uses {used}, which only the binary may"),
                ));
            }
        }
    }
    findings
}

/// Checks the dependencies of a pure crate, as `cargo tree --prefix none` prints them.
pub fn check_pure(name: &str, tree: &str) -> Vec<Finding> {
    let mut reached: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    reached.sort_unstable();
    reached.dedup();
    reached
        .into_iter()
        .filter(|used| IMPURE.contains(used))
        .map(|used| {
            wall(
                name,
                &format!("reaches {used}; it has no IO, clock or randomness"),
            )
        })
        .collect()
}

fn wall(package: &str, message: &str) -> Finding {
    let folder = match package {
        "xtask" => "xtask".to_owned(),
        "lavant" => "crates/cli".to_owned(),
        _ => format!("crates/{}", package.trim_start_matches("lavant-")),
    };
    Finding::new(
        &format!("{folder}/Cargo.toml"),
        0,
        RULE,
        format!("{package} {message}"),
    )
}
