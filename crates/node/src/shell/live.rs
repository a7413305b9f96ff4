//! Live streams from outside a node: publishing one, and watching one as it comes.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lavant_media::hls::{MediaPlaylist, Playlist};
use serde_json::Value;

use super::client::{Client, ClientError, encode};

/// The most bytes of a part or a segment.
const PART_MAX: u64 = 256 << 20;
/// Pause before a node or a stream that is away is asked again.
const AGAIN: Duration = Duration::from_millis(500);

impl Client {
    /// Publishes what a reader gives (MPEG-TS or fragmented MP4) under a name until it ends, and
    /// then finishes the stream. Gives what the node says of it.
    ///
    /// # Errors
    /// See [`ClientError`]. After one the stream waits for its publisher to come back.
    pub fn publish(
        &self,
        name: &str,
        title: Option<&str>,
        source: &mut dyn Read,
    ) -> Result<Value, ClientError> {
        let path = format!("/api/v1/live/{}", encode(name));
        let query = title.map_or_else(String::new, |title| format!("?title={}", encode(title)));
        match self.upload(&format!("{path}{query}"), source) {
            Ok(()) => {}
            // The node may have closed the connection with a reason that was lost with it.
            Err(lost @ ClientError::Unreachable { .. }) => {
                let entry: Result<Value, _> = self.get(&path);
                let reason = entry.ok().and_then(|entry| {
                    let reason = entry.get("error")?.as_str()?.to_owned();
                    Some(ClientError::Refused {
                        status: 422,
                        message: reason,
                    })
                });
                return Err(reason.unwrap_or(lost));
            }
            Err(error) => return Err(error),
        }
        self.call("POST", &format!("{path}/finish"))
    }

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
            match self.follow(name, output, cancel, &mut written) {
                Ok(()) => break,
                Err(error @ ClientError::Output(_)) => return Err(error),
                Err(error) if written == 0 => return Err(error),
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
        output.flush().map_err(ClientError::Output)?;
        Ok(written)
    }

    /// Follows a stream from its newest segment on. Returns when it has ended.
    fn follow(
        &self,
        name: &str,
        output: &mut dyn Write,
        cancel: &AtomicBool,
        written: &mut u64,
    ) -> Result<(), ClientError> {
        let mut init = None;
        let mut edge = self.edge(name)?;
        if edge.has_ended && *written == 0 {
            return Err(ClientError::Refused {
                status: 404,
                message: format!("{name} is over; 'lavant get {name}' fetches it"),
            });
        }
        let (mut segment, mut part) = (edge.segment, 0);
        while !cancel.load(Ordering::Relaxed) {
            if part == 0 && edge.init != init {
                init.clone_from(&edge.init);
                if let Some(uri) = &init {
                    *written += self.pass_on(uri, output)?.unwrap_or(0);
                }
            }
            let uri = format!("{}{segment}.{part}.m4s", edge.base);
            if let Some(bytes) = self.pass_on(&uri, output)? {
                *written += bytes;
                part += 1;
                continue;
            }
            // The segment ended there, or all of it is past.
            edge = self.edge(name)?;
            if edge.has_ended && edge.segment <= segment + 1 {
                return Ok(());
            }
            // The next one; or the newest, where the reader fell behind, or the node was away.
            let is_next = part > 0 && edge.segment <= segment + 2;
            segment = if is_next { segment + 1 } else { edge.segment };
            part = 0;
        }
        Ok(())
    }

    /// Writes what is at a path to `output`; `None` when nothing is there.
    fn pass_on(&self, uri: &str, output: &mut dyn Write) -> Result<Option<u64>, ClientError> {
        let mut answer = match self.send("GET", uri) {
            Ok(answer) => answer,
            Err(ClientError::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let mut reader = answer.body_mut().with_config().limit(PART_MAX).reader();
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| self.strange(error.to_string()))?;
        output.write_all(&bytes).map_err(ClientError::Output)?;
        // Whoever reads it shows each part at once.
        output.flush().map_err(ClientError::Output)?;
        Ok(Some(bytes.len() as u64))
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

/// Where a live stream stands.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    /// What paths of its segments begin with.
    base: String,
    /// The init segment of the newest segment.
    init: Option<String>,
    /// The segment that is open, or that comes next.
    segment: u64,
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
        Some(Self {
            base: format!("{base}/"),
            segment: list.media_sequence + list.segments.len() as u64,
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
        assert!(!edge.has_ended);
        let none = MediaPlaylist::parse("#EXTM3U\n").unwrap();
        assert_eq!(Edge::of(&none, "#EXTM3U\n"), None);
    }
}
