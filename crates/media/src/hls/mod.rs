//! HLS playlists (RFC 8216bis): written for players, and read back.
//!
//! The parser reads what [`MediaPlaylist::render`] and [`MasterPlaylist::render`] write and the
//! playlists of other servers, as far as whole segments in the clear go: unknown tags are
//! ignored, byte ranges and encryption are refused, because ignoring them would give other bytes
//! than the playlist means.

mod master;
mod media;
mod text;

pub use master::{MasterPlaylist, Variant};
pub use media::{
    LowLatency, MediaPlaylist, MediaSegment, OpenSegment, PlaylistPart, PlaylistType, Start,
};

/// The most bytes of a playlist that is parsed: [`MAX_ENTRIES`] of 300 bytes each, which is what
/// two lines with a long name take.
pub const MAX_BYTES: usize = 64 << 20;
/// The most segments or variants of a playlist that is parsed.
pub const MAX_ENTRIES: usize = 200_000;

/// A playlist of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Playlist {
    /// Segments of one rendition.
    Media(MediaPlaylist),
    /// Renditions of one content.
    Master(MasterPlaylist),
}

impl Playlist {
    /// Reads a playlist of either kind.
    ///
    /// # Errors
    /// See [`PlaylistError`].
    pub fn parse(text: &str) -> Result<Self, PlaylistError> {
        // A media playlist has no such tag, and a master playlist at least one.
        if text
            .lines()
            .any(|line| line.starts_with("#EXT-X-STREAM-INF:"))
        {
            MasterPlaylist::parse(text).map(Self::Master)
        } else {
            MediaPlaylist::parse(text).map(Self::Media)
        }
    }
}

/// Why a playlist is not written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaylistError {
    /// A segment is longer than the playlist's target duration allows.
    #[error(
        "segment {index} lasts {} s when rounded, over the target duration of {target} s: give \
         the playlist a higher target duration from its start", text::rounded(*ticks)
    )]
    SegmentTooLong {
        /// Which segment of the playlist, from zero.
        index: usize,
        /// Its duration in ticks.
        ticks: u64,
        /// The target duration in seconds.
        target: u64,
    },
    /// A part is longer than the playlist's part target.
    #[error("a part of segment {index} lasts {ticks} ticks, over the part target of {target}")]
    PartTooLong {
        /// Which segment of the playlist, from zero.
        index: usize,
        /// Its duration in ticks.
        ticks: u64,
        /// The part target in ticks.
        target: u64,
    },
    /// A URI that cannot stand in a playlist.
    #[error("a URI is empty or holds characters that a playlist cannot: percent-encode it")]
    BadUri,
    /// A segment without init segment follows one that has one.
    #[error(
        "segment {index} has no init segment, but the one before has: put it in a playlist of its \
         own"
    )]
    InitEnds {
        /// Which segment of the playlist, from zero.
        index: usize,
    },
    /// The text is no playlist.
    #[error("the text does not begin with #EXTM3U: check the URL of the playlist")]
    NotPlaylist,
    /// The other kind of playlist was expected.
    #[error("the playlist is of the other kind (master or media): ask for the right one")]
    OtherKind,
    /// Over [`MAX_BYTES`] or [`MAX_ENTRIES`].
    #[error("the playlist is larger than 64 MiB or 200000 entries: publish a shorter one")]
    TooLarge,
    /// A tag cannot be read.
    #[error("line {line} of the playlist is not valid: correct it at its source")]
    BadLine {
        /// Which line, from one.
        line: usize,
    },
    /// A feature that changes the meaning of what follows.
    #[error("the playlist uses {tag}, which is not supported: publish whole segments in the clear")]
    Unsupported {
        /// The tag.
        tag: &'static str,
    },
}
