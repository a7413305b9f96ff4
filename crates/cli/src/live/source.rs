//! Where a live stream is from: standard input, or a file by way of ffmpeg.

use std::fs::{self, File};
use std::io::{IsTerminal, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use super::wrong;

/// Codecs that MPEG-TS carries and the node takes from it.
const IN_TRANSPORT: [&str; 3] = ["h264", "hevc", "aac"];
/// Those that fragmented MP4 carries beside them.
const IN_MP4: [&str; 7] = ["av1", "vp9", "opus", "mp3", "ac3", "eac3", "flac"];

/// Fragments of a third of a second, or latency would grow by the distance of key frames.
const FRAGMENTS: [&str; 8] = [
    "-movflags",
    "+empty_moov+default_base_moof",
    "-frag_duration",
    "333000",
    "-flush_packets",
    "1",
    "-f",
    "mp4",
];

/// How often, and how far apart, it is looked whether ffmpeg has ended.
const ENDING: u32 = 20;
const ENDING_PAUSE: Duration = Duration::from_millis(50);

/// Where the bytes are from.
pub(super) enum Source {
    Stdin,
    /// ffmpeg, which gives a file out at the speed at which it is played, and what it leaves out.
    Program(Child, Vec<String>),
}

/// One stream of a file.
struct Stream {
    index: u64,
    kind: String,
    codec: String,
}

impl Source {
    pub(super) fn open(source: &str) -> anyhow::Result<Self> {
        if source == "-" {
            if std::io::stdin().is_terminal() {
                return wrong("standard input is a terminal: pipe a stream in, or name a file");
            }
            return Ok(Self::Stdin);
        }
        if let Err(error) = File::open(source) {
            return wrong(format!("{source} cannot be read: {error}"));
        }
        if fs::metadata(source).is_ok_and(|it| it.is_dir()) {
            return wrong(format!("{source} is a folder: name a file in it"));
        }
        let plan = Plan::of(&streams(source)?);
        if plan.maps.is_empty() {
            let found = match plan.left_out.is_empty() {
                true => "no video or audio".to_owned(),
                false => format!("{} only, which is not taken", plan.left_out.join(", ")),
            };
            return wrong(format!(
                "{source} has {found}: transcode it to H.264 and AAC"
            ));
        }
        let child = Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-re", "-i"])
            .arg(name(source))
            .args(&plan.maps)
            .args(["-c", "copy", "-strict", "-2"])
            .args(plan.tag())
            .args(plan.format())
            .arg("-")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let child = child.context("ffmpeg, which files need, cannot be started")?;
        Ok(Self::Program(child, plan.left_out))
    }

    /// What of the file is not sent, for people.
    pub(super) fn left_out(&self) -> Vec<String> {
        match self {
            Self::Stdin => Vec::new(),
            Self::Program(_, left_out) => left_out.clone(),
        }
    }

    /// What gives its bytes, once.
    pub(super) fn reader(&mut self) -> Box<dyn Read + Send> {
        let out = match self {
            Self::Stdin => return Box::new(std::io::stdin()),
            Self::Program(child, _) => child.stdout.take(),
        };
        match out {
            Some(out) => Box::new(out),
            None => Box::new(std::io::empty()),
        }
    }

    /// Whether it came to its end.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let Self::Program(child, _) = self else {
            return Ok(());
        };
        // It closes its output a moment before it ends; one that the node refused goes on.
        for _ in 0..ENDING {
            if let Some(status) = child.try_wait()? {
                if !status.success() {
                    bail!("ffmpeg did not come to the end of the file; its message stands above");
                }
                break;
            }
            std::thread::sleep(ENDING_PAUSE);
        }
        Ok(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Program(child, _) = self {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A name that begins with a dash is no option, nor is one with a colon a protocol.
fn name(source: &str) -> String {
    format!("file:{source}")
}

/// The streams of a file.
fn streams(source: &str) -> anyhow::Result<Vec<Stream>> {
    let entries = "stream=index,codec_type,codec_name:stream_disposition=attached_pic";
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_entries", entries])
        .arg(name(source))
        .stdin(Stdio::null())
        .output();
    let output = output.context("ffprobe, which files need, cannot be started")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or("it says nothing").to_owned();
        return wrong(format!("{source} is no film that ffmpeg can read: {said}"));
    }
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let all = found["streams"].as_array().into_iter().flatten();
    let text = |stream: &Value, key: &str| stream[key].as_str().unwrap_or_default().to_owned();
    // A picture of a cover is no video.
    let all = all.filter(|stream| stream["disposition"]["attached_pic"] != 1);
    let all = all.map(|stream| Stream {
        index: stream["index"].as_u64().unwrap_or_default(),
        kind: text(stream, "codec_type"),
        codec: text(stream, "codec_name"),
    });
    Ok(all.collect())
}

/// What is sent of a file, and how.
struct Plan {
    maps: Vec<String>,
    left_out: Vec<String>,
    is_mp4: bool,
    has_hevc: bool,
}

impl Plan {
    /// The first stream of each kind that is taken.
    fn of(streams: &[Stream]) -> Self {
        let mut plan = Self {
            maps: Vec::new(),
            left_out: Vec::new(),
            is_mp4: false,
            has_hevc: false,
        };
        for kind in ["video", "audio"] {
            let mut is_there = false;
            for Stream { index, codec, .. } in streams.iter().filter(|it| it.kind == kind) {
                let in_transport = IN_TRANSPORT.contains(&codec.as_str());
                let is_taken = in_transport || IN_MP4.contains(&codec.as_str());
                if is_there || !is_taken {
                    let further = if is_there { "a further " } else { "" };
                    plan.left_out.push(format!("{further}{codec} {kind}"));
                    continue;
                }
                is_there = true;
                plan.is_mp4 |= !in_transport;
                plan.has_hevc |= codec == "hevc";
                plan.maps.extend(["-map".to_owned(), format!("0:{index}")]);
            }
        }
        plan
    }

    /// The name by which all players of HLS know HEVC in MP4.
    fn tag(&self) -> &'static [&'static str] {
        match self.is_mp4 && self.has_hevc {
            true => &["-tag:v", "hvc1"],
            false => &[],
        }
    }

    fn format(&self) -> &'static [&'static str] {
        match self.is_mp4 {
            true => &FRAGMENTS,
            false => &["-f", "mpegts"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(streams: &[(&str, &str)]) -> (String, Vec<String>, bool) {
        let streams = streams
            .iter()
            .zip(0..)
            .map(|((kind, codec), index)| Stream {
                index,
                kind: (*kind).to_owned(),
                codec: (*codec).to_owned(),
            });
        let Plan {
            maps,
            left_out,
            is_mp4,
            has_hevc: _,
        } = Plan::of(&streams.collect::<Vec<_>>());
        (maps.join(" "), left_out, is_mp4)
    }

    #[test]
    fn the_container_is_one_that_carries_what_is_taken() {
        let both = plan(&[("audio", "aac"), ("video", "h264"), ("subtitle", "subrip")]);
        assert_eq!(both, ("-map 0:1 -map 0:0".into(), vec![], false));
        let webm = plan(&[("video", "vp9"), ("audio", "opus")]);
        assert_eq!(webm, ("-map 0:0 -map 0:1".into(), vec![], true));
        let old = plan(&[("video", "mpeg2video"), ("audio", "mp2"), ("audio", "ac3")]);
        let left_out = vec!["mpeg2video video".to_owned(), "mp2 audio".to_owned()];
        assert_eq!(old, ("-map 0:2".into(), left_out, true));
        let two = plan(&[("video", "h264"), ("audio", "aac"), ("audio", "aac")]);
        assert_eq!(two.1, ["a further aac audio"]);
    }
}
