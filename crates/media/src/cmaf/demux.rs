//! Fragmented MP4 taken apart into frames.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::boxes::{self, Children, Header, Reader};
use super::fragment::{NOT_SYNC, ticks};
use super::init::{self, Track};
use crate::frame::{self, Frame, Item, TRACKS_MAX};
use crate::{Error, Kind};

/// The most bytes of an index, and of a fragment's data.
const MAX_INDEX: u64 = 16 << 20;
const MAX_DATA: u64 = 64 << 20;
/// The most samples of a fragment.
const MAX_SAMPLES: usize = 1 << 16;

/// Takes fragmented MP4 apart; see [`crate::frame::Demuxer`].
#[derive(Debug, Default)]
pub struct Demuxer {
    input: BytesMut,
    /// Bytes of a box that is passed over.
    skip: u64,
    saw_box: bool,
    tracks: Vec<Track>,
    init: Bytes,
    /// Samples whose data is awaited.
    samples: Vec<Sample>,
    /// Bytes since the beginning of the latest fragment's header.
    since: u64,
    /// Decode time after the latest sample of each track.
    next: Vec<u64>,
    items: VecDeque<Item>,
    refused: Option<Error>,
}

#[derive(Debug)]
struct Sample {
    track: usize,
    time: u64,
    duration: u32,
    offset: i64,
    key: bool,
    /// Where it is, from the beginning of the fragment's header.
    at: u64,
    size: u32,
}

impl Demuxer {
    fn take(&mut self) -> Result<(), Error> {
        loop {
            if self.skip > 0 {
                let len = self.skip.min(self.input.len() as u64);
                self.input.advance(len as usize);
                self.skip -= len;
                if self.skip > 0 {
                    return Ok(());
                }
            }
            let Some(header) = boxes::header(&self.input)? else {
                return Ok(());
            };
            if !self.saw_box && !matches!(&header.kind, b"ftyp" | b"styp" | b"moov") {
                return Err(Error::NotMp4);
            }
            self.saw_box = true;
            let body = header.body.ok_or(Error::malformed("a box has no end"))?;
            let max = match &header.kind {
                b"moov" | b"moof" => MAX_INDEX,
                b"mdat" if !self.samples.is_empty() => MAX_DATA,
                b"mdat" if self.tracks.is_empty() => return Err(Error::NotFragmented),
                _ => {
                    self.since = self.since.saturating_add(body + header.len as u64);
                    self.skip = body.saturating_add(header.len as u64);
                    continue;
                }
            };
            if body > max {
                return Err(Error::LimitReached {
                    what: "a fragment is too large",
                });
            }
            let size = header.len + body as usize;
            if self.input.len() < size {
                // Room for the whole box at once, but not before its bytes begin to come.
                self.input.reserve((size - self.input.len()).min(1 << 20));
                return Ok(());
            }
            let bytes = self.input.split_to(size).freeze();
            self.whole(header, &bytes)?;
        }
    }

    fn whole(&mut self, header: Header, bytes: &Bytes) -> Result<(), Error> {
        let body = bytes.get(header.len..).unwrap_or_default();
        match &header.kind {
            b"moov" => self.begin(body, bytes)?,
            b"moof" => {
                self.since = 0;
                self.samples.clear();
                self.fragment(body)?;
            }
            _ => self.data(bytes, header.len)?,
        }
        self.since = self.since.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn begin(&mut self, moov: &[u8], bytes: &Bytes) -> Result<(), Error> {
        if *bytes == self.init {
            return Ok(());
        }
        let tracks = init::tracks(moov)?;
        init::reference(&tracks).ok_or(Error::NoMedia)?;
        if tracks.len() > TRACKS_MAX {
            return Err(Error::LimitReached {
                what: "over 8 tracks",
            });
        }
        self.items.push_back(Item::Expected(tracks.len()));
        for (number, track) in tracks.iter().enumerate() {
            if matches!(track.entry.get(4..8), Some(b"encv" | b"enca")) {
                return Err(Error::Encrypted);
            }
            let described = frame::Track {
                info: track.info.clone(),
                entry: track.entry.clone(),
                timescale: track.timescale,
            };
            self.items.push_back(Item::Track(number, described));
        }
        self.next = vec![0; tracks.len()];
        self.tracks = tracks;
        self.init = bytes.clone();
        Ok(())
    }

    fn fragment(&mut self, moof: &[u8]) -> Result<(), Error> {
        // Data of a run without an offset follows that of the run before.
        let mut at = None;
        for child in Children::of(moof) {
            if let (kind, body) = child?
                && kind == *b"traf"
            {
                self.traf(body, &mut at)?;
            }
        }
        Ok(())
    }

    fn traf(&mut self, traf: &[u8], at: &mut Option<u64>) -> Result<(), Error> {
        let mut reader = Reader::new(boxes::need(traf, b"tfhd")?);
        let (_, flags) = reader.full()?;
        let id = reader.u32()?;
        if flags & 1 != 0 {
            return Err(Error::AbsoluteOffsets);
        }
        let Some(number) = self.tracks.iter().position(|track| track.id == id) else {
            return match self.tracks.is_empty() {
                true => Err(Error::NoInit),
                false => Ok(()),
            };
        };
        let track = &self.tracks[number];
        let mut defaults = (
            track.default_duration,
            track.default_size,
            track.default_flags,
        );
        if flags & 2 != 0 {
            reader.skip(4)?;
        }
        for (bit, value) in [
            (8, &mut defaults.0),
            (0x10, &mut defaults.1),
            (0x20, &mut defaults.2),
        ] {
            if flags & bit != 0 {
                *value = reader.u32()?;
            }
        }
        let mut time = self.next.get(number).copied().unwrap_or(0);
        for child in Children::of(traf) {
            match child? {
                (kind, body) if kind == *b"tfdt" => {
                    let mut reader = Reader::new(body);
                    let (version, _) = reader.full()?;
                    time = reader.word(version)?;
                }
                (kind, body) if kind == *b"trun" => {
                    self.run(body, number, defaults, &mut time, at)?;
                }
                _ => {}
            }
        }
        if let Some(next) = self.next.get_mut(number) {
            *next = time;
        }
        Ok(())
    }

    fn run(
        &mut self,
        trun: &[u8],
        track: usize,
        (duration, size, plain): (u32, u32, u32),
        time: &mut u64,
        at: &mut Option<u64>,
    ) -> Result<(), Error> {
        let mut reader = Reader::new(trun);
        let (version, flags) = reader.full()?;
        let count = reader.u32()? as usize;
        if flags & 1 != 0 {
            *at = Some(u64::from(reader.u32()?));
        }
        let first = (flags & 4 != 0).then(|| reader.u32()).transpose()?;
        let fields = (flags >> 8 & 15).count_ones() as usize;
        // Without fields a sample costs its sender nothing.
        if self.samples.len() + count > MAX_SAMPLES || fields * 4 * count > reader.rest().len() {
            return Err(Error::malformed("a track run is longer than its box"));
        }
        for index in 0..count {
            let mut field = |bit: u32, default: u32| match flags & bit {
                0 => Ok(default),
                _ => reader.u32(),
            };
            let duration = field(0x100, duration)?;
            let size = field(0x200, size)?;
            let own = field(0x400, plain)?;
            let offset = field(0x800, 0)?;
            let own = first
                .filter(|_| index == 0 && flags & 0x400 == 0)
                .unwrap_or(own);
            let start = at.unwrap_or(0);
            self.samples.push(Sample {
                track,
                time: *time,
                duration,
                // Only version 1 has a sign (section 8.8.8).
                offset: match version {
                    0 => i64::from(offset),
                    _ => i64::from(offset.cast_signed()),
                },
                key: own & NOT_SYNC == 0,
                at: start,
                size,
            });
            *at = Some(start.saturating_add(size.into()));
            *time = time.saturating_add(duration.into());
        }
        Ok(())
    }

    /// The data of a fragment came: its samples are whole.
    fn data(&mut self, bytes: &Bytes, header: usize) -> Result<(), Error> {
        let begin = self.since;
        let mut samples = std::mem::take(&mut self.samples);
        // An empty one costs its sender nothing, and shows nothing. The others do not share bytes.
        samples.retain(|sample| sample.size > 0);
        let all: u64 = samples.iter().map(|sample| u64::from(sample.size)).sum();
        if all > bytes.len() as u64 {
            return Err(Error::malformed("samples of a fragment overlap"));
        }
        // Frames may be held for long: a few small ones hold no memory of a large box.
        let is_small = all < bytes.len() as u64 / 2;
        let tracks = &self.tracks;
        let dts = |sample: &Sample| {
            let scale = tracks.get(sample.track).map_or(1, |track| track.timescale);
            ticks(sample.time, scale).cast_signed()
        };
        // Each track's samples stand in one piece; they are wanted as they are played.
        samples.sort_by_key(dts);
        for sample in &samples {
            let from = sample
                .at
                .checked_sub(begin)
                .and_then(|from| usize::try_from(from).ok());
            let range = from
                .filter(|from| *from >= header)
                .and_then(|from| Some(from..from.checked_add(sample.size as usize)?))
                .filter(|range| range.end <= bytes.len())
                .ok_or(Error::malformed("a sample lies outside of its fragment"))?;
            let Some(track) = tracks.get(sample.track) else {
                continue;
            };
            let dts = dts(sample);
            let shift = i128::from(sample.offset) * i128::from(crate::TICKS_PER_SECOND)
                / i128::from(track.timescale);
            let is_audio = track.info.kind == Kind::Audio;
            self.items.push_back(Item::Frame(Frame {
                track: sample.track,
                dts,
                pts: dts.saturating_add(i64::try_from(shift).unwrap_or(0)),
                samples: if is_audio { sample.duration } else { 0 },
                key: sample.key || is_audio,
                data: match is_small {
                    true => Bytes::copy_from_slice(bytes.get(range).unwrap_or_default()),
                    false => bytes.slice(range),
                },
            }));
        }
        Ok(())
    }
}

impl frame::Demuxer for Demuxer {
    fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        self.input.extend_from_slice(data);
        let result = self.take();
        self.refused = result.err();
        result
    }

    fn pop(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    fn finish(&mut self) -> Result<(), Error> {
        if let Some(error) = self.refused.replace(Error::Finished) {
            return Err(error);
        }
        match (self.saw_box, self.tracks.is_empty()) {
            (false, _) => Err(Error::NotMp4),
            (true, true) => Err(Error::NoMedia),
            (true, false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cmaf::mux::{self, Run};
    use crate::frame::Demuxer as _;

    use super::*;

    fn track() -> frame::Track {
        frame::Track::aac(&[0x12, 0x10]).unwrap()
    }

    /// A fragment whose samples have no fields of their own: `count` of `size` bytes, in `data`.
    fn fragment(runs: &[(u32, u32)], size: u32, data: usize) -> Vec<u8> {
        let mut traf = [
            &20u32.to_be_bytes()[..],
            b"tfhd",
            &[0, 2, 0, 0x10, 0, 0, 0, 1],
        ]
        .concat();
        traf.extend(size.to_be_bytes());
        for (offset, count) in runs {
            traf.extend([&20u32.to_be_bytes()[..], b"trun", &[0, 0, 0, 1]].concat());
            traf.extend(count.to_be_bytes());
            traf.extend(offset.to_be_bytes());
        }
        let boxed = |kind: &[u8; 4], body: &[u8]| {
            let size = (body.len() as u32 + 8).to_be_bytes();
            [&size[..], kind, body].concat()
        };
        let moof = boxed(b"moof", &boxed(b"traf", &traf));
        [moof, boxed(b"mdat", &vec![7; data])].concat()
    }

    fn read(fragment: &[u8]) -> (usize, Result<(), Error>) {
        let mut demuxer = Demuxer::default();
        demuxer.push(&mux::init(&[&track()])).unwrap();
        let result = demuxer.push(fragment);
        let frames = std::iter::from_fn(|| demuxer.pop())
            .filter(|item| matches!(item, Item::Frame(_)))
            .count();
        (frames, result)
    }

    #[test]
    fn samples_have_bytes_of_their_own() {
        assert_eq!(read(&fragment(&[(64, 10)], 1, 10)), (10, Ok(())));
        // Many that are empty, and many that are the same bytes.
        assert_eq!(read(&fragment(&[(64, 60_000)], 0, 10)), (0, Ok(())));
        let (frames, result) = read(&fragment(&[(84, 1000), (84, 1000)], 1, 1000));
        assert_eq!((frames, result.is_err()), (0, true));
        // One that is outside.
        assert!(read(&fragment(&[(64, 11)], 1, 10)).1.is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let sample = |data: &'static [u8]| mux::Sample {
            duration: 1024,
            offset: 0,
            key: true,
            data: Bytes::from_static(data),
        };
        let run = Run {
            track: 1,
            time: 44_100,
            samples: vec![sample(b"one"), sample(b"other")],
        };
        let mut demuxer = Demuxer::default();
        demuxer.push(&mux::init(&[&track()])).unwrap();
        demuxer.push(&mux::fragment(1, &[run])).unwrap();
        let items: Vec<Item> = std::iter::from_fn(|| demuxer.pop()).collect();
        assert_eq!(items[1], Item::Track(0, track()));
        let [.., Item::Frame(one), Item::Frame(other)] = &items[..] else {
            panic!("{items:?}")
        };
        assert_eq!(
            (&one.data[..], one.dts, one.samples),
            (&b"one"[..], 90_000, 1024)
        );
        assert_eq!((&other.data[..], other.dts), (&b"other"[..], 90_000 + 2090));
    }
}
