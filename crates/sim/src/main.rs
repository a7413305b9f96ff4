//! `lavant-sim`: runs simulations by seed.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use lavant_sim::retention::{Options, run};

const HELP: &str = "Usage:
  lavant-sim retention [--seed N] [--seeds COUNT] [--steps N] [--limit BYTES]
  lavant-sim replay SEED [--steps N] [--limit BYTES]

retention  a store under pressure: COUNT seeds from N on; the rules are checked at every step
replay     one seed again, with its report

Examples:
  lavant-sim retention --seeds 1000
  lavant-sim replay 42";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match simulate(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(if message == HELP { 2 } else { 1 })
        }
    }
}

fn simulate(args: &[String]) -> Result<(), String> {
    let (mut options, mut seeds) = (
        Options {
            seed: 0,
            steps: 2000,
            limit: 1_000_000,
        },
        100,
    );
    let mut rest = match args {
        [command, rest @ ..] if command == "retention" => rest,
        [command, seed, rest @ ..] if command == "replay" => {
            (options.seed, seeds) = (number(seed)?, 1);
            rest
        }
        _ => return Err(HELP.into()),
    };
    while let [flag, value, more @ ..] = rest {
        match flag.as_str() {
            "--seed" => options.seed = number(value)?,
            "--seeds" => seeds = number(value)?,
            "--steps" => options.steps = number(value)?,
            "--limit" => options.limit = number(value)?,
            _ => return Err(format!("{flag} is not known\n\n{HELP}")),
        }
        rest = more;
    }
    let first = options.seed;
    for seed in first..first.saturating_add(seeds) {
        let report = run(Options { seed, ..options }).map_err(|broken| broken.to_string())?;
        if seeds == 1 {
            println!("{report}");
        }
    }
    println!("{seeds} seeds from {first}: every rule held");
    Ok(())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number\n\n{HELP}"))
}
