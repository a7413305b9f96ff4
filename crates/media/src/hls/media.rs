//! Media playlists: the segments of one rendition.

use std::fmt::Write;

use super::{MAX_BYTES, MAX_ENTRIES, PlaylistError, text};

/// What a player may expect of a playlist that it loads again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaylistType {
    /// Segments are only added.
    Event,
    /// Nothing changes.
    Vod,
}

/// Where playback should begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Ticks from the beginning of the playlist; from its end when negative.
    pub offset: i64,
    /// True when frames before the offset should not be shown.
    pub precise: bool,
}

/// A part of a segment in a playlist (`EXT-X-PART`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaylistPart {
    /// Where the part is, percent-encoded.
    pub uri: String,
    /// How long it lasts, in ticks.
    pub duration: u64,
    /// True when decoding can begin with it.
    pub independent: bool,
}

/// What a server of low latency says of itself, and what is there of the next segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowLatency {
    /// The longest part, in ticks; never changes.
    pub part_target: u64,
    /// The segment that follows the last one, as far as it is there.
    pub open: Option<OpenSegment>,
    /// Where the part after those will be; `None` when nothing is known to follow.
    pub hint: Option<String>,
}

/// A segment that is not whole yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSegment {
    /// See [`MediaSegment::discontinuity`].
    pub discontinuity: bool,
    /// See [`MediaSegment::init`].
    pub init: Option<String>,
    /// See [`MediaSegment::date`].
    pub date: Option<String>,
    /// The parts that are there.
    pub parts: Vec<PlaylistPart>,
}

/// A segment in a playlist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MediaSegment {
    /// Where the segment is, percent-encoded.
    pub uri: String,
    /// How long it lasts, in ticks.
    pub duration: u64,
    /// True when time stamps or codecs do not continue those of the segment before.
    pub discontinuity: bool,
    /// True when the segment cannot be had; players go on with the next.
    pub gap: bool,
    /// Where its init segment is, percent-encoded (CMAF).
    pub init: Option<String>,
    /// When its first picture was taken, as ISO 8601 has it (`EXT-X-PROGRAM-DATE-TIME`).
    pub date: Option<String>,
    /// The parts that it was made of; empty where players no longer need them.
    pub parts: Vec<PlaylistPart>,
}

/// The segments of one rendition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MediaPlaylist {
    /// The most seconds that any segment lasts, now and later.
    pub target_duration: u64,
    /// The number of the first segment.
    pub media_sequence: u64,
    /// How many discontinuities are before the first segment.
    pub discontinuity_sequence: u64,
    /// What may change, where that is promised.
    pub kind: Option<PlaylistType>,
    /// Where to begin, where that is told.
    pub start: Option<Start>,
    /// True when every segment can be decoded alone.
    pub independent_segments: bool,
    /// Whether requests for what is not there yet wait for it, and parts are listed.
    pub low_latency: Option<LowLatency>,
    /// Ticks before the end from where on a delta update may leave segments out
    /// (`CAN-SKIP-UNTIL`); 0 where none is given.
    pub skip_until: u64,
    /// How many segments this delta update leaves out (`EXT-X-SKIP`); they are not in `segments`.
    pub skipped: u64,
    /// The segments in order.
    pub segments: Vec<MediaSegment>,
    /// True when no segment will follow.
    pub end: bool,
}

impl MediaPlaylist {
    /// The text of the playlist.
    ///
    /// # Errors
    /// When a segment is longer than the target duration, a URI cannot stand in a playlist, or
    /// a segment without init segment follows one with.
    pub fn render(&self) -> Result<String, PlaylistError> {
        // About 64 bytes for a segment, so that the text seldom moves.
        let mut out = String::with_capacity(256 + self.segments.len() * 64);
        out.push_str("#EXTM3U\n");
        self.head(&mut out);
        if self.skipped > 0 {
            let count = self.skipped;
            put(
                &mut out,
                format_args!("#EXT-X-SKIP:SKIPPED-SEGMENTS={count}\n"),
            );
        }
        let mut init: Option<&str> = None;
        for (index, segment) in self.segments.iter().enumerate() {
            self.check(index, segment)?;
            put_start(&mut out, segment.discontinuity, segment.date.as_deref());
            put_init(&mut out, index, segment.init.as_deref(), &mut init)?;
            self.put_parts(&mut out, index, &segment.parts)?;
            if segment.gap {
                out.push_str("#EXT-X-GAP\n");
            }
            let seconds = text::seconds(segment.duration);
            put(
                &mut out,
                format_args!("#EXTINF:{seconds},\n{}\n", segment.uri),
            );
        }
        if let Some(low) = &self.low_latency {
            if let Some(open) = &low.open {
                let index = self.segments.len();
                put_start(&mut out, open.discontinuity, open.date.as_deref());
                put_init(&mut out, index, open.init.as_deref(), &mut init)?;
                self.put_parts(&mut out, index, &open.parts)?;
            }
            // Forbidden beside an end (RFC 8216bis section 4.4.5.3).
            if let Some(uri) = low.hint.as_ref().filter(|_| !self.end) {
                put(
                    &mut out,
                    format_args!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{uri}\"\n"),
                );
            }
        }
        if self.end {
            out.push_str("#EXT-X-ENDLIST\n");
        }
        Ok(out)
    }

    fn put_parts(
        &self,
        out: &mut String,
        index: usize,
        parts: &[PlaylistPart],
    ) -> Result<(), PlaylistError> {
        for part in parts {
            let target = self.low_latency.as_ref().map_or(0, |low| low.part_target);
            if part.duration > target {
                let ticks = part.duration;
                return Err(PlaylistError::PartTooLong {
                    index,
                    ticks,
                    target,
                });
            }
            if !text::is_uri(&part.uri) {
                return Err(PlaylistError::BadUri);
            }
            let seconds = text::seconds(part.duration);
            let independent = if part.independent {
                ",INDEPENDENT=YES"
            } else {
                ""
            };
            let uri = &part.uri;
            put(
                out,
                format_args!("#EXT-X-PART:DURATION={seconds},URI=\"{uri}\"{independent}\n"),
            );
        }
        Ok(())
    }

    fn head(&self, out: &mut String) {
        put(out, format_args!("#EXT-X-VERSION:{}\n", self.version()));
        put(
            out,
            format_args!("#EXT-X-TARGETDURATION:{}\n", self.target_duration),
        );
        put(
            out,
            format_args!("#EXT-X-MEDIA-SEQUENCE:{}\n", self.media_sequence),
        );
        self.put_control(out);
        if self.discontinuity_sequence > 0 {
            let count = self.discontinuity_sequence;
            put(out, format_args!("#EXT-X-DISCONTINUITY-SEQUENCE:{count}\n"));
        }
        match self.kind {
            Some(PlaylistType::Vod) => out.push_str("#EXT-X-PLAYLIST-TYPE:VOD\n"),
            Some(PlaylistType::Event) => out.push_str("#EXT-X-PLAYLIST-TYPE:EVENT\n"),
            None => {}
        }
        if self.independent_segments {
            out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        }
        if let Some(start) = self.start {
            let sign = if start.offset < 0 { "-" } else { "" };
            let offset = text::seconds(start.offset.unsigned_abs());
            let precise = if start.precise { ",PRECISE=YES" } else { "" };
            put(
                out,
                format_args!("#EXT-X-START:TIME-OFFSET={sign}{offset}{precise}\n"),
            );
        }
    }

    /// What the server can do (RFC 8216bis sections 4.4.3.7 and 4.4.3.8).
    fn put_control(&self, out: &mut String) {
        let mut control = Vec::new();
        if let Some(low) = &self.low_latency {
            // Three parts: fewer leave no time for a lost packet.
            let hold_back = text::seconds(low.part_target.saturating_mul(3));
            control.push(format!("CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={hold_back}"));
        }
        if self.skip_until > 0 {
            control.push(format!("CAN-SKIP-UNTIL={}", text::seconds(self.skip_until)));
        }
        if !control.is_empty() {
            let control = control.join(",");
            put(out, format_args!("#EXT-X-SERVER-CONTROL:{control}\n"));
        }
        if let Some(low) = &self.low_latency {
            let target = text::seconds(low.part_target);
            put(out, format_args!("#EXT-X-PART-INF:PART-TARGET={target}\n"));
        }
    }

    /// The lowest protocol version that has all tags in use.
    fn version(&self) -> u32 {
        // By RFC 8216bis section 8: 9 for left-out segments, 8 for gaps, 6 for init segments, 3 for
        // fractions of a second.
        if self.skipped > 0 || self.low_latency.is_some() {
            9
        } else if self.segments.iter().any(|segment| segment.gap) {
            8
        } else if self.segments.iter().any(|segment| segment.init.is_some()) {
            6
        } else {
            3
        }
    }

    fn check(&self, index: usize, segment: &MediaSegment) -> Result<(), PlaylistError> {
        let (ticks, target) = (segment.duration, self.target_duration);
        if text::rounded(ticks) > target {
            return Err(PlaylistError::SegmentTooLong {
                index,
                ticks,
                target,
            });
        }
        let init = segment.init.as_deref();
        if !text::is_uri(&segment.uri) || init.is_some_and(|uri| !text::is_uri(uri)) {
            return Err(PlaylistError::BadUri);
        }
        Ok(())
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
        let mut parser = Parser::default();
        for (index, line) in lines {
            parser.line(line).map_err(|fault| match fault {
                PlaylistError::BadLine { .. } => PlaylistError::BadLine { line: index + 1 },
                other => other,
            })?;
        }
        Ok(parser.playlist)
    }
}

/// The tags that stand before a segment or its first part.
fn put_start(out: &mut String, discontinuity: bool, date: Option<&str>) {
    if discontinuity {
        out.push_str("#EXT-X-DISCONTINUITY\n");
    }
    if let Some(date) = date {
        put(out, format_args!("#EXT-X-PROGRAM-DATE-TIME:{date}\n"));
    }
}

/// The init segment, only where it changes: a tag holds for all segments that follow it. Behind
/// left-out segments it is said again, because the player may lack what held there.
fn put_init<'a>(
    out: &mut String,
    index: usize,
    init: Option<&'a str>,
    before: &mut Option<&'a str>,
) -> Result<(), PlaylistError> {
    if init != *before {
        // No tag takes an init segment back.
        let uri = init.ok_or(PlaylistError::InitEnds { index })?;
        put(out, format_args!("#EXT-X-MAP:URI=\"{uri}\"\n"));
        *before = Some(uri);
    }
    Ok(())
}

/// Writes into a string, which cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

const BAD: PlaylistError = PlaylistError::BadLine { line: 0 };

/// What was read, and the tags for the next segment.
#[derive(Default)]
struct Parser {
    playlist: MediaPlaylist,
    duration: Option<u64>,
    discontinuity: bool,
    gap: bool,
    init: Option<String>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), PlaylistError> {
        if line.is_empty() {
            return Ok(());
        }
        if !line.starts_with('#') {
            return self.segment(line);
        }
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        let list = &mut self.playlist;
        match tag {
            "#EXT-X-TARGETDURATION" => list.target_duration = value.parse().map_err(|_| BAD)?,
            "#EXT-X-MEDIA-SEQUENCE" => list.media_sequence = value.parse().map_err(|_| BAD)?,
            "#EXT-X-DISCONTINUITY-SEQUENCE" => {
                list.discontinuity_sequence = value.parse().map_err(|_| BAD)?;
            }
            "#EXT-X-PLAYLIST-TYPE" if value == "VOD" => list.kind = Some(PlaylistType::Vod),
            "#EXT-X-PLAYLIST-TYPE" if value == "EVENT" => list.kind = Some(PlaylistType::Event),
            "#EXT-X-INDEPENDENT-SEGMENTS" => list.independent_segments = true,
            "#EXT-X-START" => list.start = Some(start(value)?),
            "#EXT-X-ENDLIST" => list.end = true,
            "#EXT-X-DISCONTINUITY" => self.discontinuity = true,
            "#EXT-X-GAP" => self.gap = true,
            "#EXT-X-MAP" => self.init = Some(init(value)?),
            "#EXTINF" => {
                let seconds = value.split_once(',').map_or(value, |(seconds, _)| seconds);
                self.duration = Some(text::ticks(seconds.trim()).ok_or(BAD)?);
            }
            "#EXT-X-STREAM-INF" => return Err(PlaylistError::OtherKind),
            "#EXT-X-BYTERANGE" => return Err(unsupported("EXT-X-BYTERANGE")),
            // Only whoever asks for a delta update gets one.
            "#EXT-X-SKIP" => return Err(unsupported("EXT-X-SKIP")),
            // `NONE` ends an encryption, and is all that is understood of it.
            "#EXT-X-KEY" if !text::attributes(value).any(|pair| pair == ("METHOD", "NONE")) => {
                return Err(unsupported("EXT-X-KEY"));
            }
            _ => {}
        }
        Ok(())
    }

    fn segment(&mut self, uri: &str) -> Result<(), PlaylistError> {
        if self.playlist.segments.len() >= MAX_ENTRIES {
            return Err(PlaylistError::TooLarge);
        }
        let duration = self.duration.take().ok_or(BAD)?;
        if !text::is_uri(uri) {
            return Err(PlaylistError::BadUri);
        }
        self.playlist.segments.push(MediaSegment {
            uri: uri.to_owned(),
            duration,
            discontinuity: std::mem::take(&mut self.discontinuity),
            gap: std::mem::take(&mut self.gap),
            // Kept, as it holds until another one comes; the other tags are for one segment.
            init: self.init.clone(),
            date: None,
            parts: Vec::new(),
        });
        Ok(())
    }
}

fn unsupported(tag: &'static str) -> PlaylistError {
    PlaylistError::Unsupported { tag }
}

fn init(value: &str) -> Result<String, PlaylistError> {
    let mut uri = None;
    for (name, value) in text::attributes(value) {
        match name {
            "URI" => uri = Some(value),
            "BYTERANGE" => return Err(unsupported("EXT-X-MAP with BYTERANGE")),
            _ => {}
        }
    }
    let uri = uri.ok_or(BAD)?;
    if text::is_uri(uri) {
        Ok(uri.to_owned())
    } else {
        Err(PlaylistError::BadUri)
    }
}

fn start(value: &str) -> Result<Start, PlaylistError> {
    let mut start = Start {
        offset: 0,
        precise: false,
    };
    for (name, value) in text::attributes(value) {
        match name {
            "TIME-OFFSET" => {
                let ticks = text::ticks(value.trim_start_matches('-')).ok_or(BAD)?;
                let ticks = i64::try_from(ticks).map_err(|_| BAD)?;
                start.offset = if value.starts_with('-') {
                    -ticks
                } else {
                    ticks
                };
            }
            "PRECISE" => start.precise = value == "YES",
            _ => {}
        }
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(uri: &str, duration: u64) -> MediaSegment {
        let uri = uri.to_owned();
        MediaSegment {
            uri,
            duration,
            ..MediaSegment::default()
        }
    }

    fn playlist(segments: Vec<MediaSegment>) -> MediaPlaylist {
        MediaPlaylist {
            target_duration: 6,
            segments,
            ..MediaPlaylist::default()
        }
    }

    #[test]
    fn renders_transport_streams() {
        let mut list = playlist(vec![segment("0.ts", 540_540), segment("1.ts", 90_000)]);
        list.kind = Some(PlaylistType::Vod);
        list.independent_segments = true;
        list.end = true;
        let text = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:0\n\
            #EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXTINF:6.006000,\n0.ts\n\
            #EXTINF:1.000000,\n1.ts\n#EXT-X-ENDLIST\n";
        assert_eq!(list.render().as_deref(), Ok(text));
        assert_eq!(MediaPlaylist::parse(text), Ok(list));
    }

    #[test]
    fn renders_init_segments_gaps_and_discontinuities() {
        let with = |uri: &str, init: &str| {
            let init = Some(init.to_owned());
            MediaSegment {
                init,
                ..segment(uri, 540_000)
            }
        };
        let mut list = playlist(vec![with("0", "a"), with("1", "a"), with("2", "b")]);
        list.segments[1].gap = true;
        list.segments[2].discontinuity = true;
        list.discontinuity_sequence = 2;
        list.start = Some(Start {
            offset: -1_620_000,
            precise: true,
        });
        let text = list.render().unwrap();
        assert_eq!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:2\n#EXT-X-START:TIME-OFFSET=-18.000000,PRECISE=YES\n\
             #EXT-X-MAP:URI=\"a\"\n#EXTINF:6.000000,\n0\n#EXT-X-GAP\n#EXTINF:6.000000,\n1\n\
             #EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"b\"\n#EXTINF:6.000000,\n2\n"
        );
        assert_eq!(MediaPlaylist::parse(&text), Ok(list.clone()));
        list.segments[1].gap = false;
        assert!(list.render().unwrap().contains("#EXT-X-VERSION:6\n"));
    }

    #[test]
    fn renders_parts_and_what_the_server_can_do() {
        let part = |uri: &str, independent| PlaylistPart {
            uri: uri.to_owned(),
            duration: 30_000,
            independent,
        };
        let mut list = playlist(vec![segment("0.m4s", 180_000), segment("1.m4s", 180_000)]);
        list.segments[1].parts = vec![part("1.0", true), part("1.1", false)];
        list.segments[1].date = Some("2023-11-14T22:13:20.123Z".to_owned());
        list.skip_until = 36 * 90_000;
        list.low_latency = Some(LowLatency {
            part_target: 30_060,
            open: Some(OpenSegment {
                discontinuity: true,
                init: None,
                date: None,
                parts: vec![part("2.0", true)],
            }),
            hint: Some("2.1".to_owned()),
        });
        let text = list.render().unwrap();
        assert_eq!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.002000,\
             CAN-SKIP-UNTIL=36.000000\n#EXT-X-PART-INF:PART-TARGET=0.334000\n\
             #EXTINF:2.000000,\n0.m4s\n\
             #EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.123Z\n\
             #EXT-X-PART:DURATION=0.333333,URI=\"1.0\",INDEPENDENT=YES\n\
             #EXT-X-PART:DURATION=0.333333,URI=\"1.1\"\n#EXTINF:2.000000,\n1.m4s\n\
             #EXT-X-DISCONTINUITY\n\
             #EXT-X-PART:DURATION=0.333333,URI=\"2.0\",INDEPENDENT=YES\n\
             #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"2.1\"\n"
        );
        list.segments.remove(0);
        list.skipped = 1;
        let delta = list.render().unwrap();
        assert!(delta.contains("\n#EXT-X-SKIP:SKIPPED-SEGMENTS=1\n"));
        assert_eq!(MediaPlaylist::parse(&delta), Err(unsupported("EXT-X-SKIP")));
        list.end = true;
        assert!(!list.render().unwrap().contains("PRELOAD-HINT"));
        let low = list.low_latency.as_mut().unwrap();
        low.open.as_mut().unwrap().parts[0].duration = 30_061;
        let long = list.render();
        assert!(matches!(
            long,
            Err(PlaylistError::PartTooLong { index: 1, .. })
        ));
    }

    #[test]
    fn refuses_what_a_playlist_cannot_say() {
        let long = playlist(vec![segment("0", 585_000)]).render();
        assert_eq!(
            long,
            Err(PlaylistError::SegmentTooLong {
                index: 0,
                ticks: 585_000,
                target: 6
            })
        );
        assert!(long.unwrap_err().to_string().contains("lasts 7 s"));
        assert!(playlist(vec![segment("0", 584_999)]).render().is_ok());
        for uri in ["", "#x", "a b", "a\nb", "a\"b"] {
            let list = playlist(vec![segment(uri, 1)]);
            assert_eq!(list.render(), Err(PlaylistError::BadUri), "{uri}");
        }
        let first = MediaSegment {
            init: Some("i".to_owned()),
            ..segment("0", 1)
        };
        let list = playlist(vec![first, segment("1", 1)]);
        assert_eq!(list.render(), Err(PlaylistError::InitEnds { index: 1 }));
    }

    #[test]
    fn reads_playlists_of_others() {
        let text = "#EXTM3U\r\n#EXT-X-VERSION:7\r\n\r\n# comment\r\n#EXT-X-FOO:1\r\n\
            #EXT-X-KEY:METHOD=NONE\r\n#EXT-X-TARGETDURATION:10\r\n#EXTINF:9.009, title\r\na.ts\r\n\
            #EXTINF:3\r\nhttp://h/b.ts?x=1\r\n";
        let list = MediaPlaylist::parse(text).unwrap();
        assert_eq!(list.segments[0].duration, 810_810);
        assert_eq!(list.segments[1].uri, "http://h/b.ts?x=1");
        let bad = |text: &str| MediaPlaylist::parse(text).unwrap_err();
        assert_eq!(bad("hello"), PlaylistError::NotPlaylist);
        assert_eq!(bad("#EXTM3U\n\na.ts"), PlaylistError::BadLine { line: 3 });
        assert_eq!(
            bad("#EXTM3U\n#EXT-X-BYTERANGE:1@2"),
            unsupported("EXT-X-BYTERANGE")
        );
        assert_eq!(
            bad("#EXTM3U\n#EXT-X-KEY:METHOD=AES-128"),
            unsupported("EXT-X-KEY")
        );
        assert_eq!(
            bad("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1"),
            PlaylistError::OtherKind
        );
        let name = "a".repeat(250);
        let longest: String = (0..MAX_ENTRIES)
            .map(|n| format!("#EXTINF:6.000000,\n/{name}/{n}.ts\n"))
            .collect();
        let longest = MediaPlaylist::parse(&format!("#EXTM3U\n{longest}")).unwrap();
        assert_eq!(longest.segments.len(), MAX_ENTRIES);
        let large = format!("#EXTM3U\n{}", " ".repeat(MAX_BYTES));
        assert_eq!(bad(&large), PlaylistError::TooLarge);
        let many = format!("#EXTM3U\n{}", "#EXTINF:1,\na\n".repeat(MAX_ENTRIES + 1));
        assert_eq!(bad(&many), PlaylistError::TooLarge);
    }
}
