//! What a source holds, as `ffprobe` tells it.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;

use super::child::{self, Bounds};
use super::error::IngestError;
use super::reach::{self, Reach};

/// Bytes of output that are read.
const OUTPUT_MAX: usize = 4 << 20;
/// How long a source may take to answer.
const TIME_MAX: Duration = Duration::from_secs(60);

/// The tracks of a source that are taken.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Probe {
    /// The first video track that is no cover picture.
    pub(super) video: Option<VideoTrack>,
    /// The first audio track.
    pub(super) audio: Option<AudioTrack>,
    /// How long it lasts, in seconds; unknown for streams.
    pub(super) duration: Option<f64>,
}

/// A video track.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct VideoTrack {
    /// Its number in the source.
    pub(super) index: u32,
    /// ffmpeg's name of the codec, such as `h264`.
    pub(super) codec: String,
    /// The codec's profile, or empty.
    pub(super) profile: String,
    /// The pixel format, such as `yuv420p`, or empty.
    pub(super) pixels: String,
    /// Pixels across.
    pub(super) width: u32,
    /// Pixels down.
    pub(super) height: u32,
    /// The player is to turn the picture.
    pub(super) rotated: bool,
    /// Fields instead of whole pictures.
    pub(super) interlaced: bool,
    /// Pictures a second on average, where they do not come at even distances.
    pub(super) uneven: Option<(u32, u32)>,
}

/// An audio track.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct AudioTrack {
    /// Its number in the source.
    pub(super) index: u32,
    /// ffmpeg's name of the codec, such as `aac`.
    pub(super) codec: String,
    /// Channels.
    pub(super) channels: u32,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
struct Format {
    duration: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    index: u32,
    codec_type: Option<String>,
    codec_name: Option<String>,
    profile: Option<String>,
    pix_fmt: Option<String>,
    field_order: Option<String>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    duration: Option<String>,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    #[serde(default)]
    channels: u32,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize, Default)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

/// Asks `ffprobe` about `input` within its reach; `head` is what it reads from `pipe:0`. `shown`
/// names the input in errors.
pub(super) fn probe(
    (input, reach): (&OsStr, &Reach),
    head: Option<&[u8]>,
    shown: &str,
    cancel: &AtomicBool,
) -> Result<Probe, IngestError> {
    let mut command = Command::new("ffprobe");
    command.args([
        "-v",
        "error",
        "-print_format",
        "json",
        "-show_format",
        "-show_streams",
    ]);
    command.args(reach.arguments()).arg("-i").arg(input);
    reach.bound(&mut command);
    let bounds = Bounds {
        time: TIME_MAX,
        output: OUTPUT_MAX,
    };
    let finished = child::run(&mut command, head.map(<[u8]>::to_vec), &bounds, cancel)?;
    let unreadable = |reason| IngestError::Unreadable {
        input: shown.to_owned(),
        reason,
    };
    if cancel.load(Ordering::Relaxed) {
        return Err(IngestError::Cancelled);
    }
    // Before ffprobe's own words, which say only that something could not be opened.
    reach.check()?;
    let Some(finished) = finished else {
        return Err(unreadable(format!(
            "no answer for {} s",
            TIME_MAX.as_secs()
        )));
    };
    if reach::is_refused_format(&finished.stderr) {
        return Err(IngestError::List(shown.to_owned()));
    }
    if !finished.status.success() {
        return Err(unreadable(child::reason(&finished.stderr)));
    }
    let probe = parse(&finished.stdout).map_err(|e| unreadable(e.to_string()))?;
    if probe.video.is_none() && probe.audio.is_none() {
        return Err(unreadable(
            "it has neither a video nor an audio track".to_owned(),
        ));
    }
    Ok(probe)
}

fn parse(json: &[u8]) -> Result<Probe, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(json)?;
    let video = answer.streams.iter().find(|stream| is_video(stream));
    let audio = answer
        .streams
        .iter()
        .find(|s| s.codec_type.as_deref() == Some("audio"));
    // Some containers say it of the tracks alone.
    let own = [&answer.format.duration]
        .into_iter()
        .chain(video.iter().chain(&audio).map(|stream| &stream.duration))
        .find_map(|text| text.as_deref()?.parse::<f64>().ok());
    Ok(Probe {
        video: video.map(video_track),
        audio: audio.map(|stream| AudioTrack {
            index: stream.index,
            codec: text(&stream.codec_name),
            channels: stream.channels,
        }),
        duration: own.filter(|seconds| seconds.is_finite() && *seconds > 0.0),
    })
}

fn is_video(stream: &Stream) -> bool {
    stream.codec_type.as_deref() == Some("video") && stream.disposition.attached_pic == 0
}

fn video_track(stream: &Stream) -> VideoTrack {
    let turned = |data: &SideData| data.rotation.is_some_and(|degrees| degrees % 360.0 != 0.0);
    VideoTrack {
        index: stream.index,
        codec: text(&stream.codec_name),
        profile: text(&stream.profile),
        pixels: text(&stream.pix_fmt),
        width: stream.width,
        height: stream.height,
        rotated: stream.side_data_list.iter().any(turned),
        interlaced: matches!(
            stream.field_order.as_deref(),
            Some("tt" | "bb" | "tb" | "bt")
        ),
        uneven: uneven(stream),
    }
}

/// The average rate, unless the least common rate of all time stamps is the same.
fn uneven(stream: &Stream) -> Option<(u32, u32)> {
    let average = ratio(stream.avg_frame_rate.as_deref())?;
    let Some(base) = ratio(stream.r_frame_rate.as_deref()) else {
        return Some(average);
    };
    let value = |(pictures, seconds): (u32, u32)| f64::from(pictures) / f64::from(seconds);
    let is_even = (value(base) / value(average) - 1.0).abs() < 0.005;
    (!is_even).then_some(average)
}

fn ratio(text: Option<&str>) -> Option<(u32, u32)> {
    let (pictures, seconds) = text?.split_once('/')?;
    let ratio = (pictures.parse().ok()?, seconds.parse().ok()?);
    (ratio.0 > 0 && ratio.1 > 0).then_some(ratio)
}

/// A codec that ffmpeg does not know has no name.
fn text(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cover_pictures_are_passed_over() {
        let json = br#"{"streams":[
            {"index":0,"codec_type":"audio","codec_name":"mp3","channels":2,"duration":"3.5"},
            {"index":1,"codec_type":"video","codec_name":"png","disposition":{"attached_pic":1}}
        ],"format":{"duration":"N/A"}}"#;
        let probe = parse(json).unwrap();
        assert_eq!(probe.video, None);
        assert_eq!(probe.audio.unwrap().codec, "mp3");
        assert_eq!(probe.duration, Some(3.5));
    }

    #[test]
    fn rotation_and_fields_are_seen() {
        let json = br#"{"streams":[{"index":2,"codec_type":"video","codec_name":"h264",
            "profile":"High","pix_fmt":"yuv420p","width":4,"height":2,"field_order":"tt",
            "side_data_list":[{"side_data_type":"x"},{"rotation":-90}]}]}"#;
        let video = parse(json).unwrap().video.unwrap();
        assert!(video.rotated && video.interlaced);
        assert_eq!((video.index, video.width, video.height), (2, 4, 2));
        assert_eq!(ratio(Some("30000/1001")), Some((30000, 1001)));
        assert_eq!((ratio(Some("0/0")), ratio(None)), (None, None));
        let json = br#"{"streams":[{"index":0,"codec_type":"video","avg_frame_rate":"17/2",
            "r_frame_rate":"25/1"}]}"#;
        assert_eq!(parse(json).unwrap().video.unwrap().uneven, Some((17, 2)));
        assert!(parse(b"[").is_err());
        assert_eq!(parse(b"{}").unwrap(), Probe::default());
    }
}
