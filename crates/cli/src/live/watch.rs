//! `lavant watch`.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use lavant_node::shell::TransportStream;
use lavant_node::shell::client::{Client, ClientError};

use super::wrong;
use crate::content::{NodeArgs, warn_of_name};
use crate::output;

/// Arguments of `lavant watch`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lavant watch harbour -o - | mpv -\n  \
    lavant watch harbour -o - | lavant live copy - --daemon http://10.0.0.5:7777\n  \
    lavant watch harbour -o harbour.mp4\n  \
    lavant watch harbour -o - --format ts | vlc -\n\n\
    What is over is fetched with 'lavant get'.")]
pub(crate) struct Args {
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

impl Format {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Cmaf => "video/mp4",
            Self::Ts => "video/mp2t",
        }
    }
}

pub(crate) fn run(args: &Args, cancel: &AtomicBool) -> anyhow::Result<ExitCode> {
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
    let format = args.format.unwrap_or(implied);
    if format == Format::Ts {
        out = Box::new(TransportStream::new(out));
    }
    warn_of_name(&args.output, format.media_type());
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
