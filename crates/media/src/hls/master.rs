//! Master playlists: the renditions of one content.

use super::{MAX_BYTES, MAX_ENTRIES, PlaylistError, text};

/// One rendition in a master playlist.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Variant {
    /// Where its media playlist is, percent-encoded.
    pub uri: String,
    /// The highest bit rate of any segment, in bits a second.
    pub bandwidth: u64,
    /// The bit rate of all segments, in bits a second.
    pub average_bandwidth: Option<u64>,
    /// Its codecs by RFC 6381, with commas between.
    pub codecs: Option<String>,
    /// Width and height in pixels.
    pub resolution: Option<(u32, u32)>,
    /// Pictures a second; written with three decimals.
    pub frame_rate: Option<f64>,
}

/// The renditions of one content.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MasterPlaylist {
    /// True when every segment of every rendition can be decoded alone.
    pub independent_segments: bool,
    /// The renditions; players begin with the first.
    pub variants: Vec<Variant>,
}

impl MasterPlaylist {
    /// The text of the playlist.
    ///
    /// # Errors
    /// When a URI cannot stand in a playlist.
    pub fn render(&self) -> Result<String, PlaylistError> {
        let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:3\n");
        if self.independent_segments {
            out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        }
        for variant in &self.variants {
            if !text::is_uri(&variant.uri) {
                return Err(PlaylistError::BadUri);
            }
            out.push_str("#EXT-X-STREAM-INF:");
            out.push_str(&variant.attributes());
            out.push('\n');
            out.push_str(&variant.uri);
            out.push('\n');
        }
        Ok(out)
    }

    /// Reads the text of a playlist.
    ///
    /// # Errors
    /// See [`PlaylistError`].
    pub fn parse(text: &str) -> Result<Self, PlaylistError> {
        if text.len() > MAX_BYTES {
            return Err(PlaylistError::TooLarge);
        }
        let mut lines = text.lines().map(str::trim).enumerate();
        if lines.next().is_none_or(|(_, line)| line != "#EXTM3U") {
            return Err(PlaylistError::NotPlaylist);
        }
        let mut list = Self::default();
        let mut next: Option<Variant> = None;
        for (index, line) in lines {
            let bad = || PlaylistError::BadLine { line: index + 1 };
            if let Some(value) = line.strip_prefix("#EXT-X-STREAM-INF:") {
                next = Some(Variant::parse(value).ok_or_else(bad)?);
            } else if line == "#EXT-X-INDEPENDENT-SEGMENTS" {
                list.independent_segments = true;
            } else if line.starts_with("#EXTINF:") || line.starts_with("#EXT-X-TARGETDURATION:") {
                return Err(PlaylistError::OtherKind);
            } else if !line.is_empty() && !line.starts_with('#') {
                // A URI without the tag before it says nothing of what it leads to.
                let mut variant = next.take().ok_or_else(bad)?;
                if list.variants.len() >= MAX_ENTRIES {
                    return Err(PlaylistError::TooLarge);
                }
                if !text::is_uri(line) {
                    return Err(PlaylistError::BadUri);
                }
                variant.uri = line.to_owned();
                list.variants.push(variant);
            }
        }
        Ok(list)
    }
}

impl Variant {
    fn attributes(&self) -> String {
        let mut list = format!("BANDWIDTH={}", self.bandwidth);
        if let Some(average) = self.average_bandwidth {
            list.push_str(&format!(",AVERAGE-BANDWIDTH={average}"));
        }
        if let Some(codecs) = &self.codecs {
            list.push_str(&format!(",CODECS=\"{}\"", text::clean(codecs)));
        }
        if let Some((width, height)) = self.resolution {
            list.push_str(&format!(",RESOLUTION={width}x{height}"));
        }
        if let Some(rate) = self
            .frame_rate
            .filter(|rate| rate.is_finite() && *rate >= 0.0)
        {
            list.push_str(&format!(",FRAME-RATE={rate:.3}"));
        }
        list
    }

    /// Reads an attribute list; `None` without a bandwidth or with a number that is none.
    fn parse(list: &str) -> Option<Self> {
        let mut variant = Self::default();
        let mut bandwidth = None;
        for (name, value) in text::attributes(list) {
            match name {
                "BANDWIDTH" => bandwidth = Some(value.parse().ok()?),
                "AVERAGE-BANDWIDTH" => variant.average_bandwidth = Some(value.parse().ok()?),
                "CODECS" => variant.codecs = Some(text::clean(value)),
                "RESOLUTION" => {
                    let (width, height) = value.split_once('x')?;
                    variant.resolution = Some((width.parse().ok()?, height.parse().ok()?));
                }
                "FRAME-RATE" => {
                    let rate: f64 = value.parse().ok()?;
                    variant.frame_rate = (rate.is_finite() && rate >= 0.0).then_some(rate);
                }
                _ => {}
            }
        }
        variant.bandwidth = bandwidth?;
        Some(variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_and_reads_variants() {
        let full = Variant {
            uri: "main.m3u8".to_owned(),
            bandwidth: 1_400_000,
            average_bandwidth: Some(1_200_000),
            codecs: Some("avc1.64001f,mp4a.40.2".to_owned()),
            resolution: Some((1280, 720)),
            frame_rate: Some(29.97),
        };
        let least = Variant {
            uri: "a.m3u8".to_owned(),
            bandwidth: 1,
            ..Variant::default()
        };
        let list = MasterPlaylist {
            independent_segments: true,
            variants: vec![full, least],
        };
        let text = list.render().unwrap();
        assert_eq!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-STREAM-INF:BANDWIDTH=1400000,AVERAGE-BANDWIDTH=1200000,\
             CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=1280x720,FRAME-RATE=29.970\nmain.m3u8\n\
             #EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n"
        );
        assert_eq!(MasterPlaylist::parse(&text), Ok(list));
    }

    #[test]
    fn codecs_cannot_break_out_of_their_quotes() {
        let codecs = Some("x\"\n#EXT-X-ENDLIST\r".to_owned());
        let variant = Variant {
            uri: "a".to_owned(),
            codecs,
            ..Variant::default()
        };
        let list = MasterPlaylist {
            independent_segments: false,
            variants: vec![variant],
        };
        assert!(
            list.render()
                .unwrap()
                .contains("CODECS=\"x#EXT-X-ENDLIST\"\na\n")
        );
    }

    #[test]
    fn refuses_bad_text() {
        let bad = |text: &str| MasterPlaylist::parse(text).unwrap_err();
        assert_eq!(bad(""), PlaylistError::NotPlaylist);
        assert_eq!(bad("#EXTM3U\na"), PlaylistError::BadLine { line: 2 });
        assert_eq!(
            bad("#EXTM3U\n#EXT-X-STREAM-INF:X=1"),
            PlaylistError::BadLine { line: 2 }
        );
        assert_eq!(bad("#EXTM3U\n#EXTINF:1,\na"), PlaylistError::OtherKind);
    }
}
