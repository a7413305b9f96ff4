//! Contents as callers see them.

use lavant_proto::ids::ContentKey;
use lavant_proto::time::ticks_to_seconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::playlist::reference;
use crate::store::{Catalog, Content, RenditionState, State};

/// A content in the catalogue.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CatalogEntry {
    /// Name of the content.
    pub content_id: String,
    /// Title for people.
    pub title: String,
    /// `live`, `near_live` or `vod`.
    pub priority: String,
    /// Segments that are here, of all renditions.
    pub segment_count: u64,
    /// When the last segment expires (RFC 3339).
    pub expires_at: String,
    /// Key of the publisher, 64 hex digits.
    pub publisher: String,
    /// 1 for the first publication under this id.
    pub version: u32,
    /// `open` or `finished`.
    pub state: String,
    /// Whether it is finished and all of it is here.
    pub complete: bool,
    /// When it was made (RFC 3339).
    pub created: String,
    /// Playing time that is here, in seconds.
    pub duration_seconds: f64,
    /// For how long it plays without a gap from its start, in the rendition that has least. Of a
    /// content that is not complete, `/content/REF` says it alone; in a list it is 0.
    #[serde(default)]
    pub ready_seconds: f64,
    /// On how many other nodes all of it is known to be that is here; noted only where the store
    /// has a limit, and said by `/content/REF` alone.
    #[serde(default)]
    pub copies_elsewhere: Option<u16>,
    /// Whether every node of the group has it; said by `/content/REF` alone.
    #[serde(default)]
    pub group_has_it: bool,
    /// Bytes that are here.
    pub bytes: u64,
    /// Whether it is kept from eviction and expiry.
    pub pinned: bool,
    /// Path of its playlist.
    pub play_url: String,
    /// Its renditions.
    pub renditions: Vec<RenditionEntry>,
}

/// A rendition in the catalogue.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RenditionEntry {
    /// Name of the rendition.
    pub name: String,
    /// Media type of its segments.
    pub mime_type: String,
    /// Segments that are here.
    pub segment_count: u64,
    /// Highest bit rate in bit/s.
    pub bandwidth: Option<u64>,
    /// RFC 6381 codec strings.
    pub codecs: Option<String>,
    /// Pixels across.
    pub width: Option<u32>,
    /// Pixels down.
    pub height: Option<u32>,
    /// Pictures a second.
    pub frame_rate: Option<f64>,
}

impl CatalogEntry {
    pub(crate) fn of(catalog: &Catalog, content: &Content) -> Self {
        let longest = content.renditions.iter().map(|r| r.present_duration).max();
        Self {
            content_id: content.key.content_id.to_string(),
            title: content.title.clone(),
            priority: content.priority.to_string(),
            segment_count: content.segment_count(),
            expires_at: content.expires.rfc3339(),
            publisher: content.key.publisher.to_string(),
            version: content.key.version,
            state: if content.state == State::Open {
                "open"
            } else {
                "finished"
            }
            .into(),
            complete: content.is_complete(),
            created: content.created.rfc3339(),
            duration_seconds: ticks_to_seconds(longest.unwrap_or_default()),
            // Of all renditions the one that ends first: a player may change to it.
            ready_seconds: if content.is_complete() {
                let shortest = content.renditions.iter().map(|r| r.present_duration).min();
                ticks_to_seconds(shortest.unwrap_or_default())
            } else {
                0.0
            },
            copies_elsewhere: None,
            group_has_it: false,
            bytes: content.bytes(),
            pinned: content.pinned,
            play_url: format!("/play/{}/index.m3u8", reference(catalog, content)),
            renditions: content.renditions.iter().map(RenditionEntry::of).collect(),
        }
    }
}

impl RenditionEntry {
    fn of(state: &RenditionState) -> Self {
        let info = &state.info;
        let video = info.width > 0;
        Self {
            name: info.name.to_string(),
            mime_type: info.mime.to_string(),
            segment_count: state.present,
            bandwidth: (info.bandwidth > 0).then_some(info.bandwidth),
            codecs: (!info.codecs.is_empty()).then(|| info.codecs.clone()),
            width: video.then_some(info.width),
            height: video.then_some(info.height),
            frame_rate: (info.frame_rate_milli > 0)
                .then(|| f64::from(info.frame_rate_milli) / 1000.0),
        }
    }
}

/// The event `changes` of `GET /events`: what is other in the catalogue than it was said before.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::http) struct CatalogChanges {
    /// New or changed.
    pub changed: Vec<CatalogEntry>,
    /// Not shown any more.
    pub gone: Vec<GoneEntry>,
}

/// A content that is not shown any more.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::http) struct GoneEntry {
    /// Key of who published it.
    pub publisher: String,
    /// Its id.
    pub content_id: String,
    /// Its version.
    pub version: u32,
}

impl GoneEntry {
    pub(in crate::http) fn of(key: &ContentKey) -> Self {
        Self {
            publisher: key.publisher.to_string(),
            content_id: key.content_id.to_string(),
            version: key.version,
        }
    }
}

/// Query parameters of `GET /catalog`.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
pub(in crate::http) struct CatalogQuery {
    /// Most contents; all when not given.
    pub limit: Option<usize>,
    /// How many are passed over.
    pub offset: usize,
    /// Words that title or id hold, or with which the publisher's key begins.
    pub search: String,
    /// What is live first, then the newest; else by id.
    pub newest: bool,
}

impl CatalogQuery {
    /// Where the contents after these are.
    pub(in crate::http) fn next(&self, offset: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        query.append_pair("offset", &offset.to_string());
        if !self.search.is_empty() {
            query.append_pair("search", &self.search);
        }
        if self.newest {
            query.append_pair("newest", "true");
        }
        format!("/catalog?{}", query.finish())
    }
}
