//! Packs frames into parts and segments as they come.

use std::collections::VecDeque;

use bytes::Bytes;

use super::gate::{Gate, Pass};
use super::plan::{self, Config};
use super::stream::{Cut, Stream};
use crate::cmaf::mux;
use crate::frame::{Frame, Item, TRACKS_MAX, Track};
use crate::{Error, Kind, StreamInfo, TICKS_PER_SECOND};

/// How long the start waits for sound beside pictures, and for pictures beside sound, where the
/// source does not say what it has.
const SETTLE: i64 = TICKS_PER_SECOND as i64 * 7 / 10;
/// The same where the source has said that there is more.
const SETTLE_EXPECTED: i64 = TICKS_PER_SECOND as i64 * 2;
/// The longest that a source may have no key frame at its beginning.
const WITHOUT_KEY: i64 = TICKS_PER_SECOND as i64 * 30;
/// The most frames and bytes that are held at the start.
const HELD: (usize, usize) = (4096, 32 << 20);

/// What comes out, in order. A segment is [`Event::Begin`], some [`Event::Part`]s and
/// [`Event::End`]; its bytes are those of its parts.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The init segment of all that follows, until the next one.
    Init {
        /// Its bytes.
        data: Bytes,
        /// The streams in it.
        streams: Vec<StreamInfo>,
    },
    /// A playlist can be written from here on. Comes once.
    Ready {
        /// The target duration, in seconds.
        target_duration: u64,
        /// The part target, in ticks.
        part_target: u64,
    },
    /// A segment begins.
    Begin {
        /// Ticks from the beginning of the stream.
        start: u64,
        /// True when it does not continue the one before.
        discontinuity: bool,
    },
    /// The next part of the segment.
    Part(Part),
    /// The segment is whole.
    End {
        /// Ticks that it lasts.
        duration: u64,
        /// True when it can be decoded without those before it.
        independent: bool,
    },
}

/// A part of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its bytes: one fragment.
    pub data: Bytes,
    /// Ticks that it lasts, at most the part target.
    pub duration: u64,
    /// True when decoding can begin with it.
    pub independent: bool,
}

/// Packs a live stream; see the [module](super).
#[derive(Debug)]
pub struct Packager {
    config: Config,
    tracks: [Option<Track>; TRACKS_MAX],
    expected: usize,
    /// Frames that wait for the start.
    held: VecDeque<Frame>,
    held_bytes: usize,
    /// Decode time of the first frame that waited.
    since: Option<i64>,
    gate: Gate,
    /// Frames that were left out, but those that the gate counts.
    dropped: u64,
    /// What runs, and the numbers of its tracks in the order of the init segment.
    running: Option<(Stream, Vec<usize>)>,
    /// Where the next line of time begins, and whether behind a discontinuity.
    resume: u64,
    discontinuity: bool,
    ready: Option<(u64, u64)>,
    /// Number of the next fragment.
    sequence: u32,
    events: VecDeque<Event>,
}

impl Packager {
    /// A packager for one stream.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            tracks: Default::default(),
            expected: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            since: None,
            gate: Gate::default(),
            dropped: 0,
            running: None,
            resume: 0,
            discontinuity: false,
            ready: None,
            sequence: 1,
            events: VecDeque::new(),
        }
    }

    /// What comes goes on a stream that another packager began: behind a discontinuity.
    pub fn resume(&mut self) {
        self.discontinuity = true;
    }

    /// The next event, in order.
    pub fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes what a demuxer gives.
    ///
    /// # Errors
    /// [`Error::NoKeyFrame`] when none came in the first 30 s of video; the packager can go on.
    pub fn push(&mut self, item: Item) -> Result<(), Error> {
        match item {
            Item::Expected(count) => self.expected = count,
            Item::Track(number, track) => self.track(number, track),
            // There is one track less to wait for; whoever runs the source tells the operator.
            Item::LeftOut(_) => {}
            Item::Frame(frame) => match self.gate.pass(frame) {
                Pass::Hold => {}
                Pass::Next(frame) => self.frame(frame)?,
                Pass::Late(frames) => {
                    for frame in frames {
                        self.frame(frame)?;
                    }
                }
                Pass::Jump(frames) => {
                    self.pause();
                    for frame in frames {
                        self.frame(frame)?;
                    }
                }
            },
        }
        Ok(())
    }

    /// Ends what is open, so that all that came is out. What is pushed next, also by another
    /// session of the source, begins a segment behind a discontinuity.
    pub fn flush(&mut self) {
        self.cut();
        self.tracks = Default::default();
        self.expected = 0;
    }

    /// Ends what is open, as [`Packager::flush`] does, while the same session of the source goes
    /// on: its tracks are not told again.
    pub fn cut(&mut self) {
        // A short stream may have ended while the start still waited for more tracks.
        if self.running.is_none() && !self.held.is_empty() {
            let _ = self.start();
        }
        self.pause();
        self.dropped += self.gate.dropped;
        self.gate = Gate::default();
    }

    /// How many frames were left out because of their times: those that come from elsewhere, that
    /// stand before others, or where more come than time has room for.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped + self.gate.dropped
    }

    /// Ends the segment; the next frames begin another one.
    fn pause(&mut self) {
        if let Some((mut stream, order)) = self.running.take() {
            let mut cuts = Vec::new();
            self.resume = stream.end(&mut cuts);
            self.emit(&order, cuts);
            self.discontinuity = true;
        }
        self.held.clear();
        self.held_bytes = 0;
        self.since = None;
    }

    fn track(&mut self, number: usize, track: Track) {
        let Some(slot) = self.tracks.get_mut(number) else {
            return;
        };
        // Encoders repeat their headers; to cut there would break the stream for nothing.
        if slot.as_ref().is_some_and(|old| old.entry == track.entry) {
            return;
        }
        *slot = Some(track);
        if self.running.is_some() {
            self.pause();
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), Error> {
        if self.tracks.get(frame.track).is_none_or(Option::is_none) {
            return Ok(());
        }
        if let Some((stream, order)) = &mut self.running {
            if let Some(line) = order.iter().position(|number| *number == frame.track) {
                let mut cuts = Vec::new();
                self.dropped += u64::from(!stream.push(line, frame, &mut cuts));
                let order = order.clone();
                self.emit(&order, cuts);
            }
            return Ok(());
        }
        let since = *self.since.get_or_insert(frame.dts);
        let waited = frame.dts.saturating_sub(since);
        self.held_bytes += frame.data.len();
        self.held.push_back(frame);
        let known = self.tracks.iter().flatten();
        let kinds = |kind| known.clone().any(|track| track.kind() == kind);
        let all = self.expected > 0 && known.clone().count() >= self.expected;
        let patience = match self.expected > known.clone().count() {
            true => SETTLE_EXPECTED,
            false => SETTLE,
        };
        if all || (kinds(Kind::Video) && kinds(Kind::Audio)) || waited >= patience {
            self.start()?;
        }
        while self.held.len() > HELD.0 || self.held_bytes > HELD.1 {
            let gone = self.held.pop_front();
            self.held_bytes -= gone.map_or(0, |frame| frame.data.len());
        }
        Ok(())
    }

    /// Begins with the first key frame that is held, if there is one.
    fn start(&mut self) -> Result<(), Error> {
        let of_kind = |kind: Kind| {
            let tracks = self.tracks.iter().enumerate();
            let mut found = tracks.filter_map(|(number, track)| {
                track
                    .as_ref()
                    .filter(|track| track.kind() == kind)
                    .map(|_| number)
            });
            found.next()
        };
        let Some(reference) = of_kind(Kind::Video).or_else(|| of_kind(Kind::Audio)) else {
            return Ok(());
        };
        let first = self
            .held
            .iter()
            .position(|frame| frame.track == reference && frame.key);
        let Some(first) = first else {
            let (Some(since), Some(last)) = (self.since, self.held.back()) else {
                return Ok(());
            };
            let waited = last.dts.saturating_sub(since);
            // Sound of before the first picture is not needed, and pictures of before it neither.
            let keep = last.dts.saturating_sub(TICKS_PER_SECOND.cast_signed());
            self.held
                .retain(|frame| frame.track != reference && frame.dts >= keep);
            self.held_bytes = self.held.iter().map(|frame| frame.data.len()).sum();
            if waited > WITHOUT_KEY {
                self.since = None;
                return Err(Error::NoKeyFrame);
            }
            return Ok(());
        };
        let held = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        self.since = None;
        let Some(key) = held.get(first) else {
            return Ok(());
        };
        let (start, hint) = (key.dts, plan::written_distance(&key.data));
        let order: Vec<usize> = (0..TRACKS_MAX)
            .filter(|number| self.tracks.get(*number).is_some_and(Option::is_some))
            .collect();
        let tracks: Vec<&Track> = self.tracks.iter().flatten().collect();
        self.events.push_back(Event::Init {
            data: mux::init(&tracks).into(),
            streams: tracks.iter().map(|track| track.info.clone()).collect(),
        });
        let scales: Vec<u32> = tracks.iter().map(|track| track.timescale).collect();
        let leader = order
            .iter()
            .position(|number| *number == reference)
            .unwrap_or(0);
        let mut stream = Stream::new(self.config, &scales, leader, self.ready);
        stream.begin(start, self.resume, self.discontinuity, hint);
        let mut cuts = Vec::new();
        for (index, frame) in held.into_iter().enumerate() {
            let line = order.iter().position(|number| *number == frame.track);
            // Before the first key frame no picture can be decoded.
            if let Some(line) = line
                && (line != leader || index >= first)
            {
                self.dropped += u64::from(!stream.push(line, frame, &mut cuts));
            }
        }
        self.running = Some((stream, order.clone()));
        self.emit(&order, cuts);
        Ok(())
    }

    /// Turns cuts into events.
    fn emit(&mut self, order: &[usize], cuts: Vec<Cut>) {
        debug_assert!(order.len() <= TRACKS_MAX);
        for cut in cuts {
            let event = match cut {
                Cut::Ready {
                    target_duration,
                    part_target,
                } => {
                    self.ready = Some((target_duration, part_target));
                    Event::Ready {
                        target_duration,
                        part_target,
                    }
                }
                Cut::Begin {
                    start,
                    discontinuity,
                } => Event::Begin {
                    start,
                    discontinuity,
                },
                Cut::Part {
                    runs,
                    duration,
                    independent,
                } => {
                    let data = mux::fragment(self.sequence, &runs);
                    self.sequence = self.sequence.wrapping_add(1);
                    Event::Part(Part {
                        data: data.into(),
                        duration,
                        independent,
                    })
                }
                Cut::End {
                    duration,
                    independent,
                } => Event::End {
                    duration,
                    independent,
                },
            };
            self.events.push_back(event);
        }
    }
}
