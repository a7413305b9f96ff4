//! Chunks, read: messages come in pieces, of several chunk streams by turns (Adobe, "RTMP
//! specification 1.0" section 5.3).

use bytes::Bytes;

use super::Error;

/// The most chunk streams of a connection. Encoders use up to ten.
const STREAMS_MAX: usize = 64;
/// The size of chunks before one is announced.
const FIRST_SIZE: usize = 128;
/// What a message's memory begins with, at most; it grows with what comes.
const FIRST_ROOM: usize = 4096;
/// The longest header: three bytes of identity, eleven of message, four of time.
const HEADER_MAX: usize = 18;
/// In the field of a time stamp: the time stands in four bytes behind the header.
const EXTENDED: u32 = 0x00ff_ffff;

const SET_CHUNK_SIZE: u8 = 1;
const ABORT: u8 = 2;

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Milliseconds, modulo 2^32.
    pub(super) time: u32,
    pub(super) kind: u8,
    /// Number of the message stream.
    pub(super) stream: u32,
    pub(super) body: Bytes,
}

/// One chunk stream: the header of its latest message, and the message as far as it came.
#[derive(Debug, Default)]
struct Stream {
    id: u32,
    time: u32,
    /// What a chunk of type 3 that begins a message adds.
    delta: u32,
    /// The extended field of the latest header that had one.
    extended: Option<u32>,
    length: usize,
    kind: u8,
    stream: u32,
    /// Whether a message has begun and not ended.
    open: bool,
    body: Vec<u8>,
}

/// The header of a chunk, as far as it is found.
enum Head {
    /// More bytes are needed.
    Short,
    /// Its first bytes, so many, are the header.
    Whole(usize),
}

/// Reads chunks and gives messages.
#[derive(Debug)]
pub(super) struct Reader {
    size: usize,
    max: usize,
    streams: Vec<Stream>,
    /// Bytes of all unfinished messages.
    held: usize,
    /// Bytes of the header that is being read. What turns out to belong behind it stays here,
    /// and is read before the input.
    head: Vec<u8>,
    /// Whether `head` holds such bytes, to be read before more are taken.
    again: bool,
    /// The place of the chunk's stream in `streams`, and the bytes that its chunk still has.
    chunk: Option<(usize, usize)>,
    dropped: u64,
}

impl Reader {
    /// Takes messages of up to `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            size: FIRST_SIZE,
            max,
            streams: Vec::new(),
            held: 0,
            head: Vec::with_capacity(HEADER_MAX),
            again: false,
            chunk: None,
            dropped: 0,
        }
    }

    /// Takes messages of up to `max` bytes from here on.
    pub(super) fn allow(&mut self, max: usize) {
        self.max = max;
    }

    /// Messages that were begun and not ended.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes bytes off `input` up to the end of the next message. Without one, all are taken.
    pub(super) fn push(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        loop {
            if let Some((at, left)) = self.chunk {
                let left = left - self.payload(at, left, input)?;
                self.chunk = Some((at, left));
                if left > 0 {
                    return Ok(None);
                }
                self.chunk = None;
                if let Some(message) = self.message(at)? {
                    return Ok(Some(message));
                }
            } else if !self.header(input)? {
                return Ok(None);
            }
        }
    }

    /// Reads a header; false when it is not whole.
    fn header(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        loop {
            if !std::mem::take(&mut self.again) {
                let Some((byte, rest)) = input.split_first() else {
                    return Ok(false);
                };
                self.head.push(*byte);
                *input = rest;
            }
            if let Head::Whole(used) = self.parse()? {
                self.head.drain(..used);
                self.again = !self.head.is_empty();
                return Ok(true);
            }
        }
    }

    /// Looks for a whole header in `head`, and begins its chunk.
    fn parse(&mut self) -> Result<Head, Error> {
        let Some((format, id, rest)) = identity(&self.head) else {
            return Ok(Head::Short);
        };
        let identity = self.head.len() - rest.len();
        let fields = [11, 7, 3, 0][usize::from(format)];
        let Some((fields, behind)) = rest.split_at_checked(fields) else {
            return Ok(Head::Short);
        };
        let before = identity + fields.len();
        let field = match fields {
            [a, b, c, ..] => u32::from_be_bytes([0, *a, *b, *c]),
            _ => 0,
        };
        let long = match (fields.is_empty(), behind) {
            (false, _) if field < EXTENDED => None,
            (false, [a, b, c, d, ..]) => Some(u32::from_be_bytes([*a, *b, *c, *d])),
            (false, _) => return Ok(Head::Short),
            (true, _) => match self.repeats(id, behind) {
                None => return Ok(Head::Short),
                Some(yes) => yes.then_some(0),
            },
        };
        let mut fixed = [0; 11];
        fixed[..fields.len()].copy_from_slice(fields);
        let at = self.place(id, format)?;
        if format == 3 {
            self.again(at);
        } else {
            self.begin(at, format, &fixed, long.unwrap_or(field), long)?;
        }
        let stream = &self.streams[at];
        self.chunk = Some((at, self.size.min(stream.length - stream.body.len())));
        Ok(Head::Whole(before + if long.is_some() { 4 } else { 0 }))
    }

    /// Whether a chunk of type 3 repeats the extended time. By the specification it does; some
    /// encoders leave it out, so that the bytes are compared with it. `None` when more are needed.
    fn repeats(&self, id: u32, behind: &[u8]) -> Option<bool> {
        let stream = self.streams.iter().find(|stream| stream.id == id);
        let Some((stream, field)) = stream.and_then(|it| Some((it, it.extended?))) else {
            return Some(false);
        };
        // Some repeat what the header had, some the message's time where the header had a delta.
        let time = match stream.open {
            true => stream.time,
            false => stream.time.wrapping_add(stream.delta),
        };
        let bytes = &behind[..behind.len().min(4)];
        let fits = [field, time]
            .iter()
            .any(|it| it.to_be_bytes().starts_with(bytes));
        match (fits, bytes.len()) {
            (false, _) => Some(false),
            (true, 4) => Some(true),
            (true, _) => None,
        }
    }

    /// Where a chunk stream is kept.
    fn place(&mut self, id: u32, format: u8) -> Result<usize, Error> {
        if let Some(at) = self.streams.iter().position(|stream| stream.id == id) {
            return Ok(at);
        }
        // Type 1 comes first from some: it lacks only the message stream's number.
        if format > 1 {
            return Err(Error::malformed(
                "a chunk stream that has not begun goes on",
            ));
        }
        if self.streams.len() >= STREAMS_MAX {
            return Err(Error::LimitReached {
                what: "more than 64 chunk streams",
            });
        }
        self.streams.push(Stream {
            id,
            ..Stream::default()
        });
        Ok(self.streams.len() - 1)
    }

    /// A message with a header of its own.
    fn begin(
        &mut self,
        at: usize,
        format: u8,
        fixed: &[u8; 11],
        time: u32,
        extended: Option<u32>,
    ) -> Result<(), Error> {
        let [_, _, _, l0, l1, l2, kind, s0, s1, s2, s3] = *fixed;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if format < 2 && length > self.max {
            let max = self.max;
            return Err(Error::MessageTooLarge { length, max });
        }
        // A header in the middle of a message gives the message up.
        self.discard(at);
        let stream = &mut self.streams[at];
        stream.extended = extended;
        if format == 0 {
            stream.time = time;
            // A chunk of type 3 behind it has "the same delta", which is this time (section
            // 5.3.1.2.4): encoders send it where the time doubles. A time that large does not.
            stream.delta = if extended.is_some() { 0 } else { time };
            // The only number that is little-endian.
            stream.stream = u32::from_le_bytes([s0, s1, s2, s3]);
        } else {
            stream.time = stream.time.wrapping_add(time);
            stream.delta = time;
        }
        if format < 2 {
            stream.length = length;
            stream.kind = kind;
        }
        stream.open = true;
        Ok(())
    }

    /// A chunk of type 3: it goes on with a message, or begins one like the last.
    fn again(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if !stream.open {
            stream.time = stream.time.wrapping_add(stream.delta);
            stream.open = true;
        }
    }

    /// Moves bytes of a chunk to its message; says how many.
    fn payload(&mut self, at: usize, left: usize, input: &mut &[u8]) -> Result<usize, Error> {
        let first = left.min(self.head.len());
        let (next, rest) = input.split_at((left - first).min(input.len()));
        let came = first + next.len();
        // Twice the limit, for messages that come by turns; real ones beside a picture are small.
        if self.held + came > self.max.saturating_mul(2) {
            return Err(Error::LimitReached {
                what: "too many unfinished messages",
            });
        }
        let stream = &mut self.streams[at];
        let need = stream.body.len() + came;
        if need > stream.body.capacity() {
            let room = need.max(stream.body.capacity() * 2).max(FIRST_ROOM);
            let room = room.min(stream.length);
            stream.body.reserve_exact(room - stream.body.len());
        }
        stream.body.extend(self.head.drain(..first));
        stream.body.extend_from_slice(next);
        self.again = !self.head.is_empty();
        self.held += came;
        *input = rest;
        Ok(came)
    }

    /// Gives a message that is whole, except those that are for this reader.
    fn message(&mut self, at: usize) -> Result<Option<Message>, Error> {
        let stream = &mut self.streams[at];
        if stream.body.len() < stream.length {
            return Ok(None);
        }
        stream.open = false;
        let body = std::mem::take(&mut stream.body);
        self.held -= body.len();
        let message = Message {
            time: stream.time,
            kind: stream.kind,
            stream: stream.stream,
            body: body.into(),
        };
        match message.kind {
            SET_CHUNK_SIZE => {
                let size = number(&message.body)?;
                // The highest bit has to be 0 (section 5.4.1).
                if size == 0 || size >= 1 << 31 {
                    return Err(Error::ChunkSize { size });
                }
                self.size = size as usize;
            }
            ABORT => {
                let id = number(&message.body)?;
                if let Some(at) = self.streams.iter().position(|stream| stream.id == id) {
                    self.discard(at);
                }
            }
            _ => return Ok(Some(message)),
        }
        Ok(None)
    }

    /// Forgets an unfinished message.
    fn discard(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if std::mem::take(&mut stream.open) {
            self.held -= stream.body.len();
            stream.body = Vec::new();
            self.dropped += 1;
        }
    }
}

/// Type and chunk stream of a chunk, and the bytes behind.
fn identity(head: &[u8]) -> Option<(u8, u32, &[u8])> {
    let (first, rest) = head.split_first()?;
    let (format, id) = (first >> 6, u32::from(first & 63));
    match (id, rest) {
        (0, [a, rest @ ..]) => Some((format, 64 + u32::from(*a), rest)),
        (1, [a, b, rest @ ..]) => Some((format, 64 + u32::from(*a) + 256 * u32::from(*b), rest)),
        (0 | 1, _) => None,
        _ => Some((format, id, rest)),
    }
}

/// The number in a message of the protocol.
fn number(body: &[u8]) -> Result<u32, Error> {
    let bytes = body.first_chunk();
    let bytes = bytes.ok_or(Error::malformed("a control message is too short"))?;
    Ok(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1000;

    /// All messages of `input` in pieces, and how it ended.
    fn read(input: &[u8], piece: usize) -> (Vec<Message>, Result<(), Error>) {
        let mut reader = Reader::new(MAX);
        let mut messages = Vec::new();
        for mut bytes in input.chunks(piece) {
            loop {
                match reader.push(&mut bytes) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Err(error)),
                }
                assert!(reader.held <= 2 * MAX && reader.streams.len() <= STREAMS_MAX);
            }
            assert!(bytes.is_empty());
        }
        (messages, Ok(()))
    }

    /// Times and bodies of messages that must be fine, and the same in pieces of any size.
    fn fine(input: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let (messages, result) = read(input, input.len());
        assert_eq!(result, Ok(()));
        for piece in 1..20 {
            assert_eq!(read(input, piece), (messages.clone(), Ok(())));
        }
        let plain = |message: Message| (message.time, message.body.to_vec());
        messages.into_iter().map(plain).collect()
    }

    fn error(input: &[u8]) -> Error {
        read(input, 1).1.unwrap_err()
    }

    /// A header of type 0 for audio on stream 1.
    fn head(id: u8, time: [u8; 3], length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let [a, b, c] = time;
        vec![id, a, b, c, 0, high, low, 8, 1, 0, 0, 0]
    }

    fn whole(time: [u8; 3], body: &[u8]) -> Vec<u8> {
        [&head(4, time, body.len() as u16), body].concat()
    }

    #[test]
    fn each_type_of_header_leaves_out_what_is_as_before() {
        let input = [
            &whole([0, 0, 100], b"ab")[..],
            // As before, after the time of the first.
            b"\xc4cd",
            // 10 ms on, of another length and kind.
            &[0x44, 0, 0, 10, 0, 0, 1, 9],
            b"e",
            b"\xc4f",
            &[0x84, 0, 0, 20],
            b"g",
            b"\xc4h",
        ]
        .concat();
        let expected = [
            (100, "ab"),
            (200, "cd"),
            (210, "e"),
            (220, "f"),
            (240, "g"),
            (260, "h"),
        ];
        let found = fine(&input);
        let expected = expected.map(|(time, body)| (time, body.as_bytes().to_vec()));
        assert_eq!(found, expected);
        let (messages, _) = read(&input, 5);
        let kinds: Vec<_> = messages.iter().map(|it| (it.kind, it.stream)).collect();
        assert_eq!(kinds, [(8, 1), (8, 1), (9, 1), (9, 1), (9, 1), (9, 1)]);
    }

    #[test]
    fn messages_come_by_turns() {
        let (long, other) = ([1; 300], [2; 200]);
        let input = [
            &head(4, [0, 0, 1], 300)[..],
            &long[..128],
            &head(5, [0, 0, 2], 200)[..],
            &other[..128],
            &[0xc4],
            &long[128..256],
            &[0xc5],
            &other[128..],
            &[0xc4],
            &long[256..],
        ]
        .concat();
        assert_eq!(fine(&input), [(2, other.to_vec()), (1, long.to_vec())]);
    }

    #[test]
    fn a_long_time_may_be_repeated_or_not() {
        let body: Vec<u8> = (0..200).map(|n| n as u8).collect();
        let time = [0x12, 0x34, 0x56, 0x78];
        for again in [&time[..], &[]] {
            let input = [
                &head(4, [0xff; 3], 200)[..],
                &time,
                &body[..128],
                &[0xc4],
                again,
                &body[128..],
                // A message of no header at all, at the same time.
                &[0xc4],
                again,
                &body[..128],
                &[0xc4],
                again,
                &body[128..],
            ]
            .concat();
            let one = (0x1234_5678, body.clone());
            assert_eq!(fine(&input), [one.clone(), one]);
        }
    }

    #[test]
    fn time_wraps_and_goes_on_by_long_steps() {
        let input = [
            &head(4, [0xff; 3], 1)[..],
            &[0xff, 0xff, 0xff, 0xf0, b'a'],
            // 32 ms on, and again.
            &[0x84, 0, 0, 32, b'b', 0xc4, b'c'],
            // 2^24 ms on, twice.
            &[0x84, 0xff, 0xff, 0xff, 1, 0, 0, 0, b'd'],
            &[0xc4, 1, 0, 0, 0, b'e'],
        ]
        .concat();
        let times: Vec<u32> = fine(&input).into_iter().map(|(time, _)| time).collect();
        assert_eq!(times, [0xffff_fff0, 16, 48, 0x0100_0030, 0x0200_0030]);
    }

    #[test]
    fn numbers_of_chunk_streams_have_up_to_three_bytes() {
        let mut input = Vec::new();
        for id in [&[0u8, 0][..], &[0, 255], &[1, 0, 1], &[1, 255, 255]] {
            input.extend(id);
            input.extend(&whole([0; 3], b"a")[1..]);
        }
        assert_eq!(fine(&input).len(), 4);
        assert_eq!(
            identity(&[0xc1, 1, 2, 9]),
            Some((3, 64 + 1 + 512, &[9][..]))
        );
    }

    #[test]
    fn a_message_that_is_aborted_leaves_nothing() {
        let abort = [&[2, 0, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0][..], &[0, 0, 0, 4]].concat();
        let mut reader = Reader::new(MAX);
        let input = [
            &head(4, [0; 3], 300)[..],
            &[1; 128],
            &abort,
            // It begins anew with the header that was.
            &[0xc4],
            &[2; 128],
        ]
        .concat();
        assert_eq!(reader.push(&mut &input[..]), Ok(None));
        assert_eq!((reader.held, reader.dropped()), (128, 1));
        // One of a stream that is not there is nothing.
        assert_eq!(fine(&[&abort[..], &abort].concat()), []);
    }

    #[test]
    fn a_header_in_the_middle_gives_the_message_up() {
        let input = [&head(4, [0; 3], 300)[..], &[1; 128], &whole([0; 3], b"ab")].concat();
        assert_eq!(fine(&input), [(0, b"ab".to_vec())]);
    }

    #[test]
    fn chunks_become_as_long_as_is_announced() {
        let size = |size: u32| {
            let head = [2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
            [&head[..], &size.to_be_bytes()].concat()
        };
        let long = whole([0; 3], &[1; 300]);
        let input = [&size(0x7fff_ffff)[..], &long].concat();
        assert_eq!(fine(&input), [(0, vec![1; 300])]);
        let input = [&size(1)[..], &head(4, [0; 3], 2), b"a\xc4b"].concat();
        assert_eq!(fine(&input), [(0, b"ab".to_vec())]);
        for bad in [0, 1 << 31, u32::MAX] {
            assert_eq!(error(&size(bad)), Error::ChunkSize { size: bad });
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (length, max) = (1001, MAX);
        let too_large = Error::MessageTooLarge { length, max };
        assert_eq!(error(&head(4, [0; 3], 1001)), too_large);
        let limit = |error| matches!(error, Error::LimitReached { .. });
        let many = (2..=66).flat_map(|id| {
            let id = if id < 64 { vec![id] } else { vec![0, id - 64] };
            [&id[..], &whole([0; 3], b"a")[1..]].concat()
        });
        let many: Vec<u8> = many.collect();
        assert!(limit(error(&many)));
        // 17 of 128 bytes are more than twice the limit.
        let open: Vec<u8> = (3..20)
            .flat_map(|id| [&head(id, [0; 3], 1000)[..], &[0; 128]].concat())
            .collect();
        assert!(limit(error(&open)));
        assert!(matches!(error(&[0xc4]), Error::Malformed { .. }));
        assert!(matches!(error(&[0x84, 0, 0, 0]), Error::Malformed { .. }));
        // A control message without its number.
        let short = [2, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 9];
        assert!(matches!(error(&short), Error::Malformed { .. }));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn the_division_into_pieces_does_not_matter(
            chunks in proptest::collection::vec(
                (
                    (0u8..4, 2u8..8, prop_oneof![Just(0xffu8), any::<u8>()]),
                    (any::<bool>(), 0u8..40, prop_oneof![Just(1u8), Just(2), 3u8..24]),
                    proptest::collection::vec(any::<u8>(), 0..40),
                ),
                1..60,
            ),
            piece in 1usize..40,
        ) {
            let mut input = Vec::new();
            for ((format, id, time), (far, length, kind), body) in chunks {
                let time = if far { 0xff } else { time };
                let fields = [time, time, time, 0, 0, length, kind, 1, 0, 0, 0];
                input.push(format << 6 | id);
                input.extend(&fields[..[11, 7, 3, 0][usize::from(format)]]);
                input.extend(body);
            }
            prop_assert_eq!(read(&input, input.len()), read(&input, piece));
        }
    }
}
