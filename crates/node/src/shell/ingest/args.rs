//! The command line of ffmpeg for a plan. Pure.

use std::ffi::OsString;

use super::plan::{Audio, Container, Encode, Plan, RenditionPlan, Video};

/// Length of a fragment where no key frame divides the stream, in microseconds.
const AUDIO_FRAGMENT: &str = "2000000";

/// Where ffmpeg reads and writes.
pub(super) struct Ends<'a> {
    /// What stands after `-i`.
    pub(super) input: &'a OsString,
    /// What bounds the input.
    pub(super) reach: &'a [String],
    /// The descriptor that progress is written to.
    pub(super) progress: i32,
    /// The descriptor of the first rendition; the others follow.
    pub(super) first_output: i32,
}

/// All arguments.
pub(super) fn arguments(plan: &Plan, segment_seconds: u32, ends: &Ends<'_>) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    add(&[
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "error",
        "-nostats",
        "-y",
    ]);
    add(&[
        "-stats_period",
        "0.5",
        "-progress",
        &format!("pipe:{}", ends.progress),
    ]);
    // Some containers give pictures no time of presentation, which a segment must have.
    add(&["-fflags", "+genpts"]);
    // Before `-i`: options hold for the input that follows them.
    args.extend(ends.reach.iter().map(OsString::from));
    args.push("-i".into());
    args.push(ends.input.clone());
    let graph = filter_graph(plan);
    if let Some(graph) = &graph {
        args.extend(["-filter_complex", graph].map(OsString::from));
    }
    for (number, rendition) in plan.renditions.iter().enumerate() {
        let output = format!("pipe:{}", ends.first_output + number as i32);
        let words = output_arguments(plan, rendition, number, segment_seconds);
        args.extend(words.into_iter().map(OsString::from));
        args.push(output.into());
    }
    args
}

/// One decoding feeds all renditions.
fn filter_graph(plan: &Plan) -> Option<String> {
    let index = plan.video_index?;
    let encodes: Vec<&Encode> = plan.renditions.iter().filter_map(encode).collect();
    let first = encodes.first()?;
    let mut graph = format!("[0:{index}]");
    // Once, before the picture is split for all renditions.
    if first.deinterlace {
        graph.push_str("yadif=deint=interlaced,");
    }
    graph.push_str(&format!("split={}", encodes.len()));
    for number in 0..encodes.len() {
        graph.push_str(&format!("[s{number}]"));
    }
    for (number, encode) in encodes.iter().enumerate() {
        let filter = match encode.scale {
            // The picture may be turned on its way here, so its sides are compared only now.
            Some((lines, _)) => {
                format!("scale=w='if(gte(iw,ih),-2,{lines})':h='if(gte(iw,ih),{lines},-2)'")
            }
            None if encode.pad => "pad=w='ceil(iw/2)*2':h='ceil(ih/2)*2'".to_owned(),
            None => "null".to_owned(),
        };
        graph.push_str(&format!(";[s{number}]{filter}[v{number}]"));
    }
    Some(graph)
}

fn encode(rendition: &RenditionPlan) -> Option<&Encode> {
    match &rendition.video {
        Some(Video::Encode(encode)) => Some(encode),
        _ => None,
    }
}

fn output_arguments(
    plan: &Plan,
    rendition: &RenditionPlan,
    number: usize,
    segment_seconds: u32,
) -> Vec<String> {
    let mut words = match (&rendition.video, plan.video_index) {
        (Some(Video::Copy { tag }), Some(index)) => {
            let mut words = strings(&["-map", &format!("0:{index}"), "-c:v", "copy"]);
            if let Some(tag) = tag {
                words.extend(strings(&["-tag:v", tag]));
            }
            words
        }
        (Some(Video::Encode(encode)), Some(_)) => {
            encoder_arguments(encode, number, segment_seconds)
        }
        _ => strings(&["-vn"]),
    };
    words.extend(match (rendition.audio, plan.audio_index) {
        (Some(Audio::Copy), Some(index)) => {
            strings(&["-map", &format!("0:{index}"), "-c:a", "copy"])
        }
        (Some(Audio::Encode), Some(index)) => {
            let map = format!("0:{index}");
            strings(&["-map", &map, "-c:a", "aac", "-b:a", "128k", "-ac", "2"])
        }
        _ => strings(&["-an"]),
    });
    // Titles and chapters of the source are no media: they would add streams of their own.
    words.extend(strings(&[
        "-sn",
        "-dn",
        "-map_metadata",
        "-1",
        "-map_chapters",
        "-1",
    ]));
    words.extend(strings(&["-avoid_negative_ts", "make_zero"]));
    words.extend(strings(&["-max_muxing_queue_size", "4096"]));
    words.extend(muxer_arguments(plan));
    words
}

fn encoder_arguments(encode: &Encode, number: usize, segment_seconds: u32) -> Vec<String> {
    let mut words = strings(&["-map", &format!("[v{number}]"), "-c:v", "libx264"]);
    words.extend(strings(&[
        "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p",
    ]));
    // Key frames at the same times in all renditions, so that they are cut alike; `-sc_threshold 0`
    // adds no others.
    let keys = format!("expr:gte(t,n_forced*{segment_seconds})");
    words.extend(strings(&["-force_key_frames", &keys, "-sc_threshold", "0"]));
    words.extend(match encode.uneven {
        None => strings(&["-fps_mode", "vfr"]),
        // Pictures keep their own times; the rate that the stream tells is the average, not that
        // of the clock.
        Some((pictures, seconds)) => {
            // H.264 counts two ticks for each picture.
            let ticks = u64::from(pictures) * 2;
            let told = format!("h264_metadata=tick_rate={ticks}/{seconds}");
            strings(&[
                "-fps_mode",
                "passthrough",
                "-enc_time_base:v",
                "-1",
                "-bsf:v",
                &told,
            ])
        }
    });
    if let Some((_, rate)) = encode.scale {
        // Two seconds of the highest rate.
        let buffer = (u64::from(rate) * 2).to_string();
        words.extend(strings(&[
            "-maxrate",
            &rate.to_string(),
            "-bufsize",
            &buffer,
        ]));
    }
    words
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn muxer_arguments(plan: &Plan) -> Vec<String> {
    let mut words = vec!["-f".to_owned()];
    match plan.container {
        Container::Ts => {
            // Without the delay that a broadcast needs, which would only shift all times.
            words.extend(["mpegts", "-muxdelay", "0", "-muxpreload", "0"].map(str::to_owned));
        }
        Container::Cmaf => {
            // The header goes first and never changes: what is written to a socket cannot be gone
            // back to.
            let mut flags = "+empty_moov+default_base_moof".to_owned();
            if plan.video_index.is_some() {
                flags.push_str("+frag_keyframe");
            }
            // The box of AC-3 is filled in from its first frame.
            if plan.delay_moov {
                flags.push_str("+delay_moov");
            }
            words.extend(["mp4".to_owned(), "-movflags".to_owned(), flags]);
            // Older releases of ffmpeg call FLAC in MP4 an experiment.
            words.extend(["-strict", "experimental"].map(str::to_owned));
            if plan.video_index.is_none() {
                words.extend(["-frag_duration", AUDIO_FRAGMENT].map(str::to_owned));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Ladder, Wish, plan};
    use super::super::probe::{AudioTrack, Probe, VideoTrack};
    use super::*;

    fn line(probe: &Probe, wish: &Wish) -> String {
        let input = OsString::from("file:a b.mp4");
        let ends = Ends {
            input: &input,
            reach: &["-bounded".to_owned()],
            progress: 3,
            first_output: 4,
        };
        let args = arguments(&plan(probe, wish).unwrap(), 6, &ends);
        args.iter()
            .map(|arg| arg.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn probe(codec: &str) -> Probe {
        let pixels = "yuv420p".to_owned();
        let video = VideoTrack {
            codec: codec.to_owned(),
            pixels,
            width: 1280,
            height: 720,
            index: 2,
            ..VideoTrack::default()
        };
        let audio = AudioTrack {
            index: 1,
            codec: "aac".to_owned(),
            channels: 2,
        };
        Probe {
            video: Some(video),
            audio: Some(audio),
            duration: None,
        }
    }

    #[test]
    fn copies_name_their_tracks() {
        let copy = line(&probe("h264"), &Wish::default());
        assert!(
            copy.contains("-map 0:2 -c:v copy -map 0:1 -c:a copy"),
            "{copy}"
        );
        assert!(
            copy.ends_with("-f mpegts -muxdelay 0 -muxpreload 0 pipe:4"),
            "{copy}"
        );
        assert!(!copy.contains("-filter_complex"), "{copy}");
        assert!(copy.contains("-bounded -i file:"), "{copy}");
        let hevc = line(&probe("hevc"), &Wish::default());
        assert!(hevc.contains("-tag:v hvc1"), "{hevc}");
        assert!(hevc.contains("+frag_keyframe -strict"), "{hevc}");
    }

    #[test]
    fn ladders_decode_once() {
        let wish = Wish {
            ladder: Ladder::Auto,
            ..Wish::default()
        };
        let ladder = line(&probe("h264"), &wish);
        assert_eq!(ladder.matches(" -i ").count(), 1);
        assert!(
            ladder.contains("[0:2]split=3[s0][s1][s2];[s0]scale="),
            "{ladder}"
        );
        assert!(
            ladder.contains("expr:gte(t,n_forced*6) -sc_threshold 0"),
            "{ladder}"
        );
        assert!(
            ladder.contains("-maxrate 3000000 -bufsize 6000000"),
            "{ladder}"
        );
        assert!(
            ladder.contains("pipe:5") && ladder.ends_with("pipe:6"),
            "{ladder}"
        );
    }
}
