//! Numbers that stand for things: a contact, a content here or there, a track, a request.
//!
//! Each is a type of its own, because a number of this node and one of another node look alike and
//! must never be mixed up.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A contact, by the number that the driver gave it.
    ContactNo(u32)
);
number!(
    /// A content, by this node's number, which is never used again for another one.
    ContentNo(u32)
);
number!(
    /// A content, by the number that the other node of a contact gave it.
    RemoteNo(u32)
);
number!(
    /// A track of a content, by its place in the list of whoever speaks of it.
    TrackNo(u16)
);
number!(
    /// A request, by the number that the asking node gave it.
    RequestNo(u32)
);
number!(
    /// A piece that nobody asked for, by the number that the sending node gave it.
    PushNo(u32)
);

/// Messages are typed as their receiver reads them: a content that the sender speaks of by its own
/// number is a [`RemoteNo`] in them, one that it asks for by the receiver's number a [`ContentNo`].
impl ContentNo {
    /// This node's number, as it stands in what others are told.
    #[must_use]
    pub const fn told(self) -> RemoteNo {
        RemoteNo(self.0)
    }
}

impl RemoteNo {
    /// The other node's number, as it stands in what it is asked.
    #[must_use]
    pub const fn asked(self) -> ContentNo {
        ContentNo(self.0)
    }
}

impl TrackNo {
    /// As an index.
    #[must_use]
    pub const fn at(self) -> usize {
        self.0 as usize
    }
}

impl ContactNo {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        // A contact ends long before 2^32 others have come.
        Self(self.0.wrapping_add(1))
    }
}

impl RequestNo {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        // Few requests of a contact are open at a time: a number is free long before it comes
        // again.
        Self(self.0.wrapping_add(1))
    }
}

/// A segment, by numbers of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The content.
    pub content: ContentNo,
    /// The track.
    pub track: TrackNo,
    /// The segment's position.
    pub sequence: u64,
}
