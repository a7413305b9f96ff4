//! An honest node: the core, driven as its documentation says, on a store in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use lavant_proto::content::{SegmentRecord, Verified};
use lavant_proto::delivery::{Config, Delivery, Input, Output};
use lavant_proto::ids::{Root, SigningKey};
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, ContentNo, Place, RequestNo};
use lavant_proto::piece::message::PieceMessage;
use lavant_proto::relay::learn::Assemblies;
use lavant_proto::runs::Run;
use lavant_proto::time::Time;
use lavant_proto::uplink::Serving;
use lavant_proto::verify::{FrameReader, FrameWriter, group_count};

use super::film::{Film, Frame, track};
use super::library::Library;
use super::store::{Refusal, Segment, Store};

/// For how long a payload that was looked at again is not looked at once more.
const LOOKED_FOR: Duration = Duration::from_secs(600);

/// What a node wants of the world.
#[derive(Debug)]
pub(super) enum Effect {
    Send(ContactNo, Frame),
    Close(ContactNo, String),
    /// Nothing more of a contact is read until then.
    Slow(ContactNo, Time),
    /// A question of a contact is read, which takes so long.
    Read(ContactNo, Duration),
}

/// An honest node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) core: Delivery,
    pub(super) store: Store,
    pub(super) assemblies: Assemblies,
    /// Segments whose records were verified and that are not stored yet.
    pub(super) pending: BTreeMap<Place, Segment>,
    expected: BTreeMap<(ContactNo, RequestNo), FrameReader>,
    answers: BTreeMap<(ContactNo, RequestNo), FrameWriter>,
    pub(super) library: Library,
    looked: BTreeMap<Root, Time>,
    /// Bytes that were hashed again because somebody doubted them.
    pub(super) hashed: u64,
    pub(super) now: Time,
    pub(super) effects: Vec<Effect>,
}

impl Node {
    pub(super) fn new(key: &SigningKey, store: Store, now: Time) -> Self {
        let own = key.publisher();
        Self {
            core: Delivery::new(Config::new(own), now),
            store,
            assemblies: Assemblies::default(),
            pending: BTreeMap::new(),
            expected: BTreeMap::new(),
            answers: BTreeMap::new(),
            library: Library::default(),
            looked: BTreeMap::new(),
            hashed: 0,
            now,
            effects: Vec::new(),
        }
    }

    /// Takes an input and does what follows from it, as far as it does not need the world.
    pub(super) fn input(&mut self, now: Time, input: Input) {
        self.now = now;
        self.core.handle(now, input);
        self.drain();
    }

    /// Says something to the core while its outputs are being worked through.
    pub(super) fn handle(&mut self, input: Input) {
        self.core.handle(self.now, input);
    }

    /// A contact was slowed down and is read again.
    pub(super) fn resume(&mut self, now: Time) {
        self.now = now;
        self.read_next();
        self.drain();
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.core.poll() {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send { contact, message } => self.send(contact, &message),
            Output::Close { contact, why, .. } => self.end(contact, why),
            Output::Slow { contact, until } => self.effects.push(Effect::Slow(contact, until)),
            Output::Serve(serving) => self.serve(serving),
            Output::Ask {
                contact,
                request,
                place,
                groups,
                message,
            } => match self.room_for(place) {
                Some((root, length)) => {
                    let reader = FrameReader::new(root, length, groups);
                    self.expected.insert((contact, request), reader);
                    self.send(contact, &message);
                }
                None => {
                    self.pending.remove(&place);
                    let forever = false;
                    self.handle(Input::Refused { place, forever });
                }
            },
            Output::Unask { contact, request } => {
                self.expected.remove(&(contact, request));
            }
            Output::Adopt { place, .. } => self.adopt(place),
            Output::Forget { place } => {
                self.pending.remove(&place);
            }
            Output::Forgotten { content } => {
                self.assemblies.forget(content);
                self.pending.retain(|place, _| place.content != content);
            }
            Output::Doubt { place } => self.doubt(place),
            Output::Ready { .. } | Output::Copies { .. } => {}
            other => self.about_contents(other),
        }
    }

    pub(super) fn send(&mut self, contact: ContactNo, message: &Message) {
        let frame = Frame::Control(message.encode());
        self.effects.push(Effect::Send(contact, frame));
    }

    fn end(&mut self, contact: ContactNo, why: String) {
        self.forget_contact(contact);
        self.effects.push(Effect::Close(contact, why));
    }

    /// Forgets what was awaited of a contact, and what it asked.
    pub(super) fn forget_contact(&mut self, contact: ContactNo) {
        self.expected.retain(|(other, _), _| *other != contact);
        self.answers.retain(|(other, _), _| *other != contact);
        self.library.close(contact);
    }

    /// Root and length of a segment for which the store has room.
    fn room_for(&mut self, place: Place) -> Option<(Root, u64)> {
        let (record, _) = self.pending.get(&place)?;
        let key = (record.root, record.length);
        self.store.expect(&key.0, key.1).then_some(key)
    }

    /// A chunk group of an answer came.
    pub(super) fn data(&mut self, now: Time, contact: ContactNo, request: RequestNo, bytes: &[u8]) {
        // An answer to a request that was given up is of no use.
        let Some(mut reader) = self.expected.remove(&(contact, request)) else {
            return;
        };
        // A reader that refused a frame is not put back: it would refuse all others, too.
        let Ok(frame) = reader.push(bytes) else {
            return self.input(now, Input::Damaged { contact, request });
        };
        let groups = Run::one(frame.group());
        // Kept first: the core tells others of what has arrived.
        self.store.write(&frame);
        if !reader.is_done() {
            self.expected.insert((contact, request), reader);
        }
        self.input(
            now,
            Input::Arrived {
                contact,
                request,
                groups,
            },
        );
    }

    fn adopt(&mut self, place: Place) {
        let Place {
            content,
            track,
            sequence,
        } = place;
        let adopted = match self.pending.remove(&place) {
            Some(segment) => self.store.adopt(segment),
            None => Err(Refusal::Now),
        };
        if let Err(why) = adopted {
            let forever = matches!(why, Refusal::Forever);
            return self.handle(Input::Refused { place, forever });
        }
        self.tell_content(content);
        self.handle(Input::Stored {
            content,
            track,
            run: Run::one(sequence),
        });
    }

    /// Tells the core what the store has of a content.
    pub(super) fn tell_content(&mut self, content: ContentNo) {
        let key = self.core.key(content).cloned();
        if let Some(facts) = key.and_then(|key| self.store.facts(&key)) {
            self.handle(Input::Content { content, facts });
        }
    }

    /// Root and length of a segment that is here, or coming.
    fn payload(&self, place: Place) -> Option<(Root, u64)> {
        if let Some((record, _)) = self.pending.get(&place) {
            return Some((record.root, record.length));
        }
        let content = self.store.contents.get(self.core.key(place.content)?)?;
        let name = self.core.track_name(place.content, place.track)?.clone();
        let at = (name, place.sequence);
        let record: &Verified<SegmentRecord> = &content.known.get(&at)?.0;
        Some((record.root, record.length))
    }

    fn serve(&mut self, serving: Serving) {
        let Serving {
            contact, request, ..
        } = serving;
        let found = self.payload(serving.place);
        // The core does not know how long a stored segment is, so this is seen only here.
        if found.is_some_and(|(_, length)| serving.asked.end > group_count(length)) {
            let why = "it asked for more than a segment has".to_owned();
            return self.handle(Input::Lied { contact, why });
        }
        let begun = self.answers.remove(&(contact, request));
        let frames = found.and_then(|(root, length)| {
            let blob = self.store.blob(&root, length)?;
            let mut writer = begun.unwrap_or_else(|| FrameWriter::new(length, serving.asked));
            let frames = blob.frames(&mut writer, serving.groups.count());
            if !serving.last {
                self.answers.insert((contact, request), writer);
            }
            // A part of an answer would be read at the wrong place: it is said to be gone as a
            // whole.
            (frames.len() as u64 == serving.groups.count()).then_some(frames)
        });
        let Some(frames) = frames else {
            self.send(contact, &PieceMessage::Gone(request).into());
            // Nothing of it goes into the link, so it must not hold room there.
            let bytes = Delivery::serving_bytes(&serving.groups);
            return self.handle(Input::Sent { contact, bytes });
        };
        for bytes in frames {
            let frame = Frame::Data { request, bytes };
            self.effects.push(Effect::Send(contact, frame));
        }
    }

    /// A peer says that a segment is damaged: it is hashed again, unless it was just now.
    fn doubt(&mut self, place: Place) {
        let Some((root, length)) = self.payload(place) else {
            return;
        };
        let looked = self.looked.get(&root);
        // Calling the same damaged again costs nothing more.
        if looked.is_none_or(|at| self.now.since(*at) > LOOKED_FOR) {
            self.looked.insert(root, self.now);
            self.hashed += length;
        }
    }

    /// Makes a film its own and tells the core of it.
    pub(super) fn publish(&mut self, now: Time, film: &Film) {
        self.now = now;
        self.store.make(film);
        let content = self.core.no(&film.key);
        let track = self.core.track(content, &track());
        self.tell_content(content);
        if let Some(track) = track {
            self.handle(Input::Stored {
                content,
                track,
                run: Run::new(0, film.count()),
            });
        }
        self.drain();
    }
}
