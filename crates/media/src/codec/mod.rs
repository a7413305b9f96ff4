//! What a stream is made of: codec strings, picture sizes and rates.

pub(crate) mod audio;
pub(crate) mod bits;
pub(crate) mod h264;
pub(crate) mod hevc;
pub(crate) mod mpeg2;

/// Whether a stream is seen or heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

/// One elementary stream. A field is `None` where the stream's headers do not tell.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamInfo {
    /// Video or audio.
    pub kind: Kind,
    /// The codec by RFC 6381, as in the `CODECS` attribute of a master playlist.
    pub codec: String,
    /// Pixels across, after cropping.
    pub width: Option<u32>,
    /// Pixels down, after cropping.
    pub height: Option<u32>,
    /// Pictures a second.
    pub frame_rate: Option<f64>,
    /// Audio samples a second.
    pub sample_rate: Option<u32>,
    /// Audio channels.
    pub channels: Option<u32>,
}

impl StreamInfo {
    pub(crate) fn video(codec: impl Into<String>) -> Self {
        Self::new(Kind::Video, codec.into())
    }

    pub(crate) fn audio(codec: impl Into<String>) -> Self {
        Self::new(Kind::Audio, codec.into())
    }

    fn new(kind: Kind, codec: String) -> Self {
        Self {
            kind,
            codec,
            width: None,
            height: None,
            frame_rate: None,
            sample_rate: None,
            channels: None,
        }
    }

    pub(crate) fn size(mut self, width: u32, height: u32) -> Self {
        self.width = (width > 0).then_some(width);
        self.height = (height > 0).then_some(height);
        self
    }

    pub(crate) fn sound(mut self, sample_rate: u32, channels: u32) -> Self {
        self.sample_rate = (sample_rate > 0).then_some(sample_rate);
        self.channels = (channels > 0).then_some(channels);
        self
    }
}

/// What one segment holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// Ticks that the reference stream (the first video, else the first audio) lasts.
    pub duration: u64,
    /// True when the reference stream begins with a key frame.
    pub starts_with_key_frame: bool,
    /// The streams of known codecs, in the order of the container's tables.
    pub streams: Vec<StreamInfo>,
}

impl Inspection {
    /// The first video stream.
    #[must_use]
    pub fn video(&self) -> Option<&StreamInfo> {
        self.streams
            .iter()
            .find(|stream| stream.kind == Kind::Video)
    }

    /// See [`codecs`].
    #[must_use]
    pub fn codecs(&self) -> Option<String> {
        codecs(&self.streams)
    }
}

/// The value of a `CODECS` attribute; `None` when there is no stream.
#[must_use]
pub fn codecs(streams: &[StreamInfo]) -> Option<String> {
    let mut codecs: Vec<&str> = Vec::new();
    for stream in streams {
        // Two tracks of one codec need it once.
        if !codecs.contains(&stream.codec.as_str()) {
            codecs.push(&stream.codec);
        }
    }
    (!codecs.is_empty()).then(|| codecs.join(","))
}

/// The units between start codes (00 00 01) of a byte stream, without the start codes.
pub(crate) fn units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        let unit = rest?;
        rest = after_start_code(unit);
        // `next` is the end of `unit` behind a start code of three bytes, so this cannot go below
        // 0.
        let end = rest.map_or(unit.len(), |next| unit.len() - next.len() - 3);
        unit.get(..end)
    })
}

fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    let at = stream.windows(3).position(|three| three == [0, 0, 1])?;
    stream.get(at + 3..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_units() {
        let stream = [9, 0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 0, 0, 1];
        let found: Vec<_> = units(&stream).collect();
        assert_eq!(found, [&[0x67, 1][..], &[0x68], &[]]);
        assert_eq!(units(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn joins_codecs_once() {
        let streams = vec![
            StreamInfo::video("avc1.64001f"),
            StreamInfo::audio("mp4a.40.2"),
            StreamInfo::audio("mp4a.40.2"),
        ];
        let inspection = Inspection {
            duration: 0,
            starts_with_key_frame: true,
            streams,
        };
        assert_eq!(
            inspection.codecs().as_deref(),
            Some("avc1.64001f,mp4a.40.2")
        );
        assert_eq!(
            inspection.video().map(|video| video.kind),
            Some(Kind::Video)
        );
    }
}
