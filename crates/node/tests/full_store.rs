//! Two nodes, of which the second one has less room than the first one has films: the relay goes on
//! when the store has to let go of something for what comes.

#[path = "common/peer.rs"]
#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod peer;

use std::time::{Duration, Instant};

use peer::{Node, PATIENCE};

const SEGMENT: usize = 100_000;

/// Waits until a node has so many segments of a content.
async fn until(node: &Node, id: &str, is_enough: impl Fn(u64) -> bool) {
    let begun = Instant::now();
    while !is_enough(node.segments(id)) {
        assert!(begun.elapsed() < PATIENCE, "{id}: {}", node.segments(id));
        assert!(node.is_well(), "{:?}", node.failures());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_too_little_room_takes_what_is_new_and_goes_on() {
    let from = Node::start(|_| {}).await;
    from.publish("one", 10, SEGMENT);
    let to = Node::start_with(
        |settings| {
            settings.limit = Some(1_500_000);
            settings.publisher_share = Some(100);
        },
        |_| {},
        vec![from.target()],
    )
    .await;
    until(&to, "one", |count| count == 10).await;
    // Six more films, each of which needs the room of another one.
    for film in 1..7 {
        let id = format!("film-{film}");
        // Payloads of another length are others.
        from.publish(&id, 10, SEGMENT + film);
        until(&to, &id, |count| count == 10).await;
    }
    let stats = to.store.stats();
    assert!(stats.bytes <= 1_500_000 && stats.segments < 16, "{stats:?}");
    let peer = to.peer().await;
    assert_eq!(peer.error, None, "{peer:?}");
    assert_eq!(to.busy_steps(), 0, "the driver's task keeps its thread");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_take_nothing_stays_well_and_takes_it_when_it_can() {
    let from = Node::start(|_| {}).await;
    from.publish("large", 2, 2_000_000);
    from.publish("small", 3, 1000);
    let to = Node::start_with(
        |settings| {
            settings.limit = Some(1_000_000);
            settings.publisher_share = Some(100);
        },
        |_| {},
        vec![from.target()],
    )
    .await;
    // What never fits is refused; all else comes.
    until(&to, "small", |count| count == 3).await;
    assert_eq!(to.segments("large"), 0);
    assert!(to.is_well(), "{:?}", to.failures());
}
