//! What a publisher should hear of, although its stream goes on.

use std::fmt;

use crate::Kind;

/// What is left out. It is said once for each cause, and as a sentence by `Display`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Its codec is not taken.
    Unsupported {
        /// Video or audio.
        kind: Kind,
        /// The codec's name.
        codec: String,
    },
    /// The header of its codec makes no sense. A later one can mend it.
    Damaged {
        /// Video or audio.
        kind: Kind,
    },
    /// The publisher sends several tracks of a kind in one stream (Enhanced RTMP's multitrack):
    /// track 0 alone is taken.
    FurtherTracks {
        /// Video or audio.
        kind: Kind,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |kind: &Kind| match kind {
            Kind::Video => ("video", "H.264, HEVC, AV1 or VP9"),
            Kind::Audio => ("audio", "AAC or Opus"),
        };
        match self {
            Self::Unsupported { kind, codec } => {
                let (name, taken) = words(kind);
                write!(
                    f,
                    "the {name} is left out: its codec ({codec}) is not taken, encode to {taken}"
                )
            }
            Self::FurtherTracks { kind } => {
                let (name, _) = words(kind);
                write!(
                    f,
                    "further tracks of {name} are left out: publish each as a stream of its own"
                )
            }
            Self::Damaged { kind } => {
                let (name, _) = words(kind);
                write!(
                    f,
                    "the {name} is left out: its codec's header is damaged, restart the encoder"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_one_sentence_with_advice() {
        let notice = Notice::Unsupported {
            kind: Kind::Audio,
            codec: "MP3".into(),
        };
        assert_eq!(
            notice.to_string(),
            "the audio is left out: its codec (MP3) is not taken, encode to AAC or Opus"
        );
        assert_eq!(
            Notice::FurtherTracks { kind: Kind::Video }.to_string(),
            "further tracks of video are left out: publish each as a stream of its own"
        );
    }
}
