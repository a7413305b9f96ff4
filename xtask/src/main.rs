//! Chores of the workspace: `cargo run -p xtask -- tidy`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use xtask::tidy;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => run_tidy().unwrap_or(ExitCode::FAILURE),
        _ => {
            let _ = writeln!(io::stderr(), "usage: cargo run -p xtask -- tidy");
            ExitCode::from(2)
        }
    }
}

fn run_tidy() -> io::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let findings = match tidy::check(&root) {
        Ok(findings) => findings,
        Err(message) => {
            writeln!(io::stderr(), "tidy: {message}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if findings.is_empty() {
        writeln!(out, "tidy: clean")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "tidy: {} to mend; the rules are in CONTRIBUTING.md",
        findings.len()
    )?;
    Ok(ExitCode::FAILURE)
}
