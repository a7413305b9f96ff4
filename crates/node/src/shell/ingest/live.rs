//! A stream that is watched while it comes: each segment is published as soon as it is cut.
//!
//! The node signs the segments one by one. When the source ends, the content is finished; when the
//! same stream comes again before that, its numbers go on after a discontinuity.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lavant_media::hls::{MediaPlaylist, PlaylistError};
use lavant_proto::content::Priority;
use lavant_proto::ids::{ContentId, PublisherKey};
use lavant_proto::time::ticks_to_seconds;
use serde_json::Value;

use super::super::client::{Client, ClientError};
use super::error::IngestError;
use super::plan::Plan;
use super::segments::Piece;
use super::upload::{Sink, patiently};

/// A growing content of the node's own.
#[derive(Clone)]
pub(super) struct Stream {
    client: Arc<Client>,
    pub(super) id: ContentId,
    title: String,
    priority: Priority,
    mime: &'static str,
    /// Where the numbers of each rendition go on.
    starts: HashMap<String, Start>,
}

/// The next numbers of a rendition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Start {
    segment: u64,
    init: u64,
}

impl Stream {
    /// The stream of that id, as it begins or goes on.
    pub(super) fn join(
        client: Arc<Client>,
        id: ContentId,
        title: String,
        priority: Priority,
        plan: &Plan,
    ) -> Result<Self, IngestError> {
        // Not `/health`: a node whose other half is down takes a stream all the same.
        let status: Value = client.get("/status")?;
        let publisher = status.get("publisher").and_then(Value::as_str);
        let publisher = publisher.ok_or_else(|| client.strange("it names no key".to_owned()))?;
        // With its publisher: the plain id could mean a content of somebody else.
        let reference = format!("{publisher}/{}", id.to_url());
        let mut starts = HashMap::new();
        match client.content(&reference)? {
            // It does not exist yet.
            None => {}
            Some(entry) if entry.get("state").and_then(Value::as_str) == Some("finished") => {
                return Err(IngestError::Usage(format!(
                    "{:?} is finished: give another --content-id or --title, or remove it first \
                     with `lavant rm`",
                    id.as_str()
                )));
            }
            Some(_) => {
                // A stream that broke off goes on under the numbers that its viewers expect next.
                for rendition in &plan.renditions {
                    let path = format!("/play/{reference}/{}.m3u8", rendition.name);
                    let start = match client.text_if_there(&path)? {
                        // From another number the segments would meet those that are there.
                        Some(text) => {
                            after(&text).map_err(|error| client.strange(error.to_string()))?
                        }
                        None => Start::default(),
                    };
                    starts.insert(rendition.name.clone(), start);
                }
            }
        }
        Ok(Self {
            client,
            id,
            title,
            priority,
            mime: plan.mime(),
            starts,
        })
    }

    /// Ends the content, for these nodes or for everybody; the answer is the catalog's entry.
    pub(super) fn finish(&self, to: &[PublisherKey]) -> Result<Value, ClientError> {
        let to: Vec<String> = to.iter().map(ToString::to_string).collect();
        let (id, to) = (self.id.to_url(), to.join(","));
        let path = format!("/ingest/{id}/finish?to={to}");
        self.client.call("POST", &path)
    }

    fn query(&self, rendition: &str, piece: &Piece) -> Vec<(&'static str, String)> {
        let fact = &piece.fact;
        let start = self.starts.get(rendition).copied().unwrap_or_default();
        let mut query = vec![
            ("content_id", self.id.to_string()),
            ("content_title", self.title.clone()),
            ("priority", self.priority.to_string()),
            ("rendition", rendition.to_owned()),
        ];
        if fact.is_init {
            query.push(("kind", "init".to_owned()));
            query.push(("sequence", (start.init + fact.sequence).to_string()));
            return query;
        }
        // The time stamps of what comes now have nothing to do with those before.
        let goes_on = start.segment > 0 && fact.sequence == 0;
        query.push(("sequence", (start.segment + fact.sequence).to_string()));
        query.push((
            "duration",
            format!("{:.6}", ticks_to_seconds(fact.duration)),
        ));
        query.push(("discontinuity", (fact.discontinuity || goes_on).to_string()));
        if let Some(init) = fact.init {
            query.push(("init", (start.init + init).to_string()));
        }
        query
    }
}

impl Sink for Stream {
    fn put(&self, rendition: &str, piece: &Piece, stop: &AtomicBool) -> Result<bool, IngestError> {
        let query = self.query(rendition, piece);
        patiently(stop, || self.client.append(&query, self.mime, &piece.data))?;
        Ok(true)
    }
}

/// The numbers that come after a playlist's last.
fn after(playlist: &str) -> Result<Start, PlaylistError> {
    let playlist = MediaPlaylist::parse(playlist)?;
    let init = playlist.segments.iter().rev().find_map(|segment| {
        let name = segment.init.as_ref()?.rsplit("/init-").next()?;
        name.split('.').next()?.parse::<u64>().ok()
    });
    Ok(Start {
        // Gaps are listed too, so that the count leads to the number after the last.
        segment: playlist.media_sequence + playlist.segments.len() as u64,
        init: init.map_or(0, |last| last + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_after_the_playlist() {
        let text = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:7\n\
                    #EXT-X-MAP:URI=\"/segment/cam/1/main/init-2.mp4\"\n#EXTINF:6,\n/7.m4s\n\
                    #EXTINF:6,\n/8.m4s\n";
        let start = after(text).unwrap();
        assert_eq!((start.segment, start.init), (9, 3));
        assert_eq!(after("nonsense"), Err(PlaylistError::NotPlaylist));
        // A camera of a day, under a long name.
        let name = "c".repeat(120);
        let day: String = (0..86_400)
            .map(|n| format!("#EXTINF:1.000000,\n/segment/{name}/1/main/{n}.ts\n"))
            .collect();
        let start = after(&format!("#EXTM3U\n{day}")).unwrap();
        assert_eq!(start.segment, 86_400);
    }
}
