//! `lavant-sim liars`: few nodes with real records, signatures and proofs, and one that lies.
//!
//! Honest nodes drive the core as its documentation says and believe nothing that
//! `lavant_proto::relay::learn` and `lavant_proto::verify` do not believe. The liar is driven by a
//! script. The same world runs without it first: what it costs is the difference.
//!
//! | question | place |
//! |---|---|
//! | which lies are there | [`Liar`] |
//! | who meets whom | `plan` |
//! | what crosses a link, which rules hold | `world` |
//! | how is the core driven | `node`, `library` |
//! | what is stored, and when does it fail | `store` |
//! | what is signed | `film` |

mod film;
mod liar;
mod library;
mod node;
mod plan;
mod store;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use film::{BEGUN, Film};
use lavant_proto::time::Time;
pub use liar::Liar;
use liar::Script;
use plan::Plan;
use world::{Seen, World, key};

use crate::random::Random;

/// By how much later a liar may let the film come, at each node on the way.
const LATER_MAX: Duration = Duration::from_secs(5);
/// For how long a content is left alone when a store failed, with what that leads to.
/// The relay pauses for 30 s; five are for what comes after that.
const FAILURE_MAX: Duration = Duration::from_secs(35);
/// Room for what a liar publishes itself.
const ROOM: u64 = 5_000_000;

/// What a liar did to a world.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By how much the film came later, at the reader that it reached last and at the one that it
    /// cost most.
    pub later: Duration,
    /// When it was everywhere without the liar, counted from the beginning.
    pub clean: Duration,
    /// Why honest nodes ended contacts with it, and how often.
    pub left: BTreeMap<String, u32>,
    /// Most bytes that claims took at one node.
    pub claimed: usize,
    /// Most contents that one node knew.
    pub contents: usize,
    /// How often stores failed.
    pub failed: u32,
    /// Hash of everything that was said.
    pub trace: String,
}

/// Lets a liar into the world of a seed. An error is a rule that was broken.
pub fn run(liar: Liar, seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let finished = random.below(2) == 0;
    let finished = liar.wants_manifest().unwrap_or(finished);
    let film = Rc::new(Film::new(&key(0), "real_film", finished, &mut random));
    let room = if liar == Liar::SameId { ROOM } else { 0 };
    let mut plan = Plan::new(seed, film.bytes() + room);
    // Without the liar, and on stores that never fail: what both cost is seen by the difference.
    let clean = World::new(plan.clone(), Rc::clone(&film), None).run()?;
    plan.busy = liar.is_busy();
    let hops = plan.hops();
    // What was held back crosses a link once more, after a question.
    let link = Duration::from_micros(film.bytes() * 1_000_000 / plan.rate) + plan.delay * 4;
    // In two of four worlds the stores fail, too.
    plan.failures = [0, 0, 20, 100][(seed % 4) as usize];
    let script = Script::new(liar, Rc::clone(&film), &mut random);
    let seen = World::new(plan, film, Some(script)).run()?;
    let report = compare(&clean, seen);
    let bound = (LATER_MAX + link) * hops + FAILURE_MAX * report.failed;
    if report.later > bound {
        let later = report.later.as_secs_f64();
        return Err(format!(
            "the film came {later:.3} s later: {:?}",
            report.left
        ));
    }
    Ok(report)
}

fn compare(clean: &Seen, seen: Seen) -> Report {
    // Both worlds ended with the film at every reader, so these are the same nodes.
    let times = seen.arrived.iter().zip(clean.arrived.values());
    let later = times.map(|((_, with), without)| with.since(*without)).max();
    let last = clean.arrived.values().max().copied();
    Report {
        later: later.unwrap_or_default(),
        clean: last.unwrap_or(Time(0)).since(BEGUN),
        left: seen.left,
        claimed: seen.claimed,
        contents: seen.contents,
        failed: seen.failed,
        trace: seen.trace,
    }
}

/// What a liar did over several seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// By how much the film came later where no store failed.
    later: Vec<Duration>,
    left: BTreeMap<String, u32>,
    worlds: u32,
    left_in: u32,
    claimed: usize,
    contents: usize,
    failed: u32,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        // A store that failed costs half a minute, beside which a liar is not seen.
        if report.failed == 0 {
            self.later.push(report.later);
        }
        for (why, count) in &report.left {
            *self.left.entry(why.clone()).or_default() += count;
        }
        self.worlds += 1;
        self.left_in += u32::from(!report.left.is_empty());
        self.claimed = self.claimed.max(report.claimed);
        self.contents = self.contents.max(report.contents);
        self.failed += report.failed;
    }

    /// As lines of text.
    #[must_use]
    pub fn table(&self, name: &str) -> String {
        let mut later = self.later.clone();
        later.sort_unstable();
        let at = |at: Option<&Duration>| at.copied().unwrap_or_default().as_secs_f64();
        let mut out = format!(
            "{name:<16}later: median {:.3} s, most {:.3} s; ended in {} of {} worlds; claims {} \
             bytes, {} contents; stores failed {} times",
            at(later.get(later.len() / 2)),
            at(later.last()),
            self.left_in,
            self.worlds,
            self.claimed,
            self.contents,
            self.failed,
        );
        let mut left: Vec<_> = self.left.iter().collect();
        left.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (why, count) in left {
            out.push_str(&format!("\n    {count} contacts ended: {why}"));
        }
        out
    }
}
