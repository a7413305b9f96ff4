//! `lavant store`: work on a store itself. Only a backup is made while a node uses it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use lavant_node::config::Config;
use lavant_node::http::SnapshotLine;
use lavant_node::identity;
use lavant_node::run::{StartError, open_checked, open_store};
use lavant_node::shell::client::{Client, Lines};
use lavant_node::store::{
    BackupError, BackupReport, Layout, OpenError, SnapshotFacts, StoreError, back_up, restore,
};
use serde_json::json;

use crate::output;
use crate::serve::ConfigArgs;

/// Work that was ended by Ctrl-C or SIGTERM.
const INTERRUPTED: u8 = 130;

/// Arguments of `lavant store`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lavant store stats\n  lavant store check --store /var/lib/lavant\n  \
    lavant store gc --json\n  lavant store backup /mnt/disk/lavant\n  \
    lavant store restore /mnt/disk/lavant --store /var/lib/lavant\n\n\
    'check' exits with 1 when something was damaged; what Ctrl-C ends exits with 130."
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
    /// Bring a folder up to what is in the store, also while a node uses it
    ///
    /// A later backup into the same folder takes over what is new and removes what went. On the
    /// same disk files get a second name, which takes no room and does not survive the disk.
    Backup(BackupArgs),
    /// Make a store of a backup
    Restore(RestoreArgs),
}

#[derive(clap::Args)]
struct BackupArgs {
    /// The folder of the backup: empty, not there yet, or with an earlier one
    folder: PathBuf,
    /// Copy every file, also on the same disk
    #[arg(long)]
    copy: bool,
    /// The node that uses the store [default: by its address and port]
    #[arg(long, env = "LAVANT_DAEMON", value_name = "URL")]
    daemon: Option<String>,
    #[command(flatten)]
    common: CommandArgs,
}

#[derive(clap::Args)]
struct RestoreArgs {
    /// The folder of the backup
    folder: PathBuf,
    #[command(flatten)]
    common: CommandArgs,
}

#[derive(clap::Args)]
struct CommandArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args, cancel: &'static AtomicBool) -> anyhow::Result<ExitCode> {
    if !matches!(args.command, Command::Gc(_) | Command::Stats(_)) {
        // These say how far they came; the others end as every program does.
        lavant_node::signals::set_on_stop(cancel)?;
    }
    match args.command {
        Command::Check(args) => check(args, cancel),
        Command::Backup(args) => backup(args, cancel),
        Command::Restore(args) => bring_back(args, cancel),
        Command::Gc(args) => gc(args),
        Command::Stats(args) => stats(args),
    }
}

/// A bar of files or segments.
fn bar(what: &str) -> anyhow::Result<ProgressBar> {
    let style = "{msg} {wide_bar} {human_pos}/{human_len} {eta}";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
    Ok(bar.with_message(what.to_owned()))
}

/// Shows progress on a bar, until somebody ends the work.
fn shown<'a>(bar: &'a ProgressBar, cancel: &'a AtomicBool) -> impl FnMut(u64, u64) -> bool + 'a {
    move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        !cancel.load(Ordering::Relaxed)
    }
}

fn check(args: CommandArgs, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
    // A node that uses the store holds its lock, so that this is refused while one runs.
    let store = open_checked(&args.config.resolve()?)?;
    let bar = bar("segments")?;
    let report = store.check(shown(&bar, cancel))?;
    bar.finish_and_clear();
    if args.json {
        output::json(&json!({
            "intact": report.intact, "dropped": report.dropped,
            "unknown_files": report.unknown_files, "bytes": report.bytes,
            "interrupted": report.interrupted, "unreadable": report.unreadable,
            "unreadable_files": report.unreadable_files,
        }))?;
    } else {
        output::line(format_args!(
            "intact   {} segments, {}",
            report.intact,
            output::bytes(report.bytes)
        ));
        output::line(format_args!("dropped  {} damaged segments", report.dropped));
        if report.unreadable > 0 {
            output::line(format_args!(
                "unknown  {} segments whose files cannot be read",
                report.unreadable
            ));
        }
        if report.unknown_files > 0 {
            output::line(format_args!(
                "unknown  {} files; 'lavant store gc' removes them",
                report.unknown_files
            ));
        }
    }
    for file in &report.unreadable_files {
        output::note(format_args!("cannot be read: {}", file.display()));
    }
    if report.interrupted {
        output::note("interrupted: only these segments were looked at");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if report.dropped + report.unreadable == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn backup(args: BackupArgs, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
    let config = args.common.config.resolve()?;
    let layout = Layout::new(&config.store);
    // Else one would be made there.
    let key = layout.node_key();
    let is_there = key.try_exists();
    if !is_there.with_context(|| key.display().to_string())? {
        bail!(
            "{} is no store; name one with --store",
            config.store.display()
        );
    }
    let bar = bar("snapshot")?;
    let copying = |facts: &SnapshotFacts| {
        bar.set_message("files");
        back_up(
            &layout,
            facts,
            &args.folder,
            args.copy,
            &mut shown(&bar, cancel),
        )
    };
    let outcome = match open_store(&config) {
        Ok(store) => match store.snapshot(shown(&bar, cancel)) {
            Ok(snapshot) => copying(&snapshot.facts).map(|report| (snapshot.facts, report)),
            Err(StoreError::Interrupted) => Err(BackupError::Interrupted),
            Err(error) => return Err(error.into()),
        },
        Err(StartError::Store(OpenError::InUse { .. })) => {
            let client = Client::new(&daemon(args.daemon.as_deref(), &config), token(&config)?)?;
            // The node keeps the snapshot for as long as it sends lines.
            let mut lines = client.lines("POST", "/snapshot")?;
            match await_snapshot(&mut lines, &layout, shown(&bar, cancel))? {
                Some(facts) => copying(&facts).map(|report| (facts, report)),
                None => Err(BackupError::Interrupted),
            }
        }
        Err(error) => return Err(error.into()),
    };
    bar.finish_and_clear();
    let (facts, report) = match outcome {
        Err(BackupError::Interrupted) => return Ok(interrupted()),
        outcome => outcome?,
    };
    if args.common.json {
        say(&report, (facts.contents, facts.segments, facts.missing))?;
        return Ok(whole(facts.missing));
    }
    output::line(format_args!(
        "backup    {} contents, {} segments, {}",
        facts.contents,
        facts.segments,
        output::bytes(facts.bytes)
    ));
    print(&report);
    if report.linked > 0 {
        output::note(
            "files on the same disk got a second name; a backup that survives the disk has to be \
             on another one, or made with --copy",
        );
    }
    Ok(whole(facts.missing))
}

/// Says that segments are missing, and ends with 1 then.
fn whole(missing: u64) -> ExitCode {
    if missing == 0 {
        return ExitCode::SUCCESS;
    }
    output::note(format_args!(
        "{missing} files of segments are missing or too short: 'lavant store check' drops these \
         segments, and other nodes may have them"
    ));
    ExitCode::FAILURE
}

/// Waits until the node has made a snapshot of this store; none when somebody ended it.
fn await_snapshot(
    lines: &mut Lines,
    layout: &Layout,
    mut progress: impl FnMut(u64, u64) -> bool,
) -> anyhow::Result<Option<SnapshotFacts>> {
    loop {
        match lines.next_line()? {
            SnapshotLine::Progress(done, total) if progress(done, total) => {}
            SnapshotLine::Progress(..) => return Ok(None),
            SnapshotLine::Error(message) => bail!("{message}"),
            SnapshotLine::Ready { folder, facts } => {
                same_store(Path::new(&folder), layout)?;
                return Ok(Some(facts));
            }
        }
    }
}

fn bring_back(args: RestoreArgs, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
    let config = args.common.config.resolve()?;
    let bar = bar("files")?;
    let layout = Layout::new(&config.store);
    let outcome = restore(&args.folder, &layout, &mut shown(&bar, cancel));
    bar.finish_and_clear();
    let report = match outcome {
        Err(BackupError::Interrupted) => return Ok(interrupted()),
        outcome => outcome?,
    };
    // What cannot be opened is no store: better said now than at the next start.
    let stats = open_store(&config)?.stats();
    if args.common.json {
        say(&report, (stats.contents, stats.segments, report.missing))?;
        return Ok(whole(report.missing));
    }
    output::line(format_args!(
        "store     {}: {} contents, {} segments, {}",
        config.store.display(),
        stats.contents,
        stats.segments,
        output::bytes(stats.bytes)
    ));
    print(&report);
    Ok(whole(report.missing))
}

fn interrupted() -> ExitCode {
    output::note(BackupError::Interrupted);
    ExitCode::from(INTERRUPTED)
}

/// Prints what was done, and what there is then, as JSON.
fn say(
    report: &BackupReport,
    (contents, segments, missing): (u64, u64, u64),
) -> anyhow::Result<()> {
    output::json(&json!({
        "copied": report.copied, "linked": report.linked, "bytes": report.bytes,
        "kept": report.kept, "removed": report.removed,
        "contents": contents, "segments": segments, "missing": missing,
    }))
}

fn print(report: &BackupReport) {
    let new = report.copied + report.linked;
    output::line(format_args!(
        "new       {new} files, {}",
        output::bytes(report.bytes)
    ));
    output::line(format_args!("unchanged {} files", report.kept));
    output::line(format_args!("removed   {} files", report.removed));
}

/// Where the node answers that uses the store.
fn daemon(given: Option<&str>, config: &Config) -> String {
    let listen = config.listen;
    let ip = match listen.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => [127, 0, 0, 1].into(),
        ip if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let own = || format!("http://{}", std::net::SocketAddr::new(ip, listen.port()));
    given.map_or_else(own, str::to_owned)
}

/// The token of the store's own node, which whoever can read the store may use.
fn token(config: &Config) -> anyhow::Result<Option<String>> {
    let path = Layout::new(&config.store).api_token();
    Ok(match &config.api_token {
        Some(token) => Some(token.clone()),
        None if path.exists() => Some(identity::read_token(&path)?),
        None => None,
    })
}

/// Whether the node that answered is the one that uses this store.
fn same_store(folder: &Path, layout: &Layout) -> anyhow::Result<()> {
    let (theirs, ours) = (folder.canonicalize(), layout.snapshot().canonicalize());
    match (theirs, ours) {
        (Ok(theirs), Ok(ours)) if theirs == ours => Ok(()),
        _ => bail!(
            "the node that answered uses another store ({}); name the right one with --daemon",
            folder.display()
        ),
    }
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
