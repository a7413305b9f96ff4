//! What the store of a simulated node does, and what is said of contents.

use lavant_proto::delivery::{Input, Output};
use lavant_proto::ids::{Root, Signature};
use lavant_proto::numbers::{ContactNo, ContentNo, Place, TrackNo};
use lavant_proto::relay::message::{Question, RelayMessage, Row};
use lavant_proto::runs::{Run, SequenceRun};
use lavant_proto::time::Time;

use super::node::Victim;
use super::world::World;

impl World {
    /// Questions about contents, and answers to them.
    pub(super) fn about_contents(&mut self, node: u32, output: Output) {
        match output {
            Output::Answer { contact, question } => self.answer(contact, node, question),
            Output::LearnManifest { content, .. } => self.learn_manifest(node, content),
            Output::LearnRows {
                content,
                from,
                rows,
                ..
            } => self.learn_rows(node, content, from + rows.len() as u64),
            Output::LearnRecords {
                contact,
                content: no,
                track,
                run,
                records,
            } => {
                let Some(content) = self.content(node, no) else {
                    return;
                };
                // Records have no bytes here: the first byte of a signature says which one it
                // stands for. One message has 16, so a byte is enough.
                let sent: Vec<u64> = records.iter().map(|(_, s)| u64::from(s.0[0])).collect();
                let mut known =
                    self.nodes[node as usize].recall(&self.setup.universe, content, run);
                known.retain(|known| sent.contains(&(known.sequence - run.start)));
                let learned = Input::Learned {
                    from: Some(contact),
                    content: no,
                    track,
                    run,
                    known,
                };
                self.handle(node, learned);
            }
            _ => {}
        }
    }

    fn answer(&mut self, contact: ContactNo, node: u32, question: Question) {
        match question {
            Question::Manifest(content) => {
                let manifest =
                    RelayMessage::Manifest(content.told(), Vec::new(), Signature([0; 64]));
                self.say(contact, node, manifest);
            }
            Question::Rows(content, run) => {
                let rows = (run.start..run.end).map(|_| row());
                let rows =
                    RelayMessage::Rows(content.told(), run.start, rows.collect(), Vec::new());
                self.say(contact, node, rows);
            }
            Question::Records(content, track, run) => {
                self.send_records(contact, node, (content, track, run));
            }
        }
    }

    fn send_records(
        &mut self,
        contact: ContactNo,
        node: u32,
        asked: (ContentNo, TrackNo, SequenceRun),
    ) {
        let (no, track, run) = asked;
        let Some(content) = self.content(node, no) else {
            return;
        };
        let Some(held) = self.nodes[node as usize].held.get(&content) else {
            return;
        };
        let here = (run.start..run.end).filter(|sequence| held.here.contains(*sequence));
        let records: Vec<_> = here
            .map(|sequence| (Vec::new(), Signature([(sequence - run.start) as u8; 64])))
            .collect();
        let records = RelayMessage::Records(no.told(), track, run, records);
        self.say(contact, node, records);
    }

    fn learn_manifest(&mut self, node: u32, no: ContentNo) {
        let Some(content) = self.content(node, no) else {
            return;
        };
        let total = self.setup.universe.specs[content as usize].segments;
        let manifest = Input::Manifest {
            content: no,
            total,
            known: 0,
        };
        self.handle(node, manifest);
    }

    fn learn_rows(&mut self, node: u32, no: ContentNo, known: u64) {
        let Some(content) = self.content(node, no) else {
            return;
        };
        let total = self.setup.universe.specs[content as usize].segments;
        if known < total {
            self.handle(node, Input::Rows { content: no, known });
        } else if self.fails() {
            let failed = Input::RefusedContent {
                content: no,
                forever: false,
            };
            self.handle(node, failed);
        } else {
            self.nodes[node as usize].admit(&self.setup.universe, content, self.now);
        }
    }

    pub(super) fn adopt(&mut self, node: u32, place: Place) {
        let sequence = place.sequence;
        let Some(content) = self.content(node, place.content) else {
            return;
        };
        let now = self.now;
        let fails = self.fails();
        let universe = &self.setup.universe;
        let it = &mut self.nodes[node as usize];
        if fails {
            let forever = false;
            it.handle(now, Input::Refused { place, forever });
            return;
        }
        let spec = universe.specs[content as usize];
        let may = it.may_adopt(universe, (content, sequence));
        // It was counted as a part, and is about to be counted whole.
        it.drop_part((content, sequence));
        if !may || !self.make_room(node, (content, sequence), spec.length) {
            let forever = true;
            self.handle(node, Input::Refused { place, forever });
            return;
        }
        let universe = &self.setup.universe;
        let it = &mut self.nodes[node as usize];
        it.adopt(universe, (content, sequence));
        if let Some(capacity) = self.setup.capacity_of(node)
            && spec.publisher != node
        {
            // What a node publishes for all comes on top of its limit.
            let own: u64 = universe
                .specs
                .iter()
                .filter(|spec| spec.publisher == node && spec.to.is_none())
                .map(|spec| spec.segments * spec.length)
                .sum();
            assert!(it.used <= capacity + own, "a store is over its limit");
        }
        // A growing content is entered with its first segment, as it has no manifest.
        if it
            .held
            .get(&content)
            .is_some_and(|held| held.here.count() == 1)
            && !spec.is_finished()
        {
            it.admit(universe, content, now);
        }
        let stored = Input::Stored {
            content: place.content,
            track: place.track,
            run: Run::one(sequence),
        };
        it.handle(now, stored);
        // It is whole now: the core signs a receipt when it hears of that.
        if spec.to == Some(node) {
            let facts = it.facts(universe, content);
            let content = place.content;
            it.handle(now, Input::Content { content, facts });
        }
        let counts = spec.to.is_none_or(|to| to == node);
        if it.first_time(content, sequence) && counts {
            self.outcome.delivered += 1;
            self.outcome.delay_seconds += now.since(spec.published(sequence)).as_secs();
        }
        // Two runs are the same when every segment came to the same node at the same time.
        for number in [now.0, u64::from(node), u64::from(content), sequence] {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    /// Makes room in a store. Whether there is room.
    pub(super) fn make_room(&mut self, node: u32, at: (u32, u64), bytes: u64) -> bool {
        let it = &mut self.nodes[node as usize];
        let (victims, fits) = it.make_room(&self.setup.universe, (at, bytes), self.now);
        self.let_go(node, victims);
        fits
    }

    /// Tells a node's core what its store let go.
    fn let_go(&mut self, node: u32, victims: Vec<Victim>) {
        let now = self.now;
        let universe = &self.setup.universe;
        let it = &mut self.nodes[node as usize];
        for victim in victims {
            let input = match victim {
                Victim::Whole(content, sequence) => {
                    self.outcome.evicted += 1;
                    let gone = it.place(universe, content, sequence);
                    Input::Dropped {
                        content: gone.content,
                        track: gone.track,
                        run: Run::one(sequence),
                        torn: false,
                    }
                }
                // The core counts on the chunk groups that came; it has to begin anew.
                Victim::Part(content, sequence) => Input::Refused {
                    place: it.place(universe, content, sequence),
                    forever: false,
                },
            };
            it.handle(now, input);
        }
    }
}

/// A row of a manifest; what it says is of no interest here.
const fn row() -> Row {
    Row {
        duration: 540_000,
        discontinuity: false,
        independent: true,
        init: None,
        created: Time::from_seconds(1_800_000_000),
        ttl: 86_400,
        length: 300_000,
        root: Root([0; 32]),
    }
}
