//! The liars: a node that speaks the protocol and breaks it in one way.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use lavant_proto::contact::hello::{Hello, Interest};
use lavant_proto::contact::message::ContactMessage;
use lavant_proto::content::Priority;
use lavant_proto::ids::{ContentId, ContentKey, Signature, SigningKey};
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContentNo, RemoteNo, RequestNo, TrackNo};
use lavant_proto::relay::message::{RelayMessage, Summary};
use lavant_proto::relay::reconcile;
use lavant_proto::runs::{GroupRun, Run, SequenceRun, SequenceRuns};
use lavant_proto::time::Time;

use super::film::{Film, Frame};
use crate::random::Random;

/// Ticks of a liar in a second, and what a flood says in each: 17,000 a second.
pub(super) const TICKS: u64 = 100;
const HAVES: u64 = 170;
/// For how many ticks it floods.
const FLOOD: u64 = 5 * TICKS;
/// Names that are invented, and how many of them one message has. With thousands of runs each, 300
/// come to more than twice what a contact may say.
const NAMES: u32 = 20_000;
const NAMES_OF_MANY_RUNS: u32 = 300;
const NAMES_AT_ONCE: u32 = 100;
/// The year 586524, in microseconds.
const FAR_FUTURE: Time = Time(18_446_744_000_000_000_000);
/// Its number of the film; those of its own films come after it.
const FILM: u32 = 1;

/// One way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liar {
    /// Answers *get manifest* with nothing.
    EmptyManifest,
    /// Answers *get records* with another run.
    WrongRun,
    /// Tells of tens of thousands of contents that do not exist.
    InventedNames,
    /// Tells of contents in as many runs as a message may have.
    RunsBomb,
    /// Offers and never answers questions.
    Silent,
    /// Answers questions and gives no chunk group, or one now and then.
    Withholds,
    /// Gives bytes that are not what was signed.
    WrongBytes,
    /// Gives manifests and rows that nobody signed.
    ForgedManifest,
    /// Gives records that their publisher did not sign.
    ForgedRecords,
    /// Says of everything, again and again, that it is damaged.
    DamagedStorm,
    /// Publishes contents of the year 586524.
    FutureDates,
    /// Publishes contents that are named like the film.
    SameId,
    /// Gives rows of another manifest with their proof.
    ReplayedProof,
    /// Says 17,000 times a second that it has something new.
    Floods,
    /// Asks for rows, hundreds of times.
    Questions,
    /// Has a name, and says things, that move a terminal's cursor.
    Reason,
}

impl Liar {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::EmptyManifest, "empty-manifest"),
        (Self::WrongRun, "wrong-run"),
        (Self::InventedNames, "invented-names"),
        (Self::RunsBomb, "runs-bomb"),
        (Self::Silent, "silent"),
        (Self::Withholds, "withholds"),
        (Self::WrongBytes, "wrong-bytes"),
        (Self::ForgedManifest, "forged-manifest"),
        (Self::ForgedRecords, "forged-records"),
        (Self::DamagedStorm, "damaged-storm"),
        (Self::FutureDates, "future-dates"),
        (Self::SameId, "same-id"),
        (Self::ReplayedProof, "replayed-proof"),
        (Self::Floods, "floods"),
        (Self::Questions, "questions"),
        (Self::Reason, "reason"),
    ];

    /// Whether the film has to have a manifest for it; none when it does not matter.
    pub(super) const fn wants_manifest(self) -> Option<bool> {
        match self {
            Self::EmptyManifest | Self::ForgedManifest | Self::ReplayedProof | Self::Questions => {
                Some(true)
            }
            Self::WrongRun | Self::ForgedRecords => Some(false),
            _ => None,
        }
    }

    /// Whether it does something by itself as time passes.
    pub(super) const fn is_busy(self) -> bool {
        matches!(
            self,
            Self::InventedNames
                | Self::RunsBomb
                | Self::Withholds
                | Self::DamagedStorm
                | Self::Floods
                | Self::Questions
        )
    }
}

/// What it knows of one contact.
#[derive(Debug, Default)]
struct Chat {
    greeted: bool,
    /// Numbers of contents that the other node has.
    told: BTreeSet<ContentNo>,
    /// How often it did what it does as time passes.
    steps: u64,
    /// Requests that it has not answered.
    asked: Vec<(RequestNo, u64, GroupRun)>,
}

/// What it says.
#[derive(Debug)]
pub(super) enum Said {
    Frame(Frame),
    Close,
}

/// The liar of a run.
#[derive(Debug)]
pub(super) struct Script {
    liar: Liar,
    pub(super) key: SigningKey,
    film: Rc<Film>,
    /// Films of its own, and one more of the film's publisher.
    own: Vec<Film>,
    other: Film,
    /// Decides between the forms that a lie has.
    /// Drawn once, so that it lies in the same way on every contact.
    form: u64,
    chats: BTreeMap<u32, Chat>,
    said: Vec<(u32, Said)>,
}

impl Script {
    pub(super) fn new(liar: Liar, film: Rc<Film>, random: &mut Random) -> Self {
        let key = SigningKey::from_seed(&[99; 32]);
        let finished = film.finished;
        let own = match liar {
            Liar::FutureDates => vec![
                Film::dated(&key, ("tomorrow", FAR_FUTURE), true, random),
                Film::dated(&key, ("later", FAR_FUTURE), false, random),
            ],
            Liar::SameId => vec![
                Film::new(&key, "real_film", finished, random),
                Film::new(&key, "real-film", finished, random),
            ],
            _ => Vec::new(),
        };
        Self {
            liar,
            key,
            other: Film::new(&film.publisher, "other", true, random),
            own,
            film,
            form: random.next(),
            chats: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    /// What it said since the last time.
    pub(super) fn take_said(&mut self) -> Vec<(u32, Said)> {
        std::mem::take(&mut self.said)
    }

    fn say(&mut self, link: u32, message: impl Into<Message>) {
        let frame = Frame::Control(message.into().encode());
        self.said.push((link, Said::Frame(frame)));
    }

    fn say_hello(&mut self, link: u32) {
        let name = match self.liar {
            Liar::Reason => "\u{1b}[2J\u{202e}liar\r\n",
            _ => "liar",
        };
        let hello = Hello::new(name.into(), Interest::everything(), None);
        self.say(link, ContactMessage::Hello(hello));
    }

    pub(super) fn up(&mut self, link: u32, dialled: bool) {
        self.chats.insert(link, Chat::default());
        if dialled {
            self.say_hello(link);
        }
    }

    pub(super) fn down(&mut self, link: u32) {
        self.chats.remove(&link);
    }

    pub(super) fn hear(&mut self, link: u32, dialled: bool, message: Message) {
        // The link is gone, and this came too late.
        if !self.chats.contains_key(&link) {
            return;
        }
        match message {
            Message::Contact(ContactMessage::Hello(_)) => {
                if !dialled {
                    self.say_hello(link);
                }
                self.greet(link);
            }
            Message::Contact(ContactMessage::Ping(stamp)) => {
                self.say(link, ContactMessage::Pong(stamp));
            }
            Message::Relay(RelayMessage::Ranges(ranges)) => {
                // It says that it has nothing, and so hears of all that others have.
                let (answers, found) = reconcile::answer(&[], &ranges);
                for answer in answers {
                    self.say(link, RelayMessage::Ranges(answer));
                }
                let names = found.theirs.iter().filter_map(|it| it.name.first_chunk());
                let names: Vec<[u8; 8]> = names.copied().collect();
                if !names.is_empty() {
                    self.say(link, RelayMessage::Lacking(names));
                }
            }
            Message::Relay(RelayMessage::Summaries(list)) => {
                if let Some(chat) = self.chats.get_mut(&link) {
                    chat.told.extend(list.iter().map(|it| it.no.asked()));
                }
            }
            Message::Relay(RelayMessage::Echoes(list)) => {
                if let Some(chat) = self.chats.get_mut(&link) {
                    chat.told.extend(list.iter().map(|it| it.no.asked()));
                }
            }
            Message::Relay(question) => self.answer(link, question),
            _ => {}
        }
    }

    /// Begins to lie.
    fn greet(&mut self, link: u32) {
        if let Some(chat) = self.chats.get_mut(&link) {
            chat.greeted = true;
        }
        match self.liar {
            Liar::InventedNames | Liar::RunsBomb => {}
            Liar::FutureDates | Liar::SameId => {
                let films = self.own.iter().zip(FILM + 1..);
                let offers = films.map(|(film, no)| film.offer(no)).collect();
                self.say(link, RelayMessage::Summaries(offers));
            }
            _ => {
                let mut offer = self.film.offer(FILM);
                if self.liar == Liar::ForgedManifest && self.form.is_multiple_of(2) {
                    // Half of the time it names a manifest that nobody has.
                    offer.manifest = Some([7; 8]);
                }
                self.say(link, RelayMessage::Summaries(vec![offer]));
            }
        }
        // These need numbers of contents: it has to be told before it can go on.
        if matches!(self.liar, Liar::DamagedStorm | Liar::Questions) {
            self.say(link, RelayMessage::Ranges(reconcile::begin(&[])));
        }
        if self.liar == Liar::Reason && self.form.is_multiple_of(2) {
            self.said.push((link, Said::Close));
        }
    }

    /// The film that it calls by a number.
    fn named(&self, no: u32) -> Option<&Film> {
        match no {
            FILM => Some(&self.film),
            _ => self.own.get(no.checked_sub(FILM + 1)? as usize),
        }
    }

    fn answer(&mut self, link: u32, question: RelayMessage) {
        // They offer, and never answer.
        if matches!(
            self.liar,
            Liar::Silent | Liar::InventedNames | Liar::RunsBomb
        ) {
            return;
        }
        match question {
            RelayMessage::GetManifest(at) => {
                if let Some(answer) = self.manifest(at.0) {
                    self.say(link, answer);
                }
            }
            RelayMessage::GetRows(at, run) => {
                let Some(film) = self.named(at.0) else {
                    return;
                };
                let true_rows = film.tell_rows(at.0, run);
                let answer = self.rows(true_rows, at.0);
                self.say(link, answer);
            }
            RelayMessage::GetRecords(at, track, run) => {
                if let Some(answer) = self.records(at.0, track, run) {
                    self.say(link, answer);
                }
            }
            RelayMessage::Get {
                request,
                content,
                sequence,
                groups,
                ..
            } => self.give(link, (request, content.0), sequence, groups),
            _ => {}
        }
    }

    fn manifest(&self, no: u32) -> Option<RelayMessage> {
        let told = RemoteNo(no);
        let film = self.named(no)?;
        Some(match self.liar {
            Liar::EmptyManifest if self.form.is_multiple_of(2) => {
                RelayMessage::Manifest(told, Vec::new(), Signature([0; 64]))
            }
            // About the right content, but an answer to nothing that was asked.
            Liar::EmptyManifest => RelayMessage::Rows(told, 0, Vec::new(), Vec::new()),
            Liar::ForgedManifest if self.form.is_multiple_of(2) => {
                let mut manifest = film.manifest();
                manifest.title = "Another film".into();
                // Signed rightly, but by itself.
                let signature = self.key.sign(b"lavant manifest 1\0", &manifest.encode());
                RelayMessage::Manifest(told, manifest.encode(), signature)
            }
            Liar::ReplayedProof if self.form.is_multiple_of(3) => self.other.tell_manifest(no),
            _ => film.tell_manifest(no),
        })
    }

    fn rows(&self, true_rows: RelayMessage, no: u32) -> RelayMessage {
        let RelayMessage::Rows(told, from, mut rows, mut proof) = true_rows else {
            return true_rows;
        };
        match self.liar {
            Liar::ForgedManifest => {
                if let Some(row) = rows.last_mut() {
                    row.length += 1;
                }
            }
            Liar::ReplayedProof if self.form % 3 == 1 => {
                let run = Run::new(from, from + rows.len() as u64);
                return self.other.tell_rows(no, run);
            }
            Liar::ReplayedProof => {
                // Rows in another order, with the proof of those that are at the end.
                rows.reverse();
                let last = self.film.count() - 1;
                let of_last = self.film.tell_rows(no, Run::new(last, last + 1));
                if let RelayMessage::Rows(.., its) = of_last {
                    proof = its;
                }
            }
            _ => {}
        }
        RelayMessage::Rows(told, from, rows, proof)
    }

    fn records(&self, no: u32, track: TrackNo, run: SequenceRun) -> Option<RelayMessage> {
        let film = self.named(no)?;
        let true_records = film.tell_records(no, track, run);
        let RelayMessage::Records(told, track, run, mut records) = true_records else {
            return None;
        };
        match self.liar {
            Liar::WrongRun => {
                // No film has so many segments.
                let shifted = Run::new(run.start + 100, run.end + 100);
                return Some(RelayMessage::Records(told, track, shifted, Vec::new()));
            }
            Liar::ForgedRecords => match self.form % 3 {
                0 => records.last_mut()?.1.0[7] ^= 1,
                1 => return Some(self.other.tell_records(no, track, run)),
                _ => {
                    let (mut record, _) = film.signed_record(0)?;
                    *record.last_mut()? ^= 1;
                    let signature = self.key.sign(b"lavant segment record 1\0", &record);
                    records = vec![(record, signature)];
                }
            },
            _ => {}
        }
        Some(RelayMessage::Records(told, track, run, records))
    }

    fn give(
        &mut self,
        link: u32,
        (request, no): (RequestNo, u32),
        sequence: u64,
        groups: GroupRun,
    ) {
        // Remembered, so that it can give a little of it later.
        if self.liar == Liar::Withholds && no == FILM {
            if let Some(chat) = self.chats.get_mut(&link) {
                chat.asked.push((request, sequence, groups));
            }
            return;
        }
        let Some(film) = self.named(no) else {
            return;
        };
        let mut frames = film.frames(request, sequence, groups);
        if self.liar == Liar::WrongBytes {
            // The first frame or the last one: a node may have kept some before it sees the lie.
            let at = match self.form % 2 {
                0 => 0,
                _ => frames.len().saturating_sub(1),
            };
            if let Some(Frame::Data { bytes, .. }) = frames.get_mut(at)
                && let Some(byte) = bytes.last_mut()
            {
                *byte ^= 1;
            }
        }
        let said = frames.into_iter().map(|frame| (link, Said::Frame(frame)));
        self.said.extend(said);
    }

    /// Time passed on a contact whose link takes more.
    pub(super) fn tick(&mut self, link: u32) {
        let Some(chat) = self.chats.get_mut(&link).filter(|chat| chat.greeted) else {
            return;
        };
        chat.steps += 1;
        let step = chat.steps;
        let told: Vec<ContentNo> = chat.told.iter().copied().collect();
        match self.liar {
            Liar::InventedNames => self.invent(link, step, 3),
            Liar::RunsBomb => self.invent(link, step, 4096),
            Liar::Withholds => self.trickle(link, step),
            Liar::DamagedStorm => {
                for at in told {
                    for sequence in 0..16 {
                        self.say(link, RelayMessage::Damaged(at, TrackNo(0), sequence));
                    }
                }
            }
            Liar::Floods if step < FLOOD => {
                for at in 0..HAVES {
                    let run = Run::one((step * HAVES + at) % self.film.count());
                    self.say(link, RelayMessage::Have(RemoteNo(FILM), TrackNo(0), run));
                }
            }
            Liar::Questions if step.is_multiple_of(TICKS) => {
                for _ in 0..200 {
                    for at in &told {
                        self.say(link, RelayMessage::GetRows(*at, Run::new(0, 512)));
                    }
                }
            }
            _ => {}
        }
    }

    /// Tells of contents that do not exist, each in some runs.
    fn invent(&mut self, link: u32, step: u64, runs: u64) {
        let (at_once, all) = match runs {
            ..100 => (NAMES_AT_ONCE, NAMES),
            _ => (1, NAMES_OF_MANY_RUNS),
        };
        // Steps count from one.
        let from = (step as u32 - 1) * at_once;
        if from >= all {
            return;
        }
        // Every second segment: as many runs as there can be.
        let mut here = SequenceRuns::new();
        for run in 0..runs {
            here.insert(2 * run, 2 * run + 1);
        }
        let mut offer = Summary {
            manifest: None,
            priority: Priority::Live,
            ..self.film.offer(FILM)
        };
        offer.tracks[0].1 = here;
        let offers = (from..from + at_once).map(|no| {
            let name = format!("invented-{no}");
            let key = ContentKey {
                content_id: ContentId::new(&name).expect("the id is one"),
                ..self.film.key.clone()
            };
            Summary {
                no: RemoteNo(FILM + 1 + no),
                key,
                ..offer.clone()
            }
        });
        let offers = offers.collect();
        self.say(link, RelayMessage::Summaries(offers));
    }

    /// Gives a chunk group every two seconds, or none.
    fn trickle(&mut self, link: u32, step: u64) {
        if self.form.is_multiple_of(2) || !step.is_multiple_of(2 * TICKS) {
            return;
        }
        let Some(chat) = self.chats.get_mut(&link) else {
            return;
        };
        if let Some((request, sequence, groups)) = chat.asked.first().copied() {
            // The oldest, which is the most overdue.
            chat.asked.remove(0);
            let mut frames = self.film.frames(request, sequence, groups);
            frames.truncate(1);
            let said = frames.into_iter().map(|frame| (link, Said::Frame(frame)));
            self.said.extend(said);
        }
    }
}
