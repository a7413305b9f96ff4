//! Why an ingest did not come to its end.

use std::path::PathBuf;

use super::super::client::ClientError;

/// What went wrong, in one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The file is not there.
    #[error("there is no file {}: check its name", .0.display())]
    NoSuchFile(PathBuf),
    /// The file cannot be opened.
    #[error("cannot read {}: {reason}", path.display())]
    CannotOpen {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// No player could make anything of the input.
    #[error("{input} is no video or audio that ffmpeg can read ({reason}): check the source")]
    Unreadable {
        /// The input, as the user gave it.
        input: String,
        /// ffmpeg's own words.
        reason: String,
    },
    /// The input names other files, or may.
    #[error(
        "{0} is a list of other files, a script or a picture, or of a kind that is not known here, \
         and is not opened, since it may publish what it names: ingest the video itself"
    )]
    List(String),
    /// The input led to another origin.
    #[error(
        "{input} leads to {foreign}, another origin, which is not fetched, since it may not be \
         meant to be published: if it is, give --also-from {foreign}"
    )]
    OtherOrigin {
        /// The input, as the user gave it.
        input: String,
        /// Scheme, host and port.
        foreign: String,
    },
    /// Standard input gave nothing.
    #[error("standard input ended without a byte: check the program that writes into the pipe")]
    EmptyInput,
    /// Options that make no sense together or for this input.
    #[error("{0}")]
    Usage(String),
    /// `--copy` was asked for tracks that no segment can hold.
    #[error("{what} cannot be copied ({why}): leave out --copy, and only that track is transcoded")]
    CannotCopy {
        /// The track.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// The source on standard input has too few key frames to be copied.
    #[error("{0}; standard input cannot be read twice: run it again with --transcode")]
    GapOnStdin(lavant_media::Error),
    /// The bytes cannot be cut into segments.
    #[error("{0}")]
    Media(#[from] lavant_media::Error),
    /// The node did not answer, refused, or is none.
    #[error(transparent)]
    Node(#[from] ClientError),
    /// ffmpeg is missing.
    #[error("ffmpeg is not installed; install it with: apt-get install ffmpeg")]
    NoFfmpeg,
    /// ffmpeg failed.
    #[error("ffmpeg failed ({0}): check that the source is complete and can be played")]
    Ffmpeg(String),
    /// Nothing came from the source for too long.
    #[error("nothing came from the source for {0} s: check it and try again")]
    Stalled(u64),
    /// The user stopped it.
    #[error("cancelled; what was uploaded is rolled back")]
    Cancelled,
    /// Something that the machine refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl IngestError {
    /// The exit code of a program that ends with this error: 2 wrong input or use, 3 the node is
    /// not reachable or refused, 4 ffmpeg is missing, 130 cancelled, 1 anything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoSuchFile(_)
            | Self::CannotOpen { .. }
            | Self::Unreadable { .. }
            | Self::List(_)
            | Self::OtherOrigin { .. }
            | Self::EmptyInput
            | Self::Usage(_)
            | Self::CannotCopy { .. }
            | Self::GapOnStdin(_)
            | Self::Media(_) => 2,
            Self::Node(ClientError::Address(_)) => 2,
            Self::Node(_) => 3,
            Self::NoFfmpeg => 4,
            Self::Cancelled => 130,
            Self::Ffmpeg(_) | Self::Stalled(_) | Self::Io { .. } => 1,
        }
    }

    pub(super) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_sentence_with_a_way_out() {
        let gap = lavant_media::Error::KeyFrameGap {
            at: 0,
            gap: 3_600_000,
            max: 2_700_000,
        };
        let text = IngestError::GapOnStdin(gap).to_string();
        assert!(
            text.contains("--transcode") && text.contains("40.0 s"),
            "{text}"
        );
        let text = IngestError::NoSuchFile("a.mp4".into()).to_string();
        assert_eq!(text, "there is no file a.mp4: check its name");
        let text = IngestError::NoFfmpeg.to_string();
        assert_eq!(
            text,
            "ffmpeg is not installed; install it with: apt-get install ffmpeg"
        );
    }

    #[test]
    fn exit_codes_tell_classes_apart() {
        let unreachable = IngestError::Node(ClientError::Unreachable {
            url: "http://127.0.0.1:1".to_owned(),
            reason: String::new(),
        });
        assert_eq!(unreachable.exit_code(), 3);
        assert!(unreachable.to_string().contains("lavant serve"));
        let address = ClientError::Address("https://h:1".to_owned());
        assert_eq!(IngestError::Node(address).exit_code(), 2);
        assert_eq!(IngestError::NoFfmpeg.exit_code(), 4);
        assert_eq!(IngestError::Cancelled.exit_code(), 130);
        assert_eq!(IngestError::EmptyInput.exit_code(), 2);
        assert_eq!(IngestError::Stalled(3).exit_code(), 1);
    }
}
