//! Watching a live stream from outside a node, as it comes.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lavant_media::hls::{MediaPlaylist, Playlist};
use serde_json::Value;

use super::client::{Client, ClientError, encode};

/// The most bytes of a part or a segment.
const PART_MAX: u64 = 256 << 20;
/// Pause before a node or a stream that is away is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// The shortest and the longest pause before a stream of which nothing new came is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A stream that nobody publishes is given up when nothing came for so long: longer than a node
/// waits for its publisher.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How many whole segments are read in a row before the newest is gone on with.
const BEHIND_MAX: u64 = 3;

impl Client {
    /// Writes a live stream to `output` as it comes, one part after another, until it ends or
    /// `cancel` is set. What the reader of `output` is too slow for is left out. Gives the bytes
    /// that were written.
    ///
    /// # Errors
    /// See [`ClientError`]; also when the stream is not there at the beginning.
    pub fn watch(
        &self,
        name: &str,
        output: &mut dyn Write,
        cancel: &AtomicBool,
    ) -> Result<u64, ClientError> {
        let mut written = 0;
        // Once something was written the stream is waited for.
        while !cancel.load(Ordering::Relaxed) {
            let mut watch = Watch {
                client: self,
                name,
                output,
                cancel,
                init: None,
                written: &mut written,
            };
            match watch.follow() {
                Ok(()) => break,
                Err(error @ (ClientError::Output(_) | ClientError::Silent(_))) => {
                    return Err(error);
                }
                Err(error) if written == 0 => return Err(error),
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
        output.flush().map_err(ClientError::Output)?;
        Ok(written)
    }

    fn edge(&self, name: &str) -> Result<Edge, ClientError> {
        let path = format!("/play/{}/index.m3u8", encode(name));
        // With the first part that ever was, so that one part is enough.
        let text = self.text("GET", &format!("{path}?_HLS_msn=0&_HLS_part=0"))?;
        let strange = |reason: &str| self.strange(reason.to_owned());
        let Ok(Playlist::Media(list)) = Playlist::parse(&text) else {
            return Err(strange("the playlist of a live stream is not one"));
        };
        Edge::of(&list, &text).ok_or_else(|| strange("its playlist names no segment"))
    }
}

/// A stream on its way to an output.
struct Watch<'a> {
    client: &'a Client,
    name: &'a str,
    output: &'a mut dyn Write,
    cancel: &'a AtomicBool,
    /// The init segment that was written last.
    init: Option<String>,
    written: &'a mut u64,
}

impl Watch<'_> {
    /// Follows the stream from its newest segment on. Returns when it has ended.
    fn follow(&mut self) -> Result<(), ClientError> {
        let mut edge = self.client.edge(self.name)?;
        if edge.has_ended && *self.written == 0 {
            let name = self.name;
            return Err(ClientError::Refused {
                status: 404,
                message: format!("{name} is over; 'lavant get {name}' fetches it"),
            });
        }
        let (mut segment, mut part) = (edge.segment, 0);
        let mut wait = Wait::default();
        while !self.cancel.load(Ordering::Relaxed) {
            let uri = format!("{}{segment}.{part}.m4s", edge.base);
            let init = edge.init.clone().filter(|_| part == 0);
            if self.pass_on(init, &uri)? {
                part += 1;
                wait = Wait::default();
                continue;
            }
            edge = self.client.edge(self.name)?;
            if edge.segment > segment {
                // The segment is whole. Where it has no parts any more, or at a node that only
                // relays it, all of it is there.
                if part == 0 {
                    self.whole(&edge, segment)?;
                    segment = edge.segment;
                } else {
                    // Where the reader fell behind, the newest.
                    let is_next = edge.segment <= segment + 2;
                    segment = if is_next { segment + 1 } else { edge.segment };
                }
                part = 0;
                wait = Wait::default();
            } else if edge.has_ended {
                return Ok(());
            } else {
                self.wait(&mut wait)?;
            }
        }
        Ok(())
    }

    /// Writes whole segments, from one on.
    fn whole(&mut self, edge: &Edge, from: u64) -> Result<(), ClientError> {
        let from = from.max(edge.segment.saturating_sub(BEHIND_MAX));
        for (no, uri, init) in &edge.listed {
            if *no >= from && !self.cancel.load(Ordering::Relaxed) {
                self.pass_on(init.clone(), uri)?;
            }
        }
        Ok(())
    }

    /// Waits a moment; longer each time.
    fn wait(&mut self, wait: &mut Wait) -> Result<(), ClientError> {
        if wait.since.elapsed() > SILENCE_MAX && !self.is_published()? {
            return Err(ClientError::Silent(self.name.to_owned()));
        }
        std::thread::sleep(wait.pause);
        wait.pause = (wait.pause * 2).min(PAUSES.1);
        Ok(())
    }

    /// Whether the node knows a publisher of it, or one that it waits for.
    fn is_published(&self) -> Result<bool, ClientError> {
        let path = format!("/api/v1/live/{}", encode(self.name));
        match self.client.get::<Value>(&path) {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what is at a path to the output, behind the init segment that it needs; false when
    /// nothing is there.
    fn pass_on(&mut self, init: Option<String>, uri: &str) -> Result<bool, ClientError> {
        let Some(bytes) = self.fetch(uri)? else {
            return Ok(false);
        };
        if let Some(init) = init
            && self.init.as_ref() != Some(&init)
        {
            if let Some(bytes) = self.fetch(&init)? {
                self.put(&bytes)?;
            }
            self.init = Some(init);
        }
        self.put(&bytes)?;
        // Whoever reads it shows each part at once.
        self.output.flush().map_err(ClientError::Output)?;
        Ok(true)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        *self.written += bytes.len() as u64;
        self.output.write_all(bytes).map_err(ClientError::Output)
    }

    fn fetch(&self, uri: &str) -> Result<Option<Vec<u8>>, ClientError> {
        let mut answer = match self.client.send("GET", uri) {
            Ok(answer) => answer,
            Err(ClientError::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let mut reader = answer.body_mut().with_config().limit(PART_MAX).reader();
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| self.client.strange(error.to_string()))?;
        Ok(Some(bytes))
    }
}

/// How long nothing new has come, and how long until it is asked for again.
struct Wait {
    since: Instant,
    pause: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            pause: PAUSES.0,
        }
    }
}

/// Where a live stream stands.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    /// What paths of its segments begin with.
    base: String,
    /// The init segment of the newest segment.
    init: Option<String>,
    /// The segment that is open, or that comes next.
    segment: u64,
    /// Those that are whole: number, path, and path of the init segment.
    listed: Vec<(u64, String, Option<String>)>,
    has_ended: bool,
}

impl Edge {
    fn of(list: &MediaPlaylist, text: &str) -> Option<Self> {
        // The list of parts is not part of what is parsed; the last tag holds for them, too.
        let uri = |line: &str| {
            let uri = line.strip_prefix("#EXT-X-MAP:URI=\"")?;
            Some(uri.strip_suffix('"')?.to_owned())
        };
        let init = text.lines().rev().find_map(uri)?;
        let base = init.rsplit_once('/')?.0;
        let numbers = list.media_sequence..;
        let listed = numbers.zip(&list.segments).filter(|(_, it)| !it.gap);
        Some(Self {
            base: format!("{base}/"),
            segment: list.media_sequence + list.segments.len() as u64,
            listed: listed
                .map(|(no, it)| (no, it.uri.clone(), it.init.clone()))
                .collect(),
            has_ended: list.end,
            init: Some(init),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_is_behind_the_last_whole_segment() {
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n\
                    #EXT-X-MAP:URI=\"/segment/cam/1/main/init-0.mp4\"\n#EXTINF:2,\n/7.m4s\n\
                    #EXT-X-MAP:URI=\"/segment/cam/1/main/init-1.mp4\"\n\
                    #EXT-X-PART:DURATION=0.3,URI=\"/segment/cam/1/main/8.0.m4s\"\n";
        let list = MediaPlaylist::parse(text).unwrap();
        let edge = Edge::of(&list, text).unwrap();
        assert_eq!(
            (edge.base.as_str(), edge.segment),
            ("/segment/cam/1/main/", 8)
        );
        assert_eq!(edge.init.as_deref(), Some("/segment/cam/1/main/init-1.mp4"));
        let first = Some("/segment/cam/1/main/init-0.mp4".to_owned());
        assert_eq!(edge.listed, [(7, "/7.m4s".to_owned(), first)]);
        assert!(!edge.has_ended);
        let none = MediaPlaylist::parse("#EXTM3U\n").unwrap();
        assert_eq!(Edge::of(&none, "#EXTM3U\n"), None);
    }
}
