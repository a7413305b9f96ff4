//! Turns of live streams with a real store: who is heard, what is kept, what players are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_media::frame::{Frame, Item, Track};
use lavant_media::{Kind, StreamInfo};
use lavant_proto::ids::{ContentId, SigningKey};

use super::{Ask, Ended, Live, NoPlaylist, Publisher, Refused, Settings, State, Stream, What};
use crate::store::{AsyncStore, Content, State as ContentState, Store};

/// Ticks between frames: 25 a second.
const STEP: i64 = 3600;

fn settings(folder: &std::path::Path) -> Settings {
    Settings {
        window: Duration::from_secs(20),
        grace: Duration::from_secs(60),
        replay: Duration::from_secs(3600),
        part: Duration::from_millis(334),
        secret: folder.join("live.key"),
        authority: Arc::default(),
    }
}

struct World {
    folder: tempfile::TempDir,
    store: Store,
    live: Live,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_seed(&[7; 32]);
        let store = crate::store::Settings::new(&folder.path().join("store"));
        let store = Store::open(store, key).unwrap();
        let live = Live::new(AsyncStore::new(store.clone()), settings(folder.path()));
        Self {
            folder,
            store,
            live,
        }
    }

    async fn publish(&self, name: &str) -> Publisher {
        self.live.publish(&id(name), None, "test").await.unwrap()
    }

    fn content(&self, name: &str) -> Option<Arc<Content>> {
        self.store.catalog().find(None, &id(name), None).cloned()
    }
}

fn id(name: &str) -> ContentId {
    ContentId::new(name).unwrap()
}

fn track(entry: &'static [u8]) -> Item {
    let info = StreamInfo {
        kind: Kind::Video,
        codec: "avc1.4d401e".into(),
        width: Some(640),
        height: Some(360),
        frame_rate: None,
        sample_rate: None,
        channels: None,
    };
    Item::Track(
        0,
        Track {
            info,
            entry: Bytes::from_static(entry),
            timescale: 90_000,
        },
    )
}

/// Frames from second `from` to `to`, with a key frame each second.
fn send(publisher: &Publisher, from: i64, to: i64) -> Result<(), Ended> {
    publisher.push(Item::Expected(1))?;
    publisher.push(track(b"entry"))?;
    go_on(publisher, from, to)
}

/// The same from a publisher that has said what it sends.
fn go_on(publisher: &Publisher, from: i64, to: i64) -> Result<(), Ended> {
    for n in from * 25..to * 25 {
        publisher.push(Item::Frame(Frame {
            track: 0,
            dts: n * STEP,
            pts: n * STEP,
            samples: 0,
            key: n % 25 == 0,
            data: Bytes::from(n.to_be_bytes().to_vec()),
        }))?;
    }
    Ok(())
}

async fn text(stream: &Stream, ask: Ask) -> String {
    let answer = stream.playlist(ask).await.unwrap();
    String::from_utf8(answer.text.to_vec()).unwrap()
}

const WHOLE: Ask = Ask {
    msn: None,
    part: None,
    skip: false,
};

#[tokio::test]
async fn a_broadcast_becomes_a_film_and_the_next_one_its_next_version() {
    let world = World::new();
    for version in 1..=2 {
        let publisher = world.publish("cam").await;
        send(&publisher, 0, 10).unwrap();
        let stream = world.live.stream(&id("cam")).unwrap();
        drop(publisher);
        assert_eq!(stream.status().state, State::Waiting);
        stream.finish().await;
        let content = world.content("cam").unwrap();
        assert_eq!(
            (content.key.version, content.state),
            (version, ContentState::Finished)
        );
        let rendition = &content.renditions[0];
        assert_eq!((rendition.info.segments, rendition.info.inits), (5, 1));
        assert_eq!(rendition.info.duration, 10 * 90_000);
        assert_eq!(rendition.info.codecs, "avc1.4d401e");
        // Whoever watches learns of the end from the list that it has seen so far.
        assert!(text(&stream, WHOLE).await.ends_with("#EXT-X-ENDLIST\n"));
    }
}

#[tokio::test]
async fn a_publisher_that_comes_back_goes_on_also_after_a_start_of_the_node() {
    let mut world = World::new();
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 4).unwrap();
    drop(publisher);
    let publisher = world.publish("cam").await;
    // Its time begins anew.
    send(&publisher, 0, 4).unwrap();
    let stream = world.live.stream(&id("cam")).unwrap();
    let list = text(&stream, WHOLE).await;
    assert_eq!(list.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{list}");
    assert_eq!(list.matches("#EXT-X-MAP").count(), 1, "{list}");
    world.live.close().await;
    assert_eq!(publisher.push(Item::Expected(1)), Err(Ended::Closed));
    assert_eq!(world.content("cam").unwrap().state, ContentState::Open);
    let held = AsyncStore::new(world.store.clone());
    world.live = Live::new(held, settings(world.folder.path()));
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 4).unwrap();
    drop(publisher);
    world.live.stream(&id("cam")).unwrap().finish().await;
    let content = world.content("cam").unwrap();
    assert_eq!(
        (content.key.version, content.state),
        (1, ContentState::Finished)
    );
    assert_eq!(content.renditions[0].info.duration, 12 * 90_000);
    assert!(content.renditions[0].is_whole());
}

#[tokio::test]
async fn one_publisher_at_a_time_until_it_is_silent() {
    let world = World::new();
    let first = world.publish("cam").await;
    send(&first, 0, 3).unwrap();
    let second = world.live.publish(&id("cam"), None, "test").await;
    assert!(matches!(second, Err(Refused::Busy(_))));
    let stream = world.live.stream(&id("cam")).unwrap();
    let later = Instant::now() + Duration::from_secs(3);
    let session = stream.join("test", later).unwrap();
    assert_eq!(first.replaced().await, Ended::TakenOver);
    assert_eq!(send(&first, 3, 4), Err(Ended::TakenOver));
    // The end of the first one's connection is not the end of the second's stream.
    drop(first);
    assert_eq!(stream.status().state, State::Live);
    stream.leave(session, later);
    assert!(world.live.stop(&id("cam")));
    let back = world.live.publish(&id("cam"), None, "test").await;
    assert!(matches!(back, Err(Refused::Stopped(_))));
    assert!(!world.live.stop(&id("other")));
}

#[tokio::test]
async fn what_is_paused_is_held_back_and_goes_on_behind_a_break() {
    let world = World::new();
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 4).unwrap();
    let stream = world.live.stream(&id("cam")).unwrap();
    stream.pause(true).unwrap();
    send(&publisher, 4, 8).unwrap();
    assert_eq!(stream.status().state, State::Paused);
    assert_eq!(stream.status().duration, 4 * 90_000);
    stream.pause(false).unwrap();
    // An encoder that stayed does not say again what it sends.
    go_on(&publisher, 8, 12).unwrap();
    let list = text(&stream, WHOLE).await;
    assert_eq!(list.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{list}");
    assert!(stream.status().duration > 7 * 90_000);
    // One that was cut off meanwhile finds its place free.
    stream.pause(true).unwrap();
    drop(publisher);
    let publisher = world.publish("cam").await;
    stream.pause(false).unwrap();
    send(&publisher, 0, 4).unwrap();
    assert_eq!(stream.status().state, State::Live);
    let list = text(&stream, WHOLE).await;
    assert_eq!(list.matches("#EXT-X-DISCONTINUITY\n").count(), 2, "{list}");
}

#[tokio::test]
async fn what_the_disk_did_not_take_is_a_gap_of_a_film_that_is_whole_all_the_same() {
    let world = World::new();
    let publisher = world.publish("cam").await;
    let stream = world.live.stream(&id("cam")).unwrap();
    send(&publisher, 0, 5).unwrap();
    stream.queue(usize::MAX / 2);
    go_on(&publisher, 5, 9).unwrap();
    stream.queue(0);
    go_on(&publisher, 9, 13).unwrap();
    drop(publisher);
    stream.finish().await;
    let status = stream.status();
    assert!(status.lost > 0 && status.stored > 0, "{status:?}");
    let content = world.content("cam").unwrap();
    assert_eq!(content.state, ContentState::Finished);
    let catalog = world.store.catalog();
    let ready = crate::playlist::Ready::default();
    let list = ready
        .get(&world.store, &catalog, &content, Some(0))
        .unwrap();
    let list = String::from_utf8(list.text.to_vec()).unwrap();
    let gaps = list.matches("#EXT-X-GAP\n").count() as u64;
    assert_eq!(gaps, status.lost, "{list}");
    assert!(list.contains("#EXT-X-ENDLIST"), "{list}");
}

#[tokio::test]
async fn a_stream_whose_content_is_removed_is_over() {
    let world = World::new();
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 6).unwrap();
    let stream = world.live.stream(&id("cam")).unwrap();
    while stream.status().stored < 2 {
        tokio::task::yield_now().await;
    }
    let content = world.content("cam").unwrap();
    let store = AsyncStore::new(world.store.clone());
    let removed = store.attempt(move |store| store.remove(&content)).await;
    assert_eq!(removed.unwrap().0, 2);
    assert_eq!(publisher.replaced().await, Ended::Removed);
    assert_eq!(go_on(&publisher, 6, 8), Err(Ended::Removed));
    // Its encoder comes back by itself.
    let again = world.live.publish(&id("cam"), None, "test").await;
    assert!(matches!(again, Err(Refused::Stopped(_))));
}

#[tokio::test]
async fn a_source_that_runs_ahead_waits_for_the_disk_and_one_in_time_does_not() {
    let world = World::new();
    let publisher = world.publish("cam").await;
    let stream = world.live.stream(&id("cam")).unwrap();
    send(&publisher, 0, 4).unwrap();
    stream.queue(usize::MAX / 2);
    // Three seconds ahead at most: it may be one that sends as things happen.
    publisher.ready().await;
    go_on(&publisher, 4, 30).unwrap();
    let waiting = publisher.ready();
    tokio::pin!(waiting);
    let is_over = |ready| std::task::Poll::is_ready(&ready);
    assert!(!is_over(futures_util::poll!(waiting.as_mut())));
    stream.queue(0);
    waiting.await;
}

#[tokio::test]
async fn services_hear_of_a_stream_from_its_first_publisher_to_its_end() {
    let world = World::new();
    let mut events = world.live.events();
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 4).unwrap();
    assert!(world.live.publish(&id("cam"), None, "other").await.is_err());
    let stream = world.live.stream(&id("cam")).unwrap();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.push(events.recv().await.unwrap());
    }
    stream.finish().await;
    heard.push(events.recv().await.unwrap());
    let mut kinds: Vec<What> = heard.iter().map(|it| it.what).collect();
    assert_eq!(
        (kinds.remove(0), kinds.pop()),
        (What::Published, Some(What::Ended))
    );
    assert!(
        kinds.contains(&What::FirstSegment) && kinds.contains(&What::Refused),
        "{heard:?}"
    );
    assert_eq!(heard[3].reason.as_deref(), Some("it was finished"));
}

#[tokio::test]
async fn a_stream_that_is_alone_for_too_long_is_over() {
    let mut world = World::new();
    let settings = Settings {
        grace: Duration::from_millis(1),
        ..settings(world.folder.path())
    };
    world.live = Live::new(AsyncStore::new(world.store.clone()), settings);
    let publisher = world.publish("cam").await;
    let stream = world.live.stream(&id("cam")).unwrap();
    // Not enough for a playlist, so that there is nothing to watch, ever.
    publisher.push(track(b"entry")).unwrap();
    drop(publisher);
    stream.is_done().await;
    assert_eq!(stream.status().state, State::Ended);
    let none = stream.playlist(WHOLE).await;
    assert!(matches!(none, Err(NoPlaylist::Empty(_))));
    assert!(world.content("cam").is_none());
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 4).unwrap();
    let stream = world.live.stream(&id("cam")).unwrap();
    drop(publisher);
    stream.is_done().await;
    assert_eq!(world.content("cam").unwrap().state, ContentState::Finished);
}

#[tokio::test]
async fn publishers_that_send_nothing_take_no_place_from_others() {
    let world = World::new();
    for n in 0..super::STREAMS_MAX + 10 {
        drop(world.publish(&format!("s{n}")).await);
    }
    assert!(world.live.streams().len() <= super::STREAMS_MAX);
    let mut held = Vec::new();
    for n in 0..super::STREAMS_MAX {
        held.push(world.publish(&format!("t{n}")).await);
    }
    let more = world.live.publish(&id("more"), None, "test").await;
    assert!(matches!(more, Err(Refused::TooMany)));
    // A broadcast of before that nobody goes on with is waited for.
    drop(held);
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 4).unwrap();
    drop(publisher);
    drop(world.publish("cam").await);
    let stream = world.live.stream(&id("cam")).unwrap();
    assert_eq!(stream.status().state, State::Waiting);
}

#[tokio::test]
async fn requests_wait_for_what_comes_next_and_for_no_more() {
    let world = World::new();
    let publisher = world.publish("cam").await;
    send(&publisher, 0, 4).unwrap();
    let stream = world.live.stream(&id("cam")).unwrap();
    let ask = |msn, part| Ask {
        msn,
        part,
        skip: false,
    };
    for bad in [
        ask(None, Some(0)),
        ask(Some(3), None),
        ask(Some(u64::MAX), Some(0)),
    ] {
        assert!(matches!(
            stream.playlist(bad).await,
            Err(NoPlaylist::Bad(_))
        ));
    }
    let (waited, sent) = tokio::join!(stream.playlist(ask(Some(1), None)), async {
        send(&publisher, 4, 5)
    });
    sent.unwrap();
    let waited = waited.unwrap();
    assert_eq!(waited.max_age, Duration::from_secs(12));
    let list = String::from_utf8(waited.text.to_vec()).unwrap();
    assert!(list.contains("/segment/cam/1/main/1.m4s\n"), "{list}");
    let (part, sent) = tokio::join!(stream.part(2, 3), async { send(&publisher, 5, 6) });
    sent.unwrap();
    assert!(part.is_some());
    assert_eq!(stream.part(9, 0).await, None);
    // What players begin with means the newest list, and caches may not keep it.
    for first in [WHOLE, ask(Some(0), Some(0)), ask(Some(0), None)] {
        let answer = stream.playlist(first).await.unwrap();
        assert_eq!(answer.max_age, Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_request_before_the_first_segment_waits_and_is_not_kept_by_caches() {
    let world = World::new();
    let publisher = world.publish("cam").await;
    let stream = world.live.stream(&id("cam")).unwrap();
    let first = Ask {
        msn: Some(0),
        part: Some(0),
        skip: false,
    };
    let (whole, part, sent) = tokio::join!(stream.playlist(WHOLE), stream.playlist(first), async {
        send(&publisher, 0, 4)
    });
    sent.unwrap();
    for answer in [whole.unwrap(), part.unwrap()] {
        assert_eq!(answer.max_age, Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_stream_key_opens_one_name() {
    let world = World::new();
    let key = world.live.stream_key(&id("my-cam")).unwrap();
    assert_eq!(world.live.name_of(&key).unwrap(), Some(id("my-cam")));
    let of_other = key.replace("my-cam", "other");
    for wrong in [
        "",
        "-",
        "my-cam",
        "my-cam-",
        of_other.as_str(),
        &key[..key.len() - 1],
    ] {
        assert_eq!(world.live.name_of(wrong).unwrap(), None, "{wrong}");
    }
}

#[tokio::test]
async fn frames_from_elsewhere_are_left_out_and_counted() {
    let world = World::new();
    let publisher = world.publish("cam").await;
    let stream = world.live.stream(&id("cam")).unwrap();
    send(&publisher, 0, 4).unwrap();
    assert_eq!(stream.status().dropped, 0);
    publisher
        .push(Item::Frame(Frame {
            track: 0,
            dts: 1 << 40,
            pts: 1 << 40,
            samples: 0,
            key: false,
            data: Bytes::from_static(b"stray"),
        }))
        .unwrap();
    go_on(&publisher, 4, 8).unwrap();
    let status = stream.status();
    assert_eq!((status.dropped, status.frames), (1, 201));
    // All of it came at once, so that it is ahead of the clock.
    assert!(status.drift.is_some_and(|drift| drift > 5.0), "{status:?}");
}
