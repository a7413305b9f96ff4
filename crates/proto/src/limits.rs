//! Every bound of the core, with its arithmetic.

/// Longest `content_id`, in bytes of UTF-8: 40 characters of up to 3 bytes.
pub const CONTENT_ID_BYTES_MAX: usize = 120;

/// Longest `content_id` made from a title, in characters, so that a URL stays readable.
pub const CONTENT_ID_CHARS_MAX: usize = 40;

/// Longest title, in bytes of UTF-8.
pub const TITLE_BYTES_MAX: usize = 512;

/// Longest rendition name, in bytes.
pub const RENDITION_BYTES_MAX: usize = 32;

/// Longest list of RFC 6381 codec strings of a rendition, in bytes.
pub const CODECS_BYTES_MAX: usize = 256;

/// Most renditions of a content.
pub const RENDITIONS_MAX: usize = 32;

/// Longest segment payload that a record may declare: 1 GiB. A 30 s segment of 200 Mbit/s video
/// takes 750 MB.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Longest segment, in ticks of 90 kHz: one hour.
pub const SEGMENT_TICKS_MAX: u64 = 3600 * crate::time::TICKS_PER_SECOND;

/// Longest target duration of a playlist, in seconds: that of the longest segment.
pub const TARGET_SECONDS_MAX: u64 = SEGMENT_TICKS_MAX / crate::time::TICKS_PER_SECOND;

/// Highest sequence number: 2^53 - 1, the highest that a JavaScript player counts exactly.
pub const SEQUENCE_MAX: u64 = (1 << 53) - 1;

/// Longest time to live: ten years, in seconds.
pub const TTL_SECONDS_MAX: u64 = 10 * 366 * 86_400;

/// Most records of a finished content: 16 renditions of a day in 1.4 s segments. Their leaf hashes
/// take 32 MiB.
pub const MANIFEST_RECORDS_MAX: usize = 1 << 20;

/// Longest encoded segment record: all strings at their longest and all integers at their widest
/// come to 1,100 bytes.
pub const RECORD_BYTES_MAX: usize = 2048;

/// Longest encoded manifest: 32 renditions of up to 420 bytes, 16 addressees, and the head.
pub const MANIFEST_BYTES_MAX: usize = 16 * 1024;

/// Most chunk-group intervals that a have-map may hold: half of all groups of the longest segment
/// (65,536 groups of 16 KiB).
pub const HAVE_INTERVALS_MAX: usize = 32_768;

/// Longest message between nodes: a manifest with its signature fits three times, 512 rows of 60
/// bytes twice.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Most nodes that a finished content is for.
pub const ADDRESSEES_MAX: usize = 16;

/// Most contents in the store of one node. A contact may speak of as many.
pub const STORED_MAX: usize = 200_000;

/// Most contents that a node knows of and does not have: about 30 MB with one track each.
pub const CONTENTS_MAX: usize = 40_000;

/// Most contacts at a time, and how many of them are kept for nodes that this node dials or names.
pub const CONTACTS_MAX: usize = 256;
/// See [`CONTACTS_MAX`].
pub const CONTACTS_KEPT: usize = 64;
/// Most contacts from one source, once they have proven what is asked of them.
pub const CONTACTS_OF_SOURCE_MAX: usize = 64;
/// Most contacts that have not proven anything yet: in all, and from one source. The oldest goes
/// for a new one.
pub const UNPROVEN_MAX: usize = 64;
/// See [`UNPROVEN_MAX`].
pub const UNPROVEN_OF_SOURCE_MAX: usize = 8;
