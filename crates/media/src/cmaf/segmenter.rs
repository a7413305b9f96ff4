//! Groups the fragments of a stream into segments.

use std::collections::VecDeque;

use bytes::Bytes;

use super::boxes::{self, Header};
use super::fragment::{self, Fragment};
use super::init::{self, Track};
use crate::timeline::{Step, Timeline};
use crate::{Config, Error, Event, Pool, Segment};

/// The most bytes of a `moov` or `moof` box.
/// At 16 bytes for a sample this is a million of them.
const MAX_INDEX: u64 = 16 << 20;
/// The most bytes of a small box that is kept.
const MAX_SMALL: u64 = 256 << 10;
/// The most bytes of small boxes before one fragment.
const MAX_PREFIX: usize = 1 << 20;

/// What the next bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The header of a box.
    Header,
    /// A box of this many bytes with its header, which is held until it is whole.
    Collect(Header, usize),
    /// The rest of a media data box; `None` reaches to the end.
    Data(Option<u64>),
    /// The rest of a box that is left out.
    Skip(Option<u64>),
}

/// Cuts fragmented MP4 into segments; see [`crate::Segmenter`].
#[derive(Debug)]
pub struct Segmenter {
    config: Config,
    events: VecDeque<Event>,
    state: State,
    /// A box that is not whole yet.
    part: Vec<u8>,
    saw_box: bool,
    brand: Vec<u8>,
    init: Vec<u8>,
    reference: Option<Track>,
    /// Small boxes that belong to the next fragment.
    prefix: Vec<u8>,
    /// Fragments of the open segment.
    buffer: Vec<u8>,
    pool: Pool,
    /// True while the data of the current fragment is kept.
    keep: bool,
    saw_fragment: bool,
    /// True once the data of the current fragment is complete.
    complete: bool,
    /// Bytes and end of the open segment without the current fragment.
    before: (usize, u64),
    timeline: Timeline,
    /// The timeline's time at the first fragment of the open segment.
    open: Option<u64>,
    /// The timeline's time after the last fragment.
    end: u64,
    /// Decode time after the last fragment, in the track's units.
    next_time: u64,
    position: u64,
    discontinuity: bool,
    given: bool,
    refused: Option<Error>,
}

impl Segmenter {
    /// A segmenter for one stream.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            events: VecDeque::new(),
            state: State::Header,
            part: Vec::new(),
            saw_box: false,
            brand: Vec::new(),
            init: Vec::new(),
            reference: None,
            prefix: Vec::new(),
            buffer: Vec::new(),
            pool: Pool::default(),
            keep: false,
            saw_fragment: false,
            complete: true,
            before: (0, 0),
            // Decode times of MP4 have up to 64 bits.
            timeline: Timeline::new(64),
            open: None,
            end: 0,
            next_time: 0,
            position: 0,
            discontinuity: false,
            given: false,
            refused: None,
        }
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            data = match self.state {
                State::Header => self.header(data)?,
                State::Collect(header, size) => self.collect(header, size, data)?,
                State::Data(left) => {
                    let (body, rest) = split(data, left);
                    self.keep_data(body)?;
                    self.state = after(left, body, State::Data);
                    self.complete = self.state == State::Header;
                    rest
                }
                State::Skip(left) => {
                    let (body, rest) = split(data, left);
                    self.state = after(left, body, State::Skip);
                    rest
                }
            };
        }
        Ok(())
    }

    /// Gathers a box header; gives the bytes after it.
    fn header<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Error> {
        // The first 8 bytes tell whether a length of 64 bits follows.
        let want = if self.part.len() < 8 { 8 } else { 16 };
        let (head, rest) = data.split_at(data.len().min(want - self.part.len().min(want)));
        self.part.extend_from_slice(head);
        if let Some(header) = boxes::header(&self.part)? {
            self.begin(header)?;
        }
        Ok(rest)
    }

    /// Decides what happens to a box.
    fn begin(&mut self, header: Header) -> Result<(), Error> {
        if !header
            .kind
            .iter()
            .all(|byte| matches!(byte, 0x20..=0x7e | 0xa9))
        {
            return Err(match self.saw_box {
                true => Error::malformed("a box has no readable type"),
                false => Error::NotMp4,
            });
        }
        let known = matches!(
            &header.kind,
            b"ftyp"
                | b"styp"
                | b"moov"
                | b"moof"
                | b"mdat"
                | b"free"
                | b"skip"
                | b"sidx"
                | b"emsg"
                | b"prft"
                | b"wide"
                | b"pdin"
                | b"uuid"
        );
        // A text may begin with letters that look like a type, so the first box has to be a known
        // one.
        if !self.saw_box && !known {
            return Err(Error::NotMp4);
        }
        self.saw_box = true;
        let max = match &header.kind {
            b"moov" | b"moof" => MAX_INDEX,
            b"ftyp" | b"prft" | b"emsg" => MAX_SMALL,
            b"mdat" => return self.begin_data(header),
            _ => 0,
        };
        // What is too large or not needed is passed over as it comes, and never held.
        let Some(body) = header.body.filter(|body| *body <= max) else {
            if matches!(&header.kind, b"moov" | b"moof" | b"ftyp") {
                return Err(Error::LimitReached {
                    what: "an index box is too large",
                });
            }
            self.part.clear();
            self.state = skip(header.body);
            return Ok(());
        };
        let size = header.len + body as usize;
        self.state = State::Collect(header, size);
        // A box without a body is whole with its header.
        if self.part.len() >= size {
            self.whole(header)?;
        }
        Ok(())
    }

    fn begin_data(&mut self, header: Header) -> Result<(), Error> {
        if self.reference.is_none() || !self.saw_fragment {
            return Err(Error::NotFragmented);
        }
        let head = std::mem::take(&mut self.part);
        let max = self.config.max_bytes;
        // At once, and not after so many bytes have been gathered in vain.
        if self.keep && header.body.is_some_and(|body| body > max as u64) {
            return Err(Error::SegmentTooLarge { max });
        }
        self.keep_data(&head)?;
        self.state = match header.body {
            Some(0) => State::Header,
            body => State::Data(body),
        };
        self.complete = self.state == State::Header;
        Ok(())
    }

    fn collect<'a>(
        &mut self,
        head: Header,
        size: usize,
        data: &'a [u8],
    ) -> Result<&'a [u8], Error> {
        let (body, rest) = data.split_at(data.len().min(size.saturating_sub(self.part.len())));
        self.part.extend_from_slice(body);
        if self.part.len() >= size {
            self.whole(head)?;
        }
        Ok(rest)
    }

    /// Handles a box that is whole.
    fn whole(&mut self, header: Header) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.part);
        self.state = State::Header;
        let body = bytes.get(header.len..).unwrap_or_default();
        match &header.kind {
            b"ftyp" => self.brand = bytes,
            b"moov" => self.begin_stream(body, &bytes)?,
            b"moof" => {
                // First, as it may end the segment to which what is held would go.
                self.begin_fragment(body)?;
                let prefix = std::mem::take(&mut self.prefix);
                self.keep_data(&prefix)?;
                self.keep_data(&bytes)?;
            }
            // These say something of the next fragment (`emsg`, `prft`), so they go with it.
            _ if self.prefix.len() + bytes.len() <= MAX_PREFIX => self.prefix.extend(bytes),
            _ => {}
        }
        Ok(())
    }

    /// An init segment came: the same again changes nothing, another begins another stream.
    fn begin_stream(&mut self, moov: &[u8], bytes: &[u8]) -> Result<(), Error> {
        let init = [self.brand.as_slice(), bytes].concat();
        // Live encoders repeat it; to cut there would break the stream for nothing.
        if init == self.init {
            return Ok(());
        }
        // All is read before anything is changed.
        let tracks = init::tracks(moov)?;
        let reference = init::reference(&tracks).cloned().ok_or(Error::NoMedia)?;
        self.end_segment();
        self.break_timeline();
        self.reference = Some(reference);
        self.saw_fragment = false;
        self.events
            .push_back(Event::Init(Bytes::copy_from_slice(&init)));
        self.init = init;
        Ok(())
    }

    /// A fragment came: it continues the open segment, begins the next one, or is dropped.
    fn begin_fragment(&mut self, moof: &[u8]) -> Result<(), Error> {
        let Some(track) = &self.reference else {
            return Err(Error::NoInit);
        };
        let timescale = track.timescale;
        let found = fragment::read(moof, track)?;
        self.saw_fragment = true;
        self.complete = false;
        // To here the segment is cut back when the stream ends within this fragment.
        self.before = (self.buffer.len(), self.end);
        let Some(found) = found else {
            // Fragments of other tracks before the first one of the reference belong to it.
            self.keep = self.open.is_some() || self.keep || self.buffer.is_empty();
            return Ok(());
        };
        let time = found.time.unwrap_or(self.next_time);
        if self.timeline.advance(fragment::ticks(time, timescale)) == Step::Jump {
            self.end_segment();
            self.break_timeline();
            self.timeline.advance(fragment::ticks(time, timescale));
        }
        let now = self.timeline.now();
        self.next_time = time.saturating_add(found.duration);
        // The difference of two rounded times, so that rounding does not add up over the stream.
        let lasts = fragment::ticks(self.next_time, timescale)
            .saturating_sub(fragment::ticks(time, timescale));
        self.place(found, now);
        // Again, as `place` may have given the buffer out.
        self.before.0 = self.buffer.len();
        self.end = now.saturating_add(lasts);
        let start = self.open.unwrap_or(self.end);
        let (gap, max) = (self.end.saturating_sub(start), self.config.max_duration);
        if gap > max {
            return Err(Error::KeyFrameGap {
                at: self.position.saturating_add(gap),
                gap,
                max,
            });
        }
        Ok(())
    }

    /// Cuts before a fragment of the reference track where a cut is due.
    fn place(&mut self, found: Fragment, now: u64) {
        match self.open {
            // Nothing can be decoded before the first key frame.
            None if !found.key => {
                self.buffer.clear();
                self.keep = false;
            }
            None => {
                self.open = Some(now);
                self.keep = true;
            }
            Some(start) if found.key && self.config.is_due(now.saturating_sub(start)) => {
                self.give(now.saturating_sub(start));
                self.open = Some(now);
            }
            Some(_) => {}
        }
    }

    /// Adds bytes to the open segment, unless the current fragment is dropped.
    fn keep_data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if !self.keep {
            return Ok(());
        }
        let max = self.config.max_bytes;
        if self.buffer.len() + bytes.len() > max {
            return Err(Error::SegmentTooLarge { max });
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn end_segment(&mut self) {
        if let Some(start) = self.open.take() {
            self.give(self.end.saturating_sub(start));
        }
        self.buffer.clear();
        self.keep = false;
    }

    fn break_timeline(&mut self) {
        self.timeline.restart();
        // Before the first segment there is nothing that breaks.
        self.discontinuity = self.given;
    }

    fn give(&mut self, duration: u64) {
        // The next segment will be about as large, so that its buffer seldom has to grow.
        let room = (self.buffer.len() + self.buffer.len() / 8).min(self.config.max_bytes);
        let data = std::mem::replace(&mut self.buffer, self.pool.take(room));
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

    /// Ends the stream. A fragment that is not whole is left out of the last segment.
    fn end(&mut self) -> Result<(), Error> {
        // A box without a length reaches to the end of the stream, so that any end of it is right.
        let (boundary, complete) = match self.state {
            State::Header => (self.part.is_empty(), self.complete),
            State::Data(left) => (left.is_none(), left.is_none()),
            State::Skip(left) => (left.is_none(), self.complete),
            State::Collect(..) => (false, self.complete),
        };
        if !complete && self.open.is_some() {
            // Half a fragment cannot be played, and its index names data that is not there.
            (_, self.end) = self.before;
            self.buffer.truncate(self.before.0);
            self.open = self.open.filter(|_| !self.buffer.is_empty());
        }
        self.end_segment();
        if !boundary || !complete {
            Err(Error::malformed("the file ends within a box"))
        } else if self.given {
            Ok(())
        } else if !self.saw_box {
            Err(Error::NotMp4)
        } else if self.reference.is_none() {
            Err(Error::NoInit)
        } else {
            Err(Error::NoKeyFrame)
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.refused.map_or(Ok(()), Err)
    }
}

/// The bytes of a box that has `left` bytes, and those after it.
fn split(data: &[u8], left: Option<u64>) -> (&[u8], &[u8]) {
    let len = left
        .and_then(|left| usize::try_from(left).ok())
        .unwrap_or(usize::MAX);
    data.split_at(data.len().min(len))
}

/// The state after `used` bytes of a box that had `left` bytes.
fn after(left: Option<u64>, used: &[u8], state: fn(Option<u64>) -> State) -> State {
    match left.map(|left| left.saturating_sub(used.len() as u64)) {
        Some(0) => State::Header,
        left => state(left),
    }
}

fn skip(left: Option<u64>) -> State {
    if left == Some(0) {
        State::Header
    } else {
        State::Skip(left)
    }
}

impl crate::Segmenter for Segmenter {
    fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        self.check()?;
        let result = self.take(data);
        self.refused = result.err();
        result
    }

    fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.check()?;
        let result = self.end();
        // Also after success: more input would begin in the middle of nothing.
        self.refused = Some(result.err().unwrap_or(Error::Finished));
        result
    }
}
