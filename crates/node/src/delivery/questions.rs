//! What others ask of contents is read here, off the driver's task, and in turn.
//!
//! A question can cost much: the rows of a manifest are proven by a tree over all of them. So each
//! contact has one question read at a time, only a few are read at once, and what a contact costs
//! is reported, so that one that asks for much waits.

use std::time::Duration;

use lavant_proto::content::{Manifest, Proof, SegmentRecord, Unverified};
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, ContentNo, TrackNo};
use lavant_proto::relay::learn;
use lavant_proto::relay::message::{Question, RECORDS_MAX, ROWS_MAX, RelayMessage, Row, TrackName};
use lavant_proto::runs::{PositionRun, Run, SequenceRun};
use tokio::time::Instant;

use super::driver::Driver;
use super::event::Event;
use super::holdings::{Verdict, rendition_no};
use super::library::Sheets;
use crate::store::{Content, Store, StoreError};

/// Questions that are read at once: one core is always left for everything else.
const AT_ONCE: usize = 2;
/// Questions of one contact that wait, before no more of it is read for a moment, and before it is
/// left: an honest one asks 64 at a time, and what came in one go is taken all the same.
const WAITING_MANY: usize = 64;
const WAITING_MAX: usize = 16_384;
/// For how long no more is read of a contact that asks for much.
const MOMENT: Duration = Duration::from_millis(100);

impl Driver {
    /// A contact asks something.
    pub(super) fn query(&mut self, no: ContactNo, question: Question) {
        // The driver may have ended it while the core's outputs waited.
        if !self.contacts.contains_key(&no) {
            return;
        }
        let waiting = self.library.waiting.entry(no).or_default();
        if waiting.len() >= WAITING_MAX {
            return self.end(no, "it asks for too much at a time".into());
        }
        waiting.push_back(question);
        let many = waiting.len() > WAITING_MANY;
        // The only one: with more, the contact is in turn already, or being read.
        if waiting.len() == 1 {
            self.library.turn.push_back(no);
        }
        // The questions that came in one go are all taken; what follows waits in the contact's own
        // link.
        if many {
            let until = self.now().after(MOMENT);
            self.read_later(no, until);
        }
        self.read_next();
    }

    /// A question was read: the next one of the same contact waits behind those of others.
    pub(super) fn was_read(&mut self, no: ContactNo) {
        // Also for a contact that has ended: its question was read to its end.
        self.library.reading -= 1;
        if let Some(waiting) = self.library.waiting.get_mut(&no) {
            waiting.pop_front();
            if waiting.is_empty() {
                self.library.waiting.remove(&no);
            } else {
                self.library.turn.push_back(no);
            }
        }
        self.read_next();
    }

    /// Reads questions of contacts that have not used up their budget.
    pub(super) fn read_next(&mut self) {
        let now = Instant::now();
        // Each is looked at once: when all have used up their budget, the loop ends all the same.
        let mut looked = self.library.turn.len();
        while self.library.reading < AT_ONCE && looked > 0 {
            looked -= 1;
            let Some(no) = self.library.turn.pop_front() else {
                return;
            };
            let slow = self.contacts.get(&no).and_then(|live| live.slow_until);
            if slow.is_some_and(|until| until > now) {
                self.library.turn.push_back(no);
                continue;
            }
            let first = self.library.waiting.get(&no).and_then(|it| it.front());
            if let Some(question) = first.copied() {
                self.library.reading += 1;
                self.read(no, question);
            }
        }
    }

    fn read(&self, no: ContactNo, question: Question) {
        let at = question.content();
        let content = self.holdings.stored(&self.store, at);
        let name = match question {
            Question::Records(_, track, _) => self.core.track_name(at, track).cloned(),
            _ => None,
        };
        // Taken along, as the answer is sent from the task; an outbox of a contact that ended is
        // silent.
        let outbox = self.contacts.get(&no).map(|live| live.outbox.clone());
        let (store, sheets, events) =
            (self.store.clone(), self.sheets.clone(), self.events.clone());
        tokio::spawn(async move {
            let answer = store.run(move |store| {
                let begun = Instant::now();
                let answer = content.and_then(|content| match question {
                    Question::Manifest(_) => manifest(store, &content, at),
                    Question::Rows(_, run) => rows(store, &sheets, &content, at, run),
                    Question::Records(_, track, run) => {
                        records(store, &content, at, (track, &name?), run)
                    }
                });
                (answer, begun.elapsed())
            });
            // A read that failed counts as read: `reading` would never fall again otherwise.
            let (answer, took) = answer.await.unwrap_or_default();
            if let (Some(outbox), Some(answer)) = (outbox, answer) {
                outbox.control(&Message::Relay(answer));
            }
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let _ = events.send(Event::Read(no, micros)).await;
        });
    }

    /// Reads from the store how long segments of a finished content are, which is known although
    /// their payloads are not here.
    pub(super) fn recall(&self, at: ContentNo, track: TrackNo, run: SequenceRun) {
        let content = self.holdings.stored(&self.store, at);
        let name = self.core.track_name(at, track).cloned();
        let (store, sheets, events) =
            (self.store.clone(), self.sheets.clone(), self.events.clone());
        tokio::spawn(async move {
            let known = store.attempt(move |store| {
                let (Some(content), Some(name)) = (content, name) else {
                    return Ok(Vec::new());
                };
                recalled(store, &sheets, &content, &name, run)
            });
            let known = known.await;
            let from = None;
            let noted = Event::Noted(from, (at, track), run, known);
            let _ = events.send(noted).await;
        });
    }
}

fn manifest(store: &Store, content: &Content, at: ContentNo) -> Option<RelayMessage> {
    let (manifest, signature) = store.manifest_head(content)?;
    Some(RelayMessage::Manifest(at.told(), manifest, signature))
}

fn rows(
    store: &Store,
    sheets: &Sheets,
    content: &Content,
    at: ContentNo,
    run: PositionRun,
) -> Option<RelayMessage> {
    let sheet = sheets.get(store, content)?;
    let total = sheet.tree.leaves().len() as u64;
    // Honest nodes ask for no more than this, which bounds what one question costs.
    let end = run.end.min(run.start + ROWS_MAX).min(total);
    if run.start >= end {
        return None;
    }
    let mut rows = Vec::new();
    for position in run.start..end {
        rows.push(Row::of(&record_at(
            store,
            content,
            &sheet.manifest,
            position,
        )?));
    }
    let range = usize::try_from(run.start).ok()?..usize::try_from(end).ok()?;
    let proof = sheet.tree.prove(range);
    Some(RelayMessage::Rows(at.told(), run.start, rows, proof))
}

fn record_at(
    store: &Store,
    content: &Content,
    manifest: &Manifest,
    position: u64,
) -> Option<SegmentRecord> {
    let (info, kind, sequence) = lavant_proto::relay::message::place(manifest, position)?;
    let no = content.rendition_no(info.name.as_str())?;
    store
        .known_record(content, no, kind, sequence)
        .ok()
        .flatten()
}

fn records(
    store: &Store,
    content: &Content,
    at: ContentNo,
    (track, name): (TrackNo, &TrackName),
    run: SequenceRun,
) -> Option<RelayMessage> {
    let asked = run;
    let run: SequenceRun = Run::new(run.start, run.end.min(run.start + RECORDS_MAX));
    let no = rendition_no(content, name)?;
    let mut records = Vec::new();
    for sequence in run.start..run.end {
        // It went after the core told of it.
        let Ok(Some(segment)) = store.segment(content, no, name.kind, sequence) else {
            continue;
        };
        // Those for which only a manifest vouches have none; they are told as its rows.
        if let Some(signature) = segment.row.signature {
            let record = store.record(content, &segment);
            records.push((record.encode(), signature));
        }
    }
    // With the run as it was asked, or the asker takes it for something that it did not ask.
    Some(RelayMessage::Records(at.told(), track, asked, records))
}

fn recalled(
    store: &Store,
    sheets: &Sheets,
    content: &Content,
    name: &TrackName,
    run: SequenceRun,
) -> Result<Vec<Verdict>, StoreError> {
    let Some(no) = rendition_no(content, name) else {
        return Ok(Vec::new());
    };
    let Some(sheet) = sheets.get(store, content) else {
        return Ok(Vec::new());
    };
    let mut records = Vec::new();
    for sequence in run.start..run.end {
        let record = store.known_record(content, no, name.kind, sequence)?;
        let leaf = learn::position(&sheet.manifest, name, sequence)
            .and_then(|position| sheet.tree.leaves().get(usize::try_from(position).ok()?));
        let (Some(record), Some(leaf)) = (record, leaf) else {
            continue;
        };
        // The index is no proof: only what the publisher signed may become a partial payload.
        if let Some(record) = Unverified::new(record).verify_leaf(leaf) {
            records.push(Verdict::of(store, record, Proof::Manifest));
        }
    }
    Ok(records)
}
