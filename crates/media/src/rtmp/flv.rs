//! FLV files: tags whose bodies are those of RTMP's messages (Adobe, "Video file format 10.1"
//! annex E).

use bytes::{Buf, Bytes};

use super::tags::{Given, Tags};
use super::{Metadata, Notice};
use crate::Error;
use crate::frame::{Demuxer, Item};

/// Bytes of the file's header, as far as it is known.
const HEADER: usize = 9;
/// The longest header that is skipped.
const HEADER_MAX: usize = 1024;
/// Type, size, time and number of a tag.
const TAG: usize = 11;
/// Behind each tag stands its size.
const SIZE: usize = 4;
/// What a tag's memory begins with, at most; it grows with what comes.
const FIRST_ROOM: usize = 4096;

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Part {
    Header,
    /// The rest of a longer header, and the size of the tag that is not before the first.
    Skip,
    Tag,
    Body {
        kind: u8,
        time: u32,
    },
    End,
}

/// Reads an FLV file, or a stream of one. What it calls video is track 0, audio track 1; codecs
/// that are not taken are left out.
#[derive(Debug)]
pub struct Flv {
    part: Part,
    /// Bytes that the part needs.
    need: usize,
    held: Vec<u8>,
    tags: Tags,
    failed: Option<Error>,
    finished: bool,
}

impl Default for Flv {
    fn default() -> Self {
        Self::new()
    }
}

impl Flv {
    /// Reads from the first byte of the file.
    #[must_use]
    pub fn new() -> Self {
        Self {
            part: Part::Header,
            need: HEADER,
            held: Vec::new(),
            tags: Tags::default(),
            failed: None,
            finished: false,
        }
    }

    /// Tags that were left out: before their codec's header, empty, damaged, or of a codec that is
    /// not taken.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.tags.dropped()
    }

    /// Takes bytes for the part; gives it when it is whole.
    fn gather(&mut self, data: &mut &[u8]) -> Option<Vec<u8>> {
        let (next, rest) = data.split_at((self.need - self.held.len()).min(data.len()));
        *data = rest;
        let need = self.held.len() + next.len();
        if need > self.held.capacity() {
            // A tag has 16 MiB at most, since its size has 24 bits.
            let room = need
                .max(self.held.capacity() * 2)
                .max(FIRST_ROOM)
                .min(self.need);
            self.held.reserve_exact(room - self.held.len());
        }
        self.held.extend_from_slice(next);
        (self.held.len() == self.need).then(|| std::mem::take(&mut self.held))
    }

    fn part(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let (part, need) = match self.part {
            Part::Header => {
                let [b'F', b'L', b'V', 1, flags, a, b, c, d] = bytes[..] else {
                    return Err(Error::malformed("it does not begin as FLV does"));
                };
                let size = u32::from_be_bytes([a, b, c, d]) as usize;
                if !(HEADER..=HEADER_MAX).contains(&size) {
                    return Err(Error::malformed("the header of an FLV file"));
                }
                self.tags.expect([flags & 1 != 0, flags & 4 != 0]);
                (Part::Skip, size - HEADER + SIZE)
            }
            Part::Skip | Part::End => (Part::Tag, TAG),
            Part::Tag => {
                let (kind, size, time) =
                    head(&bytes).ok_or(Error::malformed("the header of an FLV tag"))?;
                match kind {
                    8 | 9 | 18 => (Part::Body { kind, time }, size),
                    _ if kind & 0x20 != 0 => return Err(Error::Encrypted),
                    // AMF3 data, which Flash alone wrote.
                    15 => (Part::Body { kind, time }, size),
                    _ => return Err(Error::malformed("an FLV tag of an unknown type")),
                }
            }
            Part::Body { kind, time } => {
                self.body(kind, time, bytes.into());
                (Part::End, SIZE)
            }
        };
        (self.part, self.need) = (part, need);
        Ok(())
    }

    fn body(&mut self, kind: u8, time: u32, body: Bytes) {
        match kind {
            8 => self.tags.audio(time, body),
            9 => self.tags.video(time, body),
            18 => {
                if let Some(metadata) = Metadata::read(&body) {
                    self.tags.metadata(&metadata);
                }
            }
            _ => {}
        }
    }
}

impl Demuxer for Flv {
    fn push(&mut self, mut data: &[u8]) -> Result<(), Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.finished {
            return Err(Error::Finished);
        }
        while let Some(bytes) = self.gather(&mut data) {
            self.part(bytes)
                .inspect_err(|error| self.failed = Some(*error))?;
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Item> {
        loop {
            match self.tags.pop()? {
                Given::Item(item) => return Some(item),
                Given::Notice(Notice::Unsupported { codec, .. }) => {
                    return Some(Item::LeftOut(codec));
                }
                Given::Notice(_) => {}
            }
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        // A tag that was cut off at the end is lost; the last byte of a live stream is anywhere.
        self.finished = true;
        self.held = Vec::new();
        if self.tags.has_tracks() {
            Ok(())
        } else {
            Err(Error::NoMedia)
        }
    }
}

/// Type, size and time of a tag.
fn head(bytes: &[u8]) -> Option<(u8, usize, u32)> {
    let [kind, a, b, c, t1, t2, t3, t0, ..] = *bytes else {
        return None;
    };
    let size = u32::from_be_bytes([0, a, b, c]) as usize;
    Some((kind, size, u32::from_be_bytes([t0, t1, t2, t3])))
}

/// Takes the next tag off a message of several: its type, time and body.
pub(super) fn split(bytes: &mut Bytes) -> Option<(u8, u32, Bytes)> {
    let (kind, size, time) = head(bytes)?;
    if bytes.len() < TAG + size {
        return None;
    }
    bytes.advance(TAG);
    let body = bytes.split_to(size);
    bytes.advance(SIZE.min(bytes.len()));
    Some((kind, time, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"FLV\x01\x05\0\0\0\x09\0\0\0\0";

    fn tag(kind: u8, time: u32, body: &[u8]) -> Vec<u8> {
        let [t0, t1, t2, t3] = time.to_be_bytes();
        let head = [kind, 0, 0, body.len() as u8, t1, t2, t3, t0, 0, 0, 0];
        // What stands behind a tag is not compared.
        [&head[..], body, &[0; 4]].concat()
    }

    fn read(file: &[u8], piece: usize) -> (Vec<Item>, Result<(), Error>) {
        let mut flv = Flv::new();
        let mut items = Vec::new();
        let mut result = Ok(());
        for bytes in file.chunks(piece) {
            result = result.and_then(|()| flv.push(bytes));
            items.extend(std::iter::from_fn(|| flv.pop()));
        }
        (items, result.and_then(|()| flv.finish()))
    }

    #[test]
    fn tags_become_items_in_pieces_of_any_size() {
        let file = [
            FILE,
            &tag(18, 0, b"\x02\0\x0aonMetaData\x05"),
            &tag(8, 0, &[0xaf, 0, 0x12, 0x10]),
            &tag(15, 0, &[1]),
            &tag(9, 0, &[]),
            &tag(9, 0, &[0x22]),
            &tag(8, 0x0100_0000, &[0xaf, 1, 7]),
            // The last tag is not whole.
            &tag(8, 0, &[0xaf, 1, 7])[..12],
        ]
        .concat();
        let whole = read(&file, file.len());
        assert_eq!(whole.1, Ok(()));
        let [
            Item::Expected(2),
            Item::Track(1, track),
            Item::Expected(1),
            Item::LeftOut(codec),
            Item::Frame(frame),
        ] = &whole.0[..]
        else {
            panic!("{:?}", whole.0)
        };
        assert_eq!(
            (&track.info.codec[..], &codec[..]),
            ("mp4a.40.2", "Sorenson H.263")
        );
        assert_eq!(frame.dts, 0x0100_0000 * 90);
        for piece in 1..20 {
            assert_eq!(read(&file, piece), whole);
        }
    }

    #[test]
    fn a_longer_header_is_passed() {
        let file = [
            b"FLV\x01\x04\0\0\0\x0bxy\0\0\0\0",
            &tag(8, 0, &[0xaf, 0, 0x12, 0x10])[..],
        ];
        assert_eq!(read(&file.concat(), 7).0.len(), 2);
    }

    #[test]
    fn what_is_no_flv_is_refused() {
        let result = |file: &[u8]| read(file, file.len()).1;
        let malformed = |file: &[u8]| matches!(result(file), Err(Error::Malformed { .. }));
        assert!(malformed(b"FLX\x01\x05\0\0\0\x09"));
        assert!(malformed(b"FLV\x01\x05\0\0\0\x08"));
        assert!(malformed(b"FLV\x01\x05\xff\0\0\x09"));
        assert!(malformed(&[FILE, &tag(3, 0, &[])].concat()));
        assert_eq!(
            result(&[FILE, &tag(0x28, 0, &[1])].concat()),
            Err(Error::Encrypted)
        );
        assert_eq!(result(FILE), Err(Error::NoMedia));
        let mut flv = Flv::new();
        assert_eq!(flv.finish(), Err(Error::NoMedia));
        assert_eq!(flv.push(FILE), Err(Error::Finished));
    }
}
