//! Puts what a source gives through a packager, and checks what always holds of it.

use std::path::Path;

use lavant_media::frame::{Demuxer, Frame, Item};
use lavant_media::live::{Config, Event, Packager, Part};
use lavant_media::{Kind, TICKS_PER_SECOND, cmaf, ts};

use super::{hashes, run};

/// One segment of a live stream.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Number of its init segment.
    pub(crate) init: usize,
    pub(crate) start: u64,
    pub(crate) discontinuity: bool,
    pub(crate) duration: u64,
    pub(crate) independent: bool,
    pub(crate) parts: Vec<Part>,
}

/// What a packager made.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) inits: Vec<Vec<u8>>,
    /// Target duration in seconds, and part target in ticks.
    pub(crate) ready: (u64, u64),
    pub(crate) segments: Vec<Segment>,
    /// Everything in the order in which it came out: a file.
    pub(crate) file: Vec<u8>,
}

/// Packs all items, and ends the stream.
pub(crate) fn pack(config: Config, items: impl IntoIterator<Item = Item>) -> Packed {
    let mut packager = Packager::new(config);
    let mut packed = Packed::default();
    for item in items {
        let _ = packager.push(item);
        packed.take(&mut packager);
    }
    packager.flush();
    packed.take(&mut packager);
    packed.check();
    packed
}

impl Packed {
    fn take(&mut self, packager: &mut Packager) {
        while let Some(event) = packager.pop() {
            match event {
                Event::Init { data, .. } => {
                    self.file.extend(&data);
                    self.inits.push(data.to_vec());
                }
                Event::Ready {
                    target_duration,
                    part_target,
                } => {
                    assert_eq!(self.ready, (0, 0), "ready comes once");
                    self.ready = (target_duration, part_target);
                }
                Event::Begin {
                    start,
                    discontinuity,
                } => self.segments.push(Segment {
                    init: self.inits.len() - 1,
                    start,
                    discontinuity,
                    duration: 0,
                    independent: false,
                    parts: Vec::new(),
                }),
                Event::Part(part) => {
                    self.file.extend(&part.data);
                    let segment = self.segments.last_mut().expect("a segment has begun");
                    segment.parts.push(part);
                }
                Event::End {
                    duration,
                    independent,
                } => {
                    let segment = self.segments.last_mut().expect("a segment has begun");
                    segment.duration = duration;
                    segment.independent = independent;
                }
            }
        }
    }

    /// What a playlist of low latency relies on (RFC 8216bis sections 4.4.3.1 and 4.4.4.9).
    fn check(&self) {
        let (seconds, target) = self.ready;
        let mut end = 0;
        let mut last = [-1; 8];
        for segment in &self.segments {
            assert!(!segment.parts.is_empty(), "{segment:?}");
            assert!(segment.start >= end, "time goes back");
            assert!(
                segment.start == end || segment.discontinuity,
                "a gap: {end}, {segment:?}"
            );
            let rounded = (segment.duration + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND;
            let lengths: Vec<u64> = segment.parts.iter().map(|part| part.duration).collect();
            let length = segment.duration;
            assert!(
                rounded <= seconds,
                "{length} ticks of {seconds} s from {}: {lengths:?}",
                segment.start
            );
            assert!(
                lengths.iter().sum::<u64>() <= length,
                "{lengths:?} of {length}"
            );
            assert!(
                lengths.iter().all(|it| *it <= target),
                "{lengths:?} of {target}"
            );
            let (_, full) = lengths.split_last().expect("there is a part");
            let shortest = full.iter().min().unwrap_or(&target);
            assert!(shortest * 100 >= target * 85, "{lengths:?} of {target}");
            end = segment.start + segment.duration;
            self.check_frames(segment, &mut last);
        }
    }

    /// Decode times rise, and parts begin with key frames where they say so.
    fn check_frames(&self, segment: &Segment, last: &mut [i64; 8]) {
        let init = &self.inits[segment.init];
        let (mut first, mut leader) = (None, 0);
        for part in &segment.parts {
            let found = items(
                &mut cmaf::Demuxer::default(),
                &[&init[..], &part.data].concat(),
                64 << 10,
            );
            let video = found.iter().find_map(|item| match item {
                Item::Track(number, track) if track.kind() == Kind::Video => Some(*number),
                _ => None,
            });
            leader = video.unwrap_or(leader);
            let own = frames(&found);
            for frame in &own {
                let before = std::mem::replace(&mut last[frame.track], frame.dts);
                assert!(frame.dts >= before, "time goes back");
            }
            let key = own.iter().find(|frame| frame.track == leader);
            let key = key.is_some_and(|frame| frame.key);
            assert_eq!(part.independent, key);
            first.get_or_insert(key);
        }
        assert_eq!(Some(segment.independent), first);
    }

    /// The frames of all parts, as the crate reads them back.
    pub(crate) fn frames(&self) -> Vec<Frame> {
        frames(&items(&mut cmaf::Demuxer::default(), &self.file, 64 << 10))
    }

    /// Writes the file, and has ffmpeg decode it without a fault.
    pub(crate) fn hashes(&self, path: &Path) -> Vec<(String, String)> {
        std::fs::write(path, &self.file).expect("the file can be written");
        hashes(path)
    }
}

/// What a demuxer gives for a file that must be fine.
pub(crate) fn items(demuxer: &mut dyn Demuxer, data: &[u8], piece: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for bytes in data.chunks(piece.max(1)) {
        demuxer.push(bytes).expect("the input is fine");
        items.extend(std::iter::from_fn(|| demuxer.pop()));
    }
    demuxer.finish().expect("the input is whole");
    items.extend(std::iter::from_fn(|| demuxer.pop()));
    items
}

/// The items of a transport stream.
pub(crate) fn ts_items(data: &[u8]) -> Vec<Item> {
    items(&mut ts::Demuxer::default(), data, 64 << 10)
}

/// The frames among items.
pub(crate) fn frames(items: &[Item]) -> Vec<Frame> {
    let frame = |item: &Item| match item {
        Item::Frame(frame) => Some(frame.clone()),
        _ => None,
    };
    items.iter().filter_map(frame).collect()
}

/// How many packets of video and of audio ffprobe finds in a file.
pub(crate) fn packets(path: &Path) -> (usize, usize) {
    let path = path.to_str().expect("the path is text");
    let args = "-v error -show_entries packet=codec_type -of csv=p=0";
    let mut all: Vec<&str> = args.split_whitespace().collect();
    all.push(path);
    let text = run("ffprobe", &all);
    let count = |kind| text.lines().filter(|line| line.starts_with(kind)).count();
    (count("video"), count("audio"))
}
