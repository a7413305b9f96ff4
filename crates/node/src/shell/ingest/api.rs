//! What a caller says and hears.

use serde_json::Value;

use super::{Input, Ladder, Mode, Priority, PublisherKey, SigningKey};

/// What to ingest, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The source.
    pub input: Input,
    /// Further origins, such as `https://cdn.example`, that a playlist of the web may name.
    pub also_from: Vec<String>,
    /// The title; the source's name when there is none.
    pub title: Option<String>,
    /// The id; made from the title when there is none.
    pub content_id: Option<String>,
    /// How urgent it is.
    pub priority: Priority,
    /// The node, such as `http://127.0.0.1:7777`.
    pub daemon: String,
    /// The node's token, where it asks for one.
    pub token: Option<String>,
    /// Target length of a segment.
    pub segment_seconds: u32,
    /// Whether tracks are copied or encoded.
    pub mode: Mode,
    /// How many renditions are made.
    pub ladder: Ladder,
    /// Who publishes; the node itself when there is none.
    pub publish_as: Option<SigningKey>,
    /// Keep it when space is short.
    pub pin: bool,
    /// The nodes that it is for, in the order of their keys; everybody when there are none.
    pub to: Vec<PublisherKey>,
}

impl Options {
    /// The usual options for a source.
    #[must_use]
    pub fn new(input: Input, daemon: &str) -> Self {
        Self {
            input,
            also_from: Vec::new(),
            title: None,
            content_id: None,
            priority: Priority::Vod,
            daemon: daemon.to_owned(),
            token: None,
            segment_seconds: 6,
            mode: Mode::Auto,
            ladder: Ladder::Single,
            publish_as: None,
            pin: false,
            to: Vec::new(),
        }
    }
}

/// What happens meanwhile.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It is known what will be done.
    Planned {
        /// The id in the node.
        content_id: String,
        /// What is done, in words.
        words: String,
        /// Names of the renditions.
        renditions: Vec<String>,
        /// How long the source lasts.
        expected_seconds: Option<f64>,
        /// How large the source is.
        size: Option<u64>,
        /// Segments that an earlier ingest has left in the node.
        resumed: usize,
    },
    /// A segment is in the node.
    Segment {
        /// Of which rendition.
        rendition: String,
        /// Its number.
        sequence: u64,
        /// Its size.
        bytes: u64,
        /// How much of the rendition is in the node now.
        media_seconds: f64,
        /// False when an earlier ingest has sent it.
        is_new: bool,
    },
    /// ffmpeg has come this far.
    Encoded {
        /// Seconds of the source that are done.
        media_seconds: f64,
        /// Seconds of the source done in a second.
        speed: Option<f64>,
    },
    /// Something that the user should know.
    Notice(String),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The node's catalog entry.
    pub entry: Value,
    /// The id in the node.
    pub content_id: String,
    /// Where to play it.
    pub play_url: String,
    /// Bytes of all segments of all renditions.
    pub bytes: u64,
    /// How long it lasts.
    pub media_seconds: f64,
    /// Number of segments of all renditions.
    pub segments: u64,
    /// Pieces that an earlier ingest had left in the node.
    pub resumed: u64,
    /// What was done, in words.
    pub words: String,
    /// The same file with the same options was published before: nothing was done.
    pub already_here: bool,
}
