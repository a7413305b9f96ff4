//! `lavant-sim`: runs simulations by seed.
#![allow(clippy::print_stderr)]

use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use lavant_sim::liars::{Liar, Summary};
use lavant_sim::relay::air::Share;
use lavant_sim::relay::report::{self, Options as RelayOptions, Ratios};
use lavant_sim::relay::trace;
use lavant_sim::retention::{Options, run};

const HELP: &str = "Usage:
  lavant-sim retention [--seed N] [--seeds COUNT] [--steps N] [--limit BYTES]
  lavant-sim replay SEED [--steps N] [--limit BYTES]
  lavant-sim relay [--films] [--seed N] [--seeds COUNT] [--trace FILE] [--json] [--trouble]
                   [--alone]
                   [--nodes N] [--village N] [--travel PERCENT] [--hours N]
                   [--hourly MEETINGS] [--meeting SECONDS]
                   [--contents N] [--segments N] [--length BYTES] [--publish PERCENT]
                   [--rate BYTES/S | --unlimited] [--link-up MS] [--share uplink|air]
                   [--buffer PERCENT | --store BYTES] [--store-of FROM-TO=BYTES]
                   [--messages N [--ttl HOURS] | --posted FILE]
  lavant-sim liars [--seed N] [--seeds COUNT] [--liar NAME]

retention  a store under pressure: COUNT seeds from N on; the rules are checked at every step
replay     one seed again, with its report
relay      nodes that meet, in a trace from a file ('ID ID START END' or 'TIME CONN ID ID up|down')
           or in one that is made, beside epidemic routing, plain and rarest first (not with
           --alone), and the best that could be; with several seeds also how they compare over all;
           --trouble adds lies, crashes, wrong clocks and failing stores;
           --link-up is what a link takes to come up when two nodes meet;
           --buffer is what a node can store, in percent of all that is published;
           --store is the same in bytes, --store-of for nodes with these numbers as names;
           --share is what contacts of one node share: its uplink, or one air, in which it sends or
           hears one thing at a time;
           --messages posts messages from one node to another, at a random time, with 12 hours to
           live; --posted reads them from a CreatedMessagesReport of The ONE;
           --films, given first, is a setting: short meetings, 4 films of 100 segments
liars      few nodes with real signatures and one that lies, beside the same without it

Examples:
  lavant-sim retention --seeds 1000
  lavant-sim replay 42
  lavant-sim relay --unlimited
  lavant-sim relay --films --seeds 10
  lavant-sim relay --buffer 10 --meeting 10 --seeds 5
  lavant-sim relay --messages 500 --store 5000000 --share air
  lavant-sim relay --trace contacts.txt --json
  lavant-sim liars --liar withholds --seed 7";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match simulate(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            // A wrong call is told from a rule that was broken.
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
            percent: lavant_sim::retention::PERCENT,
        },
        100,
    );
    let mut rest = match args {
        [command, rest @ ..] if command == "retention" => rest,
        [command, rest @ ..] if command == "relay" => return relay(rest),
        [command, rest @ ..] if command == "liars" => return liars(rest),
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
            say(&report);
        }
    }
    say(&format_args!("{seeds} seeds from {first}: every rule held"));
    Ok(())
}

fn relay(args: &[String]) -> Result<(), String> {
    let mut options = RelayOptions::default();
    let (mut seeds, mut json) = (1, false);
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--json" => json = true,
            // It replaces all that was set, so it has to be given first.
            "--films" => options = RelayOptions::films(),
            "--trouble" => options.trouble = true,
            "--alone" => options.compare = false,
            "--unlimited" => options.rate = None,
            _ => {
                let value = args.next().ok_or_else(|| HELP.to_owned())?;
                if flag == "--seeds" {
                    seeds = number(value)?;
                } else {
                    set(&mut options, flag, value)?;
                }
            }
        }
    }
    let mut ratios = Ratios::default();
    for seed in options.seed..options.seed.saturating_add(seeds) {
        options.seed = seed;
        let report = report::run(&options)?;
        ratios.add(&report);
        let text = if json { report.json() } else { report.table() };
        if !json && seeds > 1 {
            say(&format_args!("seed {seed}"));
        }
        say(&text);
    }
    if seeds > 1 && options.compare {
        say(&if json { ratios.json() } else { ratios.table() });
    }
    Ok(())
}

fn liars(mut rest: &[String]) -> Result<(), String> {
    let (mut first, mut seeds, mut only) = (0, 20, None);
    while let [flag, value, more @ ..] = rest {
        match flag.as_str() {
            // A seed that is named is one to look at again.
            "--seed" => (first, seeds) = (number(value)?, 1),
            "--seeds" => seeds = number(value)?,
            "--liar" => only = Some(value),
            _ => return Err(format!("{flag} is not known\n\n{HELP}")),
        }
        rest = more;
    }
    if !rest.is_empty() {
        return Err(HELP.into());
    }
    let chosen = |name: &str| only.is_none_or(|only| only == name);
    if !Liar::ALL.iter().any(|(_, name)| chosen(name)) {
        let names: Vec<&str> = Liar::ALL.iter().map(|(_, name)| *name).collect();
        return Err(format!("the liars are {}", names.join(", ")));
    }
    for (liar, name) in Liar::ALL.into_iter().filter(|(_, name)| chosen(name)) {
        let mut summary = Summary::default();
        for seed in first..first.saturating_add(seeds) {
            let report = lavant_sim::liars::run(liar, seed);
            summary.add(&report.map_err(|broken| format!("{name}, seed {seed}: {broken}"))?);
        }
        say(&summary.table(name));
    }
    Ok(())
}

fn set(options: &mut RelayOptions, flag: &str, value: &str) -> Result<(), String> {
    let made = &mut options.made;
    match flag {
        "--seed" => options.seed = number(value)?,
        "--trace" => {
            let text = std::fs::read_to_string(value).map_err(|e| format!("{value}: {e}"))?;
            options.trace = Some(trace::parse(&text).map_err(|e| format!("{value}: {e}"))?);
        }
        "--nodes" => made.nodes = number(value)?.clamp(2, 1_000_000) as u32,
        "--village" => made.village = number(value)?.clamp(2, 1_000_000) as u32,
        "--travel" => made.travel = number(value)?.min(100),
        "--hours" => made.seconds = number(value)? as f64 * 3600.0,
        "--hourly" => made.hourly = number(value)? as f64,
        "--meeting" => made.length = number(value)? as f64,
        "--contents" => options.contents = number(value)?,
        "--segments" => options.segments = number(value)?.max(1),
        "--length" => options.length = number(value)?.max(1),
        "--publish" => options.publish_until = number(value)?.min(100),
        "--rate" => options.rate = Some(number(value)?.max(1)),
        "--link-up" => options.link_up = Duration::from_millis(number(value)?),
        "--buffer" => options.buffer = Some(number(value)?),
        "--store" => options.store = Some(number(value)?),
        "--store-of" => options.stores.push(store_of(value)?),
        "--share" => {
            options.share = match value {
                "uplink" => Share::Uplink,
                "air" => Share::Air,
                _ => return Err(format!("{value:?} is neither uplink nor air\n\n{HELP}")),
            }
        }
        "--messages" => options.messages = Some(number(value)?),
        "--posted" => {
            let text = std::fs::read_to_string(value).map_err(|e| format!("{value}: {e}"))?;
            options.posted = Some(text);
        }
        "--ttl" => options.ttl = Duration::from_secs(number(value)?.saturating_mul(3600)),
        _ => return Err(format!("{flag} is not known\n\n{HELP}")),
    }
    Ok(())
}

/// Reads `FROM-TO=BYTES`.
fn store_of(text: &str) -> Result<(Range<u64>, u64), String> {
    let wrong = || format!("{text:?} is not FROM-TO=BYTES\n\n{HELP}");
    let (names, bytes) = text.split_once('=').ok_or_else(wrong)?;
    let (from, to) = names.split_once('-').ok_or_else(wrong)?;
    // Both names are meant, so the end is one more.
    Ok((number(from)?..number(to)?.saturating_add(1), number(bytes)?))
}

/// Prints a line; that nobody reads it (any more) is no reason to fail.
fn say(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number\n\n{HELP}"))
}
