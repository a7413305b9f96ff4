//! The `lavant` program: raw arguments in, an exit code out.

mod content;
mod ingest;
mod key;
mod live;
mod output;
mod relay;
mod serve;
mod store;

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};

/// Carries video from a publisher to any number of viewers over any link there is.
#[derive(Parser)]
#[command(
    name = "lavant",
    version,
    about,
    after_help = "Examples:\n  \
        lavant serve                       start a node; its page is http://127.0.0.1:7777/\n  \
        lavant ingest film.mp4             put a film in\n  \
        lavant play film                   watch it\n  \
        lavant live harbour -              put a stream in as it happens\n  \
        lavant doctor                      see what is missing\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 no node or refused by it,\n\
        4 a program is missing, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a node
    Serve(serve::Args),
    /// Put a film, a stream or standard input into a node
    Ingest(ingest::Args),
    /// Publish a live stream; list, pause and stop those that run
    Live(live::Args),
    /// Write a live stream out as it comes
    Watch(live::WatchArgs),
    /// List what a node has
    Catalog(content::CatalogArgs),
    /// Show a node, its key and its store
    Status(content::StatusArgs),
    /// List the nodes that a node meets, add or remove one
    Peers(relay::PeersArgs),
    /// Fetch a content, every segment verified, into one file
    Get(content::GetArgs),
    /// Watch a content in mpv, vlc or ffplay
    Play(content::PlayArgs),
    /// Remove a content
    Rm(content::RefArgs),
    /// Keep a content from eviction and expiry
    Pin(content::RefArgs),
    /// Let a content be evicted and expire again
    Unpin(content::RefArgs),
    /// Make, show, export or import secret keys; make the token of a group
    Key(key::Args),
    /// Back a store up; check, clean or measure one that no node uses
    Store(store::Args),
    /// See what is missing on this machine
    Doctor(serve::DoctorArgs),
}

/// Set at the first Ctrl-C or SIGTERM.
static CANCEL: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => output::fail(&error),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Ingest(args) => {
            // Only here: an ingest has something to roll back, and `serve` listens by itself.
            lavant_node::signals::set_on_stop(&CANCEL)?;
            ingest::run(args, &CANCEL)
        }
        Command::Live(args) => live::run(&args),
        Command::Watch(args) => {
            lavant_node::signals::set_on_stop(&CANCEL)?;
            live::watch(&args, &CANCEL)
        }
        Command::Catalog(args) => content::catalog(&args),
        Command::Status(args) => content::status(&args),
        Command::Peers(args) => relay::peers(&args),
        Command::Get(args) => content::get(&args),
        Command::Play(args) => content::play(&args),
        Command::Rm(args) => content::remove(&args),
        Command::Pin(args) => content::pin(&args, true),
        Command::Unpin(args) => content::pin(&args, false),
        Command::Key(args) => key::run(args),
        Command::Store(args) => store::run(args, &CANCEL),
        Command::Doctor(args) => serve::doctor(args),
    }
}
