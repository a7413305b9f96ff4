//! `lavant store`: a store that no node uses at the moment.

use std::process::ExitCode;

use clap::Subcommand;
use lavant_node::run::open_store;
use serde_json::json;

use crate::output;
use crate::serve::ConfigArgs;

/// Arguments of `lavant store`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lavant store stats\n  lavant store check --store /var/lib/lavant\n  \
    lavant store gc --json\n\n'check' exits with 1 when something was damaged."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read every segment, check it against its root, drop what is damaged
    Check(CommandArgs),
    /// Remove files that belong to nothing, and make the index small
    Gc(CommandArgs),
    /// Count
    Stats(CommandArgs),
}

#[derive(clap::Args)]
struct CommandArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Check(args) => check(args),
        Command::Gc(args) => gc(args),
        Command::Stats(args) => stats(args),
    }
}

fn check(args: CommandArgs) -> anyhow::Result<ExitCode> {
    // A node that uses the store holds its lock, so that this is refused while one runs.
    let store = open_store(&args.config.resolve()?)?;
    let bar = indicatif::ProgressBar::new(0);
    let report = store.check(|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if args.json {
        output::json(&json!({
            "intact": report.intact, "dropped": report.dropped,
            "unknown_files": report.unknown_files, "bytes": report.bytes,
        }))?;
    } else {
        output::line(format_args!(
            "intact   {} segments, {}",
            report.intact,
            output::bytes(report.bytes)
        ));
        output::line(format_args!("dropped  {} damaged segments", report.dropped));
        if report.unknown_files > 0 {
            output::line(format_args!(
                "unknown  {} files; 'lavant store gc' removes them",
                report.unknown_files
            ));
        }
    }
    Ok(if report.dropped == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn gc(args: CommandArgs) -> anyhow::Result<ExitCode> {
    let report = open_store(&args.config.resolve()?)?.gc()?;
    if args.json {
        output::json(&json!({
            "removed_files": report.removed_files, "removed_bytes": report.removed_bytes,
            "index_bytes": report.index_bytes,
        }))?;
    } else {
        output::line(format_args!(
            "removed {} files of {}; the index is {} smaller",
            report.removed_files,
            output::bytes(report.removed_bytes),
            output::bytes(report.index_bytes)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn stats(args: CommandArgs) -> anyhow::Result<ExitCode> {
    let store = open_store(&args.config.resolve()?)?;
    let stats = store.stats();
    if args.json {
        output::json(&json!({
            "bytes": stats.bytes, "limit_bytes": stats.limit, "segments": stats.segments,
            "contents": stats.contents, "disk_free_bytes": stats.disk_free,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format_args!("contents  {}", stats.contents));
    output::line(format_args!("segments  {}", stats.segments));
    output::line(format_args!("bytes     {}", output::bytes(stats.bytes)));
    output::line(format_args!("free      {}", output::bytes(stats.disk_free)));
    Ok(ExitCode::SUCCESS)
}
