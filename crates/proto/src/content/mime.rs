//! The media types that a segment may have. Others are refused, so that no node can be made to
//! serve a script or a page as if it were its own.

use std::fmt;

/// A media type that is no segment's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a segment is video/mp2t, video/mp4 or audio/mp4; not {0:?}")]
pub struct MimeError(String);

/// What a segment's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MimeType {
    /// MPEG-2 transport stream, `video/mp2t`.
    TransportStream,
    /// CMAF with video, `video/mp4`.
    Mp4,
    /// CMAF with audio only, `audio/mp4`.
    Mp4Audio,
}

impl MimeType {
    const ALL: [Self; 3] = [Self::TransportStream, Self::Mp4, Self::Mp4Audio];

    /// The registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TransportStream => "video/mp2t",
            Self::Mp4 => "video/mp4",
            Self::Mp4Audio => "audio/mp4",
        }
    }

    /// The file extension that players expect in a playlist.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::TransportStream => "ts",
            Self::Mp4 | Self::Mp4Audio => "m4s",
        }
    }

    /// Whether its segments need an init segment.
    #[must_use]
    pub const fn needs_init(self) -> bool {
        !matches!(self, Self::TransportStream)
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::TransportStream => 0,
            Self::Mp4 => 1,
            Self::Mp4Audio => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mime| mime.code() == code)
    }
}

impl fmt::Display for MimeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for MimeType {
    type Err = MimeError;

    /// Case and parameters (`; codecs=...`) do not matter; the older name `video/iso.segment`
    /// is taken for `video/mp4`.
    fn from_str(text: &str) -> Result<Self, MimeError> {
        let essence = text
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let known = Self::ALL.into_iter().find(|mime| mime.as_str() == essence);
        let older = (essence == "video/iso.segment").then_some(Self::Mp4);
        known
            .or(older)
            // Texts come from outside: an error shows the beginning of one.
            .ok_or_else(|| MimeError(text.chars().take(60).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_media_types_of_segments_pass() {
        assert_eq!("Video/MP2T".parse(), Ok(MimeType::TransportStream));
        assert_eq!("video/mp4; codecs=\"avc1\"".parse(), Ok(MimeType::Mp4));
        for text in ["text/html", "image/svg+xml", "", "video/"] {
            assert!(text.parse::<MimeType>().is_err(), "{text}");
        }
    }
}
