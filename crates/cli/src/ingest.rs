//! `lavant ingest`: brings a film, a recording or a stream into a node.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use lavant_node::shell::ingest::{
    self, IngestError, Input, Ladder, Mode, Options, Outcome, Priority, Progress, PublisherKey,
    SigningKey,
};

use crate::output;

const EXAMPLES: &str = "\
Examples:
  lavant ingest film.mp4                          copied where every player can play it
  lavant ingest talk.mkv --title \"A talk\" --pin   with a title, kept when space is short
  lavant ingest film.mkv --ladder                 1080p, 720p, 480p, 240p as the source allows
  lavant ingest film.mkv --ladder 720p,360p       these two
  lavant ingest report.mp4 --to 9f3c...e1          carried on until that node has it
  ffmpeg -i in.mov -c copy -f mpegts - | lavant ingest - --title Show
  lavant ingest rtmp://camera/live --priority live    a stream: watched while it comes

Exit codes: 0 done, 1 failed, 2 wrong input or use, 3 no node or refused by it,
4 ffmpeg is not installed, 130 cancelled. A film that fails or is cancelled is rolled back;
of a stream stays what has come.";

/// Seconds between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Bytes of a key file that are read.
const KEY_FILE_BYTES: u64 = 256;

/// Bring a file, a URL or standard input into a node
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A file, a URL that ffmpeg can open, or - for standard input
    #[arg(value_name = "FILE|URL|-")]
    pub(crate) input: String,

    /// A further origin that a playlist of the web may name, such as https://cdn.example (repeat)
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) also_from: Vec<String>,

    /// Title shown to viewers [default: the file's name without its ending]
    #[arg(long)]
    pub(crate) title: Option<String>,

    /// The node to bring it to
    #[arg(
        long,
        value_name = "URL",
        env = "LAVANT_DAEMON",
        default_value = "http://127.0.0.1:7777"
    )]
    pub(crate) daemon: String,

    /// Token of the node, where it asks for one; other users of this machine can see it here, but
    /// not in --token-file or LAVANT_TOKEN
    #[arg(long, env = "LAVANT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// A file that holds the token and that only you can read
    #[arg(
        long,
        value_name = "FILE",
        env = "LAVANT_TOKEN_FILE",
        conflicts_with = "token"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// How urgent it is: vod (kept 30 days), near_live (6 hours) or live (30 minutes)
    #[arg(long, default_value = "vod", value_parser = priority)]
    pub(crate) priority: Priority,

    /// Name in URLs [default: made from the title]
    #[arg(long, value_name = "ID")]
    pub(crate) content_id: Option<String>,

    /// Length of a segment, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 6,
        value_parser = clap::value_parser!(u32).range(1..=60)
    )]
    pub(crate) segment_seconds: u32,

    /// Copy every track, whoever can play it; nothing is encoded
    #[arg(long, conflicts_with_all = ["transcode", "ladder"])]
    pub(crate) copy: bool,

    /// Encode every track to H.264 and AAC
    #[arg(long)]
    pub(crate) transcode: bool,

    /// Make several renditions: as the source allows, or of a LIST of heights such as 720p,480p
    #[arg(
        long,
        value_name = "LIST",
        num_args = 0..=1,
        default_missing_value = "auto",
        value_parser = Ladder::parse
    )]
    pub(crate) ladder: Option<Ladder>,

    /// Publish with a key of your own: a file of 64 hex digits that only you may read
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) publish_as: Option<PathBuf>,

    /// Keep it when the node is short of space
    #[arg(long)]
    pub(crate) pin: bool,

    /// For these nodes: others carry it until they have it; their keys, with commas
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub(crate) to: Vec<PublisherKey>,

    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn priority(text: &str) -> Result<Priority, String> {
    text.parse::<Priority>().map_err(|e| e.to_string())
}

/// Runs the command; `cancel` turns true when the user wants it to stop.
pub(crate) fn run(args: Args, cancel: &'static AtomicBool) -> anyhow::Result<ExitCode> {
    // Errors of use are told like all others of this command, as JSON where that is wanted.
    let options = match options(&args) {
        Ok(options) => options,
        Err(error) => return fail(&args, &format!("{error:#}"), 2),
    };
    let mut meter = Meter::new();
    let result = ingest::ingest(&options, &mut |progress| meter.show(progress), cancel);
    meter.finish();
    match result {
        Ok(outcome) => {
            print(&args, &outcome).context("cannot write the result")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => fail(&args, &error.to_string(), IngestError::exit_code(&error)),
    }
}

fn fail(args: &Args, sentence: &str, code: u8) -> anyhow::Result<ExitCode> {
    if args.json {
        let object = serde_json::json!({ "error": sentence, "exit_code": code });
        writeln!(std::io::stdout(), "{object}")?;
    }
    // On both outputs: a program reads the one, its user the other.
    writeln!(std::io::stderr(), "lavant: {}", output::clean(sentence))?;
    Ok(ExitCode::from(code))
}

fn options(args: &Args) -> anyhow::Result<Options> {
    let publish_as = args.publish_as.as_deref().map(read_key).transpose()?;
    let mode = match (args.copy, args.transcode) {
        (true, _) => Mode::Copy,
        (_, true) => Mode::Transcode,
        _ => Mode::Auto,
    };
    Ok(Options {
        also_from: args.also_from.clone(),
        title: args.title.clone(),
        content_id: args.content_id.clone(),
        priority: args.priority,
        token: crate::content::token(args.token.as_ref(), args.token_file.as_deref())?,
        segment_seconds: args.segment_seconds,
        mode,
        ladder: args.ladder.clone().unwrap_or_default(),
        publish_as,
        pin: args.pin,
        to: ingest::addressees(args.to.clone())?,
        ..Options::new(Input::parse(&args.input), &args.daemon)
    })
}

/// Reads a publisher's secret key, which nobody else may be able to read.
fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let shown = path.display();
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot read key file {shown}"))?;
    // Of the open file, which nobody can exchange any more.
    let mode = file
        .metadata()
        .with_context(|| format!("cannot read {shown}"))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        bail!("others can read the key file {shown}: run chmod 600 {shown}");
    }
    let mut text = String::new();
    // Whatever file is named, no more of it is read than a key has.
    let read = file.take(KEY_FILE_BYTES).read_to_string(&mut text);
    let seed = read.ok().and_then(|_| seed(text.trim()));
    let seed = seed.with_context(|| {
        format!("the key file {shown} does not hold a key: it is 64 hexadecimal digits on one line")
    })?;
    Ok(SigningKey::from_seed(&seed))
}

fn seed(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut seed = [0; 32];
    for (at, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(seed)
}

fn print(args: &Args, outcome: &Outcome) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = serde_json::json!({
            "content_id": outcome.content_id,
            "play_url": outcome.play_url,
            "bytes": outcome.bytes,
            "duration_seconds": outcome.media_seconds,
            "segments": outcome.segments,
            "resumed_segments": outcome.resumed,
            "mode": outcome.words,
            "already_here": outcome.already_here,
            "content": outcome.entry,
        });
        return writeln!(out, "{object}");
    }
    let what = if outcome.already_here {
        "is already here; nothing to do"
    } else {
        "is published"
    };
    let url = output::clean(&outcome.play_url);
    writeln!(out, "{} {what}", output::clean(&outcome.content_id))?;
    let bytes = HumanBytes(outcome.bytes);
    writeln!(
        out,
        "  {} in {} segments, {bytes}",
        clock(outcome.media_seconds),
        outcome.segments
    )?;
    if !outcome.already_here {
        writeln!(out, "  {}", output::clean(&outcome.words))?;
    }
    if outcome.resumed > 0 {
        writeln!(
            out,
            "  resumed: {} segments were there already",
            outcome.resumed
        )?;
    }
    writeln!(out, "  {url}")?;
    writeln!(out, "play it: mpv {url}")
}

fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

/// Shows how far it is: a bar on a terminal, a line now and then elsewhere.
struct Meter {
    bar: Option<ProgressBar>,
    begun: Instant,
    lined: Instant,
    expected_seconds: Option<f64>,
    size: Option<u64>,
    renditions: Vec<(String, f64)>,
    encoded: f64,
    bytes: u64,
}

impl Meter {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1000);
            let style = ProgressStyle::with_template("{spinner} [{bar:30}] {percent:>3} % {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            begun: now,
            lined: now,
            expected_seconds: None,
            size: None,
            renditions: Vec::new(),
            encoded: 0.0,
            bytes: 0,
        }
    }

    fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Planned {
                content_id,
                words,
                renditions,
                expected_seconds,
                size,
                resumed,
            } => {
                self.say(&format!("{content_id}: {words}"));
                if resumed > 0 {
                    self.say(&format!(
                        "resuming: the node holds {resumed} segments already"
                    ));
                }
                self.renditions = renditions.into_iter().map(|name| (name, 0.0)).collect();
                (self.expected_seconds, self.size) = (expected_seconds, size);
                // An ingest may begin anew, another way.
                (self.encoded, self.bytes) = (0.0, 0);
                self.begun = Instant::now();
            }
            Progress::Segment {
                rendition,
                bytes,
                media_seconds,
                ..
            } => {
                self.bytes += bytes;
                let found = self
                    .renditions
                    .iter_mut()
                    .find(|(name, _)| *name == rendition);
                if let Some((_, seconds)) = found {
                    *seconds = media_seconds;
                }
            }
            Progress::Encoded { media_seconds, .. } => self.encoded = media_seconds,
            Progress::Notice(text) => self.say(&text),
        }
        self.draw();
    }

    /// Seconds that have passed through: what ffmpeg is at, or what is in the node.
    fn media_seconds(&self) -> f64 {
        let sent = self.renditions.iter().map(|(_, seconds)| *seconds);
        // The slowest rendition says how far all are.
        sent.fold(f64::INFINITY, f64::min)
            .min(f64::MAX)
            .max(self.encoded)
    }

    /// How much is done, from 0 to 1; `None` for a stream.
    fn fraction(&self) -> Option<f64> {
        let done = match (self.expected_seconds, self.size) {
            (Some(all), _) if all > 0.0 => self.media_seconds() / all,
            // Several renditions together have other bytes than the source.
            (None, Some(all)) if self.renditions.len() == 1 => {
                self.bytes as f64 / all.max(1) as f64
            }
            _ => return None,
        };
        Some(done.clamp(0.0, 1.0))
    }

    fn text(&self) -> String {
        let elapsed = self.begun.elapsed().as_secs_f64().max(0.001);
        let media = if self.renditions.is_empty() {
            0.0
        } else {
            self.media_seconds()
        };
        let speed = media / elapsed;
        let mut text = format!("{} {} x{speed:.1}", clock(media), HumanBytes(self.bytes));
        // Below half a percent the guess would be of no use.
        if let Some(done) = self.fraction().filter(|done| *done > 0.005) {
            let left = Duration::from_secs_f64((elapsed / done - elapsed).clamp(0.0, 1e7));
            text.push_str(&format!(" {} left", HumanDuration(left)));
        }
        text
    }

    fn draw(&mut self) {
        let done = self.fraction();
        if let Some(bar) = &self.bar {
            bar.set_position((done.unwrap_or(0.0) * 1000.0) as u64);
            bar.set_message(self.text());
        } else if self.lined.elapsed() >= LINE_EVERY {
            self.lined = Instant::now();
            let percent = done.map_or_else(String::new, |done| format!("{:.0} % ", done * 100.0));
            self.say(&format!("{percent}{}", self.text()));
        }
    }

    /// A line of its own. Nothing can be done about an error output that is gone.
    fn say(&self, text: &str) {
        let text = output::clean(text);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Options, String> {
        let words = ["ingest"].iter().chain(words);
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        options(&cli.args).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_become_options() {
        let plain = parse(&["a.mp4"]).unwrap();
        assert_eq!(
            (plain.segment_seconds, plain.mode, plain.pin),
            (6, Mode::Auto, false)
        );
        assert_eq!(plain.ladder, Ladder::Single);
        let ladder = parse(&["a.mp4", "--ladder", "480p,720p"]).unwrap().ladder;
        assert_eq!(ladder, Ladder::Heights(vec![720, 480]));
        assert_eq!(parse(&["a.mp4", "--ladder"]).unwrap().ladder, Ladder::Auto);
        assert_eq!(parse(&["-", "--copy"]).unwrap().mode, Mode::Copy);
        let live = parse(&["-", "--priority", "near_live"]).unwrap();
        assert_eq!(
            (live.priority, live.input),
            (Priority::NearLive, Input::Stdin)
        );
        for wrong in [
            &["a", "--copy", "--transcode"][..],
            &["a", "--segment-seconds", "0"],
            &["a", "--segment-seconds", "61"],
            &["a", "--priority", "soon"],
            &["a", "--ladder", "7p"],
            &[],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn key_files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, format!("{}\n", "ab".repeat(32))).unwrap();
        let allow =
            |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        allow(0o644);
        assert!(
            read_key(&path)
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
        allow(0o600);
        assert_eq!(read_key(&path).unwrap().seed(), [0xab; 32]);
        std::fs::write(&path, "abc").unwrap();
        assert!(
            read_key(&path)
                .unwrap_err()
                .to_string()
                .contains("64 hexadecimal digits")
        );
        assert!(read_key(&folder.path().join("none")).is_err());
    }

    #[test]
    fn progress_is_counted() {
        let mut meter = Meter {
            bar: None,
            ..Meter::new()
        };
        assert_eq!(meter.fraction(), None);
        meter.show(Progress::Planned {
            content_id: "x".to_owned(),
            words: "copied".to_owned(),
            renditions: vec!["a".to_owned(), "b".to_owned()],
            expected_seconds: Some(20.0),
            size: None,
            resumed: 0,
        });
        let segment = |name: &str| Progress::Segment {
            rendition: name.to_owned(),
            sequence: 0,
            bytes: 1000,
            media_seconds: 5.0,
            is_new: true,
        };
        meter.show(segment("a"));
        assert_eq!(meter.fraction(), Some(0.0));
        meter.show(segment("b"));
        assert_eq!(meter.fraction(), Some(0.25));
        assert!(
            meter.text().contains("0:00:05 1.95 KiB"),
            "{}",
            meter.text()
        );
    }
}
