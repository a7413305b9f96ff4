//! Segments on their way: served, expected, made part of the store.

use std::sync::Arc;

use lavant_proto::content::{Proof, SegmentRecord, Verified};
use lavant_proto::relay::message::Message;
use lavant_proto::relay::{ContactNo, Input, Known, Place, Relay};
use lavant_proto::runs::{Run, Runs};
use lavant_proto::verify::group_count;

use super::contact;
use super::driver::{Driver, Event, Pending};
use crate::store::StoreError;

/// A request, all that it asked for, what is to be sent now, whether that is the last of it.
pub(super) type Answer = (u32, Run, Run, bool);

impl Driver {
    pub(super) fn serve(
        &mut self,
        no: ContactNo,
        place: Place,
        (request, asked, groups, last): Answer,
    ) {
        let pending = self.pending.get(&place);
        let payload = match pending {
            Some(pending) => Some((pending.record.root, pending.record.length)),
            None => match self.holdings.segment(&self.store, &self.relay, place) {
                Ok(segment) => segment.map(|(_, it)| (it.row.root, it.row.length)),
                Err(error) => {
                    tracing::error!(%error, "a segment cannot be served");
                    None
                }
            },
        };
        let Some((root, length)) = payload else {
            self.send(no, &Message::Gone(request));
            return self.input(Input::Sent(no, Relay::serve_bytes(&groups)));
        };
        if asked.end > group_count(length) {
            return self.lied(no, "it asked for more than a segment has".into());
        }
        if let Some(live) = self.contacts.get(&no) {
            live.outbox.serve(contact::Serve {
                request,
                root,
                length,
                asked,
                groups,
                last,
            });
        }
    }

    pub(super) fn expect(&mut self, no: ContactNo, request: u32, place: Place, groups: Run) {
        let Some(pending) = self.pending.get_mut(&place) else {
            return self.input(Input::Failed(place));
        };
        let record = &pending.record;
        let (root, length) = (record.root, record.length);
        if pending.partial.is_none() {
            match self
                .store
                .partial(&root, length, record.priority, record.expires())
            {
                Ok(partial) => pending.partial = Some(partial),
                Err(error) => {
                    tracing::warn!(%error, "a segment cannot be fetched");
                    self.pending.remove(&place);
                    return self.input(if is_final(&error) {
                        Input::Refused(place)
                    } else {
                        Input::Failed(place)
                    });
                }
            }
        }
        if let (Some(live), Some(partial)) = (self.contacts.get(&no), &pending.partial) {
            let expected = contact::Expected::new(root, length, groups, Arc::clone(partial));
            live.expected.insert(request, expected);
            self.requests.insert((no, request), place);
        }
    }

    pub(super) fn adopt(&mut self, place: Place, start: u64) {
        let Some(pending) = self.pending.remove(&place) else {
            return self.input(Input::Failed(place));
        };
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            let Pending { record, proof, .. } = pending;
            let adopting =
                tokio::task::spawn_blocking(move || store.adopt(record, proof, Some(start)));
            let outcome = adopting.await.unwrap_or(Err(StoreError::Closed));
            let _ = events.send(Event::Adopted(place, outcome)).await;
        });
    }

    pub(super) fn adopted(&mut self, place: Place, outcome: Result<bool, StoreError>) {
        let run = Run::new(place.sequence, place.sequence + 1);
        match outcome {
            // The store's feed tells of it.
            Ok(true) => {}
            Ok(false) => self.input(Input::Stored(place.no, place.track, run)),
            Err(error) => {
                tracing::warn!(%error, "a segment that came cannot be stored");
                if is_final(&error) {
                    self.input(Input::Refused(place));
                } else {
                    self.input(Input::Failed(place));
                }
            }
        }
    }

    /// Chunk groups of a segment that are here from before.
    pub(super) fn have(&self, record: &SegmentRecord) -> Runs {
        let have = self.store.have(&record.root, record.length);
        let have = have.unwrap_or(None).unwrap_or_default();
        have.as_runs().clone()
    }

    /// Notes verified records and says how long their segments are.
    pub(super) fn note(
        &mut self,
        at: u32,
        track: u16,
        records: Vec<(Verified<SegmentRecord>, Proof)>,
    ) -> Vec<Known> {
        let mut known = Vec::new();
        for (record, proof) in records {
            let place = Place {
                no: at,
                track,
                sequence: record.sequence,
            };
            known.push(Known {
                sequence: record.sequence,
                length: record.length,
                have: self.have(&record),
            });
            let pending = Pending {
                record,
                proof,
                partial: None,
            };
            self.pending.entry(place).or_insert(pending);
        }
        known
    }
}

/// Whether a segment that was refused will be refused again.
pub(super) fn is_final(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Invalid(_)
            | StoreError::Conflict(_)
            | StoreError::Removed(_)
            | StoreError::NotFound(_)
            | StoreError::Share { .. }
    )
}
