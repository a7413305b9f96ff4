//! Why a connection is given up.

/// Why a connection is given up: one sentence, for the log and for the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first byte is no version of RTMP.
    #[error(
        "the connection does not begin as RTMP does (first byte {version}): send to this port with \
         rtmp://, and other protocols to theirs"
    )]
    NotRtmp {
        /// The first byte.
        version: u8,
    },
    /// The peer begins a TLS handshake.
    #[error(
        "the publisher began TLS on a port for plain RTMP: write rtmp:// instead of rtmps://, or \
         use the port for RTMPS"
    )]
    Tls,
    /// A chunk size that no chunk can have.
    #[error("the publisher announced chunks of {size} bytes: set a chunk size of 128 to 65536")]
    ChunkSize {
        /// What was announced.
        size: u32,
    },
    /// A message is larger than the limit.
    #[error(
        "the publisher announced a message of {length} bytes (at most {max}): lower the bit rate, \
         or raise the limit"
    )]
    MessageTooLarge {
        /// Bytes that were announced.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// More of something than is taken.
    #[error("the publisher sends too much at once ({what}): restart its encoder")]
    LimitReached {
        /// What there is too much of.
        what: &'static str,
    },
    /// The bytes do not follow the protocol.
    #[error("the publisher's RTMP is damaged ({what}): restart its encoder, or update it")]
    Malformed {
        /// What is broken.
        what: &'static str,
    },
    /// More input after [`Session::refuse`](super::Session::refuse).
    #[error("the publisher was refused: close the connection")]
    Refused,
}

impl Error {
    pub(super) const fn malformed(what: &'static str) -> Self {
        Self::Malformed { what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_sentence_with_advice() {
        assert_eq!(
            Error::ChunkSize { size: 1 << 31 }.to_string(),
            "the publisher announced chunks of 2147483648 bytes: set a chunk size of 128 to 65536"
        );
    }
}
