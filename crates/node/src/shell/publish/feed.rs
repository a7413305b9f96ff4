//! What a source gives, read ahead a little, and so that it can be sent over another connection.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use lavant_media::{Format, sniff};

/// Bytes of a piece, and the most pieces that wait: a source that is faster has to wait, too.
const PIECE: usize = 64 << 10;
const PIECES: usize = 64;
/// A source that is silent for so long pauses: the request ends, before the node ends it after
/// twenty seconds.
const SILENCE: Duration = Duration::from_secs(12);
/// The most bytes of a header of fragmented MP4, which is sent before what comes later.
const INIT_MAX: usize = 16 << 20;

/// Why nothing more is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The source is silent.
    Pause,
    /// The source is over.
    Over,
}

/// How far what a stream begins with is known.
#[derive(Debug)]
enum Header {
    /// It still comes.
    Coming(Vec<u8>),
    /// One can begin anywhere.
    None,
    /// Has to come before whatever follows.
    Init(Vec<u8>),
    /// It is too large, or of no known kind.
    Lost,
}

/// A source, between its thread and the requests that carry it.
#[derive(Debug)]
pub(super) struct Feed {
    pieces: Receiver<std::io::Result<Vec<u8>>>,
    /// What is sent next, and how much of it was.
    piece: Vec<u8>,
    at: usize,
    header: Header,
    /// Whether the next fragment is searched for, and the last bytes without one.
    is_searching: bool,
    tail: Vec<u8>,
    end: Option<End>,
    fault: Option<std::io::Error>,
}

impl Feed {
    /// Begins to read a source.
    pub(super) fn start(source: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = sync_channel(PIECES);
        // It is ended with the program: a read that waits cannot be called off.
        std::thread::spawn(move || read(source, &sender));
        Self {
            pieces,
            piece: Vec::new(),
            at: 0,
            header: Header::Coming(Vec::new()),
            is_searching: false,
            tail: Vec::new(),
            end: None,
            fault: None,
        }
    }

    /// Waits until there is something to send; false when the source is over.
    pub(super) fn has_more(&mut self) -> bool {
        while self.at >= self.piece.len() && self.end != Some(End::Over) {
            match self.pieces.recv() {
                Ok(piece) => self.take(piece),
                Err(_) => self.end = Some(End::Over),
            }
        }
        self.at < self.piece.len()
    }

    /// A request begins.
    pub(super) fn begin(&mut self) {
        // What the request before carried is a stream of its own to the node.
        if self.end == Some(End::Pause) {
            self.resume();
        }
    }

    /// Why the latest request was over; `None` when it was not.
    pub(super) fn ended(&self) -> Option<End> {
        self.end
    }

    /// Why the source could not be read on.
    pub(super) fn fault(&mut self) -> Option<std::io::Error> {
        self.fault.take()
    }

    /// Whether what was sent so far is a stream by its beginning.
    pub(super) fn is_known(&self) -> bool {
        matches!(self.header, Header::None | Header::Init(_))
    }

    /// Whether a node that has seen nothing can begin with what comes.
    pub(super) fn can_resume(&self) -> bool {
        !matches!(self.header, Header::Lost)
    }

    /// What comes next goes to a node that has seen nothing.
    pub(super) fn resume(&mut self) {
        self.end = self.end.filter(|end| *end == End::Over);
        match &self.header {
            Header::Init(_) => self.is_searching = true,
            // Nothing of it was more than a beginning: all of it is sent again.
            Header::Coming(head) => {
                let rest = self.piece.split_off(self.at.min(self.piece.len()));
                self.piece = [head.as_slice(), &rest].concat();
                (self.at, self.header) = (0, Header::Coming(Vec::new()));
            }
            Header::None | Header::Lost => {}
        }
        self.search();
    }

    /// Gives the next bytes; none when the source pauses or is over.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        while self.at >= self.piece.len() {
            match self.pieces.recv_timeout(SILENCE) {
                Ok(piece) => self.take(piece),
                Err(RecvTimeoutError::Timeout) => self.end = Some(End::Pause),
                Err(RecvTimeoutError::Disconnected) => self.end = Some(End::Over),
            }
            if self.end.is_some() {
                return 0;
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) else {
            return 0;
        };
        to.copy_from_slice(from);
        if let Header::Coming(head) = &mut self.header {
            head.extend_from_slice(from);
            self.header = known(std::mem::take(head));
        }
        self.at += len;
        len
    }

    fn take(&mut self, piece: std::io::Result<Vec<u8>>) {
        match piece {
            Ok(piece) => {
                (self.piece, self.at) = (piece, 0);
                self.search();
            }
            Err(error) => (self.fault, self.end) = (Some(error), Some(End::Over)),
        }
    }

    /// Looks for the beginning of a fragment, and puts the init segment before it.
    fn search(&mut self) {
        if !self.is_searching {
            return;
        }
        // Size, name, and the name of the first box in it.
        const LEN: usize = 16;
        // A header may lie across two pieces.
        let mut rest = std::mem::take(&mut self.tail);
        rest.extend_from_slice(self.piece.get(self.at..).unwrap_or_default());
        let is_fragment =
            |bytes: &[u8]| bytes.get(4..8) == Some(b"moof") && bytes.ends_with(b"mfhd");
        self.at = 0;
        match (rest.windows(LEN).position(is_fragment), &self.header) {
            (Some(at), Header::Init(init)) => {
                let from = rest.get(at..).unwrap_or_default();
                self.piece = [init.as_slice(), from].concat();
                self.is_searching = false;
            }
            _ => {
                self.tail = rest.split_off(rest.len().saturating_sub(LEN - 1));
                self.piece = Vec::new();
            }
        }
    }
}

/// What is known of a beginning.
fn known(head: Vec<u8>) -> Header {
    match sniff(&head) {
        Some(Format::TransportStream) => Header::None,
        Some(Format::Cmaf) => match init(&head) {
            Some(len) => Header::Init(head.get(..len).unwrap_or_default().to_vec()),
            None if head.len() > INIT_MAX => Header::Lost,
            None => Header::Coming(head),
        },
        None if head.len() >= lavant_media::HEAD => Header::Lost,
        None => Header::Coming(head),
    }
}

/// Bytes up to the end of the `moov` box, once it is whole.
fn init(head: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let size = u32::from_be_bytes(*head.get(at..)?.first_chunk()?) as usize;
        let end = at.checked_add(size.max(8))?;
        if end > head.len() {
            return None;
        }
        if head.get(at + 4..at + 8) == Some(b"moov") {
            return Some(end);
        }
        at = end;
    }
}

fn read(mut source: impl Read, pieces: &SyncSender<std::io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => Ok(buffer.get(..len).unwrap_or_default().to_vec()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_end = piece.is_err();
        if pieces.send(piece).is_err() || is_end {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes()[..], kind, body].concat()
    }

    fn fragment(no: u8) -> Vec<u8> {
        let moof = boxed(b"moof", &boxed(b"mfhd", &[0, 0, 0, 0, 0, 0, 0, no]));
        [moof, boxed(b"mdat", &[no; 100])].concat()
    }

    /// All that is read until the source pauses or is over.
    fn rest(feed: &mut Feed) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 50];
        loop {
            match feed.read(&mut buffer) {
                0 => return all,
                len => all.extend_from_slice(&buffer[..len]),
            }
        }
    }

    /// Gives pieces one by one.
    struct Pieces(std::vec::IntoIter<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let piece = self.0.next().unwrap_or_default();
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn another_connection_begins_with_the_header_and_a_whole_fragment() {
        let init = [boxed(b"ftyp", b"isom"), boxed(b"moov", &[0; 30])].concat();
        let all = (1..6).map(fragment).collect::<Vec<_>>().concat();
        // Wherever the pieces are divided.
        for size in [1, 7, 50, 333] {
            let whole = [&init[..], &all].concat();
            let pieces: Vec<_> = whole.chunks(size).map(<[u8]>::to_vec).collect();
            let mut feed = Feed::start(Pieces(pieces.into_iter()));
            let mut read = 0;
            // The connection is lost within the second fragment.
            while read < init.len() + fragment(1).len() + 40 {
                assert!(feed.has_more());
                read += feed.read(&mut [0; 10]);
            }
            assert!(feed.can_resume());
            feed.resume();
            let expected = (3..6).map(fragment).collect::<Vec<_>>().concat();
            assert!(feed.has_more());
            assert_eq!(rest(&mut feed), [&init[..], &expected].concat(), "{size}");
            assert_eq!(feed.ended(), Some(End::Over));
            assert!(!feed.has_more() && feed.fault().is_none());
        }
    }

    #[test]
    fn a_transport_stream_goes_on_anywhere_and_a_beginning_is_sent_again() {
        let packet = [&[0x47][..], &[0; 187]].concat();
        let pieces: Vec<_> = vec![packet.repeat(4), packet.repeat(3)];
        let mut feed = Feed::start(Pieces(pieces.into_iter()));
        assert!(feed.has_more());
        assert_eq!(feed.read(&mut [0; 100]), 100);
        feed.resume();
        assert_eq!(feed.read(&mut [0; 752]), 752);
        feed.resume();
        assert_eq!(rest(&mut feed).len(), 3 * 188);
    }

    #[test]
    fn a_source_that_cannot_be_read_is_over_with_its_fault() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::IsADirectory.into())
            }
        }
        let mut feed = Feed::start(Broken);
        assert!(!feed.has_more());
        assert!(feed.fault().is_some());
    }
}
