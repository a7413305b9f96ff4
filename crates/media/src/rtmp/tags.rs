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
        let Ok(first) = body.try_get_u8() else {
            return self.drop_one();
        };
        let kind = first >> 4 & 7;
        // 4 is a key frame that a server made.
        let key = matches!(kind, 1 | 4);
        if first & 0x80 != 0 {
            let Some((packet, name, body)) = extended(VIDEO_MULTITRACK, first & 15, body) else {
                return self.drop_one();
            };
            if kind == COMMAND_FRAME || packet == METADATA {
                return;
            }
            let place = |codec| Place {
                codec,
                key,
                time,
                composition: 0,
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
        let Ok(first) = body.try_get_u8() else {
            return self.drop_one();
        };
        let place = |codec| Place {
            codec,
            key: true,
            time,
            composition: 0,
        };
        match first >> 4 {
            9 => {
                let Some((packet, name, body)) = extended(AUDIO_MULTITRACK, first & 15, body)
                else {
                    return self.drop_one();
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
            Some((last, now)) => {
                now.saturating_add(i64::from(time.wrapping_sub(last).cast_signed()))
            }
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

    fn notice(&mut self, notice: Notice) {
        let (Notice::Unsupported { kind, .. } | Notice::Damaged { kind }) = &notice;
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

/// Reads an enhanced header up to the body of the first track: type of packet, name of the codec,
/// and what is left. `None` when it is damaged, or without the first track.
fn extended(multitrack: u8, mut packet: u8, mut body: Bytes) -> Option<(u8, [u8; 4], Bytes)> {
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
        return Some((packet, name, body));
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
        // Track 0 is the one for most viewers.
        if id == 0 {
            return Some((head & 15, name, track));
        }
    }
}
