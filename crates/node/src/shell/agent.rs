//! What speaks HTTP to a node, for all of the shell.

use std::time::Duration;

use ureq::Agent;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a single write may take: the node may be flushing to a slow disk.
const WRITE: Duration = Duration::from_secs(60);
/// How long an answer may take to begin, and each part of it.
const ANSWER: Duration = Duration::from_secs(120);

/// An agent; its connections are kept while it is.
pub(super) fn agent() -> Agent {
    let config = Agent::config_builder()
        // The node's own sentence is in the body, which an error of the library does not hold.
        .http_status_as_error(false)
        // A node is reached directly: proxies of the environment are for the internet.
        .proxy(None)
        .no_delay(true)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(ANSWER))
        .timeout_per_write(Some(WRITE))
        .user_agent(concat!("lavant/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}
