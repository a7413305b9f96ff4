//! Frames and how they are written: a header of 9 bytes, then the bytes.
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | length of what follows the header, big-endian |
//! | 1 | kind, see below |
//! | 4 | number, big-endian: of the request, or of a pushed piece; 0 where there is none |
//!
//! | kind | meaning |
//! |---|---|
//! | 0, 3, 4 | control, close (with the reason), hello |
//! | 1, 2, 5 | data, last data of its request, part |
//! | 6, 7 | pushed data, last pushed data of its piece |
//!
//! The same form is used on a TCP link and on every stream of a QUIC link. A **part** holds bytes
//! that come before those of the next data frame of its number: where a frame takes long to cross,
//! it is cut, so that what is urgent goes between its parts.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};
use lavant_proto::content::{clean_title, is_hidden};

use super::LinkError;

/// Most bytes of a control frame.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a data frame: one chunk group (16 KiB) and 2 KiB of proof, which is 32 pairs of
/// hashes, more than a tree of 2^31 chunk groups has levels.
pub const DATA_BYTES_MAX: usize = 18 * 1024;
/// Most bytes of the reason with which a link is closed.
pub const REASON_BYTES_MAX: usize = 200;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 9;
/// Room that is always free to read into, so that a read is worth its system call.
pub(super) const SPARE_MIN: usize = 128 * 1024;
/// Bytes of the buffer that frames are slices of.
const BUFFER_BYTES: usize = 256 * 1024;
/// Buffers that are kept for use again while frames that were given out may still hold them.
const KEPT_MAX: usize = 4;

const CONTROL: u8 = 0;
const DATA: u8 = 1;
const LAST: u8 = 2;
const CLOSE: u8 = 3;
const HELLO: u8 = 4;
const PART: u8 = 5;
const PUSHED: u8 = 6;
const LAST_PUSHED: u8 = 7;

/// Most frames of which parts came and the end did not: one of each urgency.
const UNFINISHED_MAX: usize = Urgency::COUNT;

/// What crosses a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message; at most [`CONTROL_BYTES_MAX`].
    Control(Bytes),
    /// A piece of the answer to a request; at most [`DATA_BYTES_MAX`].
    Data {
        /// The number the asker gave to its request.
        request: u32,
        /// Whether the answer ends here.
        last: bool,
        /// The piece. It may share a buffer of up to 256 KiB with its neighbours: copy what is
        /// kept for long.
        bytes: Bytes,
    },
    /// A piece of something that nobody asked for; at most [`DATA_BYTES_MAX`].
    Pushed {
        /// The number that the sender gave to it, beside the numbers of requests.
        push: u32,
        /// Whether it ends here.
        last: bool,
        /// The piece, as of [`Frame::Data`].
        bytes: Bytes,
    },
}

/// How urgent the data frames of a request are. Control frames go before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// What is late when it waits.
    Live,
    /// What is needed soon.
    Soon,
    /// What has time.
    Bulk,
}

impl Urgency {
    /// The most urgent first.
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Live, Self::Soon, Self::Bulk];
    pub(crate) const COUNT: usize = 3;
}

/// Frames that wait to be sent: the most urgent goes first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    control: VecDeque<Frame>,
    data: [VecDeque<Frame>; Urgency::COUNT],
}

impl Waiting {
    pub(super) fn push(&mut self, frame: Frame, urgency: Urgency) {
        match frame {
            Frame::Control(_) => self.control.push_back(frame),
            Frame::Data { .. } | Frame::Pushed { .. } => {
                self.data[urgency as usize].push_back(frame);
            }
        }
    }

    /// Whether something waits that is as urgent or more so.
    pub(super) fn has(&self, urgency: Urgency) -> bool {
        let mut data = self.data[..=urgency as usize].iter();
        !self.control.is_empty() || data.any(|frames| !frames.is_empty())
    }

    /// Of what kind the next one is: a control frame, or of which urgency.
    pub(super) fn first(&self) -> Option<usize> {
        let mut kinds = std::iter::once(&self.control).chain(&self.data);
        kinds.position(|frames| !frames.is_empty())
    }

    /// The next frame as it is written, or a part of at most `most` bytes of it.
    pub(super) fn next(&mut self, most: usize) -> Option<([u8; HEADER_BYTES], Bytes)> {
        if let Some(control) = self.control.pop_front() {
            return Some(control.into_parts());
        }
        let waiting = self.data.iter_mut().find(|frames| !frames.is_empty())?;
        if let Some(Frame::Data { request, bytes, .. }) = waiting.front_mut()
            && bytes.len() > most
        {
            let part = bytes.split_to(most);
            return Some((header(PART, *request, part.len()), part));
        }
        waiting.pop_front().map(Frame::into_parts)
    }
}

impl Frame {
    /// Whether the other side would accept it.
    pub(super) fn check(&self) -> Result<(), LinkError> {
        let (length, most) = match self {
            Self::Control(bytes) => (bytes.len(), CONTROL_BYTES_MAX),
            Self::Data { bytes, .. } | Self::Pushed { bytes, .. } => (bytes.len(), DATA_BYTES_MAX),
        };
        if length > most {
            return Err(LinkError::TooLong { length, most });
        }
        Ok(())
    }

    /// The header and the bytes after it.
    pub(super) fn into_parts(self) -> ([u8; HEADER_BYTES], Bytes) {
        let (kind, number, bytes) = match self {
            Self::Control(bytes) => (CONTROL, 0, bytes),
            Self::Data {
                request,
                last,
                bytes,
            } => (if last { LAST } else { DATA }, request, bytes),
            Self::Pushed { push, last, bytes } => {
                (if last { LAST_PUSHED } else { PUSHED }, push, bytes)
            }
        };
        (header(kind, number, bytes.len()), bytes)
    }
}

/// The frame that ends a link, cut to a whole character.
pub(super) fn close_frame(reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    [&header(CLOSE, 0, reason.len()), reason.as_bytes()].concat()
}

/// What the other side says for people, as it may be shown in a terminal and a log: one line
/// without control characters and what changes the direction of writing, at most
/// [`REASON_BYTES_MAX`] bytes.
pub(super) fn shown(said: &[u8]) -> String {
    let said = &said[..said.len().min(REASON_BYTES_MAX)];
    let text = String::from_utf8_lossy(said).replace(is_hidden, " ");
    // It makes one space of several, too.
    let mut text = clean_title(&text);
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    text
}

/// The frame by which a stream is opened, as QUIC shows a stream only once bytes are on it.
pub(super) fn hello_frame() -> [u8; HEADER_BYTES] {
    header(HELLO, 0, 0)
}

fn header(kind: u8, number: u32, length: usize) -> [u8; HEADER_BYTES] {
    // No frame is so long; the other side would refuse it.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_be_bytes());
    header[4] = kind;
    header[5..].copy_from_slice(&number.to_be_bytes());
    header
}

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: BytesMut,
    // Empty ones: the system is slow to give out memory.
    kept: Vec<BytesMut>,
    // Parts of frames that have not ended, by number.
    parts: BTreeMap<u32, Vec<u8>>,
}

impl FrameReader {
    /// The buffer to append to, with at least [`SPARE_MIN`] free.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        // Memory that frames still hold is not reclaimed, so their bytes stay as they came.
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < SPARE_MIN && !self.buffer.try_reclaim(BUFFER_BYTES) {
            // The frames given out still hold the old piece: only an unfinished frame is copied.
            let mut fresh = self.fresh();
            fresh.extend_from_slice(&self.buffer);
            let mut old = std::mem::replace(&mut self.buffer, fresh);
            if self.kept.len() < KEPT_MAX && old.capacity() > 0 {
                old.clear();
                self.kept.push(old);
            }
        }
        &mut self.buffer
    }

    fn fresh(&mut self) -> BytesMut {
        let free = |kept: &mut BytesMut| kept.try_reclaim(BUFFER_BYTES);
        match self.kept.iter_mut().position(free) {
            Some(at) => self.kept.swap_remove(at),
            None => BytesMut::with_capacity(BUFFER_BYTES),
        }
    }

    /// Moves every whole frame to `out`; those before an error or the end are moved too.
    pub(super) fn take(&mut self, out: &mut Vec<Frame>) -> Result<(), LinkError> {
        while let Some(&[l0, l1, l2, l3, kind, r0, r1, r2, r3]) = self.buffer.first_chunk() {
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            let number = u32::from_be_bytes([r0, r1, r2, r3]);
            let most = match kind {
                CONTROL => CONTROL_BYTES_MAX,
                DATA | LAST | PART => DATA_BYTES_MAX - self.begun(number),
                PUSHED | LAST_PUSHED => DATA_BYTES_MAX,
                CLOSE => REASON_BYTES_MAX,
                HELLO => 0,
                _ => return Err(LinkError::UnknownKind(kind)),
            };
            // Before the bytes are waited for: a length of 4 GB must not make the buffer grow.
            if length > most {
                return Err(LinkError::TooLong { length, most });
            }
            // The header stays, and is read again when more has come.
            if self.buffer.len() < HEADER_BYTES + length {
                break;
            }
            self.buffer.advance(HEADER_BYTES);
            match kind {
                // Few and often kept for long, so they do not hold a whole buffer. Where messages
                // pass, less data does: a buffer is given back.
                CONTROL => {
                    self.kept.pop();
                    out.push(Frame::Control(Bytes::copy_from_slice(
                        &self.buffer[..length],
                    )));
                    self.buffer.advance(length);
                }
                CLOSE => {
                    let reason = shown(&self.buffer[..length]);
                    self.buffer.advance(length);
                    return Err(LinkError::Closed(reason));
                }
                HELLO => {}
                PART => self.keep_part(number, length)?,
                PUSHED | LAST_PUSHED => out.push(Frame::Pushed {
                    push: number,
                    last: kind == LAST_PUSHED,
                    // Shared with the buffer, so that bulk data is not copied here.
                    bytes: self.buffer.split_to(length).freeze(),
                }),
                _ => out.push(Frame::Data {
                    request: number,
                    last: kind == LAST,
                    bytes: self.whole(number, length),
                }),
            }
        }
        Ok(())
    }

    /// Bytes that came as parts of the frame of a number that has not ended.
    fn begun(&self, number: u32) -> usize {
        self.parts.get(&number).map_or(0, Vec::len)
    }

    fn keep_part(&mut self, number: u32, length: usize) -> Result<(), LinkError> {
        // Who cuts frames works on one of each urgency at a time, so more would only cost memory.
        if self.parts.len() >= UNFINISHED_MAX && !self.parts.contains_key(&number) {
            return Err(LinkError::TooManyParts);
        }
        let part = self.buffer.split_to(length);
        self.parts
            .entry(number)
            .or_default()
            .extend_from_slice(&part);
        Ok(())
    }

    /// The bytes of a data frame, with those that came before as parts.
    fn whole(&mut self, number: u32, length: usize) -> Bytes {
        let end = self.buffer.split_to(length);
        match self.parts.remove(&number) {
            Some(mut bytes) => {
                bytes.extend_from_slice(&end);
                bytes.into()
            }
            None => end.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(request: u32, last: bool, length: usize) -> Frame {
        Frame::Data {
            request,
            last,
            bytes: Bytes::from(vec![request as u8; length]),
        }
    }

    fn written(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            let (header, rest) = frame.clone().into_parts();
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(&rest);
        }
        bytes
    }

    fn examples() -> Vec<Frame> {
        vec![
            Frame::Control(Bytes::new()),
            data(7, false, DATA_BYTES_MAX),
            Frame::Control(Bytes::from(vec![9; CONTROL_BYTES_MAX])),
            data(u32::MAX, true, 0),
            Frame::Pushed {
                push: 7,
                last: true,
                bytes: Bytes::from(vec![5; 100]),
            },
            data(7, true, 1),
        ]
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let bytes = written(&examples());
        for step in [1, 8, 9, 10, 1000, 16_384, bytes.len()] {
            let mut reader = FrameReader::default();
            let mut out = Vec::new();
            for piece in bytes.chunks(step) {
                reader.space().extend_from_slice(piece);
                reader.take(&mut out).unwrap();
            }
            assert_eq!(out, examples(), "in steps of {step}");
            assert_eq!(reader.buffer.len(), 0);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_the_bytes_come() {
        for (kind, most) in [
            (CONTROL, CONTROL_BYTES_MAX),
            (DATA, DATA_BYTES_MAX),
            (LAST, DATA_BYTES_MAX),
            (CLOSE, REASON_BYTES_MAX),
            (HELLO, 0),
            (PART, DATA_BYTES_MAX),
            (LAST_PUSHED, DATA_BYTES_MAX),
        ] {
            for length in [u32::MAX as usize, most + 1] {
                let mut reader = FrameReader::default();
                let mut out = Vec::new();
                let mut bytes = written(&[data(1, false, 5)]);
                bytes.extend_from_slice(&header(kind, 0, length));
                reader.space().extend_from_slice(&bytes);
                let error = reader.take(&mut out).unwrap_err();
                assert_eq!(error, LinkError::TooLong { length, most }, "kind {kind}");
                assert_eq!(out, [data(1, false, 5)], "what came before is given out");
                assert!(reader.buffer.capacity() <= BUFFER_BYTES);
            }
        }
    }

    #[test]
    fn what_is_urgent_goes_between_the_parts_of_a_frame() {
        let bulk: Vec<Frame> = (1..4).map(|no| data(no, no == 3, DATA_BYTES_MAX)).collect();
        let (live, said) = (data(9, true, 5000), Frame::Control(Bytes::from("said")));
        for most in [1000, 4096, 16_384, DATA_BYTES_MAX] {
            let mut waiting = Waiting::default();
            let mut reader = FrameReader::default();
            let (mut out, mut longest) = (Vec::new(), 0);
            for frame in &bulk {
                waiting.push(frame.clone(), Urgency::Bulk);
            }
            let mut step = 0;
            while let Some((header, bytes)) = waiting.next(most) {
                longest = longest.max(bytes.len());
                reader.space().extend_from_slice(&header);
                reader.space().extend_from_slice(&bytes);
                reader.take(&mut out).unwrap();
                if step == 0 {
                    waiting.push(live.clone(), Urgency::Live);
                    waiting.push(said.clone(), Urgency::Live);
                }
                step += 1;
            }
            let first = usize::from(most == DATA_BYTES_MAX);
            assert_eq!(
                out[first..first + 2],
                [said.clone(), live.clone()],
                "{most}"
            );
            out.drain(first..first + 2);
            assert_eq!((out, longest), (bulk.clone(), most), "{most}");
            assert!(reader.parts.is_empty());
        }
    }

    #[test]
    fn parts_without_an_end_are_few_and_short() {
        let part = |number, length| [&header(PART, number, length)[..], &vec![1; length]].concat();
        let mut reader = FrameReader::default();
        for number in 0..UNFINISHED_MAX as u32 {
            let bytes = part(number, DATA_BYTES_MAX);
            reader.space().extend_from_slice(&bytes);
            reader.take(&mut Vec::new()).unwrap();
        }
        for (bytes, wrong) in [
            (part(9, 1), LinkError::TooManyParts),
            (part(0, 1), LinkError::TooLong { length: 1, most: 0 }),
            (
                written(&[data(2, true, 1)]),
                LinkError::TooLong { length: 1, most: 0 },
            ),
        ] {
            let mut broken = FrameReader {
                parts: reader.parts.clone(),
                ..FrameReader::default()
            };
            broken.space().extend_from_slice(&bytes);
            assert_eq!(broken.take(&mut Vec::new()), Err(wrong));
        }
        // What was begun is ended by a frame that adds nothing.
        let end = written(&[data(2, true, 0)]);
        let mut out = Vec::new();
        reader.space().extend_from_slice(&end);
        reader.take(&mut out).unwrap();
        let whole = Bytes::from(vec![1; DATA_BYTES_MAX]);
        assert!(matches!(&out[..], [Frame::Data { bytes, .. }] if *bytes == whole));
    }

    #[test]
    fn a_kind_that_is_not_known_ends_the_link() {
        let mut reader = FrameReader::default();
        reader.space().extend_from_slice(b"GET / HTTP/1.1\r\n");
        let mut out = Vec::new();
        let error = reader.take(&mut out).unwrap_err();
        assert_eq!(error, LinkError::UnknownKind(b'/'));
    }

    #[test]
    fn a_reason_is_cut_to_whole_characters() {
        let mut reader = FrameReader::default();
        let reason = "\u{20ac}".repeat(100);
        reader.space().extend_from_slice(&close_frame(&reason));
        let error = reader.take(&mut Vec::new()).unwrap_err();
        assert_eq!(error, LinkError::Closed("\u{20ac}".repeat(66)));
    }

    #[test]
    fn a_reason_is_one_line_that_a_terminal_can_show() {
        let said = b"\x1b]0;pwned\x07\x1b[2J\x1b[31mOWNED\r\n\xe2\x80\xaeERROR forged\xff\xd8\x9c!";
        let mut reader = FrameReader::default();
        let bytes = reader.space();
        bytes.extend_from_slice(&header(CLOSE, 0, said.len()));
        bytes.extend_from_slice(said);
        let error = reader.take(&mut Vec::new()).unwrap_err();
        let clean = "]0;pwned [2J [31mOWNED ERROR forged\u{fffd} !";
        assert_eq!(error, LinkError::Closed(clean.to_owned()));
        assert_eq!(
            shown(&[0xff; 1000]).len(),
            198,
            "66 characters for what is no text"
        );
        assert_eq!(shown(&[b'a'; 1000]).len(), REASON_BYTES_MAX);
    }

    #[test]
    fn frames_that_are_kept_do_not_grow_the_reader_and_stay_as_they_came() {
        let mut reader = FrameReader::default();
        // So many that buffers come into use again while later ones are held.
        for held in [0, 1, 20, 40, 100] {
            let mut kept = Vec::new();
            for round in 0..300u32 {
                let bytes = written(&[data(round, false, DATA_BYTES_MAX)]);
                reader.space().extend_from_slice(&bytes);
                reader.take(&mut kept).unwrap();
                assert!(reader.buffer.capacity() <= BUFFER_BYTES);
                assert!(reader.kept.len() <= KEPT_MAX);
                let first = round + 1 - kept.len() as u32;
                for (frame, no) in kept.iter().zip(first..) {
                    assert_eq!(*frame, data(no, false, DATA_BYTES_MAX));
                }
                kept.drain(..kept.len().saturating_sub(held));
            }
        }
        assert!(!reader.kept.is_empty());
        for _ in 0..KEPT_MAX {
            let message = written(&[Frame::Control(Bytes::from_static(b"?"))]);
            reader.space().extend_from_slice(&message);
            reader.take(&mut Vec::new()).unwrap();
        }
        assert!(reader.kept.is_empty(), "messages give the memory back");
    }
}
