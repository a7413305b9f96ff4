//! What is said of contents: read from the store for others, verified when others say it.

use std::sync::Arc;

use lavant_proto::content::{Manifest, Proof, Unverified, Verified};
use lavant_proto::ids::Signature;
use lavant_proto::relay::message::{MESSAGE_BYTES_MAX, Message, RECORDS_MAX, ROWS_MAX, Row};
use lavant_proto::relay::{ContactNo, Input};
use lavant_proto::runs::Run;

use super::driver::{Driver, Event};
use super::holdings::rendition;
use super::learn::{self, Sheet};
use crate::store::{Content, Store, StoreError};

impl Driver {
    pub(super) fn send_manifest(&self, no: ContactNo, at: u32) {
        let head = self
            .holdings
            .stored(&self.store, at)
            .and_then(|content| self.store.manifest_head(&content));
        if let Some((manifest, signature)) = head {
            self.send(no, &Message::Manifest(at, manifest, signature));
        }
    }

    /// Answers with rows of a manifest and their proof, apart from the relay's task: a manifest may
    /// have a million rows.
    pub(super) fn send_rows(&mut self, no: ContactNo, at: u32, run: Run) {
        let Some(content) = self.holdings.stored(&self.store, at) else {
            return;
        };
        let Some(outbox) = self.outbox(no) else {
            return;
        };
        let (store, sheet) = (self.store.clone(), self.sheet(&content));
        outbox.wait_for(MESSAGE_BYTES_MAX);
        tokio::task::spawn_blocking(move || {
            let rows = sheet.and_then(|sheet| rows_message(&store, &content, &sheet, at, run));
            outbox.done_with(MESSAGE_BYTES_MAX);
            if let Some(message) = rows {
                outbox.control(&message);
            }
        });
    }

    fn sheet(&mut self, content: &Arc<Content>) -> Option<Arc<Sheet>> {
        let store = self.store.clone();
        self.sheets
            .get(content.no, || store.manifest(content.as_ref()))
    }

    pub(super) fn send_records(&self, no: ContactNo, at: u32, track: u16, run: Run) {
        let run = Run::new(run.start, run.end.min(run.start + RECORDS_MAX));
        let mut records = Vec::new();
        if let Some(content) = self.holdings.stored(&self.store, at)
            && let Some((rendition_no, kind)) = rendition(&self.relay, &content, at, track)
        {
            for sequence in run.start..run.end {
                let segment = self.store.segment(&content, rendition_no, kind, sequence);
                let Ok(Some(segment)) = segment else {
                    continue;
                };
                if let Some(signature) = segment.row.signature {
                    let record = self.store.record(&content, &segment);
                    records.push((record.encode(), signature));
                }
            }
        }
        self.send(no, &Message::Records(at, track, run, records));
    }

    pub(super) fn learn_manifest(
        &mut self,
        no: ContactNo,
        at: u32,
        manifest: &[u8],
        signature: Signature,
    ) {
        let Some(key) = self.relay.key(at).cloned() else {
            return;
        };
        let now = self.store.settings().clock.now();
        match self.assemblies.manifest(at, &key, manifest, signature, now) {
            Ok(learn::Progress { hash, total, known }) => {
                self.input(Input::Manifest(at, hash, total, known));
                self.complete(at);
            }
            Err(why) => self.lied(no, why),
        }
    }

    pub(super) fn learn_rows(
        &mut self,
        no: ContactNo,
        at: u32,
        from: u64,
        rows: Vec<Row>,
        proof: &[[u8; 32]],
    ) {
        match self.assemblies.rows(at, from, rows, proof) {
            Ok(Some((known, _))) => {
                self.input(Input::Rows(at, known));
                self.complete(at);
            }
            Ok(None) => {}
            Err(why) => self.lied(no, why),
        }
    }

    /// Makes a content of a manifest out of which every row is known.
    fn complete(&mut self, at: u32) {
        let Some(complete) = self.assemblies.complete(at) else {
            return;
        };
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            let admitting =
                tokio::task::spawn_blocking(move || store.admit(complete.signed, complete.records));
            let outcome = admitting.await.unwrap_or(Err(StoreError::Closed));
            let _ = events.send(Event::Admitted(at, outcome)).await;
        });
    }

    pub(super) fn learn_records(
        &mut self,
        no: ContactNo,
        at: u32,
        track: u16,
        run: Run,
        records: Vec<(Vec<u8>, Signature)>,
    ) {
        let Some(key) = self.relay.key(at).cloned() else {
            return;
        };
        let Some(name) = self.relay.track_name(at, track).cloned() else {
            return;
        };
        let now = self.store.settings().clock.now();
        match learn::records(&key, &name, run, records, now) {
            Ok(records) => {
                let known = self.note(at, track, records);
                self.input(Input::Learned(Some(no), at, track, run, known));
            }
            Err(why) => self.lied(no, why),
        }
    }

    /// Reads from the store how long segments of a finished content are, which is known although
    /// their payloads are not here.
    pub(super) fn recall(&mut self, at: u32, track: u16, run: Run) {
        let known = match self.recalled(at, track, run) {
            Ok(records) => self.note(at, track, records),
            Err(error) => {
                tracing::error!(%error, "records of a content cannot be read");
                return self.input(Input::FailedContent(at));
            }
        };
        self.input(Input::Learned(None, at, track, run, known));
    }

    fn recalled(&mut self, at: u32, track: u16, run: Run) -> Result<Recalled, StoreError> {
        let Some(content) = self.holdings.stored(&self.store, at) else {
            return Ok(Vec::new());
        };
        let Some((rendition_no, kind)) = rendition(&self.relay, &content, at, track) else {
            return Ok(Vec::new());
        };
        let Some(name) = self.relay.track_name(at, track).cloned() else {
            return Ok(Vec::new());
        };
        let Some(sheet) = self.sheet(&content) else {
            return Ok(Vec::new());
        };
        let mut records = Vec::new();
        for sequence in run.start..run.end {
            let record = self
                .store
                .known_record(&content, rendition_no, kind, sequence)?;
            let leaf = learn::position(&sheet.manifest, &name, sequence)
                .and_then(|position| sheet.tree.leaves().get(usize::try_from(position).ok()?));
            let (Some(record), Some(leaf)) = (record, leaf) else {
                continue;
            };
            if let Some(record) = Unverified::new(record).verify_leaf(leaf) {
                records.push((record, Proof::Manifest));
            }
        }
        Ok(records)
    }

    /// A peer says that a stored segment is damaged: it is looked at again.
    pub(super) fn doubt(&self, place: lavant_proto::relay::Place) {
        let segment = self.holdings.segment(&self.store, &self.relay, place);
        if let Ok(Some((_, segment))) = segment {
            let store = self.store.clone();
            tokio::task::spawn_blocking(move || store.doubt(&segment.row.root));
        }
    }
}

type Recalled = Vec<(Verified<lavant_proto::content::SegmentRecord>, Proof)>;

fn rows_message(
    store: &Store,
    content: &Content,
    sheet: &Sheet,
    at: u32,
    run: Run,
) -> Option<Message> {
    let total = sheet.tree.leaves().len() as u64;
    let end = run.end.min(run.start + ROWS_MAX).min(total);
    if run.start >= end {
        return None;
    }
    let mut rows = Vec::new();
    for position in run.start..end {
        let record = record_at(store, content, &sheet.manifest, position)?;
        rows.push(Row::of(&record));
    }
    let range = usize::try_from(run.start).ok()?..usize::try_from(end).ok()?;
    let proof = sheet.tree.prove(range);
    Some(Message::Rows(at, run.start, rows, proof))
}

fn record_at(
    store: &Store,
    content: &Content,
    manifest: &Manifest,
    position: u64,
) -> Option<lavant_proto::content::SegmentRecord> {
    let (info, kind, sequence) = lavant_proto::relay::message::place(manifest, position)?;
    let rendition_no = content.rendition_no(info.name.as_str())?;
    store
        .known_record(content, rendition_no, kind, sequence)
        .ok()
        .flatten()
}
