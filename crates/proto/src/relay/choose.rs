//! What is fetched next, and from whom.
//!
//! Contents go by rank (what is watched here, then live, near-live, on demand, then by rarity),
//! init segments before all. Of what is watched here, or grows, segments go by sequence from each
//! playhead on. Of all else the rarest go first, and where that says nothing, each node begins
//! elsewhere: what everybody asks for first would soon be everywhere, and the rest nowhere. A
//! segment that was begun goes on before others, because parts of segments are of use to nobody.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Relay;
use super::entry::{Entry, Pending, Track};
use super::message::{Question, RECORDS_MAX, RelayMessage};
use super::rarity::Share;
use super::session::{Remote, Session};
use super::tell::is_lacking;
use super::upgrade::upgrade;
use crate::content::Kind;
use crate::delivery::{Base, Output};
use crate::message::Message;
use crate::numbers::{ContactNo, ContentNo, Place, RequestNo, TrackNo};
use crate::piece::{Chooser, PieceNo, Pieces, Rooms, Want};
use crate::runs::{GroupRun, Run, SequenceRun, SequenceRuns};

/// How many segments of a track are kept ready to be asked for.
const AHEAD: usize = 32;
/// How many records are read from the store at a time.
const RECALL: u64 = 64;
/// Bytes of a record with its signature, where names are not long.
const RECORD_BYTES: u64 = 320;
/// How many contents are looked at when the first ones give nothing to ask for.
const CONTENTS_MAX: usize = 32;

/// What a content gives to ask a contact for.
enum Plan {
    Ask(Want),
    /// Records are on their way, or all that is there was asked of somebody.
    Wait,
    /// The store is being asked for what is known of rarer segments than all others; it answers at
    /// once, and then it is chosen again.
    Recall,
    Nothing,
}

impl Chooser for Relay {
    fn choose(&mut self, base: &mut Base, no: ContactNo, rooms: Rooms) -> Option<Want> {
        let room = self.hops_with_room(base);
        let Self {
            sessions, entries, ..
        } = self;
        let session = sessions.get_mut(&no)?;
        if let Some(want) = go_on(base, session, entries, rooms) {
            return Some(want);
        }
        // Copied, as a plan may take contents out of the offers.
        let offers = session.offers.iter().take(CONTENTS_MAX);
        let offers: Vec<(u8, ContentNo)> = offers.map(|(rank, at)| (rank.0, *at)).collect();
        for (urgency, at) in offers {
            let most = rooms.of(urgency);
            // Offers are sorted by urgency, and what is less urgent has no more room.
            if most == 0 {
                return None;
            }
            let remote = session.remote.get(&at);
            let fits = |entry: &&mut Box<Entry>| {
                remote.is_some_and(|remote| entry.fits(remote, room, &base.config.own))
            };
            let plan = match entries.get_mut(&at).filter(fits) {
                Some(entry) => plan(base, (no, session), (at, entry), (urgency, most)),
                None => Plan::Nothing,
            };
            match plan {
                Plan::Ask(want) => {
                    let remote = session.remote.get(&at);
                    if let (Some(entry), Some(remote)) = (entries.get_mut(&at), remote) {
                        // Until something of it is here, who is asked last says over how many
                        // nodes it comes.
                        entry.came_by(remote.hops, remote.copies);
                    }
                    session.latest = Some((want.place, urgency));
                    return Some(want);
                }
                // The next content may have something for this contact.
                Plan::Wait => {}
                Plan::Recall => return None,
                // It comes back among the offers when something of it changes.
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
    (urgency, most): (u8, u64),
) -> Plan {
    let now = base.now;
    let Some(remote) = session.remote.get(&at) else {
        return Plan::Nothing;
    };
    if entry.refused || entry.expires <= now || !is_lacking(entry, remote) {
        return Plan::Nothing;
    }
    // It stays among the offers: its rest ends by time alone.
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
    // Records before segments: a rarer one may be among those of which nothing is known yet.
    if learn(base, (no, session), (at, entry)) {
        return Plan::Recall;
    }
    let Some(remote) = session.remote.get(&at) else {
        return Plan::Nothing;
    };
    let parts = entry.ahead(now);
    let in_order = entry.in_order(now);
    let tracks = entry.tracks.iter().enumerate();
    let candidates = tracks.filter_map(|(index, track)| {
        let number = TrackNo(index as u16);
        let found = if in_order {
            candidate(number, track, (remote, &base.pieces), &parts)?
        } else {
            let begin = begin(number, remote, entry);
            rarest(number, track, (remote, &base.pieces), begin)?.0
        };
        // Init segments first, as nothing plays without them; the track decides last, so that a run
        // repeats itself.
        let order = (track.name.kind == Kind::Media, found.order, index);
        let place = Place {
            content: at,
            track: number,
            sequence: found.sequence,
        };
        let chosen = (found.piece, found.groups);
        Some((order, want((urgency, place), chosen, most)))
    });
    match candidates.min_by_key(|(order, _)| *order) {
        Some((_, want)) => Plan::Ask(want),
        None => Plan::Wait,
    }
}

fn want((urgency, place): (u8, Place), (piece, groups): (PieceNo, GroupRun), most: u64) -> Want {
    let Run { start, end, .. } = groups;
    Want {
        urgency,
        piece,
        place,
        groups: Run::new(start, end.min(start + most)),
    }
}

/// The rest of the segment that was asked of a contact last, unless something more urgent came.
fn go_on(
    base: &Base,
    session: &Session,
    entries: &BTreeMap<ContentNo, Box<Entry>>,
    rooms: Rooms,
) -> Option<Want> {
    let (place, urgency) = session.latest?;
    let most = rooms.of(urgency);
    let ((first, ..), _) = session.offers.first()?;
    let entry = entries.get(&place.content)?;
    // What goes in order is chosen by its playheads each time.
    if *first < urgency || most == 0 || entry.in_order(base.now) {
        return None;
    }
    let pending = entry.tracks.get(place.track.at())?;
    let pending = pending.more.pending.get(&place.sequence)?;
    let remote = session.remote.get(&place.content)?;
    let (_, here) = remote.track(place.track)?;
    let known = (remote, here, &base.pieces);
    let groups = open_at(known, (place.track, place.sequence), pending)?;
    Some(want((urgency, place), (pending.piece, groups), most))
}

/// Where this node begins with a track that a contact has.
fn begin(track: TrackNo, remote: &Remote, entry: &Entry) -> u64 {
    let here = remote.track(track).and_then(|(_, here)| here.runs().last());
    here.map_or(0, |run| entry.begin(run.end))
}

/// Chunk groups of a segment that may be asked for.
struct Candidate {
    /// Whether it lies before all playheads, or how much of it there is (see [`rarest`]); how many
    /// have it; how far ahead it is of a playhead, or of where this node begins.
    order: Order,
    sequence: u64,
    piece: PieceNo,
    groups: GroupRun,
}

type Order = (u8, Share, bool, u64);

/// The first chunk groups of a segment that a contact has and that nobody was asked for.
fn open_at(
    (remote, here, pieces): (&Remote, &SequenceRuns, &Pieces),
    (track, sequence): (TrackNo, u64),
    pending: &Pending,
) -> Option<GroupRun> {
    if pending.adopting {
        return None;
    }
    let mut open = pieces.open(pending.piece);
    if !here.contains(sequence) {
        // What is open and what it has in part: two differences make an intersection.
        let absent = open.without(remote.partials.get(&(track, sequence))?);
        open = open.without(&absent);
    }
    open.runs().first().copied()
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
    let firsts = parts.iter().filter_map(|(part, is_ahead)| {
        let mut segments = track.more.pending.range(part.clone());
        segments.find_map(|(sequence, pending)| {
            Some(Candidate {
                order: (u8::from(!is_ahead), 0, false, sequence - part.start),
                sequence: *sequence,
                piece: pending.piece,
                groups: open_at((remote, here, pieces), (index, *sequence), pending)?,
            })
        })
    });
    firsts.min_by_key(|found| found.order)
}

/// The rarest segment of a track of which the contact has chunk groups that nobody was asked for,
/// and how many there are that were not begun and that it has whole.
///
/// First comes what was begun and can be ended with this contact, then what it has whole. What it
/// has only in part comes last: parts of segments are of use to nobody, and where nodes passed
/// them on before whole ones, a third of what crossed in the first hours was parts.
fn rarest(
    index: TrackNo,
    track: &Track,
    (remote, pieces): (&Remote, &Pieces),
    begin: u64,
) -> Option<(Candidate, usize)> {
    let (_, here) = remote.track(index)?;
    let (mut best, mut waiting): (Option<Candidate>, _) = (None, 0);
    // Only those are pending that were learned ahead, so these are few.
    for (sequence, pending) in &track.more.pending {
        let known = (remote, here, pieces);
        let Some(groups) = open_at(known, (index, *sequence), pending) else {
            continue;
        };
        let class = match (here.contains(*sequence), pending.is_begun(pieces)) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        let order = by_rarity(track, *sequence, begin);
        let order = (class, order.0, order.1, order.2);
        waiting += usize::from(class == 1);
        if best.as_ref().is_none_or(|best| order < best.order) {
            best = Some(Candidate {
                order,
                sequence: *sequence,
                piece: pending.piece,
                groups,
            });
        }
    }
    best.map(|best| (best, waiting))
}

fn by_rarity(track: &Track, sequence: u64, begin: u64) -> (Share, bool, u64) {
    // From `begin` to the end, then from the start to `begin`.
    (
        track.more.rarity.share(sequence),
        sequence < begin,
        sequence,
    )
}

/// The rarest segments of a track that the contact has and of which nothing is known here, when
/// there are too few others, or when they are rarer than all others.
fn rarest_unknown(
    index: TrackNo,
    track: &Track,
    (remote, pieces): (&Remote, &Pieces),
    begin: u64,
) -> Option<SequenceRun> {
    let unknown = unlisted(index, track, remote);
    let mut best: Option<((Share, bool, u64), SequenceRun)> = None;
    for run in unknown.runs() {
        let mut start = run.start;
        while start < run.end {
            // Blocks of which the same is known go together, so that few are asked for at a time.
            let mut end = track.more.rarity.block(start).end;
            // The order turns at `begin`: a block on both sides of it is cut there.
            if start < begin {
                end = end.min(begin);
            }
            let end = end.min(run.end);
            let order = by_rarity(track, start, begin);
            match &mut best {
                Some((least, found))
                    if order.0 == least.0 && order.1 == least.1 && found.end == start =>
                {
                    found.end = end;
                }
                Some((least, _)) if *least <= order => {}
                _ => best = Some((order, Run::new(start, end))),
            }
            start = end;
        }
    }
    let (order, run) = best?;
    if let Some((known, waiting)) = rarest(index, track, (remote, pieces), begin) {
        let (class, share, before, at) = known.order;
        // Enough is known, and nothing that is unknown is rarer than the best of it.
        if waiting >= AHEAD && (class == 0 || (share, before, at) <= order) {
            return None;
        }
    }
    Some(Run::new(run.start, run.end.min(run.start + RECALL)))
}

/// How many things of so many bytes one message to or from a contact should hold.
pub(super) fn fits(base: &Base, no: ContactNo, each: u64) -> u64 {
    let profile = base.contacts.get(no).map(|contact| contact.profile);
    (profile.unwrap_or_default().batch_bytes() as u64 / each).max(1)
}

/// Asks for records of the segments that come next. Whether the store has to say first what they
/// are.
fn learn(
    base: &mut Base,
    (no, session): (ContactNo, &mut Session),
    (at, entry): (ContentNo, &mut Entry),
) -> bool {
    let mut first = false;
    let parts = entry.ahead(base.now);
    let in_order = entry.in_order(base.now);
    let finished = entry.manifest.is_some();
    // A contact says so many records in one message; the store is near and is asked for more.
    let most = if finished {
        RECALL
    } else {
        fits(base, no, RECORD_BYTES).min(RECORDS_MAX)
    };
    for index in (0..entry.tracks.len()).map(|index| TrackNo(index as u16)) {
        let Some(remote) = session.remote.get(&at) else {
            break;
        };
        let Some((theirs, _)) = remote.track(index) else {
            continue;
        };
        let begin = begin(index, remote, entry);
        let Some(track) = entry.tracks.get_mut(index.at()) else {
            break;
        };
        let known = (remote, &base.pieces);
        let next = if in_order {
            next_unknown(index, track, known, &parts, most)
        } else {
            rarest_unknown(index, track, known, begin)
        };
        let Some(run) = next else {
            continue;
        };
        // All records of a finished content are in the store; those of a growing one only its
        // holders know.
        if finished {
            // Its answer may change what goes first, so nothing is asked of the contact before it.
            first |= !in_order;
            track.more.asked.push((None, run));
            base.out.push_back(Output::Recall {
                content: at,
                track: index,
                run,
            });
        } else if session.can_owe() {
            track.more.asked.push((Some(no), run));
            let message = RelayMessage::GetRecords(remote.no.asked(), theirs, run);
            let question = Question::Records(at, index, run);
            ask(base, no, session, question, message);
        }
    }
    first
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
            .more
            .pending
            .range(part.clone())
            .filter(|(_, pending)| !pending.is_whole(pieces))
            .take(AHEAD)
            .count();
        if waiting == AHEAD {
            return None;
        }
        // Made once for all parts, and only when one of them has too few.
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
        let listed = track.more.pending.contains_key(sequence) || track.here.contains(*sequence);
        let asked = track
            .more
            .asked
            .iter()
            .any(|(_, run)| run.contains(*sequence));
        if *ours == index && !listed && !asked && !track.more.refused.contains(*sequence) {
            unknown.insert(*sequence, *sequence + 1);
        }
    }
    unknown
}
