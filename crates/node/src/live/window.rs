//! The newest part of a live stream, in memory: what players ask for while it runs.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use lavant_media::live::Part;
use lavant_proto::time::{TICKS_PER_SECOND, Time};

/// A segment keeps its bytes until it is durable and so many target durations from the end: by
/// then players have stopped asking for its parts (RFC 8216bis section 4.4.4.9).
const HELD: u64 = 6;
/// The fewest segments that a window has, however long they are (RFC 8216bis section 6.2.2).
const SEGMENTS_MIN: usize = 3;

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its number.
    pub(super) no: u64,
    /// Number of the init segment that it needs.
    pub(super) init: u64,
    pub(super) discontinuity: bool,
    /// When its first frame was taken.
    pub(super) date: Time,
    /// Where it begins, in ticks of the stream.
    pub(super) start: u64,
    /// Ticks that it lasts; those so far while it is open.
    pub(super) duration: u64,
    /// Whether it can be decoded without those before it.
    pub(super) independent: bool,
    /// Its parts; none once it is only in the store.
    pub(super) parts: Vec<Part>,
    /// All of it, unless it is open or only in the store.
    pub(super) data: Option<Bytes>,
    pub(super) is_open: bool,
    is_stored: bool,
    /// The store has not got it, or no longer.
    is_lost: bool,
}

/// What is asked for by its number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Here(Bytes),
    /// It is the next to come.
    Soon,
    /// It was here, or never will be.
    Gone,
}

/// What comes next for whoever takes all parts in their order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Part {
        /// Number of the init segment that it needs.
        init: u64,
        /// Its place: segment and part.
        place: (u64, u64),
        data: Bytes,
    },
    /// It has not come yet.
    Wait,
    /// Nothing follows.
    End,
}

/// The segments that players are told of.
#[derive(Debug)]
pub(super) struct Window {
    /// Ticks that it covers.
    length: u64,
    /// Target duration in seconds, and part target in ticks.
    pub(super) targets: Option<(u64, u64)>,
    inits: VecDeque<(u64, Bytes)>,
    /// The first init segment that was not handed over to be written.
    unwritten: u64,
    pub(super) segments: VecDeque<Segment>,
    /// Discontinuities of segments that left the window.
    pub(super) discontinuities_gone: u64,
    /// Number of the next segment, and of the next init segment.
    next: u64,
    next_init: u64,
    pub(super) has_ended: bool,
}

impl Window {
    /// A window of `length` ticks. `next` and `next_init` are the first numbers that are free.
    pub(super) fn new(length: u64, next: u64, next_init: u64) -> Self {
        Self {
            length,
            targets: None,
            inits: VecDeque::new(),
            unwritten: next_init,
            segments: VecDeque::new(),
            discontinuities_gone: 0,
            next,
            next_init,
            has_ended: false,
        }
    }

    /// What follows needs this init segment. The same bytes as before keep their number.
    pub(super) fn init(&mut self, data: Bytes) {
        if self.inits.back().is_none_or(|(_, held)| *held != data) {
            self.inits.push_back((self.next_init, data));
            self.next_init += 1;
        }
    }

    /// The init segments since the last call, with their numbers.
    pub(super) fn new_inits(&mut self) -> Vec<(u64, Bytes)> {
        let new = self.inits.iter().filter(|(no, _)| *no >= self.unwritten);
        let new = new.cloned().collect();
        self.unwritten = self.next_init;
        new
    }

    /// A segment begins.
    pub(super) fn begin(&mut self, start: u64, discontinuity: bool, date: Time) {
        let Some((init, _)) = self.inits.back() else {
            return;
        };
        self.segments.push_back(Segment {
            no: self.next,
            init: *init,
            discontinuity,
            date,
            start,
            duration: 0,
            independent: false,
            parts: Vec::new(),
            data: None,
            is_open: true,
            is_stored: false,
            is_lost: false,
        });
        self.next += 1;
    }

    /// The next part of the open segment. Gives the tick at which it ends.
    pub(super) fn part(&mut self, part: Part) -> Option<u64> {
        let open = self.open_mut()?;
        open.independent |= open.parts.is_empty() && part.independent;
        open.duration += part.duration;
        let end = open.start + open.duration;
        open.parts.push(part);
        Some(end)
    }

    /// The open segment is whole. Gives it, with all its bytes; `None` when it has none.
    pub(super) fn end(&mut self, duration: u64, independent: bool) -> Option<&Segment> {
        let open = self.open_mut()?;
        if open.parts.is_empty() {
            self.segments.pop_back();
            self.next -= 1;
            return None;
        }
        let length = open.parts.iter().map(|part| part.data.len()).sum();
        let mut whole = BytesMut::with_capacity(length);
        for part in &open.parts {
            whole.extend_from_slice(&part.data);
        }
        let whole = whole.freeze();
        // The parts share the bytes of the whole from now on, so that they are held once.
        let mut at = 0;
        for part in &mut open.parts {
            let end = at + part.data.len();
            part.data = whole.slice(at..end);
            at = end;
        }
        open.data = Some(whole);
        open.duration = duration;
        open.independent = independent;
        open.is_open = false;
        self.trim();
        self.segments.back()
    }

    /// The segment is in the store: it can be read there.
    pub(super) fn stored(&mut self, no: u64) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.no == no) {
            segment.is_stored = true;
        }
        self.trim();
    }

    /// The store did not take the segment, or let it go: it can be had for as long as it is in
    /// memory.
    pub(super) fn lost(&mut self, no: u64) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.no == no) {
            segment.is_lost = true;
        }
        self.trim();
    }

    fn open_mut(&mut self) -> Option<&mut Segment> {
        self.segments.back_mut().filter(|segment| segment.is_open)
    }

    /// Lets go of what is too old, and of what could not be fetched any more.
    fn trim(&mut self) {
        let mut covered: u64 = self.segments.iter().map(|segment| segment.duration).sum();
        while let Some(first) = self.segments.front()
            && self.segments.len() > SEGMENTS_MIN
            && covered - first.duration >= self.length
        {
            covered -= first.duration;
            self.pop_front();
        }
        let held = HELD * self.target_duration() * TICKS_PER_SECOND;
        let mut gone = 0;
        for (index, segment) in self.segments.iter_mut().enumerate() {
            covered -= segment.duration;
            if covered < held {
                break;
            }
            if segment.is_stored || segment.is_lost {
                segment.parts = Vec::new();
                segment.data = None;
            }
            if segment.is_lost {
                gone = index + 1;
            }
        }
        // A list may lose entries at its front alone (RFC 8216bis section 6.2.1).
        for _ in 0..gone {
            self.pop_front();
        }
        let oldest = self.segments.front().map(|first| first.init);
        while self.inits.len() > 1 && self.inits.front().is_some_and(|(no, _)| Some(*no) < oldest) {
            self.inits.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(first) = self.segments.pop_front() {
            self.discontinuities_gone += u64::from(first.discontinuity);
        }
    }

    /// The target duration in seconds; 2 while it is not known.
    pub(super) fn target_duration(&self) -> u64 {
        self.targets.map_or(2, |(seconds, _)| seconds)
    }

    /// Whether a playlist can be written: with a whole segment, or with a part when that is enough.
    pub(super) fn is_playable(&self, with_parts: bool) -> bool {
        let is_begun =
            |segment: &Segment| !segment.is_open || (with_parts && !segment.parts.is_empty());
        self.targets.is_some() && self.segments.iter().any(is_begun)
    }

    /// Number of the segment that is open, or that comes next.
    pub(super) fn edge(&self) -> u64 {
        match self.segments.back() {
            Some(last) if last.is_open => last.no,
            _ => self.next,
        }
    }

    /// Parts of the segment at the edge.
    fn edge_parts(&self) -> u64 {
        match self.segments.back() {
            Some(last) if last.is_open => last.parts.len() as u64,
            _ => 0,
        }
    }

    /// Whether a playlist has the segment `msn` as a whole, or its part `part` (RFC 8216bis section
    /// 6.2.5.2). A part past the end of a whole segment means the first of the next one.
    pub(super) fn reaches(&self, msn: u64, part: Option<u64>) -> bool {
        let edge = self.edge();
        let Some(part) = part else {
            return msn < edge;
        };
        if msn >= edge {
            return msn == edge && part < self.edge_parts();
        }
        let len = |segment: &Segment| segment.parts.len() as u64;
        let last = self.segments.iter().find(|segment| segment.no == msn);
        let is_past = msn + 1 == edge && last.is_some_and(|last| part >= len(last));
        !is_past || self.edge_parts() > 0
    }

    /// The init segment of a number.
    pub(super) fn init_of(&self, no: u64) -> Option<Bytes> {
        let found = self.inits.iter().find(|(held, _)| *held == no);
        found.map(|(_, data)| data.clone())
    }

    /// The whole segment of a number.
    pub(super) fn segment(&self, no: u64) -> Option<Bytes> {
        let found = self.segments.iter().find(|segment| segment.no == no)?;
        found.data.clone()
    }

    /// The part after `last`; the first one of the newest segment for whoever begins, and for
    /// whoever is so slow that the next one is gone.
    pub(super) fn after(&self, last: Option<(u64, u64)>) -> Next {
        let part_at = |no: u64, part: u64| {
            let segment = self.segments.iter().find(|segment| segment.no == no)?;
            let found = segment.parts.get(usize::try_from(part).ok()?)?;
            Some(Next::Part {
                init: segment.init,
                place: (no, part),
                data: found.data.clone(),
            })
        };
        let nothing = || match self.has_ended {
            true => Next::End,
            false => Next::Wait,
        };
        if let Some((no, part)) = last {
            let next = part_at(no, part + 1).or_else(|| part_at(no + 1, 0));
            if let Some(next) = next {
                return next;
            }
            if no + 1 >= self.edge() {
                return nothing();
            }
        }
        let mut newest = self.segments.iter().rev();
        let newest = newest.find_map(|segment| part_at(segment.no, 0));
        newest.unwrap_or_else(nothing)
    }

    /// A part of a segment.
    pub(super) fn part_of(&self, no: u64, part: u64) -> Found {
        let edge = self.edge();
        if !self.has_ended && no == edge && part == self.edge_parts() {
            return Found::Soon;
        }
        let found = self.segments.iter().find(|segment| segment.no == no);
        let part = usize::try_from(part).unwrap_or(usize::MAX);
        match found.and_then(|segment| segment.parts.get(part)) {
            Some(part) => Found::Here(part.data.clone()),
            None => Found::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(byte: u8) -> Part {
        Part {
            data: Bytes::from(vec![byte; 10]),
            duration: TICKS_PER_SECOND / 2,
            independent: byte.is_multiple_of(4),
        }
    }

    /// Segments of four parts.
    fn filled(window: &mut Window, segments: u64) {
        for _ in 0..segments {
            let no = window.next;
            window.begin(no * 2 * TICKS_PER_SECOND, false, Time(0));
            for n in 0..4u64 {
                window.part(part((no * 4 + n) as u8));
            }
            window.end(2 * TICKS_PER_SECOND, true);
        }
    }

    fn window() -> Window {
        let mut window = Window::new(20 * TICKS_PER_SECOND, 5, 0);
        window.init(Bytes::from_static(b"i"));
        window.init(Bytes::from_static(b"i"));
        assert_eq!(window.new_inits(), [(0, Bytes::from_static(b"i"))]);
        assert!(window.new_inits().is_empty());
        window.targets = Some((2, TICKS_PER_SECOND / 2));
        window
    }

    #[test]
    fn what_is_asked_for_waits_for_exactly_that() {
        let mut window = window();
        assert!(!window.is_playable(true) && !window.reaches(5, Some(0)));
        window.begin(0, false, Time(0));
        window.part(part(0));
        assert!(window.is_playable(true) && !window.is_playable(false));
        assert!(window.reaches(5, Some(0)) && !window.reaches(5, Some(1)));
        assert!(!window.reaches(5, None));
        assert_eq!(window.part_of(5, 1), Found::Soon);
        assert_eq!(window.part_of(5, 2), Found::Gone);
        window.end(TICKS_PER_SECOND / 2, true);
        assert!(window.reaches(5, None) && !window.reaches(6, None));
        // The segment ended where its second part was expected: that is the first of the next.
        assert!(!window.reaches(5, Some(1)));
        assert_eq!(window.part_of(5, 1), Found::Gone);
        assert_eq!(window.part_of(6, 0), Found::Soon);
        window.begin(TICKS_PER_SECOND / 2, false, Time(0));
        assert!(!window.reaches(5, Some(1)));
        window.part(part(1));
        assert!(window.reaches(5, Some(1)) && window.reaches(6, Some(0)));
    }

    #[test]
    fn what_is_durable_and_old_leaves_memory_and_then_the_list() {
        let mut window = window();
        filled(&mut window, 30);
        // Nothing of the list is let go before it is durable.
        assert_eq!((window.segments.len(), window.segments[0].no), (10, 25));
        assert!(window.segments.iter().all(|segment| segment.data.is_some()));
        for no in 0..35 {
            window.stored(no);
        }
        let held: Vec<u64> = (25..35)
            .filter(|no| window.segment(*no).is_some())
            .collect();
        assert_eq!(held, [29, 30, 31, 32, 33, 34]);
        assert_eq!(window.part_of(34, 3), Found::Here(part(139).data));
        assert_eq!(window.part_of(26, 0), Found::Gone);
        let whole = window.segment(34).unwrap();
        assert_eq!(whole.len(), 40);
        assert_eq!(&whole[30..], &[139; 10]);
    }

    #[test]
    fn what_cannot_be_fetched_is_not_listed() {
        let mut window = window();
        filled(&mut window, 10);
        for no in 5..15 {
            window.stored(no);
        }
        // In memory it can still be had.
        window.lost(12);
        assert_eq!((window.segments[0].no, window.segments.len()), (5, 10));
        assert!(window.segment(12).is_some());
        // One that was let go takes those before it along, as a list has no holes.
        window.lost(7);
        assert_eq!((window.segments[0].no, window.segments.len()), (8, 7));
        filled(&mut window, 4);
        assert_eq!(window.segments[0].no, 13);
        assert!(
            window
                .segments
                .iter()
                .all(|it| it.data.is_some() || it.is_stored)
        );
    }

    #[test]
    fn whoever_follows_gets_each_part_once_and_the_newest_when_it_is_late() {
        let mut window = window();
        assert_eq!(window.after(None), Next::Wait);
        filled(&mut window, 2);
        let mut last = None;
        let mut places = Vec::new();
        while let Next::Part { place, init, .. } = window.after(last) {
            assert_eq!(init, 0);
            places.push(place);
            last = Some(place);
        }
        // It begins with the newest.
        assert_eq!(places, [(6, 0), (6, 1), (6, 2), (6, 3)]);
        assert_eq!(window.after(last), Next::Wait);
        window.begin(14 * TICKS_PER_SECOND, false, Time(0));
        window.part(part(0));
        let next = |last| match window.after(last) {
            Next::Part { place, .. } => place,
            other => panic!("{other:?}"),
        };
        assert_eq!(next(last), (7, 0));
        // Segment 3 is long gone.
        assert_eq!(next(Some((3, 1))), (7, 0));
        window.has_ended = true;
        assert_eq!(window.after(Some((7, 0))), Next::End);
    }

    #[test]
    fn a_segment_without_parts_never_was() {
        let mut window = window();
        window.begin(0, true, Time(0));
        assert!(window.end(0, false).is_none());
        assert_eq!((window.next, window.segments.len()), (5, 0));
    }
}
