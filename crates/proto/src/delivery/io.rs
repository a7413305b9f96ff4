//! What goes into the core and what comes out.

use crate::contact::{Arrival, Stats};
use crate::content::Priority;
use crate::ids::{PublisherKey, Root, Signature};
use crate::message::Message;
use crate::numbers::{ContactNo, ContentNo, Place, PushNo, RequestNo, TrackNo};
use crate::relay::message::{Question, Row};
use crate::runs::{GroupRun, GroupRuns, SequenceRun};
use crate::time::Time;
use crate::uplink::Serving;

/// What the store says of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How urgent.
    pub priority: Priority,
    /// When the last of it expires.
    pub expires: Time,
    /// Hash and time of its manifest, once all of its records are known.
    pub manifest: Option<([u8; 32], Time)>,
    /// The nodes that it is for, as its manifest says.
    pub to: Vec<PublisherKey>,
    /// Whether this node's own key signs it.
    pub own: bool,
    /// Whether it is finished and all of it is here.
    pub complete: bool,
}

/// A segment whose record was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its position.
    pub sequence: u64,
    /// Root of its payload.
    pub root: Root,
    /// Bytes of its payload.
    pub length: u64,
    /// Chunk groups that are here from before.
    pub have: GroupRuns,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A link came up to a node whose key was proven.
    Up {
        /// Its number.
        contact: ContactNo,
        /// Who, and over which link.
        arrival: Arrival,
    },
    /// A link went down.
    Down {
        /// The contact.
        contact: ContactNo,
    },
    /// A message came.
    Message {
        /// From whom.
        contact: ContactNo,
        /// The message.
        message: Box<Message>,
    },
    /// Chunk groups of a request came, were verified and kept.
    Arrived {
        /// From whom.
        contact: ContactNo,
        /// The request.
        request: RequestNo,
        /// The chunk groups.
        groups: GroupRun,
    },
    /// A piece came that this node did not ask for.
    Pushed {
        /// From whom.
        contact: ContactNo,
        /// Their number of it.
        push: PushNo,
    },
    /// What came for a request does not match the segment's root.
    Damaged {
        /// From whom.
        contact: ContactNo,
        /// The request.
        request: RequestNo,
    },
    /// The link took bytes of what was to be served.
    Sent {
        /// To whom.
        contact: ContactNo,
        /// How many, as [`Serving`] counts them.
        bytes: u64,
    },
    /// Work was done for a contact outside of the core.
    Spent {
        /// For whom.
        contact: ContactNo,
        /// Microseconds of a processor.
        micros: u64,
    },
    /// What a contact said was signed is not.
    Lied {
        /// The contact.
        contact: ContactNo,
        /// What is wrong, for the operator and for the other side.
        why: String,
    },
    /// The store has a content, or something of it changed.
    Content {
        /// The content.
        content: ContentNo,
        /// What the store says of it.
        facts: Facts,
    },
    /// Segments are in the store.
    Stored {
        /// The content.
        content: ContentNo,
        /// The track.
        track: TrackNo,
        /// The segments.
        run: SequenceRun,
    },
    /// Segments are not in the store any more.
    Dropped {
        /// The content.
        content: ContentNo,
        /// The track.
        track: TrackNo,
        /// The segments.
        run: SequenceRun,
        /// They were damaged or lost, and are welcome again; else the store let them go.
        torn: bool,
    },
    /// The store removed a content.
    Removed {
        /// The content.
        content: ContentNo,
    },
    /// A segment could not be taken.
    Refused {
        /// The segment.
        place: Place,
        /// It will not be taken later either. Else what came of it is gone.
        forever: bool,
    },
    /// A content could not be taken, or its records could not be read.
    RefusedContent {
        /// The content.
        content: ContentNo,
        /// It will not be taken later either.
        forever: bool,
    },
    /// Records of a run of a track were verified, or read from the store; what is not among them
    /// is not to be had.
    Learned {
        /// Who sent them; none for the store.
        from: Option<ContactNo>,
        /// The content.
        content: ContentNo,
        /// The track.
        track: TrackNo,
        /// What was asked for.
        run: SequenceRun,
        /// What is known now.
        known: Vec<Known>,
    },
    /// A manifest was verified.
    Manifest {
        /// The content.
        content: ContentNo,
        /// How many records it has.
        total: u64,
        /// How many of those are known.
        known: u64,
    },
    /// So many records of a manifest are known.
    Rows {
        /// The content.
        content: ContentNo,
        /// How many.
        known: u64,
    },
    /// A viewer asked for a segment of a content.
    Watched {
        /// The content.
        content: ContentNo,
        /// The segment.
        sequence: u64,
    },
    /// Time passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message.
    Send {
        /// To whom.
        contact: ContactNo,
        /// The message.
        message: Box<Message>,
    },
    /// A contact has proven what is asked of it.
    Ready {
        /// The contact.
        contact: ContactNo,
    },
    /// Read nothing of a contact for a while: it has used up its budget of work.
    Slow {
        /// The contact.
        contact: ContactNo,
        /// Until when.
        until: Time,
    },
    /// End a contact; the other side is told why.
    Close {
        /// The contact.
        contact: ContactNo,
        /// Why.
        why: String,
        /// Its last counts: it is not among [`super::Delivery::contacts`] any more.
        stats: Stats,
    },
    /// Send chunk groups of a segment as the answer to a request.
    Serve(Serving),
    /// Ask for chunk groups of a segment: make room for it, expect the answer, send the question;
    /// or say that the segment is refused.
    Ask {
        /// From whom.
        contact: ContactNo,
        /// Our number of the request.
        request: RequestNo,
        /// The segment.
        place: Place,
        /// The chunk groups.
        groups: GroupRun,
        /// The question.
        message: Box<Message>,
    },
    /// A request was given up: what comes of it is not expected any more.
    Unask {
        /// Of whom.
        contact: ContactNo,
        /// Our number of the request.
        request: RequestNo,
    },
    /// Read from the store what a contact asks about a content, and send it.
    Answer {
        /// To whom.
        contact: ContactNo,
        /// What is asked, by this node's numbers.
        question: Question,
    },
    /// Verify a manifest that came ([`crate::relay::learn`]).
    LearnManifest {
        /// From whom.
        contact: ContactNo,
        /// The content.
        content: ContentNo,
        /// The manifest as it was signed.
        manifest: Vec<u8>,
        /// The signature.
        signature: Signature,
    },
    /// Verify rows that came, by the manifest that was verified.
    LearnRows {
        /// From whom.
        contact: ContactNo,
        /// The content.
        content: ContentNo,
        /// Position of the first row.
        from: u64,
        /// The rows.
        rows: Vec<Row>,
        /// What proves them.
        proof: Vec<[u8; 32]>,
    },
    /// Verify records that came.
    LearnRecords {
        /// From whom.
        contact: ContactNo,
        /// The content.
        content: ContentNo,
        /// The track.
        track: TrackNo,
        /// What was asked for.
        run: SequenceRun,
        /// What came.
        records: Vec<(Vec<u8>, Signature)>,
    },
    /// Read from the store how long the segments of a run are.
    Recall {
        /// The content.
        content: ContentNo,
        /// The track.
        track: TrackNo,
        /// Which segments.
        run: SequenceRun,
    },
    /// Every chunk group of a segment is here: make it part of the store.
    Adopt {
        /// The segment.
        place: Place,
        /// The lowest sequence that is expected of the track.
        start: u64,
    },
    /// Nothing more of a segment is wanted: forget its record.
    Forget {
        /// The segment.
        place: Place,
    },
    /// A content that nobody offers any more is forgotten, and its number is never used again.
    Forgotten {
        /// The content.
        content: ContentNo,
    },
    /// A peer says that a stored segment is damaged: look at it again.
    Doubt {
        /// The segment.
        place: Place,
    },
    /// On how many other nodes the segments of a track are known to be that are here.
    Copies {
        /// The content.
        content: ContentNo,
        /// The track.
        track: TrackNo,
        /// Segments and the number of nodes.
        copies: Vec<(SequenceRun, u16)>,
    },
}
