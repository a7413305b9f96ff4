//! Child processes that never outlive their owner, and short programs whose output is bounded.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::IngestError;

/// Bytes of the end of a program's error output that are kept.
const TAIL_BYTES: usize = 16 << 10;
/// How often a waiting thread looks again.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// A child that is killed and reaped when it is dropped.
pub(super) struct Guarded(Child);

impl Guarded {
    /// Starts it. A program that is not there is told apart, since that has a remedy.
    pub(super) fn spawn(command: &mut Command) -> Result<Self, IngestError> {
        match command.spawn() {
            Ok(child) => Ok(Self(child)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(IngestError::NoFfmpeg),
            Err(e) => Err(IngestError::io("ffmpeg cannot be started")(e)),
        }
    }

    /// The child itself, for its pipes.
    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits for it to end by itself; `None` when it still runs after `limit` or is cancelled.
    pub(super) fn wait(&mut self, limit: Duration, cancel: &AtomicBool) -> Option<ExitStatus> {
        // The standard library has no wait with a time limit, so it is asked again and again.
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline || cancel.load(Ordering::Relaxed) {
                return None;
            }
            std::thread::sleep(TICK);
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        // A child that has ended already cannot be killed: that is what is wanted.
        let _ = self.0.kill();
        // Reaped, or it stays as a zombie for as long as this process runs.
        let _ = self.0.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what a program writes, read by a thread of its own.
#[derive(Clone, Default)]
pub(super) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Reads `from` until its end.
    pub(super) fn follow(mut from: impl Read + Send + 'static) -> (Self, JoinHandle<()>) {
        let tail = Self::default();
        let kept = tail.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                kept.add(&buffer[..n]);
            }
        });
        (tail, thread)
    }

    fn add(&self, bytes: &[u8]) {
        let Ok(mut kept) = self.0.lock() else { return };
        kept.extend_from_slice(bytes);
        let excess = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..excess);
    }

    /// What was kept.
    pub(super) fn text(&self) -> String {
        self.0
            .lock()
            .map(|kept| String::from_utf8_lossy(&kept).into_owned())
            .unwrap_or_default()
    }
}

/// What a short program gave.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

/// Limits of a short program.
pub(super) struct Bounds {
    pub(super) time: Duration,
    pub(super) output: usize,
}

/// Runs a short program to its end, feeding it `input`.
pub(super) fn run(
    command: &mut Command,
    input: Option<Vec<u8>>,
    bounds: &Bounds,
    cancel: &AtomicBool,
) -> Result<Option<Finished>, IngestError> {
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut guarded = Guarded::spawn(command)?;
    let child = guarded.child();
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Ok(None);
    };
    // By a thread of its own: a program that writes before it has read all would wait for us for
    // ever.
    if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), input) {
        // The program may close its input early: what it read is enough for it.
        std::thread::spawn(move || std::io::Write::write_all(&mut pipe, &bytes));
    }
    // Read all the time, as a program whose error output is full stops.
    let (tail, errors) = Tail::follow(err);
    let limit = bounds.output as u64;
    let output = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = out.take(limit).read_to_end(&mut bytes);
        read.map(|_| bytes)
    });
    let Some(status) = guarded.wait(bounds.time, cancel) else {
        return Ok(None);
    };
    let stdout = output.join().ok().and_then(Result::ok).unwrap_or_default();
    let _ = errors.join();
    Ok(Some(Finished {
        status,
        stdout,
        stderr: tail.text(),
    }))
}

/// What ffmpeg says after it has said what is wrong.
const NOISE: [&str; 5] = [
    "Error marking filters as finished",
    "Conversion failed",
    "Last message repeated",
    "Error initializing output stream",
    "Could not write header",
];

/// The most telling line of ffmpeg's error output: the last one, without the name of the part of
/// ffmpeg that wrote it and without the name of the input.
pub(super) fn reason(stderr: &str) -> String {
    let telling = |line: &&str| !line.is_empty() && !NOISE.iter().any(|n| line.starts_with(n));
    let line = stderr.lines().map(str::trim).rfind(telling);
    let Some(mut line) = line else {
        return "it gave no reason".to_owned();
    };
    if line.starts_with('[')
        && let Some((_, rest)) = line.split_once("] ")
    {
        line = rest;
    }
    if let Some((head, rest)) = line.rsplit_once(": ")
        && (head.contains('/') || head.starts_with("pipe:"))
    {
        line = rest;
    }
    // What a source says of itself may be in it, and it goes to a terminal.
    let text: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short() {
        let garbage = "[mov @ 0x55] moov atom not found\nfile:/a/b.mp4: Invalid data found when \
                       processing input\n";
        assert_eq!(reason(garbage), "Invalid data found when processing input");
        assert_eq!(
            reason(
                "[mp4 @ 0x1] Tag x incompatible\nCould not write header (?): Invalid argument\n\
                 Error initializing output stream 0:0 --\nConversion failed!\n"
            ),
            "Tag x incompatible"
        );
        assert_eq!(reason("\n"), "it gave no reason");
        assert!(reason(&"x".repeat(5000)).len() <= 300);
    }

    #[test]
    fn tails_are_bounded() {
        let (tail, thread) = Tail::follow(std::io::Cursor::new(vec![b'a'; 100_000]));
        thread.join().unwrap();
        assert_eq!(tail.text().len(), TAIL_BYTES);
    }

    #[test]
    fn slow_programs_are_ended_and_missing_ones_named() {
        let bounds = Bounds {
            time: Duration::from_millis(100),
            output: 10,
        };
        let never = AtomicBool::new(false);
        let slow = run(Command::new("sleep").arg("60"), None, &bounds, &never).unwrap();
        assert!(slow.is_none());
        let missing = run(
            &mut Command::new("no-such-program-here"),
            None,
            &bounds,
            &never,
        );
        assert!(matches!(missing, Err(IngestError::NoFfmpeg)));
        let bounds = Bounds {
            time: Duration::from_secs(10),
            output: 4,
        };
        let echo = run(
            &mut Command::new("cat"),
            Some(b"abcdef".to_vec()),
            &bounds,
            &never,
        );
        assert_eq!(echo.unwrap().unwrap().stdout, b"abcd");
    }
}
