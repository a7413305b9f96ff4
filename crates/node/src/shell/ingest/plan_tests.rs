//! Tables over codecs and options.

use super::*;

fn video(codec: &str, pixels: &str) -> VideoTrack {
    VideoTrack {
        codec: codec.to_owned(),
        pixels: pixels.to_owned(),
        width: 1280,
        height: 720,
        ..VideoTrack::default()
    }
}

fn source(video_codec: &str, audio_codec: &str) -> Probe {
    let (codec, pixels) = video_codec
        .split_once('/')
        .unwrap_or((video_codec, "yuv420p"));
    let audio = AudioTrack {
        index: 1,
        codec: audio_codec.to_owned(),
        channels: 2,
    };
    Probe {
        video: (!codec.is_empty()).then(|| video(codec, pixels)),
        audio: (!audio_codec.is_empty()).then_some(audio),
        duration: None,
    }
}

fn wish(mode: Mode) -> Wish {
    Wish {
        mode,
        ..Wish::default()
    }
}

/// A plan in short: the media type, then `c` or `e` for the video and the audio.
fn short(probe: &Probe, wish: &Wish) -> String {
    match plan(probe, wish) {
        Err(Refusal::Usage(_)) => "usage".to_owned(),
        Err(Refusal::CannotCopy { .. }) => "cannot".to_owned(),
        Ok(plan) => {
            let first = &plan.renditions[0];
            let video = match &first.video {
                None => '-',
                Some(Video::Copy { tag: None }) => 'c',
                Some(Video::Copy { tag: Some(_) }) => 't',
                Some(Video::Encode(_)) => 'e',
            };
            let audio = match first.audio {
                None => '-',
                Some(Audio::Copy) => 'c',
                Some(Audio::Encode) => 'e',
            };
            format!("{} {video}{audio}", plan.mime())
        }
    }
}

#[test]
fn codecs_decide() {
    let table = [
        // video, audio, auto, copy
        ("h264", "aac", "video/mp2t cc", "video/mp2t cc"),
        ("h264/yuvj420p", "mp3", "video/mp2t cc", "video/mp2t cc"),
        ("h264", "ac3", "video/mp2t ce", "video/mp2t cc"),
        ("h264", "opus", "video/mp2t ce", "video/mp4 cc"),
        ("h264", "vorbis", "video/mp2t ce", "cannot"),
        ("h264", "pcm_s16le", "video/mp2t ce", "cannot"),
        ("h264", "", "video/mp2t c-", "video/mp2t c-"),
        ("h264/yuv420p10le", "aac", "video/mp2t ec", "video/mp2t cc"),
        ("h264/yuv444p", "aac", "video/mp2t ec", "video/mp2t cc"),
        ("hevc", "aac", "video/mp4 tc", "video/mp4 tc"),
        ("hevc/yuv420p10le", "ac3", "video/mp4 te", "video/mp4 tc"),
        ("hevc/yuv422p10le", "aac", "video/mp2t ec", "video/mp4 tc"),
        ("hevc", "opus", "video/mp4 te", "video/mp4 tc"),
        ("hevc", "mp3", "video/mp4 te", "video/mp4 tc"),
        ("hevc", "mp2", "video/mp4 te", "cannot"),
        ("av1", "opus", "video/mp4 ce", "video/mp4 cc"),
        ("vp9", "opus", "video/mp2t ee", "video/mp4 cc"),
        ("vp8", "vorbis", "video/mp2t ee", "cannot"),
        ("mpeg4", "mp3", "video/mp2t ec", "cannot"),
        ("mpeg2video", "mp2", "video/mp2t ee", "video/mp2t cc"),
        ("", "mp3", "video/mp2t -c", "video/mp2t -c"),
        ("", "flac", "video/mp2t -e", "audio/mp4 -c"),
        ("", "opus", "video/mp2t -e", "audio/mp4 -c"),
        ("h264", "?", "video/mp2t ce", "cannot"),
    ];
    for (video, audio, auto, copy) in table {
        let source = source(video, audio);
        assert_eq!(
            short(&source, &wish(Mode::Auto)),
            auto,
            "auto {video} {audio}"
        );
        assert_eq!(
            short(&source, &wish(Mode::Copy)),
            copy,
            "copy {video} {audio}"
        );
        let expected = format!(
            "video/mp2t {}{}",
            if video.is_empty() { '-' } else { 'e' },
            if audio.is_empty() { '-' } else { 'e' }
        );
        assert_eq!(
            short(&source, &wish(Mode::Transcode)),
            expected,
            "{video} {audio}"
        );
    }
}

#[test]
fn a_gap_or_a_turned_picture_is_encoded() {
    let wish = Wish {
        encode_video: Some("no key frame for 40.0 s"),
        ..Wish::default()
    };
    let gap = plan(&source("hevc", "aac"), &wish).unwrap();
    assert_eq!((gap.mime(), gap.copies_video()), ("video/mp2t", false));
    assert!(
        gap.words.contains("no key frame for 40.0 s"),
        "{}",
        gap.words
    );
    let mut turned = source("h264", "aac");
    turned.video.as_mut().unwrap().rotated = true;
    assert_eq!(short(&turned, &Wish::default()), "video/mp2t ec");
}

#[test]
fn odd_sizes_are_padded_and_fields_joined() {
    let mut odd = source("vp9", "");
    let track = odd.video.as_mut().unwrap();
    (track.width, track.height, track.interlaced) = (321, 241, true);
    let plan = plan(&odd, &Wish::default()).unwrap();
    let expected = Encode {
        scale: None,
        pad: true,
        deinterlace: true,
        uneven: None,
    };
    assert_eq!(plan.renditions[0].video, Some(Video::Encode(expected)));
}

#[test]
fn ladders_never_enlarge() {
    let heights = |height, ladder: Ladder| {
        let mut source = source("h264", "aac");
        let track = source.video.as_mut().unwrap();
        (track.width, track.height) = (height * 16 / 9, height);
        let wish = Wish {
            ladder,
            ..Wish::default()
        };
        plan(&source, &wish).map(|plan| {
            plan.renditions
                .iter()
                .map(|r| r.name.clone())
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    assert_eq!(heights(1080, Ladder::Auto).unwrap(), "1080p 720p 480p 240p");
    assert_eq!(heights(576, Ladder::Auto).unwrap(), "480p 240p");
    assert_eq!(heights(144, Ladder::Auto).unwrap(), "main");
    assert_eq!(
        heights(720, Ladder::Heights(vec![720, 360])).unwrap(),
        "720p 360p"
    );
    assert!(matches!(
        heights(480, Ladder::Heights(vec![720])),
        Err(Refusal::Usage(_))
    ));
    let copy = Wish {
        mode: Mode::Copy,
        ladder: Ladder::Auto,
        encode_video: None,
    };
    assert_eq!(short(&source("h264", "aac"), &copy), "usage");
    let sound = Wish {
        ladder: Ladder::Heights(vec![720]),
        ..Wish::default()
    };
    assert_eq!(short(&source("", "aac"), &sound), "usage");
}

#[test]
fn ladders_are_read() {
    assert_eq!(Ladder::parse("auto"), Ok(Ladder::Auto));
    assert_eq!(
        Ladder::parse("480p, 720,480"),
        Ok(Ladder::Heights(vec![720, 480]))
    );
    for wrong in ["721p", "x", "10p", "720p,,480p", "99999"] {
        assert!(
            Ladder::parse(wrong)
                .unwrap_err()
                .contains("such as 720p,480p"),
            "{wrong}"
        );
    }
    assert_eq!(bit_rate(720), 3_000_000);
    assert!((300_000..1_400_000).contains(&bit_rate(360)));
}

#[test]
fn plans_speak() {
    let plan = plan(&source("h264", "opus"), &Wish::default()).unwrap();
    assert_eq!(
        plan.words,
        "copied video h264, transcoded audio opus to aac"
    );
}
