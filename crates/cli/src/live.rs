//! `lavant live` and `lavant watch`.

mod publish;
mod source;
mod watch;

pub(crate) use watch::{Args as WatchArgs, run as watch};

use std::process::ExitCode;

use clap::Subcommand;
use lavant_node::shell::ContentId;
use lavant_node::shell::client::encode;
use serde_json::Value;

use crate::content::NodeArgs;
use crate::output::{self, WrongInput};

/// Arguments of `lavant live`.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        ffmpeg -re -i film.mp4 -c copy -f mpegts - | lavant live harbour -\n  \
        lavant live harbour film.mp4       as if it happened now; needs ffmpeg\n  \
        lavant live harbour https://example.org/index.m3u8\n  \
        lavant live harbour rtsp://10.0.0.5/cam --allow-private\n  \
        lavant live key harbour            what OBS needs, with 'lavant serve --rtmp 1935'\n  \
        lavant live list\n  \
        lavant live stop harbour\n\n\
        It is watched at /play/NAME/index.m3u8 of the node, with 'lavant play NAME', or with\n  \
        lavant watch harbour -o - | mpv -"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// What it is called: its content_id
    #[arg(required = true)]
    name: Option<String>,
    /// `-` for MPEG-TS or fragmented MP4 on standard input, a file, or a URL that the node fetches
    #[arg(default_value = "-")]
    source: String,
    /// Let the node fetch a URL whose address is not of the open internet
    #[arg(long)]
    allow_private: bool,
    /// Title shown to people [default: its name]
    #[arg(long)]
    title: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Print the server and the stream key to publish under a name by RTMP
    Key(NameArgs),
    /// List the streams that run
    List(NodeArgs),
    /// Hold back what comes, until it is resumed
    Pause(NameArgs),
    /// Let through what comes again
    Resume(NameArgs),
    /// Send a stream on by RTMP(S) or SRT whenever it runs, to these targets and no others
    Forward(ForwardArgs),
    /// End a stream; its publisher cannot come back for a minute
    Stop(NameArgs),
}

/// A stream of a node.
#[derive(clap::Args)]
struct NameArgs {
    /// What it is called
    name: String,
    #[command(flatten)]
    node: NodeArgs,
}

/// A stream of a node, and its targets.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lavant live forward harbour rtmp://example.org/live/STREAM-KEY\n  \
    lavant live forward harbour        sends it nowhere")]
struct ForwardArgs {
    /// What it is called
    name: String,
    /// URLs of rtmp, rtmps or srt; none to end it
    to: Vec<String>,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Some(Command::Key(args)) => key(args),
        Some(Command::List(args)) => list(args),
        Some(Command::Pause(args)) => tell(args, "pause"),
        Some(Command::Resume(args)) => tell(args, "resume"),
        Some(Command::Stop(args)) => tell(args, "stop"),
        Some(Command::Forward(args)) => forward(args),
        None => publish::run(args),
    }
}

fn wrong<T>(what: impl Into<String>) -> anyhow::Result<T> {
    Err(WrongInput(what.into()).into())
}

/// Before anything is sent: the node would refuse it in the midst of that, or another path would be
/// asked for.
fn check_name(name: &str) -> anyhow::Result<()> {
    match ContentId::new(name) {
        Ok(_) => Ok(()),
        Err(error) => wrong(error.to_string()),
    }
}

fn number(entry: &Value, key: &str) -> f64 {
    entry.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn key(args: &NameArgs) -> anyhow::Result<ExitCode> {
    check_name(&args.name)?;
    let path = format!("/api/v1/live/{}/key", encode(&args.name));
    let reply: Value = args.node.client()?.call("POST", &path)?;
    if args.node.json {
        output::json(&reply)?;
        return Ok(ExitCode::SUCCESS);
    }
    let key = text(&reply, "key");
    let (rtmp, rtmps) = (text(&reply, "rtmp"), text(&reply, "rtmps"));
    let srt = text(&reply, "srt");
    let servers = [rtmp, rtmps].into_iter().filter(|it| !it.is_empty());
    for server in servers.clone() {
        output::line(format_args!("server      {server}"));
    }
    output::line(format_args!("stream key  {key}"));
    for server in servers.clone() {
        output::line(format_args!("in one      {server}/{key}"));
    }
    if !srt.is_empty() {
        output::line(format_args!("by SRT      {srt}"));
    }
    if servers.count() == 0 && srt.is_empty() {
        output::note(format_args!(
            "the node does not listen for publishers: start it with --rtmp 1935, or \
             --srt {}=9000",
            args.name
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &NodeArgs) -> anyhow::Result<ExitCode> {
    let entries: Vec<Value> = args.client()?.get("/api/v1/live")?;
    if args.json {
        output::json(&entries)?;
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        output::line("nothing is live; begin with 'lavant live NAME -'");
    }
    for entry in &entries {
        let megabits = number(entry, "bit_rate") / 1e6;
        output::line(format_args!(
            "{:<24} {:<8} {:<5} {:>9} {megabits:>6.1} Mb/s  {}",
            text(entry, "name"),
            text(entry, "state"),
            text(entry, "by"),
            output::duration(number(entry, "seconds")),
            text(entry, "codecs"),
        ));
        let (source, error) = (text(entry, "source"), text(entry, "error"));
        if !source.is_empty() {
            output::line(format_args!("    from {source}"));
        }
        if !error.is_empty() {
            output::line(format_args!("    {error}"));
        }
        let targets = entry.get("forwards").and_then(Value::as_array);
        for target in targets.into_iter().flatten() {
            let state = match (target["running"].as_bool(), text(target, "error")) {
                (Some(true), _) => "running",
                (_, "") => "waiting",
                (_, error) => error,
            };
            output::line(format_args!("    to {}: {state}", text(target, "to")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(args: &NameArgs, action: &str) -> anyhow::Result<ExitCode> {
    check_name(&args.name)?;
    let path = format!("/api/v1/live/{}/{action}", encode(&args.name));
    let entry: Value = args.node.client()?.call("POST", &path)?;
    if args.node.json {
        output::json(&entry)?;
    } else {
        let state = text(&entry, "state");
        output::line(format_args!("{} is {state} now", args.name));
    }
    Ok(ExitCode::SUCCESS)
}

fn forward(args: &ForwardArgs) -> anyhow::Result<ExitCode> {
    check_name(&args.name)?;
    let path = format!("/api/v1/live/{}/forward", encode(&args.name));
    let body = serde_json::json!({ "to": args.to });
    let targets: Vec<Value> = args.node.client()?.call_with("PUT", &path, &body)?;
    if args.node.json {
        output::json(&targets)?;
    } else {
        let name = &args.name;
        output::line(match targets.len() {
            0 => format!("{name} is sent to nobody else now"),
            1 => {
                format!("{name} is sent on whenever it runs; 'lavant live list' shows how it goes")
            }
            n => format!(
                "{name} is sent to {n} targets whenever it runs; 'lavant live list' shows how it \
                 goes"
            ),
        });
    }
    Ok(ExitCode::SUCCESS)
}
