//! What a commit changes, as it is told to whoever listens.

use lavant_proto::content::Kind;
use lavant_proto::ids::{ContentKey, Root};
use tokio::sync::mpsc::UnboundedSender;

use super::rows::{SegmentKey, SegmentRow};

/// One thing that a commit changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The payload of a segment came.
    Stored {
        /// The content.
        content_no: u64,
        /// Its rendition.
        rendition_no: u16,
        /// Media or init.
        kind: Kind,
        /// Position in the rendition.
        sequence: u64,
        /// Bytes of the payload.
        length: u64,
        /// Root of the payload.
        root: Root,
    },
    /// The payload of a segment went.
    Dropped {
        /// It was torn, damaged or lost, and is welcome again.
        torn: bool,
        /// The content.
        content_no: u64,
        /// Its rendition.
        rendition_no: u16,
        /// Media or init.
        kind: Kind,
        /// Position in the rendition.
        sequence: u64,
    },
    /// A content is new, or finished now.
    Admitted {
        /// The content.
        content_no: u64,
    },
    /// A content went with all of its segments.
    Removed {
        /// The content.
        content_no: u64,
        /// What it was.
        key: ContentKey,
    },
}

impl Change {
    pub(super) const fn stored(key: SegmentKey, row: &SegmentRow) -> Self {
        Self::Stored {
            content_no: key.content_no,
            rendition_no: key.rendition_no,
            kind: key.kind,
            sequence: key.sequence,
            length: row.length,
            root: row.root,
        }
    }

    pub(super) const fn dropped(key: SegmentKey, torn: bool) -> Self {
        Self::Dropped {
            torn,
            content_no: key.content_no,
            rendition_no: key.rendition_no,
            kind: key.kind,
            sequence: key.sequence,
        }
    }
}

/// Who listens.
pub(super) type Listeners = Vec<UnboundedSender<Vec<Change>>>;
