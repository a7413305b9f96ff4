//! Decides, from what a source holds, what is copied and what is encoded anew. Pure.

use super::probe::{AudioTrack, Probe, VideoTrack};

/// Heights of an automatic ladder, with the most bits a second that each may take.
const LADDER: [(u32, u32); 4] = [
    (1080, 6_000_000),
    (720, 3_000_000),
    (480, 1_400_000),
    (240, 300_000),
];
/// Lowest and highest picture that a ladder may ask for.
const HEIGHTS: std::ops::RangeInclusive<u32> = 64..=4320;

/// Whether tracks are copied or encoded anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Copy what every player can play; encode only the other tracks.
    #[default]
    Auto,
    /// Copy every track, whoever may play it.
    Copy,
    /// Encode every track.
    Transcode,
}

/// How many renditions are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ladder {
    /// One, in the size of the source.
    #[default]
    Single,
    /// Those of 1080, 720, 480 and 240 lines that are not larger than the source.
    Auto,
    /// Given heights.
    Heights(Vec<u32>),
}

impl Ladder {
    /// Reads `auto` or a list such as `720p,480p`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "auto" {
            return Ok(Self::Auto);
        }
        let mut heights = Vec::new();
        for word in text.split(',').map(str::trim) {
            let digits = word.strip_suffix('p').unwrap_or(word);
            match digits.parse::<u32>() {
                Ok(height) if HEIGHTS.contains(&height) && height % 2 == 0 => heights.push(height),
                _ => {
                    return Err(format!(
                        "{word:?} is no height: give even heights of {} to {}, such as 720p,480p",
                        HEIGHTS.start(),
                        HEIGHTS.end(),
                    ));
                }
            }
        }
        heights.sort_unstable_by(|a, b| b.cmp(a));
        heights.dedup();
        if heights.len() > lavant_proto::limits::RENDITIONS_MAX {
            return Err("a ladder has at most 32 heights: leave some out".to_owned());
        }
        Ok(Self::Heights(heights))
    }
}

/// What is wished.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wish {
    pub(super) mode: Mode,
    pub(super) ladder: Ladder,
    /// Why the video is encoded although it could be copied.
    pub(super) encode_video: Option<&'static str>,
}

/// What a segment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Ts,
    Cmaf,
}

/// What becomes of the video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Video {
    Copy {
        /// A tag that players insist on.
        tag: Option<&'static str>,
    },
    Encode(Encode),
}

/// How video is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Encode {
    /// Lines (columns of an upright picture) to scale to, and the most bits a second.
    pub(super) scale: Option<(u32, u32)>,
    /// The size is odd: a line is added.
    pub(super) pad: bool,
    pub(super) deinterlace: bool,
    /// Pictures a second on average, where they do not come at even distances.
    pub(super) uneven: Option<(u32, u32)>,
}

/// What becomes of the audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audio {
    Copy,
    Encode,
}

/// One encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RenditionPlan {
    pub(super) name: String,
    pub(super) video: Option<Video>,
    pub(super) audio: Option<Audio>,
}

/// What is done with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) container: Container,
    pub(super) renditions: Vec<RenditionPlan>,
    /// Numbers of the tracks in the source.
    pub(super) video_index: Option<u32>,
    pub(super) audio_index: Option<u32>,
    /// Boxes can only be written after the first frames were seen.
    pub(super) delay_moov: bool,
    /// The plan in words.
    pub(super) words: String,
}

impl Plan {
    /// A plan for a transport stream that is cut as it is; `codecs` are RFC 6381 strings.
    pub(super) fn native(codecs: &str) -> Self {
        Self {
            container: Container::Ts,
            renditions: vec![RenditionPlan {
                name: "main".to_owned(),
                video: None,
                audio: None,
            }],
            video_index: None,
            audio_index: None,
            delay_moov: false,
            words: format!(
                "cut the transport stream as it is ({})",
                codecs.replace(',', ", ")
            ),
        }
    }

    /// The media type of its segments.
    pub(super) fn mime(&self) -> &'static str {
        match (self.container, self.video_index) {
            (Container::Ts, _) => "video/mp2t",
            (Container::Cmaf, Some(_)) => "video/mp4",
            (Container::Cmaf, None) => "audio/mp4",
        }
    }

    /// True when a rendition's video is copied.
    pub(super) fn copies_video(&self) -> bool {
        self.renditions
            .iter()
            .any(|r| matches!(r.video, Some(Video::Copy { .. })))
    }
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Options that do not fit the source.
    Usage(String),
    /// A track that no segment can hold.
    CannotCopy { what: String, why: &'static str },
}

/// Decides what is done with a source.
pub(super) fn plan(probe: &Probe, wish: &Wish) -> Result<Plan, Refusal> {
    if wish.ladder != Ladder::Single && wish.mode == Mode::Copy {
        let text = "a ladder has to be encoded: leave out --copy or --ladder";
        return Err(Refusal::Usage(text.to_owned()));
    }
    // First: which audio may be copied depends on where it is to be carried.
    let container = container(probe, wish)?;
    let audio = probe
        .audio
        .as_ref()
        .map(|track| audio(track, container, wish.mode));
    let renditions = renditions(probe, wish, audio)?;
    let boxed_ac3 = |track: &AudioTrack| matches!(track.codec.as_str(), "ac3" | "eac3");
    let copied = probe.audio.as_ref().filter(|_| audio == Some(Audio::Copy));
    Ok(Plan {
        container,
        words: words(probe, wish, &renditions),
        renditions,
        video_index: probe.video.as_ref().map(|track| track.index),
        audio_index: probe.audio.as_ref().map(|track| track.index),
        delay_moov: container == Container::Cmaf && copied.is_some_and(boxed_ac3),
    })
}

/// Where a codec can be carried: in transport streams, in CMAF.
fn carriers(codec: &str) -> (bool, bool) {
    match codec {
        "h264" | "hevc" | "aac" | "mp3" | "ac3" | "eac3" => (true, true),
        "mpeg2video" | "mp2" => (true, false),
        "av1" | "vp9" | "opus" | "flac" => (false, true),
        _ => (false, false),
    }
}

fn container(probe: &Probe, wish: &Wish) -> Result<Container, Refusal> {
    if wish.mode == Mode::Copy {
        return copy_container(probe);
    }
    let kept = probe
        .video
        .as_ref()
        .filter(|_| encode_reason(probe, wish).is_none());
    Ok(match kept.map(|track| track.codec.as_str()) {
        // Players take HEVC from CMAF alone, and a transport stream carries no AV1.
        Some("hevc" | "av1") => Container::Cmaf,
        _ => Container::Ts,
    })
}

/// Where all tracks can be carried as they are. HEVC goes into CMAF, since browsers and Apple's
/// players take it from nowhere else.
fn copy_container(probe: &Probe) -> Result<Container, Refusal> {
    let video = probe.video.as_ref().map(|track| track.codec.as_str());
    let audio = probe.audio.as_ref().map(|track| track.codec.as_str());
    for (kind, codec) in [("video", video), ("audio", audio)] {
        if let Some(codec) = codec.filter(|codec| carriers(codec) == (false, false)) {
            let why = "neither MPEG-TS nor CMAF carries it so that players take it";
            let name = if codec.is_empty() {
                "of an unknown codec"
            } else {
                codec
            };
            return Err(Refusal::CannotCopy {
                what: format!("{kind} {name}"),
                why,
            });
        }
    }
    let ts = |codec: Option<&str>| codec.is_none_or(|codec| carriers(codec).0);
    let cmaf = |codec: Option<&str>| codec.is_none_or(|codec| carriers(codec).1);
    if ts(video) && ts(audio) && video != Some("hevc") {
        return Ok(Container::Ts);
    }
    if cmaf(video) && cmaf(audio) {
        return Ok(Container::Cmaf);
    }
    let name = |codec: Option<&str>| codec.unwrap_or("none").to_owned();
    let what = format!("video {} with audio {}", name(video), name(audio));
    Err(Refusal::CannotCopy {
        what,
        why: "no container carries both",
    })
}

/// Why the video has to be encoded, or `None` when every player can take it as it is.
fn encode_reason(probe: &Probe, wish: &Wish) -> Option<&'static str> {
    // First: copying was tried, and failed.
    if wish.encode_video.is_some() {
        return wish.encode_video;
    }
    if wish.mode == Mode::Transcode {
        return Some("asked for");
    }
    if wish.ladder != Ladder::Single {
        return Some("for the ladder");
    }
    let track = probe.video.as_ref()?;
    // A transport stream cannot say that its picture is turned: decoding turns it.
    if track.rotated {
        return Some("the picture is turned");
    }
    let pixels = track.pixels.as_str();
    match track.codec.as_str() {
        "h264" if matches!(pixels, "yuv420p" | "yuvj420p") => None,
        "h264" => Some("not 8-bit 4:2:0"),
        "hevc" | "av1" if matches!(pixels, "yuv420p" | "yuvj420p" | "yuv420p10le") => None,
        "hevc" | "av1" => Some("not 4:2:0 of 8 or 10 bits"),
        _ => Some("not every player has the codec"),
    }
}

/// AC-3 is encoded unless asked otherwise: Chrome and Firefox do not decode it.
fn audio(track: &AudioTrack, container: Container, mode: Mode) -> Audio {
    match (mode, container, track.codec.as_str()) {
        (Mode::Copy, _, _) | (Mode::Auto, _, "aac") => Audio::Copy,
        (Mode::Auto, Container::Ts, "mp3") => Audio::Copy,
        _ => Audio::Encode,
    }
}

fn renditions(
    probe: &Probe,
    wish: &Wish,
    audio: Option<Audio>,
) -> Result<Vec<RenditionPlan>, Refusal> {
    let main = |video| RenditionPlan {
        name: "main".to_owned(),
        video,
        audio,
    };
    let Some(track) = &probe.video else {
        if matches!(wish.ladder, Ladder::Heights(_)) {
            let text = "the source has no video: leave out --ladder";
            return Err(Refusal::Usage(text.to_owned()));
        }
        return Ok(vec![main(None)]);
    };
    let copies = wish.mode == Mode::Copy || encode_reason(probe, wish).is_none();
    if copies {
        // Apple's players take `hvc1` alone, where ffmpeg writes `hev1`.
        let tag = (track.codec == "hevc").then_some("hvc1");
        return Ok(vec![main(Some(Video::Copy { tag }))]);
    }
    let steps = ladder(track, &wish.ladder)?;
    // Also for a picture that is lower than all steps of the ladder.
    if steps.is_empty() {
        return Ok(vec![main(Some(Video::Encode(encode(track, None))))]);
    }
    let rendition = |step: (u32, u32)| RenditionPlan {
        name: format!("{}p", step.0),
        video: Some(Video::Encode(encode(track, Some(step)))),
        audio,
    };
    Ok(steps.into_iter().map(rendition).collect())
}

fn encode(track: &VideoTrack, scale: Option<(u32, u32)>) -> Encode {
    Encode {
        scale,
        // 4:2:0 has one colour for 2 x 2 pixels; scaling makes even sides by itself.
        pad: scale.is_none() && (track.width % 2 == 1 || track.height % 2 == 1),
        deinterlace: track.interlaced,
        uneven: track.uneven,
    }
}

/// Heights and bit rates, highest first; none for a single rendition.
fn ladder(track: &VideoTrack, ladder: &Ladder) -> Result<Vec<(u32, u32)>, Refusal> {
    // An upright picture is as good as its width says.
    let lines = track.height.min(track.width);
    match ladder {
        Ladder::Single => Ok(Vec::new()),
        Ladder::Auto => Ok(LADDER
            .into_iter()
            .filter(|(height, _)| *height <= lines)
            .collect()),
        Ladder::Heights(heights) => {
            if let Some(height) = heights
                .iter()
                // Heights are even, so a source of 719 lines may have 720.
                .find(|height| **height > lines.next_multiple_of(2))
            {
                return Err(Refusal::Usage(format!(
                    "the source has {lines} lines: leave {height}p out of the ladder"
                )));
            }
            Ok(heights
                .iter()
                .map(|height| (*height, bit_rate(*height)))
                .collect())
        }
    }
}

/// The most bits a second for a height: of the table, or between its neighbours by picture area.
fn bit_rate(height: u32) -> u32 {
    let (lines, rate) = LADDER
        .into_iter()
        .min_by_key(|(lines, _)| lines.abs_diff(height))
        .unwrap_or(LADDER[0]);
    // In 64 bits: 6,000,000 times 4320 squared is 1.1 * 10^14.
    let (height, lines, rate) = (u64::from(height), u64::from(lines), u64::from(rate));
    u32::try_from(rate * height * height / (lines * lines))
        .unwrap_or(u32::MAX)
        .max(100_000)
}

fn words(probe: &Probe, wish: &Wish, renditions: &[RenditionPlan]) -> String {
    let Some(first) = renditions.first() else {
        return String::new();
    };
    let mut parts = Vec::new();
    if let (Some(track), Some(video)) = (&probe.video, &first.video) {
        parts.push(match video {
            Video::Copy { .. } => format!("copied video {}", track.codec),
            Video::Encode(_) => {
                let why = encode_reason(probe, wish).unwrap_or("asked for");
                let names: Vec<&str> = renditions.iter().map(|r| r.name.as_str()).collect();
                let sizes = if names == ["main"] {
                    String::new()
                } else {
                    names.join("+") + ", "
                };
                format!(
                    "transcoded video {} to h264 ({sizes}{why})",
                    known(&track.codec)
                )
            }
        });
    }
    if let (Some(track), Some(audio)) = (&probe.audio, first.audio) {
        parts.push(match audio {
            Audio::Copy => format!("copied audio {}", track.codec),
            Audio::Encode => format!("transcoded audio {} to aac", known(&track.codec)),
        });
    }
    parts.join(", ")
}

fn known(codec: &str) -> &str {
    if codec.is_empty() {
        "of an unknown codec"
    } else {
        codec
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
