//! What is fetched next, and from whom.
//!
//! Contents go by rank (what is watched here, then live, near-live, on demand), segments by
//! sequence from each playhead on, init segments before all.

use std::ops::Range;

use super::Relay;
use super::entry::{Entry, Pending, Track};
use super::message::{RECORDS_MAX, RelayMessage};
use super::session::{Question, Remote, Session};
use super::tell::is_lacking;
use super::upgrade::upgrade;
use crate::content::Kind;
use crate::delivery::{Base, Output};
use crate::message::Message;
use crate::numbers::{ContactNo, ContentNo, Place, RequestNo, TrackNo};
use crate::piece::{Chooser, Pieces, Want};
use crate::runs::{GroupRun, Run, SequenceRun, SequenceRuns};

/// How many segments of a track are kept ready to be asked for.
const AHEAD: usize = 32;
/// How many records are read from the store at a time.
const RECALL: u64 = 64;
/// How many contents are looked at when the first ones give nothing to ask for.
const CONTENTS_MAX: usize = 32;

/// What a content gives to ask a contact for.
enum Plan {
    Ask(Want),
    /// Records are on their way, or all that is there was asked of somebody.
    Wait,
    Nothing,
}

impl Chooser for Relay {
    fn choose(&mut self, base: &mut Base, no: ContactNo, most: u64) -> Option<Want> {
        let Self {
            sessions, entries, ..
        } = self;
        let session = sessions.get_mut(&no)?;
        let offers = session.offers.iter().take(CONTENTS_MAX);
        let offers: Vec<ContentNo> = offers.map(|(_, at)| *at).collect();
        for at in offers {
            let plan = match entries.get_mut(&at) {
                Some(entry) => plan(base, (no, session), (at, entry), most),
                None => Plan::Nothing,
            };
            match plan {
                Plan::Ask(want) => {
                    let remote = session.remote.get(&at);
                    if let (Some(entry), Some(remote)) = (entries.get_mut(&at), remote) {
                        entry.came_by(remote.hops, remote.copies);
                    }
                    return Some(want);
                }
                Plan::Wait => {}
                Plan::Nothing => session.offer(at, None),
            }
        }
        None
    }

    fn question(&mut self, no: ContactNo, want: &Want, request: RequestNo) -> Option<Message> {
        let Place {
            content,
            track,
            sequence,
        } = want.place;
        let remote = self.sessions.get(&no)?.remote.get(&content)?;
        let (track, _) = remote.track(track)?;
        let get = RelayMessage::Get {
            request,
            content: remote.no.asked(),
            track,
            sequence,
            groups: want.groups,
        };
        Some(get.into())
    }
}

/// Asks a contact something about a content. An answer is due within a few round trips; then
/// others are asked.
pub(super) fn ask(
    base: &mut Base,
    no: ContactNo,
    session: &mut Session,
    question: Question,
    message: RelayMessage,
) {
    let now = base.now;
    let Some(contact) = base.contacts.get_mut(no) else {
        return;
    };
    let due = now.after(contact.answer_within());
    contact.owes(now);
    session.owes(question, due);
    base.schedule(due);
    base.send(no, message);
}

fn plan(
    base: &mut Base,
    (no, session): (ContactNo, &mut Session),
    (at, entry): (ContentNo, &mut Entry),
    most: u64,
) -> Plan {
    let now = base.now;
    let Some(remote) = session.remote.get(&at) else {
        return Plan::Nothing;
    };
    if entry.refused || entry.expires <= now || !is_lacking(entry, remote) {
        return Plan::Nothing;
    }
    if remote.rests > now {
        return Plan::Wait;
    }
    match (entry.hint(), remote.manifest) {
        (None, Some(_)) => {
            upgrade(base, (no, session), (at, entry));
            return Plan::Wait;
        }
        // Two manifests of one version: the publisher signed both, the first one holds.
        (Some(ours), Some(theirs)) if ours != theirs => return Plan::Nothing,
        _ => {}
    }
    learn(base, (no, session), (at, entry));
    let Some(remote) = session.remote.get(&at) else {
        return Plan::Nothing;
    };
    let parts = entry.ahead(now);
    let tracks = entry.tracks.iter().enumerate();
    let candidates = tracks.filter_map(|(index, track)| {
        let number = TrackNo(index as u16);
        let found = candidate(number, track, (remote, &base.pieces), &parts)?;
        let order = (track.name.kind == Kind::Media, found.order, index);
        let Run { start, end, .. } = found.groups;
        let want = Want {
            piece: found.piece,
            place: Place {
                content: at,
                track: number,
                sequence: found.sequence,
            },
            groups: Run::new(start, end.min(start + most)),
        };
        Some((order, want))
    });
    match candidates.min_by_key(|(order, _)| *order) {
        Some((_, want)) => Plan::Ask(want),
        None => Plan::Wait,
    }
}

/// Chunk groups of a segment that may be asked for.
struct Candidate {
    /// Whether it lies before all playheads, and how far ahead of one.
    order: (bool, u64),
    sequence: u64,
    piece: crate::piece::PieceNo,
    groups: GroupRun,
}

/// The segment of a track next to a playhead of which the contact has chunk groups that nobody was
/// asked for.
fn candidate(
    index: TrackNo,
    track: &Track,
    (remote, pieces): (&Remote, &Pieces),
    parts: &[(Range<u64>, bool)],
) -> Option<Candidate> {
    let (_, here) = remote.track(index)?;
    let open = |sequence: u64, pending: &Pending| {
        if pending.adopting {
            return None;
        }
        let mut open = pieces.open(pending.piece);
        if !here.contains(sequence) {
            let absent = open.without(remote.partials.get(&(index, sequence))?);
            open = open.without(&absent);
        }
        open.runs().first().copied()
    };
    let firsts = parts.iter().filter_map(|(part, is_ahead)| {
        let mut segments = track.pending.range(part.clone());
        segments.find_map(|(sequence, pending)| {
            Some(Candidate {
                order: (!is_ahead, sequence - part.start),
                sequence: *sequence,
                piece: pending.piece,
                groups: open(*sequence, pending)?,
            })
        })
    });
    firsts.min_by_key(|found| found.order)
}

/// Asks for records of the segments that come next.
fn learn(
    base: &mut Base,
    (no, session): (ContactNo, &mut Session),
    (at, entry): (ContentNo, &mut Entry),
) {
    let parts = entry.ahead(base.now);
    let finished = entry.manifest.is_some();
    let most = if finished { RECALL } else { RECORDS_MAX };
    for (index, track) in entry.tracks.iter_mut().enumerate() {
        let index = TrackNo(index as u16);
        let Some(remote) = session.remote.get(&at) else {
            return;
        };
        let Some((theirs, _)) = remote.track(index) else {
            continue;
        };
        let Some(run) = next_unknown(index, track, (remote, &base.pieces), &parts, most) else {
            continue;
        };
        if finished {
            track.asked.push((None, run));
            base.out.push_back(Output::Recall {
                content: at,
                track: index,
                run,
            });
        } else if session.can_owe() {
            track.asked.push((Some(no), run));
            let message = RelayMessage::GetRecords(remote.no.asked(), theirs, run);
            let question = Question::Records(at, index, run);
            ask(base, no, session, question, message);
        }
    }
}

/// The segments of a track whose records are to be learned next, if there are not enough of them
/// ahead of a playhead.
fn next_unknown(
    index: TrackNo,
    track: &Track,
    (remote, pieces): (&Remote, &Pieces),
    parts: &[(Range<u64>, bool)],
    most: u64,
) -> Option<SequenceRun> {
    let mut unknown = None;
    parts.iter().find_map(|(part, _)| {
        let waiting = track
            .pending
            .range(part.clone())
            .filter(|(_, pending)| !pending.is_whole(pieces))
            .take(AHEAD)
            .count();
        if waiting == AHEAD {
            return None;
        }
        let unknown = unknown.get_or_insert_with(|| unlisted(index, track, remote));
        unknown.runs().iter().find_map(|run| {
            let start = run.start.max(part.start);
            let end = run.end.min(part.end).min(start.saturating_add(most));
            (start < end).then_some(Run::new(start, end))
        })
    })
}

/// What a contact has of a track, whole or in part, that is neither listed nor asked for.
fn unlisted(index: TrackNo, track: &Track, remote: &Remote) -> SequenceRuns {
    let Some((_, here)) = remote.track(index) else {
        return SequenceRuns::new();
    };
    let mut unknown = track.unknown(here);
    for (ours, sequence) in remote.partials.keys() {
        let listed = track.pending.contains_key(sequence) || track.here.contains(*sequence);
        let asked = track.asked.iter().any(|(_, run)| run.contains(*sequence));
        if *ours == index && !listed && !asked && !track.refused.contains(*sequence) {
            unknown.insert(*sequence, *sequence + 1);
        }
    }
    unknown
}
