//! Bodies of audio and video messages, which are those of FLV tags (Adobe, "Video file format
//! 10.1" annex E; Veovera, "Enhanced RTMP" version 2).

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::codec::{self, Codec};
use super::{Metadata, Notice};
use crate::Kind;
use crate::frame::{Frame, Item};

/// Ticks of a millisecond.
const MILLI: i64 = 90;
/// A step that is so near to 2^31 ms is none: many encoders write 31 bits of the time alone, which
/// wrap after 25 days (libavformat does, "timestamps are 32 bits _signed_").
const NEAR: u32 = 60_000;

/// Types of packets, of audio and video alike where both have them.
const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const SEQUENCE_END: u8 = 2;
/// Video: coded frames without a composition time.
const CODED_FRAMES_X: u8 = 3;
/// Video: colours; audio: where the channels are heard. Neither is used.
const METADATA: u8 = 4;
const AUDIO_MULTITRACK: u8 = 5;
const VIDEO_MULTITRACK: u8 = 6;
const MOD_EX: u8 = 7;

/// A frame that is a command to the player, without a picture.
const COMMAND_FRAME: u8 = 5;

/// What a body gives.
#[derive(Debug, PartialEq)]
pub(super) enum Given {
    Item(Item),
    Notice(Notice),
}

/// One of the two tracks.
#[derive(Debug, Default)]
struct Track {
    codec: Option<Codec>,
    /// Its sample entry, by which a repeated header is told from another one.
    entry: Bytes,
    /// Samples of a frame, where all have the same number.
    samples: u32,
    /// Whether the source announced it, and nothing speaks against it.
    expected: bool,
    /// What was said of it last, to say it once.
    notice: Option<Notice>,
    /// Whether it was said that there are more of its kind.
    more: bool,
}

/// Reads bodies of messages, or of tags.
#[derive(Debug, Default)]
pub(super) struct Tags {
    given: VecDeque<Given>,
    /// Video and audio.
    tracks: [Track; 2],
    /// The latest time as it came, and unwrapped.
    clock: Option<(u32, i64)>,
    /// Width and height by the metadata.
    size: Option<(u32, u32)>,
    /// How many tracks were said to be expected.
    expected: usize,
    dropped: u64,
}

/// Where a message's frame stands in its track.
struct Place {
    codec: Codec,
    key: bool,
    /// Milliseconds as they came.
    time: u32,
    /// Milliseconds from decoding to showing.
    composition: i32,
    /// Bytes of the whole message.
    whole: usize,
}

impl Tags {
    pub(super) fn pop(&mut self) -> Option<Given> {
        self.given.pop_front()
    }

    /// Frames that could not be given: empty, or before the header of their codec.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether a track was given.
    pub(super) fn has_tracks(&self) -> bool {
        self.tracks.iter().any(|track| !track.entry.is_empty())
    }

    pub(super) fn metadata(&mut self, metadata: &Metadata) {
        self.size = metadata.width.zip(metadata.height);
        self.expect([metadata.video, metadata.audio]);
    }

    /// Which tracks the source has, as it says.
    pub(super) fn expect(&mut self, tracks: [bool; 2]) {
        for (track, expected) in self.tracks.iter_mut().zip(tracks) {
            track.expected = expected;
        }
        self.tell_expected();
    }

    fn tell_expected(&mut self) {
        let count = self.tracks.iter().filter(|track| track.expected).count();
        if count > 0 && std::mem::replace(&mut self.expected, count) != count {
            self.given.push_back(Given::Item(Item::Expected(count)));
        }
    }

    /// Takes the body of a video message.
    pub(super) fn video(&mut self, time: u32, mut body: Bytes) {
        let whole = body.len();
        let Ok(first) = body.try_get_u8() else {
            return self.drop_one();
        };
        let kind = first >> 4 & 7;
        // 4 is a key frame that a server made.
        let key = matches!(kind, 1 | 4);
        if first & 0x80 != 0 {
            let Some(head) = extended(VIDEO_MULTITRACK, first & 15, body) else {
                return self.drop_one();
            };
            if head.more {
                self.leave_out_more(Kind::Video);
            }
            let Some((packet, name, body)) = head.first else {
                return;
            };
            if kind == COMMAND_FRAME || packet == METADATA {
                return;
            }
            let place = |codec| Place {
                codec,
                key,
                time,
                composition: 0,
                whole,
            };
            match Codec::video(&name) {
                Some(codec) => self.coded(packet, place(codec), body),
                None => self.refuse(Kind::Video, codec::fourcc(&name)),
            }
            return;
        }
        let codec = match first & 15 {
            _ if kind == COMMAND_FRAME => return,
            7 => Codec::H264,
            12 => Codec::Hevc,
            other => return self.refuse(Kind::Video, codec::legacy_video(other)),
        };
        let Ok(packet) = body.try_get_u8() else {
            return self.drop_one();
        };
        let Some(composition) = composition(&mut body) else {
            // An end of sequence has none with some encoders.
            if packet != SEQUENCE_END {
                self.drop_one();
            }
            return;
        };
        let place = Place {
            codec,
            key,
            time,
            composition,
            whole,
        };
        match packet {
            SEQUENCE_START => self.start(codec, &body),
            CODED_FRAMES => self.frame(place, body),
            SEQUENCE_END => {}
            _ => self.drop_one(),
        }
    }

    /// Takes the body of an audio message.
    pub(super) fn audio(&mut self, time: u32, mut body: Bytes) {
        let whole = body.len();
        let Ok(first) = body.try_get_u8() else {
            return self.drop_one();
        };
        let place = |codec| Place {
            codec,
            key: true,
            time,
            composition: 0,
            whole,
        };
        match first >> 4 {
            9 => {
                let Some(head) = extended(AUDIO_MULTITRACK, first & 15, body) else {
                    return self.drop_one();
                };
                if head.more {
                    self.leave_out_more(Kind::Audio);
                }
                let Some((packet, name, body)) = head.first else {
                    return;
                };
                match Codec::audio(&name) {
                    _ if packet == METADATA => {}
                    Some(codec) => self.coded(packet, place(codec), body),
                    None => self.refuse(Kind::Audio, codec::fourcc(&name)),
                }
            }
            10 => match body.try_get_u8() {
                Ok(0) => self.start(Codec::Aac, &body),
                Ok(1) => self.frame(place(Codec::Aac), body),
                _ => self.drop_one(),
            },
            other => self.refuse(Kind::Audio, codec::legacy_audio(other)),
        }
    }

    /// A packet of an enhanced message.
    fn coded(&mut self, packet: u8, mut place: Place, mut body: Bytes) {
        match packet {
            SEQUENCE_START => self.start(place.codec, &body),
            CODED_FRAMES if matches!(place.codec, Codec::H264 | Codec::Hevc) => {
                match composition(&mut body) {
                    Some(composition) => place.composition = composition,
                    None => return self.drop_one(),
                }
                self.frame(place, body);
            }
            CODED_FRAMES => self.frame(place, body),
            CODED_FRAMES_X if place.codec.kind() == Kind::Video => self.frame(place, body),
            SEQUENCE_END => {}
            _ => self.drop_one(),
        }
    }

    /// Takes the header of a codec.
    fn start(&mut self, codec: Codec, config: &[u8]) {
        let number = number(codec.kind());
        // Some encoders send an empty one before the right one.
        let Ok(track) = codec.track(config, self.size) else {
            return self.notice(Notice::Damaged { kind: codec.kind() });
        };
        let this = &mut self.tracks[number];
        this.notice = None;
        let same = this.codec == Some(codec) && this.entry == track.entry;
        this.codec = Some(codec);
        if same {
            return;
        }
        this.entry = track.entry.clone();
        this.samples = codec.samples(config);
        self.given
            .push_back(Given::Item(Item::Track(number, track)));
    }

    fn frame(&mut self, place: Place, data: Bytes) {
        let number = number(place.codec.kind());
        let data = place.codec.frame(data);
        if self.tracks[number].codec != Some(place.codec) || data.is_empty() {
            return self.drop_one();
        }
        // Frames may be held for long: a small one holds no memory of a large message.
        let data = match data.len() < place.whole / 2 {
            true => Bytes::copy_from_slice(&data),
            false => data,
        };
        let dts = self.unwrap(place.time).saturating_mul(MILLI);
        let samples = match place.codec {
            Codec::Opus => codec::opus_samples(&data),
            _ => self.tracks[number].samples,
        };
        let frame = Frame {
            track: number,
            dts,
            pts: dts.saturating_add(i64::from(place.composition) * MILLI),
            samples,
            key: place.key,
            data,
        };
        self.given.push_back(Given::Item(Item::Frame(frame)));
    }

    /// Milliseconds that count on where the time wraps at 2^32: one clock for both tracks.
    fn unwrap(&mut self, time: u32) -> i64 {
        let now = match self.clock {
            None => i64::from(time),
            Some((last, now)) => now.saturating_add(step(time.wrapping_sub(last))),
        };
        self.clock = Some((time, now));
        now
    }

    fn refuse(&mut self, kind: Kind, codec: String) {
        self.dropped += 1;
        let track = &mut self.tracks[number(kind)];
        // Other frames of it would follow the header of something else.
        track.codec = None;
        track.expected = false;
        self.tell_expected();
        self.notice(Notice::Unsupported { kind, codec });
    }

    fn leave_out_more(&mut self, kind: Kind) {
        if !std::mem::replace(&mut self.tracks[number(kind)].more, true) {
            self.given
                .push_back(Given::Notice(Notice::FurtherTracks { kind }));
        }
    }

    fn notice(&mut self, notice: Notice) {
        let (Notice::Unsupported { kind, .. }
        | Notice::Damaged { kind }
        | Notice::FurtherTracks { kind }) = &notice;
        let last = &mut self.tracks[number(*kind)].notice;
        if last.as_ref() != Some(&notice) {
            *last = Some(notice.clone());
            self.given.push_back(Given::Notice(notice));
        }
    }

    fn drop_one(&mut self) {
        self.dropped += 1;
    }
}

fn number(kind: Kind) -> usize {
    match kind {
        Kind::Video => 0,
        Kind::Audio => 1,
    }
}

/// The composition time: 24 bits with their sign.
fn composition(body: &mut Bytes) -> Option<i32> {
    let [a, b, c, ..] = **body else {
        return None;
    };
    body.advance(3);
    Some(i32::from_be_bytes([a, b, c, 0]) >> 8)
}

/// An enhanced header.
struct Extended {
    /// Type of packet, name of the codec, and the body of the first track, where it is there.
    first: Option<(u8, [u8; 4], Bytes)>,
    /// Whether there are other tracks.
    more: bool,
}

/// Reads an enhanced header; `None` when it is damaged.
fn extended(multitrack: u8, mut packet: u8, mut body: Bytes) -> Option<Extended> {
    // Modifiers of the packet; the only one that there is says nanoseconds.
    while packet == MOD_EX {
        let mut size = usize::from(body.try_get_u8().ok()?) + 1;
        if size == 256 {
            size = usize::from(body.try_get_u16().ok()?) + 1;
        }
        if body.len() < size {
            return None;
        }
        body.advance(size);
        packet = body.try_get_u8().ok()? & 15;
    }
    if packet != multitrack {
        let name = body.try_get_u32().ok()?.to_be_bytes();
        let first = Some((packet, name, body));
        return Some(Extended { first, more: false });
    }
    let head = body.try_get_u8().ok()?;
    // One track, several of one codec, several of several.
    let (many, codecs) = match head >> 4 {
        0 => (false, false),
        1 => (true, false),
        2 => (true, true),
        _ => return None,
    };
    let mut name = [0; 4];
    if !codecs {
        name = body.try_get_u32().ok()?.to_be_bytes();
    }
    let mut found = Extended {
        first: None,
        more: false,
    };
    loop {
        if codecs {
            name = body.try_get_u32().ok()?.to_be_bytes();
        }
        let id = body.try_get_u8().ok()?;
        let size = match many {
            true => body.try_get_uint(3).ok()? as usize,
            false => body.len(),
        };
        if body.len() < size {
            return None;
        }
        let track = body.split_to(size);
        match (id, &found.first) {
            // Track 0 is the one for most viewers.
            (0, None) => found.first = Some((head & 15, name, track)),
            _ => found.more = true,
        }
        if body.is_empty() {
            return Some(found);
        }
    }
}

/// Milliseconds from one time to the next, by their difference modulo 2^32.
fn step(difference: u32) -> i64 {
    const HALF: u32 = 1 << 31;
    match difference.abs_diff(HALF) < NEAR {
        true => i64::from(difference) - i64::from(HALF),
        false => i64::from(difference.cast_signed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS: [u8; 26] = [
        0x67, 0x64, 0, 0x28, 0xac, 0xd9, 0x40, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0, 0, 3, 0, 4,
        0, 0, 3, 0, 0xc8, 0x3c, 0x60, 0xc6,
    ];

    fn avc_header() -> Vec<u8> {
        let mut body = vec![0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x28, 0xff, 0xe1, 0, 26];
        body.extend(SPS);
        body.extend([1, 0, 2, 0x68, 0xee]);
        body
    }

    fn video(tags: &mut Tags, time: u32, body: &[u8]) -> Vec<Given> {
        tags.video(time, Bytes::copy_from_slice(body));
        std::iter::from_fn(|| tags.pop()).collect()
    }

    fn audio(tags: &mut Tags, time: u32, body: &[u8]) -> Vec<Given> {
        tags.audio(time, Bytes::copy_from_slice(body));
        std::iter::from_fn(|| tags.pop()).collect()
    }

    fn frame(given: &[Given]) -> &Frame {
        match given {
            [Given::Item(Item::Frame(frame))] => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pictures_of_h264_come_after_their_header() {
        let mut tags = Tags::default();
        let picture = [0x27, 1, 0xff, 0xff, 0xd8, 0, 0, 0, 1, 0x41];
        assert_eq!(video(&mut tags, 0, &picture), []);
        assert_eq!(tags.dropped(), 1);
        let given = video(&mut tags, 0, &avc_header());
        assert!(matches!(&given[..], [Given::Item(Item::Track(0, _))]));
        // Repeated, it says nothing new.
        assert_eq!(video(&mut tags, 0, &avc_header()), []);
        let given = video(&mut tags, 100, &picture);
        let it = frame(&given);
        // Shown before it is decoded, by the sign of 24 bits.
        assert_eq!((it.dts, it.pts, it.key), (9000, 9000 - 40 * 90, false));
        assert_eq!(it.data, &picture[5..]);
        let mut key = picture;
        key[0] = 0x17;
        assert!(frame(&video(&mut tags, 100, &key)).key);
        // The end, without a composition time, and a command without a picture.
        assert_eq!(video(&mut tags, 100, &[0x17, 2]), []);
        assert_eq!(video(&mut tags, 100, &[0x57, 0]), []);
        assert_eq!(tags.dropped(), 1);
        // Empty, cut off, and of an unknown type.
        for body in [
            &[][..],
            &[0x17],
            &[0x17, 1, 0],
            &[0x17, 1, 0, 0, 0],
            &[0x17, 9, 0, 0, 0],
        ] {
            assert_eq!(video(&mut tags, 100, body), []);
        }
        assert_eq!(tags.dropped(), 6);
    }

    #[test]
    fn times_go_on_where_they_wrap_and_where_tracks_come_by_turns() {
        let mut tags = Tags::default();
        video(&mut tags, 0, &avc_header());
        audio(&mut tags, 0, &[0xaf, 0, 0x12, 0x10]);
        let picture = [0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65];
        let last = i64::from(u32::MAX) * 90;
        let it = video(&mut tags, u32::MAX, &picture);
        assert_eq!(frame(&it).dts, last);
        let it = audio(&mut tags, 9, &[0xaf, 1, 5]);
        assert_eq!((frame(&it).dts, frame(&it).samples), (last + 900, 1024));
        let it = video(&mut tags, u32::MAX - 9, &picture);
        assert_eq!(frame(&it).dts, last - 810);
    }

    #[test]
    fn a_clock_of_31_bits_goes_on_where_it_wraps() {
        let mut tags = Tags::default();
        video(&mut tags, 0, &avc_header());
        audio(&mut tags, 0, &[0xaf, 0, 0x12, 0x10]);
        let picture = [0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65];
        let last = u32::MAX >> 1;
        let it = video(&mut tags, last, &picture);
        let start = frame(&it).dts;
        let it = audio(&mut tags, 9, &[0xaf, 1, 5]);
        assert_eq!(frame(&it).dts - start, 900);
        let it = video(&mut tags, last - 9, &picture);
        assert_eq!(frame(&it).dts - start, -810);
        // One of 32 bits goes on through the middle of its range.
        for (time, ticks) in [(last, 0), (last + 11, 990), (last - 9, -810)] {
            let it = video(&mut tags, time, &picture);
            assert_eq!(frame(&it).dts - start, ticks);
        }
    }

    #[test]
    fn a_codec_that_is_not_taken_is_named_once() {
        let mut tags = Tags::default();
        tags.expect([true, true]);
        assert_eq!(tags.pop(), Some(Given::Item(Item::Expected(2))));
        let notice = |codec: &str| {
            let (kind, codec) = (Kind::Audio, codec.to_owned());
            Given::Notice(Notice::Unsupported { kind, codec })
        };
        let expected = [Given::Item(Item::Expected(1)), notice("MP3")];
        assert_eq!(audio(&mut tags, 0, &[0x2f, 1, 2]), expected);
        assert_eq!(audio(&mut tags, 0, &[0x2f, 1, 2]), []);
        let flac = [0x90, b'f', b'L', b'a', b'C', 1];
        assert_eq!(audio(&mut tags, 0, &flac), [notice("FLAC")]);
        assert_eq!(tags.dropped(), 3);
        // The encoder was set right.
        let given = audio(&mut tags, 0, &[0xaf, 0, 0x12, 0x10]);
        assert!(matches!(&given[..], [Given::Item(Item::Track(1, _))]));
        // Frames of another codec than the header's are none of the track.
        assert_eq!(audio(&mut tags, 0, b"\x91Opus\xfc"), []);
        assert_eq!(tags.dropped(), 4);
    }

    #[test]
    fn a_damaged_header_is_said_once_and_mended_by_the_next() {
        let mut tags = Tags::default();
        let damaged = Given::Notice(Notice::Damaged { kind: Kind::Video });
        let empty = [0x17, 0, 0, 0, 0];
        assert_eq!(video(&mut tags, 0, &empty), [damaged]);
        assert_eq!(video(&mut tags, 0, &empty), []);
        assert_eq!(video(&mut tags, 0, &avc_header()).len(), 1);
    }

    #[test]
    fn the_first_of_many_tracks_is_taken() {
        let more = Given::Notice(Notice::FurtherTracks { kind: Kind::Audio });
        let mut tags = Tags::default();
        let head = b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0";
        // Of several codecs: another one first.
        let start = [&b"\x95\x20fLaC\x01\0\0\x01\x09Opus\0\0\0\x13"[..], head].concat();
        let given = audio(&mut tags, 0, &start);
        assert!(matches!(&given[..], [m, Given::Item(Item::Track(1, _))] if *m == more));
        let one = b"\x95\x11Opus\0\0\0\x02\xfc\x01\x02\0\0\x01\xfd";
        assert_eq!(frame(&audio(&mut tags, 0, one)).data, &[0xfc, 1][..]);
        // Another track alone is no fault.
        assert_eq!(audio(&mut tags, 0, b"\x95\x01Opus\x01\xfc"), []);
        assert_eq!(tags.dropped(), 0);
        for damaged in [
            &b"\x95"[..],
            b"\x95\x31Opus\0\xfc",
            b"\x95\x11Opus\0\0\0\x09\xfc",
            b"\x95\x11Opus\0\0\0\x01\xfc\x01",
            b"\x97\x09\0\x01Opus",
            b"\x97\xff\xff",
        ] {
            assert_eq!(audio(&mut tags, 0, damaged), []);
        }
        assert_eq!(tags.dropped(), 6);
    }
}
