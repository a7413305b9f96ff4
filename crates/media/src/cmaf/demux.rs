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
/// The most bytes of a box that is not known, between fragments.
const MAX_UNKNOWN: u64 = 1 << 20;
/// So many bytes without a frame are no damage that passes.
const MAX_WITHOUT: usize = 256 << 20;
/// The most samples of a fragment.
const MAX_SAMPLES: usize = 1 << 16;

/// Takes fragmented MP4 apart; see [`crate::frame::Demuxer`].
#[derive(Debug, Default)]
pub struct Demuxer {
    input: BytesMut,
    /// Bytes of a box that is passed over.
    skip: u64,
    saw_box: bool,
    /// Whether any frame came, and bytes since the latest.
    gave: bool,
    without: usize,
    /// Whether the boundaries of boxes are lost.
    is_lost: bool,
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
            if self.is_lost && !self.find() {
                return Ok(());
            }
            let header = match boxes::header(&self.input) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.lose(error)?;
                    continue;
                }
            };
            let size = match self.wanted(header) {
                Ok(Some(size)) => size,
                Ok(None) => continue,
                Err(error) => {
                    self.lose(error)?;
                    continue;
                }
            };
            if self.input.len() < size {
                // Room for the whole box at once, but not before its bytes begin to come.
                self.input.reserve((size - self.input.len()).min(1 << 20));
                return Ok(());
            }
            let bytes = self.input.split_to(size).freeze();
            if let Err(error) = self.whole(header, &bytes) {
                self.bear(error)?;
            }
        }
    }

    /// Bytes of a box that is needed whole; `None` when it is passed over.
    fn wanted(&mut self, header: Header) -> Result<Option<usize>, Error> {
        match &header.kind {
            _ if self.saw_box => {}
            b"ftyp" | b"styp" | b"moov" => {}
            b"moof" | b"sidx" => return Err(Error::NoInit),
            _ => return Err(Error::NotMp4),
        }
        self.saw_box = true;
        let body = header.body.ok_or(Error::malformed("a box has no end"))?;
        let has_begun = !self.tracks.is_empty();
        let (max, is_needed) = match &header.kind {
            b"moov" | b"moof" => (MAX_INDEX, true),
            b"mdat" if !has_begun => return Err(Error::NotFragmented),
            b"mdat" => (MAX_DATA, !self.samples.is_empty()),
            b"free" | b"skip" | b"uuid" | b"sidx" | b"emsg" => (MAX_INDEX, false),
            // What is no name comes from within a box.
            kind if self.gave && !kind.iter().all(u8::is_ascii_alphanumeric) => {
                return Err(Error::malformed("a box has no name"));
            }
            _ if self.gave => (MAX_UNKNOWN, false),
            _ => (u64::MAX, false),
        };
        if body > max {
            return Err(Error::LimitReached {
                what: "a fragment is too large",
            });
        }
        if is_needed {
            return Ok(Some(header.len + body as usize));
        }
        let size = body.saturating_add(header.len as u64);
        self.since = self.since.saturating_add(size);
        self.skip = size;
        Ok(None)
    }

    /// Where the boxes are is not known any more: the next fragment is searched for.
    fn lose(&mut self, error: Error) -> Result<(), Error> {
        self.bear(error)?;
        self.is_lost = true;
        // What is at the beginning is none.
        self.input.advance(self.input.len().min(4));
        Ok(())
    }

    /// Goes on behind damage. What never gave a frame is refused instead.
    fn bear(&mut self, error: Error) -> Result<(), Error> {
        self.samples.clear();
        let is_damage = matches!(
            error,
            Error::Malformed { .. } | Error::LimitReached { .. } | Error::AbsoluteOffsets
        );
        match self.gave && is_damage {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Passes over what comes before the next header of a fragment, or of the whole.
    fn find(&mut self) -> bool {
        // Size, name, and the name of the first box in it.
        const LEN: usize = 16;
        let at = self.input.windows(LEN).position(|bytes| {
            let [a, b, c, d, name @ ..] = bytes else {
                return false;
            };
            let size = u32::from_be_bytes([*a, *b, *c, *d]);
            (LEN as u32..=MAX_INDEX as u32).contains(&size)
                && (name.starts_with(b"moof") && name.ends_with(b"mfhd")
                    || name.starts_with(b"moov") && name.ends_with(b"mvhd"))
        });
        self.is_lost = at.is_none();
        let past = at.unwrap_or(self.input.len().saturating_sub(LEN - 1));
        self.input.advance(past);
        at.is_some()
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
        if !samples.is_empty() {
            (self.gave, self.without) = (true, 0);
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
        self.without = self.without.saturating_add(data.len());
        let result = self.take().and_then(|()| match self.without > MAX_WITHOUT {
            true => Err(Error::malformed("nothing in it can be read any more")),
            false => Ok(()),
        });
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
            (true, false) if !self.gave => Err(Error::NoFrames),
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

    /// Fragments of one frame each, of these bytes.
    fn fragments(frames: std::ops::Range<u8>) -> Vec<Vec<u8>> {
        let one = |no: u8| {
            let run = Run {
                track: 1,
                time: u64::from(no) * 1024,
                samples: vec![mux::Sample {
                    duration: 1024,
                    offset: 0,
                    key: true,
                    data: Bytes::from(vec![no; 1000]),
                }],
            };
            mux::fragment(u32::from(no), &[run])
        };
        frames.map(one).collect()
    }

    /// The first bytes of all frames, and how it ended.
    fn taken(bytes: &[u8], piece: usize) -> (Vec<u8>, Result<(), Error>) {
        let mut demuxer = Demuxer::default();
        let pushed = bytes.chunks(piece).try_for_each(|piece| {
            let pushed = demuxer.push(piece);
            assert!(demuxer.input.len() <= 64 << 10, "it holds what it passes");
            pushed
        });
        let result = pushed.and_then(|()| demuxer.finish());
        let frames = std::iter::from_fn(|| demuxer.pop()).filter_map(|item| match item {
            Item::Frame(frame) => frame.data.first().copied(),
            _ => None,
        });
        (frames.collect(), result)
    }

    #[test]
    fn damage_costs_the_fragments_that_it_is_in() {
        let init = mux::init(&[&track()]);
        let all = fragments(0..20);
        let whole = [&init[..], &all.concat()].concat();
        let at = init.len() + all[0].len() * 10;
        let length = all[0].len();
        // Bytes that are missing, changed or too many, wherever they are in the eleventh fragment.
        for from in (at..at + length).step_by(7) {
            let missing = [&whole[..from], &whole[from + 300..]].concat();
            let more = [&whole[..from], &[0x47; 300][..], &whole[from..]].concat();
            let mut changed = whole.clone();
            changed[from..from + 8].fill(0xff);
            for (what, bytes) in [("missing", missing), ("more", more), ("changed", changed)] {
                let (frames, result) = taken(&bytes, 333);
                assert_eq!(result, Ok(()), "{what} at {}", from - at);
                assert!(frames.starts_with(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
                let kept = frames.ends_with(&[13, 14, 15, 16, 17, 18, 19]);
                assert!(kept, "{what} at {}: {frames:?}", from - at);
                assert_eq!(taken(&bytes, 5), (frames, result));
            }
        }
        // Sizes that are no end, between fragments.
        for junk in [
            &b"\0\0\0\0mdat"[..],
            b"\x7f\xff\xff\xffmdat",
            b"\0\0\0\x01mdat\x7f\0\0\0",
        ] {
            let bytes = [&whole[..at], junk, &[0; 8], &whole[at..]].concat();
            let (frames, result) = taken(&bytes, 100);
            assert_eq!((frames.len(), result), (20, Ok(())), "{junk:?}");
        }
    }

    #[test]
    fn what_gives_no_frame_is_refused() {
        let init = mux::init(&[&track()]);
        assert_eq!(taken(&init, 100), (vec![], Err(Error::NoFrames)));
        let endless = [&init[..], b"\x7f\xff\xff\xffmdat", &[0; 5000]].concat();
        assert!(matches!(
            taken(&endless, 100).1,
            Err(Error::LimitReached { .. })
        ));
        let endless = [&init[..], b"\0\0\0\0mdat", &[0; 5000]].concat();
        assert!(matches!(
            taken(&endless, 100).1,
            Err(Error::Malformed { .. })
        ));
        let first = fragments(0..1).concat();
        let cut = [&init[..], &first[..first.len() - 1]].concat();
        assert_eq!(taken(&cut, 100), (vec![], Err(Error::NoFrames)));
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
