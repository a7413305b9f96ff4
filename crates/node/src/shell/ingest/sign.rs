//! Signs a manifest with a publisher's key of the user's own, over what the user's side has seen:
//! the node is not trusted with what it says of the segments.

use std::time::Duration;

use lavant_proto::content::{
    Kind, Leaf, Manifest, MimeType, Priority, RenditionInfo, SegmentRecord, clean_title,
    merkle_root,
};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition, SigningKey};
use lavant_proto::time::Time;

use super::segments::{Fact, Summary};
use super::upload::{Commit, RenditionSums, Upload};

/// What the user wishes to sign.
pub(super) struct Terms<'a> {
    /// None where the node makes it from the title.
    pub(super) content_id: Option<&'a str>,
    pub(super) title: &'a str,
    pub(super) priority: Priority,
    pub(super) mime: &'a str,
    pub(super) to: &'a [PublisherKey],
}

/// What all records of a content have in common.
struct Common {
    content: ContentKey,
    title: String,
    target_duration: u32,
    priority: Priority,
    mime: MimeType,
    created: Time,
    ttl: Duration,
}

/// Signs; an error is a sentence on what in the node's answer cannot be signed.
pub(super) fn sign(
    key: &SigningKey,
    upload: &Upload,
    terms: &Terms<'_>,
    commit: &Commit,
    summaries: &[Summary],
) -> Result<String, String> {
    let common = common(upload, terms, commit.target_duration)?;
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut renditions = Vec::new();
    for (sums, summary) in commit.renditions.iter().zip(summaries) {
        let name = Rendition::new(&sums.name).map_err(|e| e.to_string())?;
        let (inits, media) = summary
            .facts
            .iter()
            .partition::<Vec<&Fact>, _>(|fact| fact.is_init);
        // In the manifest's order: of each rendition the init segments first, then the segments.
        leaves.extend(
            inits
                .into_iter()
                .chain(media)
                .map(|f| record(&common, &name, f).leaf()),
        );
        renditions.push(row(name, common.mime, sums, summary));
    }
    let manifest = Manifest {
        content: common.content,
        title: common.title,
        priority: common.priority,
        created: common.created,
        ttl: common.ttl,
        target_duration: common.target_duration,
        to: terms.to.to_vec(),
        renditions,
        records_root: merkle_root(&leaves),
    };
    let signature = manifest
        .sign(key)
        .map_err(|_| "it names another publisher".to_owned())?;
    Ok(signature.to_string())
}

/// Takes the node's choices, where it has a choice.
fn common(upload: &Upload, terms: &Terms<'_>, target_duration: u32) -> Result<Common, String> {
    let publisher: PublisherKey = upload
        .publisher
        .parse()
        .map_err(|_| "no publisher".to_owned())?;
    let content_id = ContentId::new(&upload.content_id).map_err(|e| e.to_string())?;
    // The node chooses id, version and times. Whatever the user chose must come back as it was.
    if upload.title != clean_title(terms.title) || upload.priority != terms.priority.as_str() {
        return Err("it changed the title or the priority".to_owned());
    }
    let asked = terms.content_id.map(ContentId::new);
    if asked.is_some_and(|asked| asked.as_ref() != Ok(&content_id)) {
        return Err(format!("it changed the content id to {content_id}"));
    }
    Ok(Common {
        content: ContentKey {
            publisher,
            content_id,
            version: upload.version,
        },
        title: upload.title.clone(),
        target_duration,
        priority: terms.priority,
        mime: terms
            .mime
            .parse()
            .map_err(|_| "an unknown media type".to_owned())?,
        created: Time(upload.created_us),
        ttl: Duration::from_secs(upload.ttl_seconds),
    })
}

fn record(common: &Common, rendition: &Rendition, fact: &Fact) -> SegmentRecord {
    SegmentRecord {
        content: common.content.clone(),
        title: common.title.clone(),
        target_duration: common.target_duration,
        rendition: rendition.clone(),
        kind: if fact.is_init {
            Kind::Init
        } else {
            Kind::Media
        },
        sequence: fact.sequence,
        duration: fact.duration,
        discontinuity: fact.discontinuity,
        independent: true,
        init: fact.init,
        mime: common.mime,
        priority: common.priority,
        created: common.created,
        ttl: common.ttl,
        length: fact.length,
        root: fact.root,
    }
}

fn row(name: Rendition, mime: MimeType, sums: &RenditionSums, summary: &Summary) -> RenditionInfo {
    RenditionInfo {
        name,
        mime,
        bandwidth: sums.bandwidth,
        average_bandwidth: sums.average_bandwidth,
        codecs: sums.codecs.clone(),
        width: sums.width,
        height: sums.height,
        frame_rate_milli: sums.frame_rate_milli,
        inits: sums.inits,
        first: 0,
        segments: sums.segments,
        duration: summary.duration,
        bytes: summary.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_chose_is_signed_and_nothing_else() {
        let answer = |content_id: &str, title: &str| -> Upload {
            let answer = serde_json::json!({
                "upload_id": "1", "content_id": content_id, "version": 1,
                "publisher": "0".repeat(64), "created_us": 1, "ttl_seconds": 1,
                "title": title, "priority": "vod",
            });
            serde_json::from_value(answer).unwrap()
        };
        let mut terms = Terms {
            content_id: Some("film"),
            title: "Film",
            priority: Priority::Vod,
            mime: "video/mp2t",
            to: &[],
        };
        assert!(common(&answer("film", "Film"), &terms, 6).is_ok());
        let refused = |upload: &Upload| common(upload, &terms, 6).err().unwrap();
        let other = refused(&answer("other", "Film"));
        assert!(other.contains("content id to other"), "{other}");
        assert!(refused(&answer("film", "Other")).contains("the title"));
        // A choice that was left to the node is its own.
        terms.content_id = None;
        assert!(common(&answer("other", "Film"), &terms, 6).is_ok());
    }
}
