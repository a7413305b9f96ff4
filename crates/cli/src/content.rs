//! Commands about contents: catalog, status, get, play, rm, pin, unpin.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lavant_node::http::{CatalogEntry, StatusReply};
use lavant_node::identity;
use lavant_node::shell::client::{Client, ClientError, encode, find_player};
use serde_json::Value;

use crate::output;

/// Which node, and with what token.
#[derive(clap::Args)]
pub(crate) struct NodeArgs {
    /// The node to talk to
    #[arg(
        long,
        env = "LAVANT_DAEMON",
        value_name = "URL",
        default_value = "http://127.0.0.1:7777"
    )]
    daemon: String,
    /// The node's API token, when it asks for one; other users of this machine can see it here, but
    /// not in --token-file or LAVANT_TOKEN
    #[arg(
        long,
        env = "LAVANT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// A file that holds the token and that only you can read
    #[arg(
        long,
        env = "LAVANT_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "token"
    )]
    token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl NodeArgs {
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let token = token(self.token.as_ref(), self.token_file.as_deref())?;
        Ok(Client::new(&self.daemon, token)?)
    }
}

/// The token that was given, one way or the other.
pub(crate) fn token(given: Option<&String>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    Ok(match file {
        Some(path) => Some(identity::read_token(path)?),
        // An empty variable of the environment is as good as none.
        None => given.filter(|token| !token.is_empty()).cloned(),
    })
}

/// Arguments of `lavant catalog`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lavant catalog\n  lavant catalog --newest --limit 20\n  \
        lavant catalog --search harbour\n  lavant catalog --json | jq '.[].title'"
)]
pub(crate) struct CatalogArgs {
    /// Most contents that are shown
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// How many are passed over
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: u64,
    /// Only what has these words in its title or id
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        hide_default_value = true
    )]
    search: String,
    /// What is live first, then the newest; else by id
    #[arg(long)]
    newest: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl CatalogArgs {
    fn path(&self) -> String {
        let mut path = format!("/catalog?offset={}&newest={}", self.offset, self.newest);
        if let Some(limit) = self.limit {
            path += &format!("&limit={limit}");
        }
        if !self.search.is_empty() {
            path += &format!("&search={}", encode(&self.search));
        }
        path
    }
}

pub(crate) fn catalog(args: &CatalogArgs) -> anyhow::Result<ExitCode> {
    let entries: Vec<CatalogEntry> = args.node.client()?.get(&args.path())?;
    if args.node.json {
        output::json(&entries)?;
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        output::line(match (args.search.is_empty(), args.offset) {
            (true, 0) => "nothing is here yet; put something in with 'lavant ingest FILE'",
            (true, _) => "there are no more",
            _ => "nothing matches",
        });
    }
    for entry in &entries {
        let state = match (entry.state.as_str(), entry.complete) {
            ("open", _) => "growing",
            (_, true) => "complete",
            _ => "partly here",
        };
        output::line(format_args!(
            "{:<24} {:>9} {:>9}  {:<9} {:<11} {}",
            entry.content_id,
            output::duration(entry.duration_seconds),
            output::bytes(entry.bytes),
            entry.priority,
            state,
            entry.title
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `lavant status`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lavant status\n  lavant status --daemon http://10.0.0.5:7777 --json"
)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status: StatusReply = args.node.client()?.get("/status")?;
    if args.node.json {
        output::json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    let store = &status.store;
    let limit = store.limit_bytes.map_or("no limit".into(), |limit| {
        format!("limit {}", output::bytes(limit))
    });
    output::line(format_args!(
        "node      {} (lavant {})",
        status.node_id, status.version
    ));
    output::line(format_args!("key       {}", status.publisher));
    output::line(format_args!(
        "up        {}",
        output::duration(status.uptime_seconds)
    ));
    output::line(format_args!(
        "store     {}: {} in {} segments of {} contents ({limit}, {} free on disk)",
        store.path,
        output::bytes(store.bytes),
        store.segments,
        store.contents,
        output::bytes(store.disk_free_bytes)
    ));
    for upload in &status.uploads {
        output::line(format_args!(
            "upload    {}: {} segments, {} of {}",
            upload.content_id,
            upload.segments,
            output::duration(upload.duration_seconds),
            upload.expected_seconds.map_or("?".into(), output::duration)
        ));
    }
    for warning in &status.warnings {
        output::line(format_args!("warning   {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `lavant rm`, `pin` and `unpin`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lavant rm my_film\n  lavant pin 9f3c...e1/my_film")]
pub(crate) struct RefArgs {
    /// CONTENT_ID, or PUBLISHER/CONTENT_ID
    reference: String,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn remove(args: &RefArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/content/{}", encode(&args.reference));
    let gone: Value = args.node.client()?.call("DELETE", &path)?;
    if args.node.json {
        output::json(&gone)?;
    } else {
        let number = |key| gone.get(key).and_then(Value::as_u64).unwrap_or_default();
        output::line(format_args!(
            "removed {}: {} segments, {}",
            args.reference,
            number("deleted_segments"),
            output::bytes(number("freed_bytes"))
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn pin(args: &RefArgs, pinned: bool) -> anyhow::Result<ExitCode> {
    let path = format!("/content/{}/pin", encode(&args.reference));
    let method = if pinned { "PUT" } else { "DELETE" };
    let answer: Value = args.node.client()?.call(method, &path)?;
    if args.node.json {
        output::json(&answer)?;
    } else {
        let word = if pinned { "pinned" } else { "no longer pinned" };
        output::line(format_args!("{} is {word}", args.reference));
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `lavant get`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lavant get my_film\n  lavant get my_film -o film.ts\n  \
    lavant get my_film -o - | mpv -"
)]
pub(crate) struct GetArgs {
    /// CONTENT_ID, or PUBLISHER/CONTENT_ID
    reference: String,
    /// The file to write, or - for standard output [default: CONTENT_ID.ts or .mp4]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The rendition [default: the one with the highest bit rate]
    #[arg(long, value_name = "NAME")]
    rendition: Option<String>,
    /// Leave out what the node does not have
    #[arg(long)]
    gaps: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn get(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let client = args.node.client()?;
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    let path = match &args.output {
        Some(path) => path.clone(),
        None => default_name(&client, args).map_err(|error| begun(&client, args, error))?,
    };
    // Before anything is fetched.
    if !to_stdout && path.exists() {
        bail!(
            "{} exists; name another file with -o, or remove it",
            path.display()
        );
    }
    let bar = progress_bar();
    let mut progress = |done: usize, total: usize, bytes: u64| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(output::bytes(bytes));
    };
    let mut download = |output: &mut dyn Write| {
        client.download(
            &args.reference,
            args.rendition.as_deref(),
            args.gaps,
            output,
            &mut progress,
        )
    };
    let (bytes, is_over) = if to_stdout {
        download(&mut std::io::stdout().lock()).map_err(|error| begun(&client, args, error))?
    } else {
        // Under another name until it is whole: half a film is not taken for one.
        let part = path.with_added_extension("part");
        let mut file = File::create(&part).with_context(|| part.display().to_string())?;
        let outcome = download(&mut file).map_err(|error| begun(&client, args, error));
        let outcome = outcome.map_err(anyhow::Error::from).and_then(|done| {
            std::fs::rename(&part, &path)?;
            Ok(done)
        });
        if outcome.is_err() {
            // The error that led here is the one to tell.
            let _ = std::fs::remove_file(&part);
        }
        outcome?
    };
    bar.finish_and_clear();
    if !to_stdout {
        warn_of_name(&path, mime_of(&client, args).as_deref().unwrap_or_default());
    }
    if !is_over {
        let reference = &args.reference;
        output::note(format_args!(
            "{reference} still grows, and this is what was there: get it again when it is over, or \
             follow it with 'lavant watch {reference}'"
        ));
    }
    // Standard output is the film itself.
    if args.node.json && !to_stdout {
        output::json(&serde_json::json!({ "file": path, "bytes": bytes }))?;
    } else if !to_stdout {
        output::line(format_args!("{}: {}", path.display(), output::bytes(bytes)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says of a stream that has just begun why nothing of it is there.
fn begun(client: &Client, args: &GetArgs, error: ClientError) -> ClientError {
    let name = &args.reference;
    let path = format!("/api/v1/live/{}", encode(name));
    match error {
        ClientError::Refused { status: 404, .. } if client.get::<Value>(&path).is_ok() => {
            ClientError::Refused {
                status: 404,
                message: format!(
                    "{name} has just begun, and nothing of it is stored: wait a moment, or follow \
                     it with 'lavant watch {name}'"
                ),
            }
        }
        error => error,
    }
}

/// The media type of what is fetched, where the node tells it.
fn mime_of(client: &Client, args: &GetArgs) -> Option<String> {
    let path = format!("/content/{}", encode(&args.reference));
    let entry: CatalogEntry = client.get(&path).ok()?;
    let is_it = |name: &String| args.rendition.as_ref().is_none_or(|wanted| wanted == name);
    let mut renditions = entry.renditions.into_iter();
    Some(renditions.find(|it| is_it(&it.name))?.mime_type)
}

/// Says that a file is of another kind than its name.
pub(crate) fn warn_of_name(path: &Path, mime: &str) {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let is = match (ending.to_ascii_lowercase().as_str(), mime) {
        ("ts" | "m2ts" | "mts", "video/mp4") => "fragmented MP4",
        ("mp4" | "m4v" | "mov", "video/mp2t") => "MPEG-TS",
        ("mkv" | "webm" | "flv" | "avi", "video/mp4") => "fragmented MP4",
        ("mkv" | "webm" | "flv" | "avi", "video/mp2t") => "MPEG-TS",
        _ => return,
    };
    output::note(format_args!(
        "{} is {is}, whatever its name says: 'ffmpeg -i FILE -c copy' makes another of it",
        path.display()
    ));
}

fn default_name(client: &Client, args: &GetArgs) -> Result<PathBuf, ClientError> {
    let path = format!("/content/{}", encode(&args.reference));
    let entry: CatalogEntry = client.get(&path)?;
    let rendition = entry.renditions.iter().find(|rendition| {
        args.rendition
            .as_ref()
            .is_none_or(|name| *name == rendition.name)
    });
    let stream = rendition.is_none_or(|rendition| rendition.mime_type == "video/mp2t");
    Ok(PathBuf::from(format!(
        "{}.{}",
        // A node names a file here, not a place.
        output::clean(&entry.content_id).replace('/', "_"),
        if stream { "ts" } else { "mp4" }
    )))
}

fn progress_bar() -> ProgressBar {
    // In a file or a log a bar would be a heap of control characters.
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {pos}/{len} segments, {msg}, {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// Arguments of `lavant play`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lavant play my_film\n  lavant play my_film --player mpv\n\n\
    Without a player the URL is printed; any HLS player can open it."
)]
pub(crate) struct PlayArgs {
    /// CONTENT_ID, or PUBLISHER/CONTENT_ID
    reference: String,
    /// The program to play with [default: mpv, vlc or ffplay, whichever is there]
    #[arg(long, value_name = "PROGRAM")]
    player: Option<String>,
    /// Begin when so many seconds from the start are here, or all of it
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    start_after: f64,
    /// How long to wait for a content that is still on its way
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0)]
    wait: f64,
    #[command(flatten)]
    node: NodeArgs,
}

/// How often a node is asked how much of a content is here.
const ASK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Waits until enough of a content is here that it can be watched without a stall.
fn wait_for_start(args: &PlayArgs, client: &Client) -> anyhow::Result<CatalogEntry> {
    let path = format!("/content/{}", encode(&args.reference));
    let begun = std::time::Instant::now();
    let bar = progress_bar();
    loop {
        let answer: Result<CatalogEntry, _> = client.get(&path);
        let entry = match answer {
            Ok(entry) if args.start_after <= 0.0 => return Ok(entry),
            Ok(entry) if entry.complete || entry.ready_seconds >= args.start_after => {
                bar.finish_and_clear();
                return Ok(entry);
            }
            Ok(entry) => {
                // At each turn, as a viewer that asks for nothing is forgotten after a while.
                client.watches(&args.reference);
                Some(entry)
            }
            // It may not have been heard of yet.
            Err(ClientError::Refused { status: 404, .. }) if args.start_after > 0.0 => None,
            Err(error) => return Err(error.into()),
        };
        let ready = entry.map_or(0.0, |entry| entry.ready_seconds);
        if begun.elapsed().as_secs_f64() >= args.wait {
            bail!(
                "{:.1} s of {} are here after waiting {:.0} s, not {:.1}; wait longer with --wait, \
                 or look at 'lavant peers'",
                ready,
                args.reference,
                args.wait,
                args.start_after
            );
        }
        bar.set_length(args.start_after.ceil() as u64);
        bar.set_position(ready as u64);
        bar.set_message("here");
        std::thread::sleep(ASK_EVERY);
    }
}

pub(crate) fn play(args: &PlayArgs) -> anyhow::Result<ExitCode> {
    let client = args.node.client()?;
    let entry = wait_for_start(args, &client)?;
    let url = client.url(&entry.play_url);
    if args.node.json {
        output::json(&serde_json::json!({ "url": url, "ready_seconds": entry.ready_seconds }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(player) = args
        .player
        .clone()
        .or_else(|| find_player().map(str::to_owned))
    else {
        output::line(&url);
        output::note("no player is installed (mpv, vlc, ffplay); open the URL in any HLS player");
        // As told in the program's help: a program is missing.
        return Ok(ExitCode::from(4));
    };
    let status = std::process::Command::new(&player).arg(&url).status();
    let status = status.with_context(|| format!("{player} could not be started"))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
