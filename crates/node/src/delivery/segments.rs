//! Segments on their way: given, expected, made part of the store.

use std::sync::Arc;

use lavant_proto::delivery::Input;
use lavant_proto::ids::Root;
use lavant_proto::numbers::{ContactNo, Place, RequestNo};
use lavant_proto::runs::Run;
use lavant_proto::uplink::Serving;
use tokio::time::Instant;

use super::answers::{Payload, Serve};
use super::driver::Driver;
use super::event::Event;
use super::expected::Expected;
use super::holdings::rendition_no;
use super::pending::{Asking, Pending, Room, is_final};
use crate::shown;
use crate::store::{Partial, StoreError};

/// Segments that peers called damaged and that wait to be looked at. What is beyond that is passed
/// over: a doubt is not signed, so no more than a hint.
const DOUBTS_MAX: usize = 64;

impl Driver {
    pub(super) fn serve(&mut self, serving: Serving) {
        let Serving { place, .. } = serving;
        // What is still coming is in no index yet; its chunk groups are given on as they come.
        let payload = match self.pending.get(&place) {
            Some(pending) => Some(Payload::Partial {
                root: pending.record.root,
                length: pending.record.length,
            }),
            None => self.stored_payload(place),
        };
        // It has ended since, and the core knows.
        let Some(live) = self.contacts.get(&serving.contact) else {
            return;
        };
        live.outbox.serve(Serve { serving, payload });
    }

    fn stored_payload(&self, place: Place) -> Option<Payload> {
        let content = self.holdings.stored(&self.store, place.content)?;
        let name = self.core.track_name(place.content, place.track)?;
        Some(Payload::Stored {
            rendition_no: rendition_no(&content, name)?,
            kind: name.kind,
            sequence: place.sequence,
            content,
        })
    }

    /// Asks for chunk groups, once the store has made room for their segment.
    pub(super) fn ask_for(&mut self, place: Place, asking: Asking) {
        // Its record is gone, as after a write that failed: the core learns it again before it
        // asks.
        let Some(pending) = self.pending.get_mut(&place) else {
            let forever = false;
            return self.input(Input::Refused { place, forever });
        };
        match &mut pending.room {
            Room::Open(partial) => {
                let partial = Arc::clone(partial);
                let (root, length) = (pending.record.root, pending.record.length);
                self.expect(place, asking, (root, length), partial);
            }
            // Room is made once, however many chunk groups are asked for meanwhile.
            Room::Opening(waiting) => waiting.push(asking),
            Room::None => {
                pending.room = Room::Opening(vec![asking]);
                let record = pending.record.clone();
                let (store, events) = (self.store.clone(), self.events.clone());
                tokio::spawn(async move {
                    let partial = store.attempt(move |store| store.partial_of(&record)).await;
                    let _ = events.send(Event::Opened(place, partial)).await;
                });
            }
        }
    }

    /// The store made room for a segment, or refused it.
    pub(super) fn opened(&mut self, place: Place, partial: Result<Arc<Partial>, StoreError>) {
        // The segment may have come another way, or been given up, meanwhile.
        let Some(pending) = self.pending.get_mut(&place) else {
            return;
        };
        // Taken out, to work through it while `self` is used for other things.
        let before = std::mem::replace(&mut pending.room, Room::None);
        let Room::Opening(waiting) = before else {
            // Two answers can come when a segment was given up and asked for again: the first one
            // counts.
            pending.room = before;
            return;
        };
        match partial {
            Ok(partial) => {
                let key = (pending.record.root, pending.record.length);
                pending.room = Room::Open(Arc::clone(&partial));
                for asking in waiting {
                    self.expect(place, asking, key, Arc::clone(&partial));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a segment cannot be fetched");
                self.pending.remove(&place);
                let forever = is_final(&error);
                self.input(Input::Refused { place, forever });
            }
        }
    }

    fn expect(
        &mut self,
        place: Place,
        asking: Asking,
        (root, length): (Root, u64),
        partial: Arc<Partial>,
    ) {
        let Some(live) = self.contacts.get(&asking.contact) else {
            return;
        };
        let expected = Expected::new(root, length, asking.groups, partial);
        // Before the question goes out: on a fast link the answer comes before the next line.
        live.expected.insert(asking.request, expected);
        live.outbox.control(&asking.message);
        self.requests
            .insert((asking.contact, asking.request), place);
    }

    /// A request was given up.
    pub(super) fn unask(&mut self, contact: ContactNo, request: RequestNo) {
        let place = self.forget_request(contact, request);
        // It may still wait for room.
        if place.is_none() {
            for pending in self.pending.values_mut() {
                if let Room::Opening(waiting) = &mut pending.room {
                    waiting.retain(|it| (it.contact, it.request) != (contact, request));
                }
            }
        }
    }

    pub(super) fn adopt(&mut self, place: Place, start: u64) {
        // Out of `pending` at once, so that nothing more is written to it while it gets its footer.
        let Some(pending) = self.pending.remove(&place) else {
            let forever = false;
            return self.input(Input::Refused { place, forever });
        };
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            let Pending { record, proof, .. } = pending;
            let adopting = store.attempt(move |store| {
                let shown = shown::by_arrived(store, &record);
                store.adopt(record, proof, Some(start), shown)
            });
            let outcome = adopting.await;
            let _ = events.send(Event::Adopted(place, outcome)).await;
        });
    }

    pub(super) fn adopted(&mut self, place: Place, outcome: Result<bool, StoreError>) {
        match outcome {
            // The store's feed tells of it.
            Ok(true) => {}
            // It was here already, so that no commit follows of which the feed could tell.
            Ok(false) => self.input(Input::Stored {
                content: place.content,
                track: place.track,
                run: Run::one(place.sequence),
            }),
            Err(error) => {
                tracing::warn!(%error, "a segment that came cannot be stored");
                let forever = is_final(&error);
                self.input(Input::Refused { place, forever });
            }
        }
    }

    /// A peer says that a stored segment is damaged: it is looked at again, unless it was just now.
    pub(super) fn doubt(&mut self, place: Place) {
        if self.doubts.waiting.len() < DOUBTS_MAX {
            self.doubts.waiting.push_back(place);
            self.look_again();
        }
    }

    /// What was doubted has been looked at.
    pub(super) fn looked(&mut self) {
        self.doubts.looking = false;
        self.look_again();
    }

    fn look_again(&mut self) {
        while !self.doubts.looking
            && let Some(place) = self.doubts.waiting.pop_front()
        {
            // It went meanwhile, and with it the doubt.
            let Some(payload) = self.stored_payload(place) else {
                continue;
            };
            // One look at a time: peers decide how many there are, not how much of the disk they
            // take.
            self.doubts.looking = true;
            let (store, events) = (self.store.clone(), self.events.clone());
            tokio::spawn(async move {
                let root = store.attempt(move |store| payload.find(store)).await;
                let root = root.ok().map(|(root, _)| root);
                let _ = events.send(Event::Doubted(root)).await;
            });
        }
    }

    /// The payload of a segment that was doubted is known: it is hashed again.
    pub(super) fn doubted(&mut self, root: Option<Root>) {
        let now = Instant::now();
        // By root, and not by place: many contents may name one payload.
        let Some(root) = root.filter(|root| self.doubts.is_fresh(root, now)) else {
            return self.looked();
        };
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Err(error) = store.attempt(move |store| store.doubt(&root)).await {
                tracing::warn!(%error, "a segment that a peer doubts cannot be looked at");
            }
            let _ = events.send(Event::Looked).await;
        });
    }
}
