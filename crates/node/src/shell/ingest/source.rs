//! Where media comes from: a file, a URL, or standard input.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lavant_media::{Format, Inspection, ts};

use super::error::IngestError;
use super::pipe::Pipe;
use super::probe::{self, Probe};
use super::reach::Reach;

/// Bytes of a file that are looked at to know what it is.
const FILE_HEAD: usize = 2 << 20;
/// Bytes of standard input that ffprobe looks at.
const PIPE_HEAD: usize = 1 << 20;
/// Bytes that tell a transport stream from anything else.
const SNIFF: usize = 3 * PACKET;
/// A transport stream tells its codecs within this many bytes, nearly always.
const TS_HEAD: usize = 256 << 10;
/// How long a slow pipe is waited for, once it has given something: until a transport stream is
/// told, and until anything else is.
const TS_PATIENCE: Duration = Duration::from_secs(3);
const PIPE_PATIENCE: Duration = Duration::from_secs(8);
/// Length of a transport packet.
const PACKET: usize = 188;

/// What a user names as the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Anything that ffmpeg opens by a URL.
    Url(String),
    /// Standard input.
    Stdin,
}

impl Input {
    /// Reads `-`, a URL (`scheme://...`) or else a file name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let is_url = text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        });
        match text {
            "-" => Self::Stdin,
            "file://" => Self::File(PathBuf::new()),
            _ if text.starts_with("file:///") => Self::File(PathBuf::from(&text[7..])),
            _ if is_url => Self::Url(text.to_owned()),
            _ => Self::File(PathBuf::from(text)),
        }
    }

    /// A title for people who give none: the file's name without its ending.
    #[must_use]
    pub fn default_title(&self) -> String {
        let name = match self {
            Self::File(path) => path
                .file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
            Self::Url(url) => {
                let path = url.split(['?', '#']).next().unwrap_or_default();
                let (_, path) = path.split_once("://").unwrap_or(("", path));
                let last = path
                    .trim_end_matches('/')
                    .rsplit('/')
                    .next()
                    .unwrap_or_default();
                Some(
                    last.rsplit_once('.')
                        .map_or(last, |(stem, _)| stem)
                        .to_owned(),
                )
            }
            Self::Stdin => None,
        };
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| "stream".to_owned())
    }

    /// What to call it in a sentence. A URL's password is left out.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(url) => without_password(url),
            Self::Stdin => "standard input".to_owned(),
        }
    }
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // The last `@`, as a password may hold one.
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{}", &rest[user.len() + 1..]),
        None => url.to_owned(),
    }
}

/// An opened source.
pub(super) struct Source {
    pub(super) input: Input,
    /// Size of a file.
    pub(super) size: Option<u64>,
    /// What the transport stream holds, when the source is one.
    pub(super) transport: Option<Inspection>,
    /// Identity of a file: path, size and time of change.
    identity: Option<String>,
    /// Standard input, until it is taken.
    pipe: Option<Pipe>,
}

impl Source {
    /// Opens a source and looks at its first bytes; `stdin` stands for standard input.
    pub(super) fn open(
        input: &Input,
        stdin: Option<Box<dyn Read + Send>>,
        cancel: &AtomicBool,
    ) -> Result<Self, IngestError> {
        let mut source = Self {
            input: input.clone(),
            size: None,
            transport: None,
            identity: None,
            pipe: None,
        };
        match input {
            Input::File(path) => source.open_file(path)?,
            Input::Url(_) => {}
            Input::Stdin => {
                let stdin = stdin.unwrap_or_else(|| Box::new(std::io::stdin()));
                let mut pipe = Pipe::start(stdin);
                let mut head = pipe.head(SNIFF, TS_PATIENCE, cancel)?;
                if lavant_media::sniff(head) == Some(Format::TransportStream) {
                    head = pipe.head(TS_HEAD, TS_PATIENCE, cancel)?;
                }
                if head.is_empty() {
                    return Err(IngestError::EmptyInput);
                }
                source.transport = transport(head);
                // What was looked at stays in the pipe, and is read again from the start.
                source.pipe = Some(pipe);
            }
        }
        Ok(source)
    }

    fn open_file(&mut self, path: &Path) -> Result<(), IngestError> {
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => IngestError::NoSuchFile(path.to_owned()),
            _ => IngestError::CannotOpen {
                path: path.to_owned(),
                reason: e.to_string(),
            },
        };
        // The name of the file itself, so that each path to it is the same source.
        let whole = std::fs::canonicalize(path).map_err(failed)?;
        let metadata = std::fs::metadata(&whole).map_err(failed)?;
        if metadata.is_dir() {
            let reason = "it is a folder: name a file in it".to_owned();
            return Err(IngestError::CannotOpen {
                path: path.to_owned(),
                reason,
            });
        }
        let mut file = File::open(&whole).map_err(failed)?;
        // A named pipe or a device has no size, and what was read of it for a look would be
        // missing.
        if metadata.is_file() {
            let changed = metadata.modified().ok();
            let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            // Nanoseconds: a file that is written twice within a second is not the same one.
            let nanos = since.map_or(0, |since| since.as_nanos());
            self.size = Some(metadata.len());
            self.identity = Some(format!("{whole:?} {} {nanos}", metadata.len()));
            self.transport = transport(&head(&mut file, FILE_HEAD).map_err(failed)?);
        }
        self.input = Input::File(whole);
        Ok(())
    }

    /// Asks ffprobe what the source holds.
    pub(super) fn probe(
        &mut self,
        reach: &Reach,
        cancel: &AtomicBool,
    ) -> Result<Probe, IngestError> {
        let (argument, shown) = (self.argument(), self.input.shown());
        let head = match &mut self.pipe {
            Some(pipe) => Some(pipe.head(PIPE_HEAD, PIPE_PATIENCE, cancel)?),
            None => None,
        };
        let mut found = probe::probe((&argument, reach), head, &shown, cancel)?;
        if self.input == Input::Stdin {
            // ffprobe saw the beginning alone.
            found.duration = None;
        }
        Ok(found)
    }

    /// What stands after ffmpeg's `-i`.
    pub(super) fn argument(&self) -> OsString {
        match &self.input {
            Input::File(path) => {
                // Without the prefix a name with a colon would be taken for a URL.
                let mut argument = OsString::from("file:");
                argument.push(path);
                argument
            }
            Input::Url(url) => url.into(),
            Input::Stdin => "pipe:0".into(),
        }
    }

    /// Takes what is to be read by us: a file from its beginning, or standard input, once.
    pub(super) fn reader(&mut self) -> Result<Option<Box<dyn Read + Send>>, IngestError> {
        match &self.input {
            Input::File(path) => {
                let file = File::open(path).map_err(IngestError::io(READ))?;
                Ok(Some(Box::new(file)))
            }
            // ffmpeg fetches it, within its reach.
            Input::Url(_) => Ok(None),
            Input::Stdin => Ok(self.take_pipe()),
        }
    }

    /// Takes standard input, whole, once.
    pub(super) fn take_pipe(&mut self) -> Option<Box<dyn Read + Send>> {
        let pipe = self.pipe.take()?;
        Some(Box::new(pipe))
    }

    /// True when it can be read again from its beginning.
    pub(super) fn can_restart(&self) -> bool {
        self.input != Input::Stdin
    }

    /// A text that is the same for the same file with the same options, and no other.
    pub(super) fn fingerprint(&self, options: &str) -> Option<String> {
        let identity = self.identity.as_ref()?;
        let mut hasher = blake3::Hasher::new_derive_key("lavant 2026-11 ingest source");
        hasher
            .update(identity.as_bytes())
            .update(b"\0")
            .update(options.as_bytes());
        Some(format!("file-{}", hasher.finalize().to_hex()))
    }
}

const READ: &str = "the source cannot be read";

/// Reads up to `limit` bytes.
fn head(from: &mut impl Read, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the transport stream that begins with `head` holds.
fn transport(head: &[u8]) -> Option<Inspection> {
    if lavant_media::sniff(head) != Some(Format::TransportStream) {
        return None;
    }
    // The look ends in the middle of a packet, which would count as damage.
    let whole = head.len() - head.len() % PACKET;
    ts::inspect(&head[..whole]).ok()
}

/// True when every player can play the stream as it is: 8-bit 4:2:0 H.264 at most, AAC or MP3, and
/// something of both kinds at most once named without its details.
pub(super) fn is_playable(transport: &Inspection) -> bool {
    !transport.streams.is_empty() && transport.streams.iter().all(|s| is_common(&s.codec))
}

/// True when the stream can be cut as it is, whoever may play it.
pub(super) fn is_carried(transport: &Inspection) -> bool {
    let is_hevc = |codec: &str| codec.starts_with("hvc1") || codec.starts_with("hev1");
    let known = |codec: &str| !is_hevc(codec) && !codec.eq_ignore_ascii_case("opus");
    !transport.streams.is_empty() && transport.streams.iter().all(|s| known(&s.codec))
}

fn is_common(codec: &str) -> bool {
    if let Some(profile) = codec.strip_prefix("avc1.") {
        // Baseline, main, extended and high are 8-bit 4:2:0; the profiles above are not.
        return ["42", "4d", "58", "64"]
            .iter()
            .any(|p| profile.to_ascii_lowercase().starts_with(p));
    }
    matches!(
        codec,
        "mp4a.40.2" | "mp4a.40.5" | "mp4a.40.29" | "mp4a.40.34"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    static NEVER: AtomicBool = AtomicBool::new(false);

    #[test]
    fn inputs_are_told_apart() {
        assert_eq!(Input::parse("-"), Input::Stdin);
        assert_eq!(
            Input::parse("rtmp://h/a"),
            Input::Url("rtmp://h/a".to_owned())
        );
        assert_eq!(Input::parse("a b: c.mp4"), Input::File("a b: c.mp4".into()));
        assert_eq!(Input::parse("./x://y"), Input::File("./x://y".into()));
        assert_eq!(
            Input::parse("file:///a/b.mp4"),
            Input::File("/a/b.mp4".into())
        );
    }

    #[test]
    fn titles_come_from_names() {
        assert_eq!(
            Input::parse("/a/My Film.2.mkv").default_title(),
            "My Film.2"
        );
        assert_eq!(
            Input::parse("https://h/x/talk.mp4?a=b.c").default_title(),
            "talk"
        );
        assert_eq!(Input::parse("rtmp://h/live/").default_title(), "live");
        assert_eq!(Input::Stdin.default_title(), "stream");
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(Input::parse("rtmp://u:p@h:1/a@b").shown(), "rtmp://h:1/a@b");
        assert_eq!(Input::parse("rtmp://h:1/a@b").shown(), "rtmp://h:1/a@b");
    }

    #[test]
    fn fingerprints_name_a_file_and_its_options() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        std::fs::write(&path, b"one").unwrap();
        let print = |options: &str| {
            Source::open(&Input::File(path.clone()), None, &NEVER)
                .unwrap()
                .fingerprint(options)
                .unwrap()
        };
        let first = print("a");
        assert_eq!(first, print("a"));
        assert_ne!(first, print("b"));
        assert!(first.len() <= 200);
        std::fs::write(&path, b"three").unwrap();
        assert_ne!(first, print("a"));
        let pipe: Box<dyn Read + Send> = Box::new(&b"xyz"[..]);
        let stdin = Source::open(&Input::Stdin, Some(pipe), &NEVER).unwrap();
        assert_eq!(stdin.fingerprint("a"), None);
    }

    #[test]
    fn wrong_inputs_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: PathBuf| {
            Source::open(&Input::File(path), None, &NEVER)
                .err()
                .unwrap()
        };
        assert!(
            open(folder.path().to_owned())
                .to_string()
                .contains("folder")
        );
        assert!(matches!(
            open(folder.path().join("no")),
            IngestError::NoSuchFile(_)
        ));
        let empty: Box<dyn Read + Send> = Box::new(std::io::empty());
        let error = Source::open(&Input::Stdin, Some(empty), &NEVER)
            .err()
            .unwrap();
        assert!(matches!(error, IngestError::EmptyInput));
    }

    #[test]
    fn common_codecs_are_known() {
        for codec in [
            "avc1.42C01E",
            "avc1.64001f",
            "avc1.4D401E",
            "mp4a.40.2",
            "mp4a.40.34",
        ] {
            assert!(is_common(codec), "{codec}");
        }
        for codec in [
            "avc1.6E001F",
            "avc1.F4001F",
            "avc1",
            "hvc1.1.6.L93.B0",
            "ac-3",
            "mp4v.61",
        ] {
            assert!(!is_common(codec), "{codec}");
        }
    }
}
