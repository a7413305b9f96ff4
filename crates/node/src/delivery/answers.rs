//! What goes out: chunk groups that others asked for, read from the store in frames.

use std::io::IoSliceMut;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lavant_proto::content::Kind;
use lavant_proto::ids::Root;
use lavant_proto::message::Message;
use lavant_proto::numbers::RequestNo;
use lavant_proto::piece::message::PieceMessage;
use lavant_proto::uplink::Serving;
use lavant_proto::verify::{FRAME_BYTES_MAX, FrameParts, FrameWriter, group_count};

use super::holdings::payload_of;
use crate::link::Frame;
use crate::store::{AsyncStore, Content, SliceFile, Store, StoreError};

/// Files kept open for answers that take several turns.
const FILES_MAX: usize = 8;
/// Unfinished answers that are kept: more than there are urgencies, of each of which one is sent at
/// a time. Those that were cancelled are let go by that, too.
const ANSWERS_MAX: usize = 16;
/// Buffers that are kept: as many as a link holds at a time.
const BUFFERS_MAX: usize = 8;

/// Chunk groups to send for a request.
pub(super) struct Serve {
    pub(super) serving: Serving,
    /// Where they are; none when they are gone.
    pub(super) payload: Option<Payload>,
}

/// Where the payload of a segment is.
pub(super) enum Payload {
    /// It is still coming itself.
    Partial { root: Root, length: u64 },
    /// It is a segment of the store.
    Stored {
        content: Arc<Content>,
        rendition_no: u16,
        kind: Kind,
        sequence: u64,
    },
}

impl Payload {
    /// Its root and length. Blocks.
    pub(super) fn find(&self, store: &Store) -> Result<(Root, u64), StoreError> {
        match self {
            Self::Partial { root, length } => Ok((*root, *length)),
            Self::Stored {
                content,
                rendition_no,
                kind,
                sequence,
            } => payload_of(store, content, (*rendition_no, *kind, *sequence)),
        }
    }
}

/// What was read of answers.
#[derive(Default)]
pub(super) struct Read {
    /// Messages first.
    pub(super) frames: Vec<Frame>,
    /// What the other side asked for that no honest node asks for.
    pub(super) lie: Option<String>,
}

/// An answer of which a part was sent.
struct Answer {
    request: RequestNo,
    /// The chunk group that follows what was sent.
    next: u64,
    root: Root,
    length: u64,
    writer: FrameWriter,
}

/// Answers that are being sent.
#[derive(Default)]
pub(super) struct Answers {
    /// Kept to spare a look into the index at each turn; the oldest is in front.
    // Lists: they are as short as that are searched faster than any map.
    open: Vec<Answer>,
    files: Vec<(Root, Arc<SliceFile>)>,
    /// Buffers of frames that were sent, once nobody holds them any more.
    buffers: Vec<Bytes>,
}

impl Answers {
    /// Reads what is to be sent, on a thread that may block.
    pub(super) async fn read(&mut self, store: &AsyncStore, serves: Vec<Serve>) -> Read {
        // The thread needs them as its own; they come back with what was read.
        let mut answers = std::mem::take(self);
        let requests: Vec<RequestNo> = serves.iter().map(|it| it.serving.request).collect();
        let read = store.run(move |store| {
            let (mut read, mut data) = (Read::default(), Vec::new());
            for serve in &serves {
                match answers.frames(store, serve) {
                    Ok(Ok(more)) => data.extend(more),
                    // The frames of other requests still go out; the contact ends by the core's
                    // word.
                    Ok(Err(lie)) => read.lie = Some(lie.to_owned()),
                    Err(error) => {
                        tracing::warn!(%error, "a segment cannot be served");
                        read.frames.push(gone(serve.serving.request));
                    }
                }
            }
            read.frames.append(&mut data);
            (answers, read)
        });
        match read.await {
            Ok((answers, read)) => {
                *self = answers;
                read
            }
            // The asker is told, or it would wait until each of these is overdue.
            Err(_) => Read {
                frames: requests.into_iter().map(gone).collect(),
                lie: None,
            },
        }
    }

    /// A buffer of at least so many bytes, whatever they are: one that was used before, if there
    /// is one, for the system is slow to give out memory.
    fn buffer(&mut self, length: usize) -> BytesMut {
        // Frames are slices of a buffer: it is free when the link has let go of all of them.
        let free = self.buffers.iter().position(Bytes::is_unique);
        let used = free.map(|at| self.buffers.swap_remove(at));
        let mut buffer = used
            .and_then(|used| used.try_into_mut().ok())
            .unwrap_or_default();
        // Only grown, never cleared: what is left of an old answer is overwritten or not sent.
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        buffer
    }

    /// Reads the frames that are to be sent now; or says what is wrong with the request. Blocks.
    fn frames(
        &mut self,
        store: &Store,
        serve: &Serve,
    ) -> Result<Result<Vec<Frame>, &'static str>, StoreError> {
        let unread = |error| StoreError::io("read a segment", error);
        let Serving {
            request,
            groups,
            last,
            ..
        } = serve.serving;
        // By what comes next, too: the other side chooses the numbers, and may use one again.
        let goes_on = |it: &Answer| (it.request, it.next) == (request, groups.start);
        let kept = self.open.iter().position(goes_on);
        // Put back only when its frames were read: the writer does not go back to those that
        // failed.
        let mut answer = match kept.map(|at| self.open.remove(at)) {
            Some(answer) => answer,
            None => match begin(store, serve)? {
                Some(answer) => answer,
                None => return Ok(Err("it asked for more than a segment has")),
            },
        };
        let file = self.file(store, answer.root, answer.length)?;
        let count = groups.count() as usize;
        let mut buffer = self.buffer(count * FRAME_BYTES_MAX);
        // First the proofs, with gaps for the chunk groups; then these are read by one call into
        // the gaps.
        let mut leaves = Vec::with_capacity(count);
        let mut ends = Vec::with_capacity(count);
        let (mut rest, mut end, mut from) = (&mut buffer[..], 0, None);
        while ends.len() < count {
            let next = answer.writer.next(&file.outboard, rest).map_err(unread)?;
            let Some(FrameParts { proof, leaf }) = next else {
                break;
            };
            let length = (leaf.end - leaf.start) as usize;
            let (this, tail) = rest.split_at_mut(proof + length);
            leaves.push(IoSliceMut::new(&mut this[proof..]));
            (rest, end) = (tail, end + proof + length);
            ends.push(end);
            from.get_or_insert(leaf.start);
        }
        // The chunk groups of a run stand next to each other.
        file.read(from.unwrap_or(0), &mut leaves).map_err(unread)?;
        let done = answer.writer.is_done();
        let bytes = buffer.freeze();
        // Kept already now, while the frames hold it; `is_unique` tells when it is free.
        if self.buffers.len() < BUFFERS_MAX {
            self.buffers.push(bytes.clone());
        }
        let mut from = 0;
        let frames = ends.iter().map(|end| {
            let bytes = bytes.slice(from..*end);
            from = *end;
            Frame::Data {
                request: request.0,
                last: done && *end == ends[ends.len() - 1],
                bytes,
            }
        });
        let frames = frames.collect();
        if !last && !done {
            answer.next = groups.end;
            self.keep(answer);
        }
        Ok(Ok(frames))
    }

    fn keep(&mut self, answer: Answer) {
        if self.open.len() >= ANSWERS_MAX {
            self.open.remove(0);
        }
        self.open.push(answer);
    }

    fn file(
        &mut self,
        store: &Store,
        root: Root,
        length: u64,
    ) -> Result<Arc<SliceFile>, StoreError> {
        if let Some((_, file)) = self.files.iter().find(|(other, _)| *other == root) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(store.slice_file(&root, length)?);
        if self.files.len() >= FILES_MAX {
            self.files.remove(0);
        }
        // What of a partial payload is here changes; a whole one does not.
        if file.have.count() == group_count(file.length) {
            self.files.push((root, Arc::clone(&file)));
        }
        Ok(file)
    }
}

/// An answer that begins, or goes on where it was let go; none when more was asked for than there
/// is. Blocks.
fn begin(store: &Store, serve: &Serve) -> Result<Option<Answer>, StoreError> {
    let found = serve.payload.as_ref().map(|payload| payload.find(store));
    let gone = || StoreError::NotFound("the segment".into());
    let (root, length) = found.ok_or_else(gone)??;
    let Serving {
        request,
        asked,
        groups,
        ..
    } = serve.serving;
    // The length is told in the record, so no honest node asks beyond it.
    let fits = asked.end <= group_count(length);
    Ok(fits.then(|| Answer {
        request,
        next: groups.start,
        root,
        length,
        writer: FrameWriter::resumed(length, asked, groups.start),
    }))
}

fn gone(request: RequestNo) -> Frame {
    let gone: Message = PieceMessage::Gone(request).into();
    Frame::Control(gone.encode().into())
}

#[cfg(test)]
pub(super) mod tests {
    use lavant_proto::content::{MimeType, Priority};
    use lavant_proto::ids::{ContentId, Rendition, SigningKey};
    use lavant_proto::numbers::{ContactNo, ContentNo, Place, TrackNo};
    use lavant_proto::runs::Run;
    use lavant_proto::uplink::Class;
    use lavant_proto::verify::FrameReader;
    use tokio::task::block_in_place;

    use super::*;
    use crate::store::{NewSegment, Settings};

    const LENGTH: u64 = 200_000;

    /// A store that holds one segment, and the segment's root.
    pub(in super::super) fn store_of_one(folder: &std::path::Path) -> (Store, Root) {
        let payload: Bytes = (0..LENGTH).map(|n| (n % 251) as u8).collect();
        let root = Root(*blake3::hash(&payload).as_bytes());
        let key = SigningKey::from_seed(&[5; 32]);
        let store = Store::open(Settings::new(&folder.join("store")), key).unwrap();
        let new = NewSegment {
            version: None,
            ttl: None,
            content_id: ContentId::new("film").unwrap(),
            title: "Film".into(),
            priority: Priority::Vod,
            target_duration: None,
            rendition: Rendition::main(),
            kind: Kind::Media,
            sequence: 0,
            duration: 540_000,
            discontinuity: false,
            independent: true,
            init: None,
            mime: MimeType::TransportStream,
            shown: crate::store::Shown::default(),
            payload,
        };
        store.append(new).unwrap();
        (store, root)
    }

    fn serve(root: Root, request: u32, (asked, groups): ((u64, u64), (u64, u64))) -> Serve {
        let place = Place {
            content: ContentNo(0),
            track: TrackNo(0),
            sequence: 0,
        };
        Serve {
            serving: Serving {
                contact: ContactNo(0),
                request: RequestNo(request),
                place,
                class: Class::Relay,
                rank: 0,
                asked: Run::new(asked.0, asked.1),
                groups: Run::new(groups.0, groups.1),
                last: groups.1 == asked.1,
            },
            payload: Some(Payload::Partial {
                root,
                length: LENGTH,
            }),
        }
    }

    /// The frames of one request among those that were read.
    fn frames_of(read: Read, of: u32) -> Vec<Bytes> {
        let of_it = read.frames.into_iter().filter_map(|frame| match frame {
            Frame::Data { request, bytes, .. } if request == of => Some(bytes),
            _ => None,
        });
        of_it.collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_goes_on_however_many_others_are_broken_off() {
        let folder = tempfile::tempdir().unwrap();
        let (store, root) = block_in_place(|| store_of_one(folder.path()));
        let store = AsyncStore::new(store);
        let mut answers = Answers::default();
        let asked = (1, 9);
        let first = serve(root, 0, (asked, (1, 4)));
        let mut frames = frames_of(answers.read(&store, vec![first]).await, 0);
        for broken in 1..=4200 {
            let begun = serve(root, broken, ((0, 9), (0, 1)));
            answers.read(&store, vec![begun]).await;
        }
        assert!(answers.open.len() <= ANSWERS_MAX);
        let second = serve(root, 0, (asked, (4, 6)));
        frames.extend(frames_of(answers.read(&store, vec![second]).await, 0));
        // Nor is it harmed when all that was kept is lost, as when the thread that reads fails.
        answers = Answers::default();
        let third = serve(root, 0, (asked, (6, 9)));
        frames.extend(frames_of(answers.read(&store, vec![third]).await, 0));
        let mut reader = FrameReader::new(root, LENGTH, Run::new(asked.0, asked.1));
        for frame in &frames {
            reader.push(frame).unwrap();
        }
        assert!(reader.is_done());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_number_that_is_used_again_begins_another_answer() {
        let folder = tempfile::tempdir().unwrap();
        let (store, root) = block_in_place(|| store_of_one(folder.path()));
        let store = AsyncStore::new(store);
        let mut answers = Answers::default();
        let broken = serve(root, 7, ((0, 9), (0, 2)));
        answers.read(&store, vec![broken]).await;
        let again = serve(root, 7, ((3, 6), (3, 6)));
        let frames = frames_of(answers.read(&store, vec![again]).await, 7);
        let mut reader = FrameReader::new(root, LENGTH, Run::new(3, 6));
        for frame in &frames {
            reader.push(frame).unwrap();
        }
        assert!(reader.is_done());
    }
}
