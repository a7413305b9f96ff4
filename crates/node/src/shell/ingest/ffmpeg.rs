//! Runs ffmpeg with one stream for each rendition and one for its progress.
//!
//! The streams are pairs of sockets: they hold more than a pipe does, so that ffmpeg runs ahead
//! while a segment is cut (measured: a film is through in 12 % less time).

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};

use super::args::{self, Ends};
use super::child::{self, Guarded, Tail};
use super::error::IngestError;
use super::pipeline::Job;

/// The descriptor of progress in the child.
const PROGRESS: i32 = 3;
/// Bytes of a progress line that are read.
const LINE_MAX: u64 = 256;
/// Bytes handed to ffmpeg's standard input at once.
const FEED_BYTES: usize = 64 << 10;

const PAIR: &str = "no sockets can be made for ffmpeg";

/// How far ffmpeg is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Report {
    /// Seconds of the source that are done.
    pub(super) media_seconds: f64,
    /// Seconds of the source done in a second.
    pub(super) speed: Option<f64>,
}

/// A running ffmpeg.
pub(super) struct Ffmpeg {
    child: Guarded,
    tail: Tail,
    tail_thread: Option<JoinHandle<()>>,
}

/// What a started ffmpeg writes.
pub(super) struct Outputs {
    /// One stream for each rendition, in the plan's order.
    pub(super) media: Vec<UnixStream>,
    /// Lines for [`follow`].
    pub(super) progress: UnixStream,
}

impl Ffmpeg {
    /// Starts it; `stdin` is fed to it by a thread that ends when either side does.
    pub(super) fn start(
        job: &Job<'_>,
        input: &OsString,
        stdin: Option<Box<dyn Read + Send>>,
    ) -> Result<(Self, Outputs), IngestError> {
        let plan = job.plan;
        let ends = Ends {
            input,
            reach: job.reach.arguments(),
            progress: PROGRESS,
            first_output: PROGRESS + 1,
        };
        let mut command = Command::new("ffmpeg");
        command.args(args::arguments(plan, job.cut.target_seconds, &ends));
        job.reach.bound(&mut command);
        command.stdin(if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut readers = Vec::new();
        let mut mappings = Vec::new();
        // The first pair is for the progress.
        for number in 0..=plan.renditions.len() {
            let pair = UnixStream::pair().map_err(IngestError::io(PAIR))?;
            readers.push(pair.0);
            let child_fd = PROGRESS + number as i32;
            mappings.push(FdMapping {
                parent_fd: OwnedFd::from(pair.1),
                child_fd,
            });
        }
        let collision = |e| IngestError::io(PAIR)(std::io::Error::other(e));
        command.fd_mappings(mappings).map_err(collision)?;
        let mut child = Guarded::spawn(&mut command)?;
        // The command owns our ends of the child's pipes: they have to close with the child.
        drop(command);
        if let (Some(pipe), Some(source)) = (child.child().stdin.take(), stdin) {
            std::thread::spawn(move || feed(source, pipe));
        }
        let (tail, tail_thread) = match child.child().stderr.take() {
            Some(stderr) => {
                let (tail, thread) = Tail::follow(stderr);
                (tail, Some(thread))
            }
            None => (Tail::default(), None),
        };
        let progress = readers.remove(0);
        Ok((
            Self {
                child,
                tail,
                tail_thread,
            },
            Outputs {
                media: readers,
                progress,
            },
        ))
    }

    /// Waits for its end. `Ok` holds the last of its complaints, if there are any.
    pub(super) fn conclude(
        &mut self,
        limit: Duration,
        cancel: &AtomicBool,
    ) -> Result<Option<String>, IngestError> {
        let status = self.child.wait(limit, cancel);
        // Before its error output is read to the end, which comes only when it has ended.
        if status.is_none() {
            self.kill();
        }
        if let Some(thread) = self.tail_thread.take() {
            let _ = thread.join();
        }
        let text = self.tail.text();
        match status {
            Some(status) if status.success() => {
                Ok((!text.trim().is_empty()).then(|| child::reason(&text)))
            }
            Some(status) if text.trim().is_empty() => {
                Err(IngestError::Ffmpeg(format!("it ended with {status}")))
            }
            Some(_) => Err(IngestError::Ffmpeg(child::reason(&text))),
            None => Err(IngestError::Ffmpeg(
                "it did not end after its last output".to_owned(),
            )),
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.child.kill();
    }
}

/// Feeds a source to ffmpeg until one of them ends.
fn feed(mut source: Box<dyn Read + Send>, mut pipe: impl Write) {
    let mut buffer = vec![0; FEED_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if pipe.write_all(&buffer[..n]).is_err() => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Reads progress until its end; `report` is called about twice a second and says whether to go on.
pub(super) fn follow(from: impl Read, mut report: impl FnMut(Report) -> bool) {
    let mut lines = BufReader::new(from);
    let mut latest = Report::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        // Bounded, as a line without end would fill the memory.
        match (&mut lines).take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            _ => return,
        }
        let text = String::from_utf8_lossy(&line);
        let Some((key, value)) = text.trim().split_once('=') else {
            continue;
        };
        match key {
            // `out_time_ms` is counted in microseconds too; this name is the honest one.
            "out_time_us" => {
                if let Ok(micros) = value.trim().parse::<i64>() {
                    latest.media_seconds = micros.max(0) as f64 / 1e6;
                }
            }
            "speed" => latest.speed = value.trim().trim_end_matches('x').trim().parse().ok(),
            // The last line of each report, so that all the others belong to it.
            "progress" if !report(latest) => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        let text = b"frame=10\nout_time_us=N/A\nspeed=N/A\nprogress=continue\nout_time_ms=7\n\
            out_time_us=1500000\nspeed= 2.5x\nprogress=continue\nout_time_us=-20\nprogress=end\n";
        let mut seen = Vec::new();
        follow(&text[..], |report| {
            seen.push((report.media_seconds, report.speed));
            true
        });
        assert_eq!(seen, [(0.0, None), (1.5, Some(2.5)), (0.0, Some(2.5))]);
        let mut calls = 0;
        follow(&text[..], |_| {
            calls += 1;
            false
        });
        assert_eq!(calls, 1);
        follow(&vec![b'a'; 10_000][..], |_| true);
    }
}
