//! Cuts one rendition's bytes into segments and keeps count of what they add up to.

use std::io::Read;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use lavant_media::{Config, Event, Format, Inspection, TICKS_PER_SECOND, cmaf, ts};
use lavant_proto::ids::Root;

use super::error::IngestError;
use super::plan::Container;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Most bytes of a segment, as nodes take them: 6 s of 89 Mbit/s.
const SEGMENT_BYTES: usize = 64 << 20;
/// Most seconds of a segment where the user insists on copying.
const COPY_SECONDS_MAX: u64 = 600;

/// An init segment or a segment, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) fact: Fact,
    pub(super) data: Bytes,
}

impl Piece {
    /// Hashes it: not by the thread that cuts, which is the one that others wait for.
    pub(super) fn hashed(mut self) -> Self {
        self.fact.root = Root(*blake3::hash(&self.data).as_bytes());
        self
    }
}

/// What is known of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) is_init: bool,
    pub(super) sequence: u64,
    pub(super) duration: u64,
    pub(super) discontinuity: bool,
    /// The init segment that it needs.
    pub(super) init: Option<u64>,
    pub(super) length: u64,
    /// Its hash, once it is known.
    pub(super) root: Root,
}

impl Fact {
    /// Its name in the uploads protocol.
    pub(super) fn name(&self) -> String {
        if self.is_init {
            format!("init-{}", self.sequence)
        } else {
            self.sequence.to_string()
        }
    }
}

/// How segments are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) container: Container,
    pub(super) target_seconds: u32,
    /// Key frames may be as far apart as they like, within reason.
    pub(super) patient: bool,
}

impl Cut {
    fn config(self) -> Config {
        let target = u64::from(self.target_seconds) * TICKS_PER_SECOND;
        // Key frames may be as far apart as two targets, where a long target was asked for.
        let longest = Config::default().max_duration.max(target * 2);
        let patient = COPY_SECONDS_MAX * TICKS_PER_SECOND;
        Config {
            target,
            max_duration: if self.patient { patient } else { longest },
            max_bytes: SEGMENT_BYTES,
        }
    }

    fn format(self) -> Format {
        match self.container {
            Container::Ts => Format::TransportStream,
            Container::Cmaf => Format::Cmaf,
        }
    }
}

/// Cuts `from` to its end. Every piece, or the error that ends them, goes into `into`; cutting ends
/// early when nobody takes them any more.
pub(super) fn cut(mut from: impl Read, cut: Cut, into: &SyncSender<Result<Piece, IngestError>>) {
    let mut numbering = Numbering::default();
    let mut segmenter = cut.format().segmenter(cut.config());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let result = match from.read(&mut buffer) {
            Ok(0) => segmenter.finish().map(|()| true),
            Ok(n) => segmenter.push(&buffer[..n]).map(|()| false),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => {
                let _ = into.send(Err(IngestError::io("the source cannot be read")(e)));
                return;
            }
        };
        // Before the error is told: what was whole when it came is good.
        while let Some(event) = segmenter.pop() {
            if into.send(Ok(numbering.take(event))).is_err() {
                return;
            }
        }
        match result {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => {
                let _ = into.send(Err(e.into()));
                return;
            }
        }
    }
}

/// Gives pieces their numbers.
#[derive(Default)]
struct Numbering {
    inits: u64,
    segments: u64,
}

impl Numbering {
    fn take(&mut self, event: Event) -> Piece {
        let (data, duration, discontinuity, is_init) = match event {
            Event::Init(data) => (data, 0, false, true),
            Event::Segment(s) => (s.data, s.duration, s.discontinuity, false),
        };
        let counter = if is_init {
            &mut self.inits
        } else {
            &mut self.segments
        };
        let sequence = *counter;
        *counter += 1;
        let fact = Fact {
            is_init,
            sequence,
            duration,
            discontinuity,
            init: if is_init {
                None
            } else {
                // The last one that came; a transport stream has none.
                self.inits.checked_sub(1)
            },
            length: data.len() as u64,
            root: Root([0; 32]),
        };
        Piece { fact, data }
    }
}

/// What one rendition added up to.
#[derive(Debug, Clone, Default)]
pub(super) struct Summary {
    /// All pieces, without their bytes.
    pub(super) facts: Vec<Fact>,
    pub(super) duration: u64,
    /// Bytes of segments, without init segments.
    pub(super) bytes: u64,
    longest: u64,
    /// Bits a second of the busiest segment: of those of a fair length, and of any.
    peak: u64,
    peak_of_any: u64,
    seen: Option<Inspection>,
    init: Option<Bytes>,
}

impl Summary {
    /// Counts a piece.
    pub(super) fn add(&mut self, piece: &Piece, cut: Cut) {
        let fact = &piece.fact;
        if fact.is_init {
            // The first one is enough to read the codecs.
            self.init.get_or_insert_with(|| piece.data.clone());
        } else {
            self.count(fact, cut.target_seconds);
            // One segment tells it for all of them.
            if self.seen.is_none() {
                self.seen = self.inspect(piece, cut.container);
            }
        }
        self.facts.push(fact.clone());
    }

    fn count(&mut self, fact: &Fact, target_seconds: u32) {
        self.duration = self.duration.saturating_add(fact.duration);
        self.bytes = self.bytes.saturating_add(fact.length);
        self.longest = self.longest.max(fact.duration);
        let rate = bit_rate(fact.length, fact.duration);
        self.peak_of_any = self.peak_of_any.max(rate);
        // RFC 8216 section 4.3.4.2 counts spans from half the target duration on: the few frames
        // after the last cut say nothing of what a link has to carry.
        if fact.duration * 2 >= u64::from(target_seconds) * TICKS_PER_SECOND {
            self.peak = self.peak.max(rate);
        }
    }

    fn inspect(&self, piece: &Piece, container: Container) -> Option<Inspection> {
        match container {
            Container::Ts => ts::inspect(&piece.data).ok(),
            Container::Cmaf => cmaf::inspect(self.init.as_deref(), &piece.data).ok(),
        }
    }

    /// Number of init segments, and of segments.
    pub(super) fn counts(&self) -> (u64, u64) {
        let inits = self.facts.iter().filter(|fact| fact.is_init).count();
        (inits as u64, (self.facts.len() - inits) as u64)
    }

    /// Bits a second of the busiest segment, and of all.
    pub(super) fn bandwidth(&self) -> (u64, u64) {
        let average = bit_rate(self.bytes, self.duration);
        let peak = if self.peak == 0 {
            self.peak_of_any
        } else {
            self.peak
        };
        // A manifest whose highest rate is below its mean makes no sense.
        (peak.max(average), average)
    }

    /// The longest segment, in whole seconds, rounded up.
    pub(super) fn target_duration(&self) -> u32 {
        u32::try_from(self.longest.div_ceil(TICKS_PER_SECOND))
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// Codecs, pixels across and down, pictures in 1000 s.
    pub(super) fn picture(&self) -> (String, u32, u32, u32) {
        let Some(seen) = &self.seen else {
            return (String::new(), 0, 0, 0);
        };
        let video = seen.video();
        let rate = video.and_then(|video| video.frame_rate).unwrap_or(0.0) * 1000.0;
        (
            seen.codecs().unwrap_or_default(),
            video.and_then(|video| video.width).unwrap_or(0),
            video.and_then(|video| video.height).unwrap_or(0),
            // A header may claim any rate; what no video has is left out.
            if (0.0..=1e6).contains(&rate) {
                rate.round() as u32
            } else {
                0
            },
        )
    }
}

fn bit_rate(bytes: u64, ticks: u64) -> u64 {
    let bits = u128::from(bytes) * 8 * u128::from(TICKS_PER_SECOND);
    u64::try_from(bits.div_ceil(u128::from(ticks.max(1)))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(pieces: &[(u64, u64)]) -> Summary {
        let cut = Cut {
            container: Container::Ts,
            target_seconds: 6,
            patient: false,
        };
        let mut summary = Summary::default();
        let mut numbering = Numbering::default();
        for (ticks, bytes) in pieces {
            let segment = lavant_media::Segment {
                start: 0,
                duration: *ticks,
                discontinuity: false,
                data: vec![0; *bytes as usize].into(),
            };
            summary.add(&numbering.take(Event::Segment(segment)), cut);
        }
        summary
    }

    #[test]
    fn bandwidth_is_that_of_the_busiest_fair_segment() {
        let sums = summary(&[(540_000, 600_000), (540_000, 750_000), (3_600, 50_000)]);
        assert_eq!(sums.bandwidth(), (1_000_000, 930_233));
        assert_eq!(
            (sums.counts(), sums.bytes, sums.duration),
            ((0, 3), 1_400_000, 1_083_600)
        );
        assert_eq!(sums.target_duration(), 6);
    }

    #[test]
    fn a_single_short_segment_counts() {
        let sums = summary(&[(90_000, 125_000)]);
        assert_eq!(sums.bandwidth(), (1_000_000, 1_000_000));
        assert_eq!(summary(&[(540_001, 1)]).target_duration(), 7);
        assert_eq!(summary(&[]).bandwidth(), (0, 0));
    }

    #[test]
    fn segments_need_the_latest_init() {
        let mut numbering = Numbering::default();
        let segment = || {
            Event::Segment(lavant_media::Segment {
                start: 0,
                duration: 1,
                discontinuity: true,
                data: Bytes::from_static(b"x"),
            })
        };
        let first = numbering.take(Event::Init(Bytes::from_static(b"i"))).fact;
        assert_eq!((first.name().as_str(), first.init), ("init-0", None));
        let second = numbering.take(segment()).fact;
        assert_eq!((second.name().as_str(), second.init), ("0", Some(0)));
        numbering.take(Event::Init(Bytes::from_static(b"j")));
        assert_eq!(numbering.take(segment()).fact.init, Some(1));
    }
}
