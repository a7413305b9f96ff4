//! Decides where segments begin and end, and holds the bytes of the open segment.

use std::collections::VecDeque;

use super::key::{KeyScan, Verdict};
use super::packet::{self, Packet};
use super::tables::{Stream, Tables, Writer};
use super::{Coding, inspect};
use crate::timeline::{Step, Timeline};
use crate::{Config, Error, Event, Pool, Segment};

/// The length of a frame in ticks when there was only one.
/// 40 ms: one of 25 pictures a second.
const LONE_FRAME: u64 = 3_600;

/// A unit of the reference stream at which a segment may begin, once it proves a key frame.
#[derive(Debug)]
struct Candidate {
    /// Where its first packet is in the buffer.
    at: usize,
    /// Its decode time.
    now: u64,
    scan: KeyScan,
}

/// Cuts packets into segments at the key frames of the reference stream.
#[derive(Debug)]
pub(super) struct Cutter {
    config: Config,
    events: VecDeque<Event>,
    writer: Writer,
    timeline: Timeline,
    reference: Option<Stream>,
    /// Packets of the open segment, and of the candidate.
    buffer: Vec<u8>,
    pool: Pool,
    /// The decode time of the open segment's first frame.
    open: Option<u64>,
    candidate: Option<Candidate>,
    /// Where the latest unit of the reference stream begins in the buffer.
    latest: usize,
    /// Since when a key frame is awaited while no segment is open.
    waiting: Option<u64>,
    /// The sum of the durations given out.
    position: u64,
    discontinuity: bool,
    given: bool,
    /// Tables are due once the candidate is decided.
    tables_due: bool,
}

impl Cutter {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            events: VecDeque::new(),
            writer: Writer::new(),
            timeline: Timeline::new(packet::TIME_BITS),
            reference: None,
            buffer: Vec::new(),
            pool: Pool::default(),
            open: None,
            candidate: None,
            latest: 0,
            waiting: None,
            position: 0,
            discontinuity: false,
            given: false,
            tables_due: false,
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// True once a segment was given out.
    pub(super) fn has_given(&self) -> bool {
        self.given
    }

    /// True while a picture is searched for what it is.
    pub(super) fn is_scanning(&self) -> bool {
        self.candidate.is_some()
    }

    /// Adds packets to the open segment; drops them while no segment is open.
    pub(super) fn append(&mut self, packets: &[u8]) -> Result<(), Error> {
        // Before the first key frame there is nothing that could be decoded.
        if self.open.is_none() && self.candidate.is_none() {
            return Ok(());
        }
        let max = self.config.max_bytes;
        if self.buffer.len() + packets.len() > max {
            return Err(Error::SegmentTooLarge { max });
        }
        self.buffer.extend_from_slice(packets);
        Ok(())
    }

    /// The program's tables came again: they are put where they were.
    pub(super) fn repeat(&mut self, tables: &Tables) {
        // Not into the middle of a unit that may have to go into the next segment.
        if self.candidate.is_some() {
            self.tables_due = true;
        } else if self.open.is_some() {
            self.writer.write(tables, &mut self.buffer);
        }
    }

    /// The program has other streams: the segment ends, another timeline begins.
    pub(super) fn replace(&mut self, reference: Option<Stream>) {
        // Before the reference changes: the length of its last frame is still asked for.
        self.end_segment();
        self.reference = reference;
        self.break_timeline();
    }

    /// Takes a packet in which a unit of the reference stream begins, before it is appended.
    pub(super) fn unit(&mut self, packet: &Packet, tables: &Tables) -> Result<(), Error> {
        if packet::is_scrambled(packet) {
            return Err(Error::Encrypted);
        }
        let Some(pes) = packet::pes(packet::payload(packet)) else {
            return Ok(());
        };
        // A cut needs a time; a unit without one goes on in the segment.
        let Some(time) = pes.time else { return Ok(()) };
        // The unit before has ended without a sign of a key frame.
        self.settle(Verdict::Plain, tables);
        // The segment ends here whether or not a key frame follows: its durations would be wrong.
        if self.timeline.advance(time) == Step::Jump {
            self.end_segment();
            self.break_timeline();
            self.timeline.advance(time);
        }
        let now = self.timeline.now();
        let due = self.is_due(now)?;
        self.latest = self.buffer.len();
        let coding = self.reference.map_or(Coding::Other, |stream| stream.coding);
        if due {
            let mut scan = KeyScan::new(coding);
            // What the sender marks need not be searched for.
            let marked = packet::is_random_access(packet);
            let verdict = if marked {
                Verdict::Key
            } else {
                scan.feed(pes.body)
            };
            self.candidate = Some(Candidate {
                at: self.buffer.len(),
                now,
                scan,
            });
            self.settle(verdict, tables);
        }
        Ok(())
    }

    /// Takes a further packet of the reference stream's unit, before it is appended.
    pub(super) fn more(&mut self, packet: &Packet, tables: &Tables) {
        if let Some(candidate) = &mut self.candidate {
            let verdict = candidate.scan.feed(packet::payload(packet));
            self.settle(verdict, tables);
        }
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self) {
        self.end_segment();
    }

    /// True when a key frame at `now` begins a segment.
    fn is_due(&mut self, now: u64) -> Result<bool, Error> {
        // Without an open segment it is counted from the first unit that was no key frame.
        let since = self
            .open
            .unwrap_or_else(|| *self.waiting.get_or_insert(now));
        let gap = now.saturating_sub(since);
        let max = self.config.max_duration;
        if gap > max {
            return Err(Error::KeyFrameGap {
                at: self.position.saturating_add(gap),
                gap,
                max,
            });
        }
        Ok(self.open.is_none() || self.config.is_due(gap))
    }

    /// Decides on the candidate.
    fn settle(&mut self, verdict: Verdict, tables: &Tables) {
        if verdict == Verdict::Open {
            return;
        }
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        // A segment that begins has its tables anyhow, so that they are written only where none
        // begins.
        let due = std::mem::take(&mut self.tables_due);
        if verdict == Verdict::Key {
            self.cut(&candidate, tables);
        // Kept only while it could have been the first key frame.
        } else if self.open.is_none() {
            self.buffer.clear();
        } else if due {
            self.writer.write(tables, &mut self.buffer);
        }
    }

    /// Ends the open segment before the candidate and begins the next with it.
    fn cut(&mut self, candidate: &Candidate, tables: &Tables) {
        // What came while the candidate was looked at belongs to the next segment.
        let tail = self.buffer.split_off(candidate.at.min(self.buffer.len()));
        let len = self.buffer.len();
        if let Some(start) = self.open {
            self.give(candidate.now.saturating_sub(start));
        }
        // The next segment will be about as large, so that its buffer seldom has to grow.
        let mut next = self.pool.take((len + len / 8).min(self.config.max_bytes));
        self.writer.write(tables, &mut next);
        self.latest = next.len();
        next.extend_from_slice(&tail);
        self.buffer = next;
        self.open = Some(candidate.now);
        self.waiting = None;
    }

    /// Ends the open segment after its last frame.
    fn end_segment(&mut self) {
        self.candidate = None;
        self.tables_due = false;
        if let Some(start) = self.open.take() {
            let end = self.timeline.now().saturating_add(self.last_frame());
            self.give(end.saturating_sub(start));
        }
        self.buffer.clear();
        self.latest = 0;
    }

    /// How long the latest unit lasts: by its audio frames, else as long as the one before.
    fn last_frame(&self) -> u64 {
        let interval = match self.timeline.interval() {
            0 => LONE_FRAME,
            interval => interval,
        };
        // A unit of audio holds several frames, and the last one may hold fewer than those before.
        let Some(stream) = self.reference.filter(|stream| stream.coding.is_audio()) else {
            return interval;
        };
        let packets = self.buffer.get(self.latest..).unwrap_or_default();
        inspect::last_unit_span(packets, stream).unwrap_or(interval)
    }

    /// Another timeline begins with the next unit.
    fn break_timeline(&mut self) {
        self.timeline.restart();
        self.waiting = None;
        // Before the first segment there is nothing that breaks.
        self.discontinuity = self.given;
    }

    /// Gives out the buffer as a segment.
    fn give(&mut self, duration: u64) {
        let data = std::mem::take(&mut self.buffer);
        let discontinuity = std::mem::take(&mut self.discontinuity);
        let start = self.position;
        self.position = self.position.saturating_add(duration);
        self.given = true;
        let data = self.pool.lend(data);
        self.events.push_back(Event::Segment(Segment {
            start,
            duration,
            discontinuity,
            data,
        }));
    }
}
