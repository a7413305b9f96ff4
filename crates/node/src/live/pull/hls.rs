//! HLS as a client (RFC 8216bis section 6.3): segments of a list in their order, with its
//! discontinuities and gaps.

use std::time::Duration;

use m3u8_rs::{ByteRange, KeyMethod, MasterPlaylist, MediaPlaylist, MediaSegment, Playlist};
use reqwest::Url;
use tokio::time::Instant;

use super::web::Web;
use super::{Fault, Sink};

/// Segments before the end of a growing list with which one begins (section 6.3.3).
const FROM_END: usize = 3;
/// How often a segment is asked for.
const TRIES: u32 = 3;
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// How far a list that is whole is read ahead of the time at which it is shown.
const AHEAD: Duration = Duration::from_secs(4);
/// How long one waits for a list to change, at the most and at the least.
const RELOAD: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(500));

/// A range of a resource: (offset, length).
type Range = Option<(u64, u64)>;

/// Reads a list from its text on, until it ends.
pub(super) async fn run(
    web: &Web,
    text: &[u8],
    url: Url,
    sink: &mut Sink<'_>,
) -> Result<(), Fault> {
    let (mut list, url) = match parse(text)? {
        Playlist::MediaPlaylist(list) => (list, url),
        Playlist::MasterPlaylist(master) => {
            let url = join(&url, choose(&master)?)?;
            (fetch(web, &url).await?, url)
        }
    };
    let mut reader = Reader::new(web, url);
    if !list.end_list {
        reader.skip_to_end(&list);
    } else {
        reader.shown_from = Some(Instant::now());
    }
    loop {
        let has_new = reader.read(&list, sink).await?;
        if list.end_list {
            return sink.finish();
        }
        // Section 6.3.4: half of it when nothing was new.
        let target = Duration::from_secs(list.target_duration);
        let pause = if has_new { target } else { target / 2 };
        tokio::time::sleep(pause.clamp(RELOAD.1, RELOAD.0)).await;
        list = fetch(web, &reader.url).await?;
    }
}

fn parse(text: &[u8]) -> Result<Playlist, Fault> {
    let damaged = || Fault::Source("its playlist is damaged".into());
    // The library takes it for granted that a playlist is UTF-8 (RFC 8216 section 4.1).
    std::str::from_utf8(text).map_err(|_| damaged())?;
    m3u8_rs::parse_playlist_res(text).map_err(|_| damaged())
}

async fn fetch(web: &Web, url: &Url) -> Result<MediaPlaylist, Fault> {
    let answer = web.get(url, None).await?;
    match parse(&Web::text(answer, Vec::new()).await?)? {
        Playlist::MediaPlaylist(list) => Ok(list),
        Playlist::MasterPlaylist(_) => {
            Err(Fault::Source("its playlist lists playlists only".into()))
        }
    }
}

fn join(base: &Url, path: &str) -> Result<Url, Fault> {
    let joined = base.join(path);
    joined.map_err(|_| Fault::Source(format!("its playlist has a wrong address: {path:?}")))
}

/// The best variant that has its sound with it.
fn choose(master: &MasterPlaylist) -> Result<&str, Fault> {
    let has_own_list = |group: &Option<String>| {
        let of_group = |name| {
            let all = master.alternatives.iter();
            all.filter(move |it| &it.group_id == name)
                .any(|it| it.uri.is_some())
        };
        group.as_ref().is_some_and(of_group)
    };
    let pictures = master.variants.iter().filter(|it| !it.is_i_frame);
    let whole = pictures.filter(|it| !has_own_list(&it.audio));
    let best = whole.max_by_key(|it| it.bandwidth);
    best.map(|it| it.uri.as_str()).ok_or(Fault::SeparateAudio)
}

/// How far a list was read.
struct Reader<'a> {
    web: &'a Web,
    url: Url,
    /// Sequence number of the next segment.
    next: Option<u64>,
    /// The init segment that the demuxer has.
    map: Option<(Url, Range)>,
    /// Something lacks before what comes next.
    is_broken: bool,
    /// Of a list that is whole: when its first segment was shown, and how long those since last.
    shown_from: Option<Instant>,
    shown: Duration,
}

impl<'a> Reader<'a> {
    fn new(web: &'a Web, url: Url) -> Self {
        Self {
            web,
            url,
            next: None,
            map: None,
            is_broken: false,
            shown_from: None,
            shown: Duration::ZERO,
        }
    }

    fn skip_to_end(&mut self, list: &MediaPlaylist) {
        let skipped = list.segments.len().saturating_sub(FROM_END);
        self.next = Some(list.media_sequence.saturating_add(skipped as u64));
    }

    /// Takes what is new of a list. False when nothing is.
    async fn read(&mut self, list: &MediaPlaylist, sink: &mut Sink<'_>) -> Result<bool, Fault> {
        let first = list.media_sequence;
        let end = first.saturating_add(list.segments.len() as u64);
        let next = self.next.unwrap_or(first);
        if next < first {
            tracing::info!(url = %super::shown(&self.url), lost = first - next,
                "segments left a playlist before they were fetched");
            self.is_broken = true;
        }
        if end.saturating_add(FROM_END as u64) < next {
            // Its publisher began anew, with numbers from the start.
            self.is_broken = true;
            self.skip_to_end(list);
        } else {
            self.next = Some(next.max(first));
        }
        let (mut map, mut is_encrypted, mut offset) = (None, false, 0);
        let mut has_new = false;
        for (number, segment) in (first..).zip(&list.segments) {
            map = segment.map.as_ref().or(map);
            if let Some(key) = &segment.key {
                is_encrypted = key.method != KeyMethod::None;
            }
            // Where a range does not say where it begins, it follows the one before.
            let range = span(segment.byte_range.as_ref(), &mut offset);
            if self.next.is_some_and(|next| number < next) {
                continue;
            }
            self.next = Some(number + 1);
            has_new = true;
            if is_encrypted {
                return Err(Fault::Encrypted);
            }
            let map = match map {
                Some(map) => {
                    let range = span(map.byte_range.as_ref(), &mut 0);
                    Some((join(&self.url, &map.uri)?, range))
                }
                None => None,
            };
            self.pace().await;
            self.segment(segment, range, map, sink).await?;
            self.shown += Duration::try_from_secs_f32(segment.duration).unwrap_or_default();
        }
        Ok(has_new)
    }

    /// Waits until it is time for the next segment of a list that is whole.
    async fn pace(&self) {
        if let Some(from) = self.shown_from
            && let Some(ahead) = self.shown.checked_sub(AHEAD)
        {
            tokio::time::sleep_until(from + ahead).await;
        }
    }

    async fn segment(
        &mut self,
        segment: &MediaSegment,
        range: Range,
        map: Option<(Url, Range)>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Fault> {
        if segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP") {
            self.is_broken = true;
            return Ok(());
        }
        if segment.discontinuity || self.is_broken {
            sink.discontinue()?;
            (self.map, self.is_broken) = (None, false);
        }
        if map != self.map {
            sink.reset()?;
            if let Some((url, range)) = &map {
                self.fetch(url, *range, sink).await?;
            }
            self.map = map;
        }
        let url = join(&self.url, &segment.uri)?;
        match self.fetch(&url, range, sink).await {
            // It is gone, or cannot be had: what follows is behind a hole.
            Err(fault @ (Fault::Status(_) | Fault::Source(_))) => {
                tracing::info!(url = %super::shown(&url), reason = %fault,
                    "a segment of a playlist cannot be fetched");
                self.is_broken = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Gives a resource to the stream, as it comes.
    async fn fetch(&self, url: &Url, range: Range, sink: &mut Sink<'_>) -> Result<(), Fault> {
        let mut tries = 0;
        let mut answer = loop {
            tries += 1;
            match self.web.get(url, range).await {
                Ok(answer) => break answer,
                Err(Fault::Status(404 | 410)) => return Err(Fault::Status(404)),
                Err(fault) if tries >= TRIES => return Err(fault),
                Err(_) => tokio::time::sleep(TRY_PAUSE).await,
            }
        };
        while let Some(chunk) = Web::chunk(&mut answer).await? {
            sink.push(&chunk).await?;
        }
        Ok(())
    }
}

/// A range of a list; `offset` is where the one before ended, and then where this one does.
fn span(range: Option<&ByteRange>, offset: &mut u64) -> Range {
    let range = range?;
    let from = range.offset.unwrap_or(*offset);
    *offset = from.saturating_add(range.length);
    Some((from, range.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(text: &str) -> MasterPlaylist {
        match parse(text.as_bytes()).unwrap() {
            Playlist::MasterPlaylist(master) => master,
            Playlist::MediaPlaylist(_) => panic!("no master playlist"),
        }
    }

    #[test]
    fn the_best_variant_that_has_its_sound_is_taken() {
        let text = "#EXTM3U\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"apart\",NAME=\"a\",URI=\"a.m3u8\"\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"within\",NAME=\"b\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=9000000,AUDIO=\"apart\"\nhigh.m3u8\n\
            #EXT-X-STREAM-INF:BANDWIDTH=2000000,AUDIO=\"within\"\nmiddle.m3u8\n\
            #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=8000000,URI=\"keys.m3u8\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=1000000\nlow.m3u8\n";
        assert_eq!(choose(&master(text)).unwrap(), "middle.m3u8");
        let apart: String = text.split_inclusive('\n').take(2).collect();
        let apart = apart + "#EXT-X-STREAM-INF:BANDWIDTH=9000000,AUDIO=\"apart\"\nhigh.m3u8\n";
        let error = choose(&master(&apart)).unwrap_err();
        assert!(error.to_string().contains("ffmpeg -i"), "{error}");
    }

    #[test]
    fn ranges_follow_each_other() {
        let mut offset = 0;
        let range = |length, offset| ByteRange { length, offset };
        let first = span(Some(&range(10, Some(5))), &mut offset);
        let second = span(Some(&range(20, None)), &mut offset);
        assert_eq!((first, second), (Some((5, 10)), Some((15, 20))));
        assert_eq!(span(None, &mut offset), None);
    }
}
