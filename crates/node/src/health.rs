//! Whether every part of the node does its work.
//!
//! The node has parts that run by themselves for as long as it does. Each has a name here and says
//! when it has ended or is being started again; `GET /health` then answers 503 with the reasons, so
//! that whoever watches a node learns of a half that is dead while the other half still answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest reason that is kept, in bytes: it is shown to anyone, and may hold what a panic said.
const REASON_MAX: usize = 300;

type Parts = BTreeMap<&'static str, Option<String>>;

/// The state of all parts; clones share it. Nothing here waits, so it may be used in a task.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Parts>>);

/// A part that does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the part.
    pub part: &'static str,
    /// Why it does not work, for people.
    pub reason: String,
}

impl Health {
    /// The part of a name, which counts as working until it says otherwise. Whoever asks for the
    /// same name again speaks for the same part.
    #[must_use]
    pub fn part(&self, name: &'static str) -> Part {
        self.lock().entry(name).or_default();
        Part {
            health: self.clone(),
            name,
        }
    }

    /// The parts that do not work, by name.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        let parts = self.lock();
        let failed = parts.iter().filter_map(|(&part, reason)| {
            let reason = reason.clone()?;
            Some(Failure { part, reason })
        });
        failed.collect()
    }

    fn set(&self, name: &'static str, reason: Option<String>) {
        self.lock().insert(name, reason);
    }

    /// A panic while it was held leaves it whole: every change is one insertion.
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the node that says how it is.
#[derive(Clone, Debug)]
pub struct Part {
    health: Health,
    name: &'static str,
}

impl Part {
    /// It works, or works again.
    pub fn ok(&self) {
        self.health.set(self.name, None);
    }

    /// It has ended or is being started again, for a reason.
    pub fn fail(&self, reason: impl Into<String>) {
        let mut reason = reason.into();
        // At a whole character, as the cut would panic elsewhere.
        reason.truncate(reason.floor_char_boundary(REASON_MAX));
        self.health.set(self.name, Some(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_well_while_no_part_says_otherwise() {
        let health = Health::default();
        assert_eq!(health.failures(), []);
        let (relay, _store) = (health.part("relay"), health.part("store"));
        assert_eq!(health.failures(), []);
        relay.fail("it ended");
        let failure = Failure {
            part: "relay",
            reason: "it ended".into(),
        };
        assert_eq!(health.failures(), [failure]);
        relay.ok();
        assert_eq!(health.failures(), []);
    }

    #[test]
    fn clones_and_parts_of_one_name_speak_of_the_same() {
        let health = Health::default();
        health.part("relay").fail("it ended");
        let other = health.clone();
        // Asking for a part does not make it well.
        let again = other.part("relay");
        assert_eq!(other.failures().len(), 1);
        std::thread::spawn(move || again.ok()).join().unwrap();
        assert_eq!(health.failures(), []);
    }

    #[test]
    fn failures_are_listed_by_name_with_their_latest_reason() {
        let health = Health::default();
        health.part("relay").fail("first");
        health.part("housekeeping").fail("it ended");
        health.part("relay").fail("second");
        let seen: Vec<_> = health.failures();
        let seen: Vec<_> = seen.iter().map(|f| (f.part, &*f.reason)).collect();
        assert_eq!(seen, [("housekeeping", "it ended"), ("relay", "second")]);
    }

    #[test]
    fn long_reasons_are_cut_between_letters() {
        let health = Health::default();
        health.part("relay").fail("\u{e9}".repeat(1000));
        let reason = &health.failures()[0].reason;
        assert_eq!(*reason, "\u{e9}".repeat(REASON_MAX / 2));
    }
}
