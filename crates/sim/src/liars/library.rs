//! What is said about contents: questions of others, which take their time, and their answers,
//! which are verified before anything is believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lavant_proto::content::Proof;
use lavant_proto::delivery::{Input, Known, Output};
use lavant_proto::numbers::{ContactNo, ContentNo, Place, TrackNo};
use lavant_proto::relay::learn::{self, Complete, Progress, Wrong};
use lavant_proto::relay::message::{
    Question, RECORDS_MAX, ROWS_MAX, RelayMessage, Row, TrackName, place,
};
use lavant_proto::runs::SequenceRun;
use lavant_proto::time::Time;

use super::node::{Effect, Node};
use super::store::{Refusal, Segment};

/// Questions that are read at once.
const AT_ONCE: usize = 2;
/// Questions of one contact that wait before it is read no further for a moment.
const WAITING_MANY: usize = 64;
const MOMENT: Duration = Duration::from_millis(100);
/// What a question costs: rows as those of a large manifest, which a tree over all of them proves.
const COST: Duration = Duration::from_micros(200);
const COST_OF_ROWS: Duration = Duration::from_millis(5);

const fn cost(question: &Question) -> Duration {
    match question {
        Question::Rows(..) => COST_OF_ROWS,
        Question::Manifest(_) | Question::Records(..) => COST,
    }
}

/// Questions that wait: one of each contact is read at a time.
#[derive(Debug, Default)]
pub(super) struct Library {
    waiting: BTreeMap<ContactNo, VecDeque<Question>>,
    turn: VecDeque<ContactNo>,
    reading: BTreeSet<ContactNo>,
    slow: BTreeMap<ContactNo, Time>,
}

impl Library {
    pub(super) fn close(&mut self, contact: ContactNo) {
        self.waiting.remove(&contact);
        self.slow.remove(&contact);
        self.turn.retain(|other| *other != contact);
    }

    /// Nothing of a contact is read until then.
    pub(super) fn slow(&mut self, contact: ContactNo, until: Time) {
        self.slow.insert(contact, until);
    }
}

impl Node {
    pub(super) fn about_contents(&mut self, output: Output) {
        match output {
            Output::Answer { contact, question } => self.query(contact, question),
            Output::LearnManifest {
                contact,
                content: at,
                manifest,
                signature,
            } => {
                let Some(key) = self.core.key(at).cloned() else {
                    return;
                };
                let now = self.now;
                let read =
                    self.assemblies
                        .manifest(contact, (at, &key), (&manifest, signature), now);
                self.learned_manifest(contact, at, read);
            }
            Output::LearnRows {
                contact,
                content,
                from,
                rows,
                proof,
            } => self.learn_rows(contact, content, from, (rows, &proof)),
            Output::LearnRecords {
                contact,
                content,
                track,
                run,
                records,
            } => {
                let key = self.core.key(content).cloned();
                let name = self.core.track_name(content, track).cloned();
                // The content was forgotten while the answer was on its way.
                let (Some(key), Some(name)) = (key, name) else {
                    return;
                };
                match learn::records(&key, &name, run, records, self.now) {
                    Ok(records) => self.note(Some(contact), (content, track), run, records),
                    Err(why) => self.handle(Input::Lied { contact, why }),
                }
            }
            Output::Recall {
                content,
                track,
                run,
            } => self.recall(content, track, run),
            _ => {}
        }
    }

    fn learned_manifest(
        &mut self,
        contact: ContactNo,
        content: ContentNo,
        read: Result<Progress, Wrong>,
    ) {
        match read {
            Ok(Progress { total, known }) => {
                self.handle(Input::Manifest {
                    content,
                    total,
                    known,
                });
                self.complete(content);
            }
            Err(Wrong::Lie(why)) => self.handle(Input::Lied { contact, why }),
            Err(Wrong::Early | Wrong::Over) => self.refuse(content, &Refusal::Now),
        }
    }

    fn learn_rows(
        &mut self,
        contact: ContactNo,
        content: ContentNo,
        from: u64,
        (rows, proof): (Vec<Row>, &[[u8; 32]]),
    ) {
        match self.assemblies.rows(content, from, rows, proof) {
            Ok(Some(Progress { known, .. })) => {
                self.handle(Input::Rows { content, known });
                self.complete(content);
            }
            Ok(None) => self.refuse(content, &Refusal::Now),
            Err(why) => self.handle(Input::Lied { contact, why }),
        }
    }

    fn refuse(&mut self, content: ContentNo, why: &Refusal) {
        let forever = matches!(why, Refusal::Forever);
        self.handle(Input::RefusedContent { content, forever });
    }

    /// Makes a content of a manifest out of which every row is known.
    fn complete(&mut self, content: ContentNo) {
        let Some(assembly) = self.assemblies.complete(content) else {
            return;
        };
        let whole: Option<Complete> = assembly.finish();
        let admitted = whole.map_or(Err(Refusal::Forever), |it| self.store.admit(it));
        match admitted {
            Ok(()) => self.tell_content(content),
            Err(why) => self.refuse(content, &why),
        }
    }

    /// Notes verified records and tells the core how long their segments are.
    fn note(
        &mut self,
        from: Option<ContactNo>,
        (content, track): (ContentNo, TrackNo),
        run: SequenceRun,
        records: Vec<Segment>,
    ) {
        // As if the index could not be read: nothing of the answer is kept.
        if self.store.fails() {
            return self.refuse(content, &Refusal::Now);
        }
        let mut known = Vec::new();
        for (record, proof) in records {
            let sequence = record.sequence;
            let place = Place {
                content,
                track,
                sequence,
            };
            known.push(Known {
                sequence,
                root: record.root,
                length: record.length,
                have: self.store.have(&record.root, record.length),
            });
            // The first proof stays, as the segment may be under way by it.
            self.pending.entry(place).or_insert((record, proof));
        }
        self.handle(Input::Learned {
            from,
            content,
            track,
            run,
            known,
        });
    }

    fn recall(&mut self, content: ContentNo, track: TrackNo, run: SequenceRun) {
        let stored = self
            .core
            .key(content)
            .and_then(|key| self.store.contents.get(key));
        let name = self.core.track_name(content, track);
        let (Some(stored), Some(name)) = (stored, name) else {
            return self.note(None, (content, track), run, Vec::new());
        };
        let known = (run.start..run.end).filter_map(|at| stored.known.get(&(name.clone(), at)));
        let by_manifest = known.map(|(record, _)| (record.clone(), Proof::Manifest));
        let records = by_manifest.collect();
        self.note(None, (content, track), run, records);
    }

    fn query(&mut self, contact: ContactNo, question: Question) {
        let waiting = self.library.waiting.entry(contact).or_default();
        waiting.push_back(question);
        // It is read no further before its questions take room without end.
        let many = waiting.len() > WAITING_MANY;
        if waiting.len() == 1 {
            self.library.turn.push_back(contact);
        }
        if many {
            let until = self.now.after(MOMENT);
            self.effects.push(Effect::Slow(contact, until));
        }
        self.read_next();
    }

    /// Reads questions of contacts that have not used up their budget.
    pub(super) fn read_next(&mut self) {
        // Each contact once, as those that are slowed down go to the end of the queue.
        for _ in 0..self.library.turn.len() {
            if self.library.reading.len() >= AT_ONCE {
                return;
            }
            let Some(contact) = self.library.turn.pop_front() else {
                return;
            };
            let slow = self.library.slow.get(&contact);
            if slow.is_some_and(|until| *until > self.now) {
                self.library.turn.push_back(contact);
                continue;
            }
            let first = self.library.waiting.get(&contact).and_then(VecDeque::front);
            // It stays in front until it was read: so one contact has one question read at a time.
            if let Some(question) = first {
                self.library.reading.insert(contact);
                self.effects.push(Effect::Read(contact, cost(question)));
            }
        }
    }

    /// A question was read: it is answered, and the next one of the same contact waits behind those
    /// of others.
    pub(super) fn was_read(&mut self, now: Time, contact: ContactNo) {
        self.now = now;
        self.library.reading.remove(&contact);
        // The contact may have ended while its question was read.
        let waiting = self.library.waiting.get_mut(&contact);
        if let Some(waiting) = waiting
            && let Some(question) = waiting.pop_front()
        {
            if !waiting.is_empty() {
                self.library.turn.push_back(contact);
            }
            if let Some(answer) = self.answer(question) {
                self.send(contact, &answer.into());
            }
            // What reading costs is known here and not in the core.
            let micros = cost(&question).as_micros() as u64;
            self.handle(Input::Spent { contact, micros });
        }
        self.read_next();
        self.drain();
    }

    fn answer(&self, question: Question) -> Option<RelayMessage> {
        let content = |at| self.store.contents.get(self.core.key(at)?);
        match question {
            Question::Manifest(at) => {
                let sheet = content(at)?.sheet.as_ref()?;
                let manifest = sheet.manifest.encode();
                Some(RelayMessage::Manifest(at.told(), manifest, sheet.signature))
            }
            Question::Rows(at, run) => {
                let content = content(at)?;
                let sheet = content.sheet.as_ref()?;
                let total = sheet.tree.leaves().len() as u64;
                let end = run.end.min(run.start.saturating_add(ROWS_MAX)).min(total);
                if run.start >= end {
                    return None;
                }
                let rows = (run.start..end).map(|position| {
                    let (info, kind, sequence) = place(&sheet.manifest, position)?;
                    let rendition = info.name.clone();
                    let name = TrackName { rendition, kind };
                    let (record, _) = content.known.get(&(name, sequence))?;
                    Some(Row::of(record))
                });
                let rows: Option<Vec<Row>> = rows.collect();
                let proof = sheet.tree.prove(run.start as usize..end as usize);
                Some(RelayMessage::Rows(at.told(), run.start, rows?, proof))
            }
            Question::Records(at, track, run) => {
                let content = content(at)?;
                let name = self.core.track_name(at, track)?;
                let end = run.end.min(run.start.saturating_add(RECORDS_MAX));
                let here = (run.start..end).filter_map(|sequence| {
                    let place = (name.clone(), sequence);
                    content.here.get(&place)?;
                    let (record, proof) = content.known.get(&place)?;
                    let Proof::Signature(signature) = proof else {
                        return None;
                    };
                    Some((record.encode(), *signature))
                });
                Some(RelayMessage::Records(at.told(), track, run, here.collect()))
            }
        }
    }
}
