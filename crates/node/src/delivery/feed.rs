//! What the store says: all that is there, and then what every commit changes.
//!
//! It is worked out on a thread that may block ([`resolve`]); the driver takes it over as [`Told`],
//! which needs neither files nor locks.

use std::sync::Arc;

use lavant_proto::content::Kind;
use lavant_proto::delivery::Facts;
use lavant_proto::relay::message::TrackName;
use lavant_proto::runs::Run;
use lavant_proto::time::Time;
use tokio::sync::mpsc::Sender;

use super::event::Event;
use super::holdings::Told;
use crate::store::{AsyncStore, Catalog, Change, Content, State, Store};

/// Contents that are told of in one go at the start.
/// Between two goes the driver does other work, and the thread that may block is free for others.
const CONTENTS_AT_ONCE: usize = 256;

/// Tells the driver of everything that is in the store, then of what every commit changes, until
/// nobody listens.
pub(super) async fn feed(store: AsyncStore, events: Sender<Event>) {
    // Before the catalogue is read: a commit between the two is told twice, and never missed.
    let mut changes = store.subscribe();
    let catalog = store.catalog();
    let mut numbers: Vec<u64> = catalog.all().map(|content| content.no).collect();
    while !numbers.is_empty() {
        let rest = numbers.split_off(numbers.len().min(CONTENTS_AT_ONCE));
        let some = std::mem::replace(&mut numbers, rest);
        let catalog = Arc::clone(&catalog);
        let told = store.run(move |store| {
            let contents = some.iter().filter_map(|no| catalog.get(*no));
            let mut told = Vec::new();
            for content in contents {
                begin(store, content, &mut told);
            }
            told
        });
        let Ok(told) = told.await else { return };
        if events.send(Event::Told(told)).await.is_err() {
            return;
        }
    }
    // Only after all of it: until then the driver meets nobody.
    if events.send(Event::Told(vec![Told::Begun])).await.is_err() {
        return;
    }
    while let Some(batch) = changes.recv().await {
        let told = store.run(move |store| resolve(store, batch));
        let Ok(told) = told.await else { return };
        if events.send(Event::Told(told)).await.is_err() {
            return;
        }
    }
}

/// All that is here of a content.
fn begin(store: &Store, content: &Content, told: &mut Vec<Told>) {
    // The facts come before the segments, as the core knows a track only with its content.
    if !tell_content(store, content, told) {
        return;
    }
    let runs = match store.holdings(content) {
        Ok(runs) => runs,
        Err(error) => {
            tracing::error!(%error, "a content cannot be relayed");
            return;
        }
    };
    for (rendition_no, kind, runs) in runs {
        let Some(name) = track_name(content, rendition_no, kind) else {
            continue;
        };
        for run in runs {
            // The store's runs name their last segment, those of the core what follows it.
            let run = Run::new(*run.start(), *run.end() + 1);
            told.push(Told::Stored(content.no, name.clone(), run));
        }
    }
}

/// What the store says of a content; false for a version that has a later one, which is not
/// relayed.
fn tell_content(store: &Store, content: &Content, told: &mut Vec<Told>) -> bool {
    if content.superseded {
        return false;
    }
    let known = match content.state {
        State::Open => None,
        // Without its manifest nothing of it can be proven to others.
        State::Finished => match store.manifest_facts(content) {
            Some(facts) => Some(facts),
            None => return false,
        },
    };
    let facts = Facts {
        priority: content.priority,
        // What is pinned does not expire here, so it is offered for as long.
        expires: if content.pinned {
            Time::MAX
        } else {
            content.expires
        },
        manifest: known.as_ref().map(|it| (it.hash, it.created)),
        to: known.map(|it| it.to.clone()).unwrap_or_default(),
        own: content.key.publisher == store.publisher(),
        complete: content.is_complete(),
    };
    told.push(Told::Content(content.no, content.key.clone(), facts));
    true
}

/// What a commit changed.
fn resolve(store: &Store, changes: Vec<Change>) -> Vec<Told> {
    // It may be newer than these changes: what a later one took away is told with that one.
    let catalog = store.catalog();
    let mut told = Vec::new();
    // A commit may hold thousands of segments of one content: its facts are told once for them.
    let mut latest = None;
    for change in changes {
        match change {
            Change::Admitted { content_no } => {
                told.push(Told::Changed(content_no));
                if let Some(content) = catalog.get(content_no) {
                    tell_content(store, content, &mut told);
                    superseded(&catalog, content, &mut told);
                }
            }
            Change::Stored {
                content_no,
                rendition_no,
                kind,
                sequence,
                ..
            } => {
                let Some(content) = catalog.get(content_no) else {
                    continue;
                };
                if latest != Some(content_no) {
                    tell_content(store, content, &mut told);
                    latest = Some(content_no);
                }
                if let Some(name) = track_name(content, rendition_no, kind) {
                    told.push(Told::Stored(content_no, name, Run::one(sequence)));
                }
            }
            Change::Dropped {
                torn,
                content_no,
                rendition_no,
                kind,
                sequence,
            } => {
                // The content itself may have gone in the same commit, which tells of all its
                // segments at once.
                let content = catalog.get(content_no);
                let name = content.and_then(|it| track_name(it, rendition_no, kind));
                if let Some(name) = name {
                    told.push(Told::Dropped(content_no, name, Run::one(sequence), torn));
                }
            }
            Change::Removed { content_no, .. } => {
                told.push(Told::Changed(content_no));
                told.push(Told::Removed(content_no));
            }
        }
    }
    told
}

/// Versions that a new one took the place of are not relayed any more.
fn superseded(catalog: &Catalog, newer: &Content, told: &mut Vec<Told>) {
    let key = &newer.key;
    let versions = catalog.versions(&key.publisher, &key.content_id);
    let older = versions.filter(|content| content.superseded);
    told.extend(older.map(|content| Told::Removed(content.no)));
}

fn track_name(content: &Content, rendition_no: u16, kind: Kind) -> Option<TrackName> {
    let state = content.renditions.get(usize::from(rendition_no))?;
    Some(TrackName {
        rendition: state.info.name.clone(),
        kind,
    })
}
