//! A small language for the tests of the program: nodes, runs of `lavant`, films, playlists.
//!
//! Every wait ends by itself after a while, and every process is killed when its value is dropped.
#![allow(dead_code, unused_imports)]

pub(crate) mod http;
pub(crate) mod media;
pub(crate) mod node;
pub(crate) mod playlist;
pub(crate) mod program;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use node::Node;
pub(crate) use program::{Done, Lavant, lavant};

/// How long anything may take before a test gives it up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer, for a minute at most.
pub(crate) fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ask)
}

/// Asks again and again until there is an answer, for `limit` at most.
pub(crate) fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            begun.elapsed() < limit,
            "{what}: not within {} s",
            limit.as_secs()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are text")
}

/// Asserts that a message to the user is one sentence: one line that is not empty.
#[track_caller]
pub(crate) fn assert_sentence(message: &str) {
    assert!(!message.trim().is_empty(), "an empty message");
    assert!(
        !message.trim().contains('\n'),
        "more than one line: {message}"
    );
    assert!(!message.contains("panicked"), "{message}");
}

/// Asserts that an answer is an error of a status with a sentence that holds a word.
#[track_caller]
pub(crate) fn refused(reply: http::Reply, status: u16, word: &str) {
    let reply = reply.is(status);
    let sentence = reply.sentence();
    assert!(sentence.contains(word), "{sentence}");
}

/// Pseudo-random numbers (SplitMix64): a failure can be repeated by its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// The bytes that stand for segment `number` of a made-up content.
pub(crate) fn payload(number: u64, length: usize) -> Vec<u8> {
    Random(number).bytes(length)
}
