//! Tells services of the operator what happens to live streams (webhooks).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use crate::authority::{Caller, Failed};
use crate::live::{Happened, Live, What};

/// Pauses between the tries to tell a service; after the last one it is given up.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

/// Begins to tell; it ends when the value is dropped.
#[must_use]
pub fn start(callers: Vec<Caller>, live: &Live, node: &str) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for caller in callers {
        // Each in its own order: a service that is away delays no other.
        let clock = live.clock();
        let now = move || clock.now().rfc3339();
        tasks.spawn(run(caller, live.events(), node.to_owned(), now));
    }
    tasks
}

async fn run(
    caller: Caller,
    mut events: Receiver<Happened>,
    node: String,
    now: impl Fn() -> String,
) {
    loop {
        match events.recv().await {
            Ok(happened) => {
                let body = body(&happened, &node, &now());
                tell(&caller, &body).await;
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(host = caller.host(), missed, "a hook was away for too long");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn tell(caller: &Caller, body: &Value) {
    let id = body.get("id").and_then(Value::as_str).unwrap_or_default();
    for pause in PAUSES.into_iter().map(Some).chain([None]) {
        let failed = match caller.call_as(id, body).await {
            Ok(()) => return,
            Err(failed) => failed,
        };
        let (Some(pause), false) = (pause, matches!(failed, Failed::Refused(_))) else {
            tracing::warn!(host = caller.host(), reason = %failed, "a hook was not told");
            return;
        };
        tokio::time::sleep(pause).await;
    }
}

fn body(happened: &Happened, node: &str, time: &str) -> Value {
    let kind = match happened.what {
        What::Published => "live.published",
        What::FirstSegment => "live.first_segment",
        What::Silent => "live.silent",
        What::Ended => "live.ended",
        What::Refused => "live.refused",
    };
    json!({
        // The same for each try.
        "id": crate::authority::fresh_id(),
        "type": kind,
        "time": time,
        "node": node,
        "stream": happened.name,
        "version": happened.version,
        "by": happened.by,
        "reason": happened.reason,
    })
}
