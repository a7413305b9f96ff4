//! What others say of contents: verified here, and entered into the store.

use lavant_proto::content::{Proof, SegmentRecord, Verified};
use lavant_proto::delivery::{Input, Known};
use lavant_proto::ids::Signature;
use lavant_proto::numbers::{ContactNo, ContentNo, Place, TrackNo};
use lavant_proto::relay::learn::{self, Progress, Wrong};
use lavant_proto::relay::message::Row;
use lavant_proto::runs::SequenceRun;

use super::driver::Driver;
use super::event::Event;
use super::holdings::Verdict;
use super::pending::Pending;
use crate::store::StoreError;

impl Driver {
    pub(super) fn learn_manifest(
        &mut self,
        no: ContactNo,
        at: ContentNo,
        manifest: &[u8],
        signature: Signature,
    ) {
        // The core may have forgotten the content since it put the answer out.
        let Some(key) = self.core.key(at).cloned() else {
            return;
        };
        // The clock, and not the time of the core: it may have been set right since the start.
        let now = self.store.settings().clock.now();
        match self
            .assemblies
            .manifest(no, (at, &key), (manifest, signature), now)
        {
            Ok(Progress { total, known }) => {
                self.input(Input::Manifest {
                    content: at,
                    total,
                    known,
                });
                // Rows may be here already, of the same manifest that another contact sent.
                self.complete(at);
            }
            Err(Wrong::Lie(why)) => self.lied(no, why),
            Err(Wrong::Over) => self.input(Input::RefusedContent {
                content: at,
                forever: false,
            }),
            Err(Wrong::Early) => {
                // No contact is blamed for a date: this node's own clock may be the wrong one.
                tracing::warn!(
                    content = %key.content_id.as_str(),
                    "a content is dated more than a day in the future; is a clock wrong?"
                );
                self.input(Input::RefusedContent {
                    content: at,
                    forever: false,
                });
            }
        }
    }

    pub(super) fn learn_rows(
        &mut self,
        no: ContactNo,
        at: ContentNo,
        from: u64,
        (rows, proof): (Vec<Row>, &[[u8; 32]]),
    ) {
        match self.assemblies.rows(at, from, rows, proof) {
            Ok(Some(Progress { known, .. })) => {
                self.input(Input::Rows { content: at, known });
                self.complete(at);
            }
            // The manifest was let go for others in the meantime, which is no fault of the contact.
            // There was no room for it any more: all of it is asked for again later.
            Ok(None) => self.input(Input::RefusedContent {
                content: at,
                forever: false,
            }),
            Err(why) => self.lied(no, why),
        }
    }

    /// Makes a content of a manifest out of which every row is known.
    fn complete(&mut self, at: ContentNo) {
        let Some(assembly) = self.assemblies.complete(at) else {
            return;
        };
        let (store, events) = (self.store.clone(), self.events.clone());
        // To check and enter 100,000 records takes time and waits for the writer of the store.
        tokio::spawn(async move {
            let admitting = store.attempt(move |store| {
                let complete = assembly.finish();
                let wrong = || StoreError::Invalid("a manifest does not fit its rows".into());
                let complete = complete.ok_or_else(wrong)?;
                store.admit(complete.signed, complete.records)
            });
            let outcome = admitting.await;
            let _ = events.send(Event::Admitted(at, outcome)).await;
        });
    }

    pub(super) fn learn_records(
        &mut self,
        no: ContactNo,
        (at, track): (ContentNo, TrackNo),
        run: SequenceRun,
        records: Vec<(Vec<u8>, Signature)>,
    ) {
        let Some(key) = self.core.key(at).cloned() else {
            return;
        };
        let Some(name) = self.core.track_name(at, track).cloned() else {
            return;
        };
        let now = self.store.settings().clock.now();
        match learn::records(&key, &name, run, records, now) {
            Ok(records) => self.look_up(no, (at, track), run, records),
            Err(why) => self.lied(no, why),
        }
    }

    /// Looks up what is here of segments whose records were verified.
    fn look_up(
        &self,
        no: ContactNo,
        at: (ContentNo, TrackNo),
        run: SequenceRun,
        records: Vec<(Verified<SegmentRecord>, Proof)>,
    ) {
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            let known = store.run(move |store| {
                let records = records.into_iter();
                let known = records.map(|(record, proof)| Verdict::of(store, record, proof));
                known.collect()
            });
            let known = known.await;
            let _ = events.send(Event::Noted(Some(no), at, run, known)).await;
        });
    }

    /// Notes verified records and tells the core how long their segments are.
    pub(super) fn noted(
        &mut self,
        from: Option<ContactNo>,
        (content, track): (ContentNo, TrackNo),
        run: SequenceRun,
        known: Result<Vec<Verdict>, StoreError>,
    ) {
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(%error, "records of a content cannot be read");
                // The fault is on this side: the core asks again later, instead of waiting for what
                // was asked.
                return self.input(Input::RefusedContent {
                    content,
                    forever: false,
                });
            }
        };
        let mut segments = Vec::new();
        for Verdict {
            record,
            proof,
            have,
        } in known
        {
            let place = Place {
                content,
                track,
                sequence: record.sequence,
            };
            segments.push(Known {
                sequence: record.sequence,
                root: record.root,
                length: record.length,
                have,
            });
            // What is on its way already keeps its partial payload and its questions.
            let pending = self.pending.entry(place);
            pending.or_insert_with(|| Pending::new(record, proof));
        }
        // After the records are kept: the core may ask for these segments at once.
        self.input(Input::Learned {
            from,
            content,
            track,
            run,
            known: segments,
        });
    }
}
