//! What goes into the relay and what comes out.

use super::contact::Place;
use super::message::{Message, Row};
use crate::content::Priority;
use crate::ids::{PublisherKey, Signature};
use crate::runs::{Run, Runs};
use crate::time::Time;

/// A contact, by the number that the driver gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContactNo(pub u32);

/// What the store says of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How urgent.
    pub priority: Priority,
    /// When the last of it expires.
    pub expires: Time,
    /// Hash and time of its manifest, once all of its records are known.
    pub manifest: Option<([u8; 32], Time)>,
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
    /// Bytes of its payload.
    pub length: u64,
    /// Chunk groups that are here from before.
    pub have: Runs,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A link came up to a node whose key was proven.
    Up {
        /// Its number.
        contact: ContactNo,
        /// The other node.
        node: PublisherKey,
        /// Whether this side dialled.
        dialled: bool,
    },
    /// A link went down.
    Down(ContactNo),
    /// A message came.
    Message(ContactNo, Message),
    /// Chunk groups of a request came, were verified and kept; and their bytes on the link.
    Arrived(ContactNo, u32, Run),
    /// What came for a request does not match the segment's root.
    Damaged(ContactNo, u32),
    /// The link took so many bytes of what was to be served.
    Sent(ContactNo, u64),
    /// The store has a content, or something of it changed.
    Content(u32, Facts),
    /// Segments are in the store.
    Stored(u32, u16, Run),
    /// The store let segments go.
    Dropped(u32, u16, Run),
    /// Segments were damaged or lost, and are welcome again.
    Torn(u32, u16, Run),
    /// The store removed a content.
    Removed(u32),
    /// A segment could not be taken, and will not be.
    Refused(Place),
    /// A content cannot be taken.
    RefusedContent(u32),
    /// A content could not be taken now, or its records could not be read.
    FailedContent(u32),
    /// A segment could not be taken now: what came of it is gone.
    Failed(Place),
    /// Records of a run of a track were verified, or read from the store; what is not among them
    /// is not to be had. The contact is the one that sent them.
    Learned(Option<ContactNo>, u32, u16, Run, Vec<Known>),
    /// A manifest was verified: its hash and how many records it has, and how many of those are
    /// known.
    Manifest(u32, [u8; 32], u64, u64),
    /// So many records of a manifest are known.
    Rows(u32, u64),
    /// What a contact said was signed is not.
    Lied(ContactNo, String),
    /// A viewer asked for a segment of a content.
    Watched(u32, u64),
    /// Time passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message.
    Send(ContactNo, Message),
    /// End a contact; the other side is told why.
    Close(ContactNo, String),
    /// Send chunk groups of a segment as the answer to a request; the last of them or not.
    Serve {
        /// To whom.
        contact: ContactNo,
        /// Their number of the request.
        request: u32,
        /// The segment.
        place: Place,
        /// All chunk groups that were asked for with it.
        asked: Run,
        /// Those that are to be sent now.
        groups: Run,
        /// All that was asked for is sent with these.
        last: bool,
    },
    /// Expect chunk groups of a segment under a number.
    Expect {
        /// From whom.
        contact: ContactNo,
        /// Our number of the request.
        request: u32,
        /// The segment.
        place: Place,
        /// The chunk groups.
        groups: Run,
    },
    /// Read a manifest of this node and send it.
    SendManifest(ContactNo, u32),
    /// Read rows of a manifest of this node and send them.
    SendRows(ContactNo, u32, Run),
    /// Read signed records and send them.
    SendRecords(ContactNo, u32, u16, Run),
    /// Verify a manifest that came.
    LearnManifest(ContactNo, u32, Vec<u8>, Signature),
    /// Verify rows that came, by the manifest that was verified.
    LearnRows(ContactNo, u32, u64, Vec<Row>, Vec<[u8; 32]>),
    /// Verify records that came.
    LearnRecords(ContactNo, u32, u16, Run, Vec<(Vec<u8>, Signature)>),
    /// Read from the store how long the segments of a run are.
    Recall(u32, u16, Run),
    /// Every chunk group of a segment is here: make it part of the store. The number is the lowest
    /// sequence that is expected of the track.
    Adopt(Place, u64),
    /// A content that nobody offers any more is forgotten, and its number is never used again.
    Forgotten(u32),
    /// A peer says that a stored segment is damaged: look at it again.
    Doubt(Place),
    /// On how many other nodes the segments of a track are known to be that are here.
    Copies(u32, u16, Vec<(Run, u16)>),
}
