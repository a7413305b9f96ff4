//! `lavant live` and `lavant watch`.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use clap::Subcommand;
use lavant_node::shell::client::{Client, ClientError, encode};
use lavant_node::shell::{ContentId, TransportStream};
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
        None => publish(args),
    }
}

fn publish(args: &Args) -> anyhow::Result<ExitCode> {
    let name = args.name.as_deref().unwrap_or_default();
    check_name(name)?;
    let client = args.node.client()?;
    if args.source.contains("://") {
        return pull(args, &client, name);
    }
    let mut source = Source::open(&args.source)?;
    if !args.node.json {
        let url = client.url(&format!("/play/{}/index.m3u8", encode(name)));
        output::note(format_args!("publishing {name}; watch it at {url}"));
    }
    let ended = client.publish(name, args.title.as_deref(), &mut source)?;
    source.check()?;
    if args.node.json {
        output::json(&ended)?;
    } else {
        output::line(format_args!(
            "{name} is finished: {}, {} segments",
            output::duration(number(&ended, "seconds")),
            ended.get("stored").and_then(Value::as_u64).unwrap_or(0)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets the node fetch a stream, which it goes on with after this program has ended.
fn pull(args: &Args, client: &Client, name: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/live/{}/pull", encode(name));
    let body = serde_json::json!({
        "url": args.source,
        "title": args.title,
        "allow_private": args.allow_private,
    });
    let entry: Value = client.call_with("POST", &path, &body)?;
    if args.node.json {
        output::json(&entry)?;
    } else {
        let url = client.url(text(&entry, "play"));
        output::line(format_args!(
            "the node fetches {name} until 'lavant live stop {name}'; watch it at {url}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the bytes are from.
enum Source {
    Stdin(std::io::Stdin),
    /// ffmpeg, which gives a file out at the speed at which it is played.
    Program(Child),
}

impl Source {
    fn open(source: &str) -> anyhow::Result<Self> {
        if source == "-" {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                return wrong("standard input is a terminal: pipe a stream in, or name a file");
            }
            return Ok(Self::Stdin(stdin));
        }
        if let Err(error) = File::open(source) {
            return wrong(format!("{source} cannot be read: {error}"));
        }
        let child = Program::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-re", "-i"])
            // A name that begins with a dash is no option, nor is one with a colon a protocol.
            .arg(format!("file:{source}"))
            .args(["-map", "0:v:0?", "-map", "0:a:0?", "-c", "copy"])
            .args(["-f", "mpegts", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let child = child.context("ffmpeg, which files need, cannot be started")?;
        Ok(Self::Program(child))
    }

    /// Whether it came to its end.
    fn check(&mut self) -> anyhow::Result<()> {
        if let Self::Program(child) = self
            && !child.wait()?.success()
        {
            bail!("ffmpeg did not come to the end of the file; its message stands above");
        }
        Ok(())
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Stdin(stdin) => stdin.read(buffer),
            Self::Program(child) => child.stdout.as_mut().map_or(Ok(0), |out| out.read(buffer)),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Program(child) = self {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wrong<T>(what: impl Into<String>) -> anyhow::Result<T> {
    Err(WrongInput(what.into()).into())
}

/// Before anything is sent: the node would refuse it in the midst of that.
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

/// Arguments of `lavant watch`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lavant watch harbour -o - | mpv -\n  \
    lavant watch harbour -o - | lavant live copy - --daemon http://10.0.0.5:7777\n  \
    lavant watch harbour -o harbour.mp4\n  \
    lavant watch harbour -o - --format ts | vlc -\n\n\
    What is over is fetched with 'lavant get'.")]
pub(crate) struct WatchArgs {
    /// The stream: CONTENT_ID, or PUBLISHER/CONTENT_ID
    reference: String,
    /// Where the stream is written: a file, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// As fragmented MP4, or as MPEG-TS [default: ts for a file that ends in .ts, else cmaf]
    #[arg(long)]
    format: Option<Format>,
    #[command(flatten)]
    node: NodeArgs,
}

/// The container that a stream is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Fragmented MP4, which takes every codec
    Cmaf,
    /// MPEG transport stream: H.264, HEVC and AAC
    Ts,
}

pub(crate) fn watch(args: &WatchArgs, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
    let client: Client = args.node.client()?;
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout && args.node.json {
        return wrong("--json and -o - would both write to standard output: give a file");
    }
    let mut out: Box<dyn Write> = match to_stdout {
        true if std::io::stdout().is_terminal() => {
            return wrong("standard output is a terminal: give -o FILE, or pipe it into a player");
        }
        true => Box::new(std::io::stdout()),
        false => Box::new(Fresh::new(&args.output)),
    };
    let is_ts = args
        .output
        .extension()
        .is_some_and(|it| it.eq_ignore_ascii_case("ts"));
    let implied = if is_ts { Format::Ts } else { Format::Cmaf };
    if args.format.unwrap_or(implied) == Format::Ts {
        out = Box::new(TransportStream::new(out));
    }
    let bytes = match client.watch(&args.reference, &mut out, cancel) {
        // A player that was closed has seen enough, which is no failure.
        Err(ClientError::Output(error)) if to_stdout && error.kind() == ErrorKind::BrokenPipe => {
            return Ok(ExitCode::SUCCESS);
        }
        written => written?,
    };
    if args.node.json {
        output::json(&serde_json::json!({ "bytes": bytes }))?;
    } else {
        output::note(format_args!("{} written", output::bytes(bytes)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that is made with its first byte: one of a stream that is not there would be left empty,
/// or take the place of an older one.
struct Fresh {
    path: PathBuf,
    file: Option<File>,
}

impl Fresh {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
        }
    }
}

impl Write for Fresh {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::create(&self.path)?),
        };
        file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().map_or(Ok(()), File::flush)
    }
}
