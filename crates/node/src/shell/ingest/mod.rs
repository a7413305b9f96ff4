//! Brings media into a node: from a file, a URL or standard input, by way of the node's uploads.
//!
//! | question | place |
//! |---|---|
//! | what does the source hold | `source.rs`, `pipe.rs`, `probe.rs` |
//! | what is copied, what is encoded, into which container | `plan.rs`, `args.rs` |
//! | how ffmpeg is run | `ffmpeg.rs`, `child.rs` |
//! | what ffmpeg may open | `reach.rs`, `gate.rs` |
//! | how bytes become segments and reach the node | `segments.rs`, `pipeline.rs`, `upload.rs` |
//! | who signs | `sign.rs` |
//! | what is watched while it comes | `live.rs` |
//!
//! A transport stream that every player can play is cut here, without ffmpeg. Everything else goes
//! through the `ffmpeg` program. Nothing is visible in the node before the last segment is there:
//! an ingest that fails or is cancelled is rolled back, one that is killed is resumed by the next
//! ingest of the same file with the same options. A stream (a URL or standard input of `live` or
//! `near_live` priority) is published segment by segment instead.

mod api;
mod args;
mod child;
mod error;
mod ffmpeg;
mod gate;
mod live;
mod pipe;
mod pipeline;
mod plan;
mod probe;
mod reach;
mod segments;
mod sign;
mod source;
#[cfg(test)]
mod tests;
mod upload;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lavant_proto::ids::ContentId;
use lavant_proto::time::ticks_to_seconds;
use serde_json::Value;

pub use api::{Options, Outcome, Progress};
pub use error::IngestError;
pub use lavant_proto::content::{Priority, addressees};
pub use lavant_proto::ids::{PublisherKey, SigningKey};
pub use plan::{Ladder, Mode};
pub use source::Input;

use super::client::{Client, ClientError};
use live::Stream;
use pipeline::{Feed, Job};
use plan::{Plan, Refusal, Wish};
use reach::Reach;
use segments::{Cut, Summary};
use source::Source;
use upload::{Commit, NodeSink, Opened, Opening, RenditionName, RenditionSums, Sink, Upload};

/// The longest silence of a URL, and of a file.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(600));
/// Length of segments, in seconds, where longer ones would be too large.
const DENSE_SECONDS: u32 = 2;
/// Lengths of segments that can be asked for, in seconds.
pub const SEGMENT_SECONDS: std::ops::RangeInclusive<u32> = 1..=60;

/// Ingests a source; blocks until it is published or has failed.
///
/// # Errors
/// See [`IngestError`]. What was uploaded is rolled back.
pub fn ingest(
    options: &Options,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<Outcome, IngestError> {
    ingest_from(options, None, on_progress, cancel)
}

/// As [`ingest`], with a reader in the place of standard input.
///
/// # Errors
/// See [`IngestError`]. What was uploaded is rolled back.
pub fn ingest_from(
    options: &Options,
    stdin: Option<Box<dyn Read + Send>>,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<Outcome, IngestError> {
    if !SEGMENT_SECONDS.contains(&options.segment_seconds) {
        let text = "segments last 1 to 60 seconds: give another --segment-seconds";
        return Err(IngestError::Usage(text.to_owned()));
    }
    // Wrong options are told before ffmpeg runs for an hour.
    if let Some(id) = &options.content_id {
        ContentId::new(id).map_err(|e| IngestError::Usage(e.to_string()))?;
    }
    let client = Arc::new(Client::new(&options.daemon, options.token.clone())?);
    let reach = Arc::new(Reach::of(&options.input, &options.also_from)?);
    let source = Source::open(&options.input, stdin, cancel)?;
    let mut session = Session {
        options,
        client,
        source,
        reach,
        on_progress,
        cancel,
    };
    // As asked at first; each error that shows another way leads to a new attempt from the start.
    let mut way = Way {
        segment_seconds: options.segment_seconds,
        encode_video: None,
    };
    loop {
        let prepared = session.prepare(&way)?;
        let error = match session.attempt(&prepared) {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        let Some(other) = way.other(&error, prepared.copies_video, options.mode) else {
            return Err(error);
        };
        // What was read of standard input is gone.
        if !session.source.can_restart() {
            return Err(match error {
                IngestError::Media(gap) => IngestError::GapOnStdin(gap),
                other => other,
            });
        }
        (session.on_progress)(Progress::Notice(format!("{error}; so {}", other.words())));
        way = other;
    }
}

/// How it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    segment_seconds: u32,
    /// Why the video is encoded although it could be copied.
    encode_video: Option<&'static str>,
}

impl Way {
    /// Another way, where an error leaves one.
    fn other(self, error: &IngestError, copies_video: bool, mode: Mode) -> Option<Self> {
        use lavant_media::Error::{KeyFrameGap, NoKeyFrame, SegmentTooLarge};
        let IngestError::Media(error) = error else {
            return None;
        };
        // Shorter segments cost little, so they are tried before the video is encoded.
        if matches!(error, SegmentTooLarge { .. }) && self.segment_seconds > DENSE_SECONDS {
            return Some(Self {
                segment_seconds: DENSE_SECONDS,
                ..self
            });
        }
        let reason = match error {
            KeyFrameGap { .. } => "its key frames are too far apart",
            SegmentTooLarge { .. } => "its bit rate is too high",
            NoKeyFrame => "it has no key frames",
            _ => return None,
        };
        // Once only, and never against what the user asked for.
        let may_encode = mode == Mode::Auto && copies_video && self.encode_video.is_none();
        may_encode.then_some(Self {
            encode_video: Some(reason),
            ..self
        })
    }

    fn words(self) -> String {
        match self.encode_video {
            Some(_) => "the video is transcoded, from the beginning".to_owned(),
            None => format!(
                "segments last {} s, from the beginning",
                self.segment_seconds
            ),
        }
    }
}

/// A decision, ready to be carried out.
struct Prepared {
    plan: Plan,
    /// Cut here, without ffmpeg.
    is_native: bool,
    copies_video: bool,
    duration: Option<f64>,
    segment_seconds: u32,
}

struct Session<'a> {
    options: &'a Options,
    client: Arc<Client>,
    source: Source,
    reach: Arc<Reach>,
    on_progress: &'a mut dyn FnMut(Progress),
    cancel: &'a AtomicBool,
}

impl Session<'_> {
    /// Decides what is done.
    fn prepare(&mut self, way: &Way) -> Result<Prepared, IngestError> {
        let Way {
            segment_seconds,
            encode_video,
        } = *way;
        // Without a probe where the stream can be cut here: it works without ffmpeg.
        if encode_video.is_none()
            && let Some(native) = self.prepare_native(segment_seconds)
        {
            return Ok(native);
        }
        let probe = self.source.probe(&self.reach, self.cancel)?;
        let options = self.options;
        let wish = Wish {
            mode: options.mode,
            ladder: options.ladder.clone(),
            encode_video,
        };
        let plan = plan::plan(&probe, &wish).map_err(|refusal| match refusal {
            Refusal::Usage(text) => IngestError::Usage(text),
            Refusal::CannotCopy { what, why } => IngestError::CannotCopy { what, why },
        })?;
        let copies_video = plan.copies_video();
        Ok(Prepared {
            plan,
            is_native: false,
            copies_video,
            duration: probe.duration,
            segment_seconds,
        })
    }

    fn prepare_native(&mut self, segment_seconds: u32) -> Option<Prepared> {
        let transport = self.source.transport.as_ref()?;
        let fits = match self.options.mode {
            Mode::Auto => source::is_playable(transport),
            Mode::Copy => source::is_carried(transport),
            Mode::Transcode => false,
        };
        if !fits || self.options.ladder != Ladder::Single {
            return None;
        }
        let plan = Plan::native(&transport.codecs().unwrap_or_default());
        let copies_video = transport.video().is_some();
        // The length is only for the progress: without ffprobe there is none.
        let duration = match self.source.can_restart() {
            true => self
                .source
                .probe(&self.reach, self.cancel)
                .ok()
                .and_then(|probe| probe.duration),
            false => None,
        };
        Some(Prepared {
            plan,
            is_native: true,
            copies_video,
            duration,
            segment_seconds,
        })
    }

    /// Carries a decision out; what fails is rolled back.
    fn attempt(&mut self, prepared: &Prepared) -> Result<Outcome, IngestError> {
        let is_file = matches!(self.options.input, Input::File(_));
        if self.options.priority != Priority::Vod && !is_file {
            return self.stream(prepared);
        }
        let plan = &prepared.plan;
        let title = self.title();
        let upload = match self.open(prepared, &title)? {
            Opened::Upload(upload) => upload,
            Opened::Published { content_id } => return self.published(&content_id, plan),
        };
        (self.on_progress)(Progress::Planned {
            content_id: upload.content_id.clone(),
            words: plan.words.clone(),
            renditions: plan.renditions.iter().map(|r| r.name.clone()).collect(),
            expected_seconds: prepared.duration,
            size: self.source.size,
            resumed: upload.segments.len(),
        });
        // `transfer` takes the upload, and the rollback needs its name.
        let id = upload.upload_id.clone();
        let result = self.transfer(prepared, upload, &title);
        // A rollback that fails is no second error for the user: the node drops idle uploads by
        // itself.
        if result.is_err()
            && let Err(error) = self.client.delete(&id)
        {
            tracing::warn!(upload = %id, %error, "an upload could not be rolled back");
        }
        result
    }

    /// Publishes segments as they come. What was published stays, however the source ends.
    fn stream(&mut self, prepared: &Prepared) -> Result<Outcome, IngestError> {
        // Its segments are signed while they come, and the key is not for the node.
        if self.options.publish_as.is_some() {
            let text = "a stream is signed by the node as it comes: --publish-as works with files";
            return Err(IngestError::Usage(text.to_owned()));
        }
        let (plan, title) = (&prepared.plan, self.title());
        let id = match &self.options.content_id {
            Some(id) => ContentId::new(id).map_err(|e| IngestError::Usage(e.to_string()))?,
            None => ContentId::from_title(&title),
        };
        let client = Arc::clone(&self.client);
        let stream = Stream::join(client, id, title, self.options.priority, plan)?;
        (self.on_progress)(Progress::Planned {
            content_id: stream.id.to_string(),
            words: plan.words.clone(),
            renditions: plan.renditions.iter().map(|r| r.name.clone()).collect(),
            expected_seconds: None,
            size: None,
            resumed: 0,
        });
        let job = self.job(prepared, Arc::new(stream.clone()));
        let feed = self.feed(prepared)?;
        let moved = pipeline::run(&job, feed, &mut *self.on_progress, self.cancel);
        // Also after an error: what was published is a content that has its end there.
        let finished = stream.finish(&self.options.to);
        match moved {
            Ok(_) | Err(IngestError::Cancelled) => {}
            Err(error) => return Err(error),
        }
        let entry = match finished {
            // Nothing was published before the end, so there is no content to finish.
            Err(ClientError::Refused { status: 404, .. }) => return Err(IngestError::Cancelled),
            other => other?,
        };
        if self.options.pin {
            self.client.pin(&stream.id)?;
        }
        Ok(self.outcome(entry, stream.id.to_string(), plan))
    }

    fn title(&self) -> String {
        let title = self
            .options
            .title
            .clone()
            .filter(|title| !title.trim().is_empty());
        title.unwrap_or_else(|| self.options.input.default_title())
    }

    fn open(&self, prepared: &Prepared, title: &str) -> Result<Opened, IngestError> {
        let options = self.options;
        let Prepared {
            plan, is_native, ..
        } = prepared;
        // All that changes the bytes or what is signed: an upload is resumed only by the same
        // ingest.
        let named = format!(
            "{plan:?} {} {:?} {is_native} {:?}",
            options.segment_seconds, options.mode, options.to
        );
        let mime_type = plan.mime();
        let renditions = plan.renditions.iter();
        let opened = self.client.open(&Opening {
            content_id: options.content_id.as_deref(),
            title,
            priority: options.priority.as_str(),
            publisher: options
                .publish_as
                .as_ref()
                .map(|key| key.publisher().to_string()),
            // A name that is never equal to another one: what cannot be read again is not resumed.
            source: self.source.fingerprint(&named).unwrap_or_else(unique),
            expected_seconds: prepared.duration,
            renditions: renditions
                .map(|r| RenditionName {
                    name: &r.name,
                    mime_type,
                })
                .collect(),
            pin: options.pin,
            to: options.to.iter().map(ToString::to_string).collect(),
        })?;
        Ok(opened)
    }

    fn transfer(
        &mut self,
        prepared: &Prepared,
        mut upload: Upload,
        title: &str,
    ) -> Result<Outcome, IngestError> {
        let held = std::mem::take(&mut upload.segments);
        let sink = NodeSink::new(Arc::clone(&self.client), upload.upload_id.clone(), held);
        let job = self.job(prepared, Arc::new(sink));
        let feed = self.feed(prepared)?;
        let mut resumed = 0;
        let on_progress = &mut *self.on_progress;
        let mut count = |progress: Progress| {
            resumed += u64::from(matches!(progress, Progress::Segment { is_new: false, .. }));
            on_progress(progress);
        };
        let summaries = pipeline::run(&job, feed, &mut count, self.cancel)?;
        // The last word before it becomes visible.
        if self.cancel.load(Ordering::Relaxed) {
            return Err(IngestError::Cancelled);
        }
        let commit = self.commit(prepared, &upload, &summaries, title)?;
        let entry = self.client.commit(&upload.upload_id, &commit)?;
        let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum();
        let longest = summaries
            .iter()
            .map(|summary| summary.duration)
            .max()
            .unwrap_or(0);
        Ok(Outcome {
            play_url: self.play_url(&entry),
            entry,
            content_id: upload.content_id,
            bytes: sum(|summary| summary.bytes),
            media_seconds: ticks_to_seconds(longest),
            segments: sum(|summary| summary.counts().1),
            resumed,
            words: prepared.plan.words.clone(),
            already_here: false,
        })
    }

    fn job<'a>(&self, prepared: &'a Prepared, sink: Arc<dyn Sink>) -> Job<'a> {
        Job {
            plan: &prepared.plan,
            cut: self.cut(prepared),
            reach: Arc::clone(&self.reach),
            sink,
            patience: match self.options.input {
                Input::Url(_) => Some(PATIENCE.0),
                Input::File(_) => Some(PATIENCE.1),
                // Whoever writes into the pipe may pause for as long as it likes.
                Input::Stdin => None,
            },
        }
    }

    fn cut(&self, prepared: &Prepared) -> Cut {
        Cut {
            container: prepared.plan.container,
            target_seconds: prepared.segment_seconds,
            patient: self.options.mode == Mode::Copy,
        }
    }

    fn feed(&mut self, prepared: &Prepared) -> Result<Feed, IngestError> {
        if prepared.is_native
            && let Some(reader) = self.source.reader()?
        {
            return Ok(Feed::Native(reader));
        }
        Ok(Feed::Ffmpeg {
            input: self.source.argument(),
            stdin: self.source.take_pipe(),
        })
    }

    fn commit(
        &self,
        prepared: &Prepared,
        upload: &Upload,
        summaries: &[Summary],
        title: &str,
    ) -> Result<Commit, IngestError> {
        let rows = prepared.plan.renditions.iter().zip(summaries);
        // One for all renditions, as a player may change between them.
        let target_duration = summaries.iter().map(Summary::target_duration).max();
        let mut commit = Commit {
            target_duration: target_duration.unwrap_or(1),
            renditions: rows
                .map(|(r, summary)| rendition_sums(&r.name, summary))
                .collect(),
            signature: None,
        };
        if let Some(key) = &self.options.publish_as {
            let mime = prepared.plan.mime();
            let terms = sign::Terms {
                content_id: self.options.content_id.as_deref(),
                title,
                priority: self.options.priority,
                mime,
                to: &self.options.to,
            };
            let signature = sign::sign(key, upload, &terms, &commit, summaries)
                .map_err(|reason| self.client.strange(reason.to_string()))?;
            commit.signature = Some(signature);
        }
        Ok(commit)
    }

    fn play_url(&self, entry: &Value) -> String {
        let path = entry
            .get("play_url")
            .and_then(Value::as_str)
            .unwrap_or_default();
        format!("{}{path}", self.client.base())
    }

    /// The same source is there already.
    fn published(&self, content_id: &str, plan: &Plan) -> Result<Outcome, IngestError> {
        let id = ContentId::new(content_id);
        let id = id.map_err(|error| self.client.strange(error.to_string()))?;
        let reference = match &self.options.publish_as {
            Some(key) => format!("{}/{}", key.publisher(), id.to_url()),
            None => id.to_url(),
        };
        let entry = self.client.get(&format!("/content/{reference}"))?;
        Ok(Outcome {
            already_here: true,
            ..self.outcome(entry, content_id.to_owned(), plan)
        })
    }

    /// What the catalogue says of a content that is there.
    fn outcome(&self, entry: Value, content_id: String, plan: &Plan) -> Outcome {
        let number = |name: &str| entry.get(name).and_then(Value::as_u64).unwrap_or(0);
        Outcome {
            play_url: self.play_url(&entry),
            content_id,
            bytes: number("bytes"),
            media_seconds: entry
                .get("duration_seconds")
                .and_then(Value::as_f64)
                .unwrap_or(0.0),
            segments: number("segment_count"),
            resumed: 0,
            words: plan.words.clone(),
            already_here: false,
            entry,
        }
    }
}

/// A name for a source that cannot be recognised again.
fn unique() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!(
        "once-{}-{}",
        std::process::id(),
        now.map_or(0, |now| now.as_nanos())
    )
}

fn rendition_sums(name: &str, summary: &Summary) -> RenditionSums {
    let (bandwidth, average_bandwidth) = summary.bandwidth();
    let (codecs, width, height, frame_rate_milli) = summary.picture();
    let (inits, segments) = summary.counts();
    RenditionSums {
        name: name.to_owned(),
        bandwidth,
        average_bandwidth,
        codecs,
        width,
        height,
        frame_rate_milli,
        inits,
        segments,
    }
}
