//! Power cuts: what was acknowledged is there afterwards, and nothing is there in part.
//!
//! A world is drawn from a seed: operations on a store over a simulated disk, whose power goes at
//! some change, in whatever the store does then. Another store that loses no power does the same
//! and says what must be there; of the operation that was cut, all or nothing.

mod check;
mod cuts;
mod operation;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use check::{Snapshot, check};
use operation::{Operation, Script};

use super::super::disk::simulated::{Faults, Simulated};
use super::random::Random;
use super::*;

/// How many seeds are tried; as many as fit into [`TIME`] when it is not set.
const SEEDS: &str = "LAVANT_POWER_CUTS";
/// The one seed that is tried.
const SEED: &str = "LAVANT_POWER_SEED";
const TIME: Duration = Duration::from_secs(15);

/// What all worlds went through, so that one sees what was tried.
#[derive(Debug)]
struct Tally {
    lives: AtomicU64,
    starts_cut: AtomicU64,
    lost: AtomicU64,
    operations: AtomicU64,
    expired: AtomicU64,
    evicted: AtomicU64,
    adopted: AtomicU64,
}

static TALLY: Tally = Tally {
    lives: AtomicU64::new(0),
    starts_cut: AtomicU64::new(0),
    lost: AtomicU64::new(0),
    operations: AtomicU64::new(0),
    expired: AtomicU64::new(0),
    evicted: AtomicU64::new(0),
    adopted: AtomicU64::new(0),
};

/// A store whose power goes, and one whose power stays.
struct World {
    random: Random,
    settings: Settings,
    faults: Faults,
    disk: Simulated,
    script: Script,
    /// What is to be there: all of one of these.
    states: Vec<Snapshot>,
    /// All contents that were ever acknowledged.
    ever: BTreeSet<ContentKey>,
    /// Whether the index was lost, and the power with it.
    lost: bool,
    cut: bool,
    /// Whether files may be there that no index names.
    strays: bool,
    /// Whether the disk failed before, so that what only tidies up may not have been done.
    failed: bool,
    /// Whether it prints what it does.
    says: bool,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut random = Random(seed);
        let clock = Clock::manual(START);
        let mut settings = Settings::new(Path::new("/data/store"));
        settings.clock = clock.clone();
        settings.min_free = 0;
        settings.index_memory = 1 << 20;
        if random.below(4) == 0 {
            settings.large_index = 0;
        }
        if random.below(2) == 0 {
            settings.limit = Some(60_000 + random.below(200_000));
        }
        if random.below(2) == 0 {
            settings.trusted.insert(key(2).publisher());
        }
        let disk = Simulated::new(clock, random.below(u64::MAX));
        disk.set_faults(faults);
        Self {
            random,
            settings,
            faults,
            disk,
            script: Script::default(),
            states: vec![Snapshot::default()],
            ever: BTreeSet::new(),
            lost: false,
            cut: false,
            strays: false,
            failed: false,
            says: number(SEED).is_some(),
        }
    }

    fn open_on(&self, disk: &Simulated) -> Option<Store> {
        let mut settings = self.settings.clone();
        settings.disk = disk.disk();
        match Store::open(settings, key(1)) {
            Ok(store) => Some(store),
            Err(error) if !disk.is_off() => panic!("the store cannot be opened: {error}"),
            Err(_) => None,
        }
    }

    /// Opens the store on what a cut left. The power may go meanwhile, several times.
    fn start(&mut self) -> Store {
        for turn in 0.. {
            if turn < 3 && self.random.below(3) == 0 {
                let changes = 1 + self.random.below(60);
                self.disk.end_after(changes);
            }
            let opened = self.open_on(&self.disk);
            if !self.disk.is_off() {
                self.disk.end_after(u64::MAX >> 1);
                if let Some(store) = opened {
                    return store;
                }
            }
            self.say(format_args!("cut at the start"));
            drop(opened);
            TALLY.starts_cut.fetch_add(1, Ordering::Relaxed);
            self.cut();
        }
        unreachable!("the power stays after three turns")
    }

    /// What the power's end leaves.
    fn cut(&mut self) {
        self.cut = true;
        self.disk.turn_off();
        self.disk = self.disk.after_cut(self.random.below(u64::MAX));
        self.harm();
    }

    /// Ends a process: with the power, or alone, by itself or not.
    fn stop(&mut self, store: Store) {
        self.disk.set_faults(self.faults);
        let dropped = store.stats().dropped;
        TALLY.expired.fetch_add(dropped.expired, Ordering::Relaxed);
        TALLY.evicted.fetch_add(dropped.evicted, Ordering::Relaxed);
        self.say(format_args!(
            "stopped after {} changes",
            self.disk.changes()
        ));
        let how = if self.disk.is_off() {
            0
        } else {
            self.random.below(8)
        };
        let killed = self.disk.fork();
        if how < 3 {
            self.disk.turn_off();
        }
        drop(store);
        match how {
            0..5 => self.cut(),
            5 => self.harm(),
            _ => {
                self.disk = killed;
                self.harm();
            }
        }
    }

    /// Sometimes the index is lost, too.
    fn harm(&mut self) {
        let index = self.settings.layout.index();
        match self.random.below(24) {
            0 => self.disk.lose(&index),
            // All of it: what harms the last commit alone looks as if that had been cut.
            1 => self.disk.damage(&index, |bytes| {
                bytes.iter_mut().step_by(500).for_each(|byte| *byte ^= 0x55);
            }),
            _ => return,
        }
        self.say(format_args!("the index is lost"));
        TALLY.lost.fetch_add(1, Ordering::Relaxed);
        self.lost = true;
    }

    /// Looks at a store that was just opened: all that is to be there is there.
    fn look(&mut self, store: &Store) {
        store.write(|_| Ok(())).unwrap();
        let empty = self.states.iter().any(|state| state.contents.is_empty());
        let warnings = store.warnings();
        let made_again = warnings.iter().any(|text| text.contains("made again"));
        assert!(!made_again || self.lost || empty, "{warnings:?}");
        self.strays |= self.lost;
        check(store, &self.disk, self.strays);
        let now = Snapshot::of(store);
        if self.lost {
            let (before, after) = (&self.states[0], self.states.last().unwrap());
            now.assert_keeps(before, after, (!self.failed, self.cut));
            for (key, (content, _)) in &now.contents {
                let own = key.publisher == store.publisher();
                let fresh = own && !self.ever.contains(key);
                let whole = content.is_complete() || content.hold_until.is_none();
                assert!(!fresh || whole, "{} is here in part", key.content_id);
            }
        } else if !self.states.contains(&now) {
            let unlike = self.states.iter().map(|state| state.unlike(&now));
            let unlike: Vec<String> = unlike.collect();
            panic!("it is not as it was:\n{}", unlike.join("\n-- nor --\n"));
        }
        (self.lost, self.cut) = (false, false);
        self.be(now);
    }

    /// What is acknowledged.
    fn be(&mut self, state: Snapshot) {
        self.ever.extend(state.contents.keys().cloned());
        self.states = vec![state];
    }

    /// From one start to the end of the power.
    fn live(&mut self) {
        let store = self.start();
        self.look(&store);
        TALLY.lives.fetch_add(1, Ordering::Relaxed);
        let sure = self.disk.fork();
        sure.set_faults(Faults::default());
        let twin = self.open_on(&sure).unwrap();
        twin.write(|_| Ok(())).unwrap();
        let changes = 1 + self.random.below(400);
        self.disk.end_after(changes);
        self.script.stop();
        let fails = self.random.below(4) == 0;
        let read_only_from = self.random.below(400);
        if fails {
            self.failed = true;
            let faults = self.some_faults();
            self.disk.set_faults(faults);
        }
        for turn in 0..80 {
            if fails && turn == read_only_from {
                self.disk.set_faults(Faults {
                    read_only: true,
                    ..self.faults
                });
            }
            let operation = self.script.draw(&mut self.random, &twin);
            let before = self.settings.clock.now();
            let changes = self.disk.changes();
            let outcome = operation.apply(&store);
            self.wait_for_flushes();
            let said = outcome.as_ref().map_err(ToString::to_string);
            self.say(format_args!("{changes}: {operation:?}: {said:?}"));
            let now = self.settings.clock.now();
            self.settings.clock.set(before);
            let sure = operation.apply(&twin);
            self.settings.clock.set(now.max(self.settings.clock.now()));
            let state = Snapshot::of(&twin);
            // What is answered when the power is gone, nobody hears.
            if self.disk.is_off() || fails && outcome.is_err() {
                self.states.push(state);
                break;
            }
            let outcomes = (&outcome, &sure);
            assert_eq!(outcome.is_ok(), sure.is_ok(), "{operation:?}: {outcomes:?}");
            if outcome.is_ok() {
                TALLY.operations.fetch_add(1, Ordering::Relaxed);
                let adopted = u64::from(matches!(operation, Operation::Adopt(_)));
                TALLY.adopted.fetch_add(adopted, Ordering::Relaxed);
            }
            self.be(state);
        }
        self.stop(store);
    }

    #[allow(clippy::print_stdout, reason = "who runs one seed wants to see it")]
    fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.says {
            println!("{what}");
        }
    }

    /// Something goes wrong with the disk now and then.
    fn some_faults(&mut self) -> Faults {
        let mut faults = self.faults;
        match self.random.below(3) {
            0 => faults.full = 10,
            1 => faults.flush = 10,
            _ => faults.read = 5,
        }
        faults
    }

    /// Files of an upload are flushed by a thread of its own; the seed decides alone when nothing
    /// else happens meanwhile.
    fn wait_for_flushes(&self) {
        let start = Instant::now();
        let incoming = self.settings.layout.incoming();
        while self.disk.is_dirty(&incoming)
            && !self.disk.is_off()
            && start.elapsed() < Duration::from_millis(50)
        {
            std::thread::yield_now();
        }
    }
}

/// Lives through some cuts; panics when something is lost.
fn run(seed: u64, faults: Faults) {
    let mut world = World::new(seed, faults);
    for _ in 0..1 + world.random.below(3) {
        world.live();
    }
    let store = world.start();
    world.look(&store);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[allow(clippy::print_stdout, reason = "a failed run says its seed")]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let begun = Instant::now();
    if let Some(seed) = number(SEED) {
        return run(seed, Faults::default());
    }
    let wanted = number(SEEDS);
    let mut lost = Vec::new();
    let mut seed = 0;
    while wanted.map_or(begun.elapsed() < TIME, |wanted| seed < wanted) {
        if catch_unwind(AssertUnwindSafe(|| run(seed, Faults::default()))).is_err() {
            println!("seed {seed} lost something: run it alone with {SEED}={seed}");
            lost.push(seed);
        }
        seed += 1;
    }
    println!("{seed} seeds in {:?}: {TALLY:?}", begun.elapsed());
    assert!(lost.is_empty(), "{} of {seed} seeds: {lost:?}", lost.len());
}

/// A disk that lies is found out: the test can fail. One that does nothing is as a store that
/// leaves a flush out; one that is late, as a store that commits before what the index names is
/// there.
#[test]
fn a_flush_that_is_left_out_or_comes_after_the_commit_is_noticed() {
    fn is_in(path: &Path, folder: &str) -> bool {
        path.parent().is_some_and(|above| above.ends_with(folder))
    }
    let cases: [(&str, Faults); 8] = [
        (
            "payloads on their way in",
            Faults {
                deaf_files: Some(|path| is_in(path, "incoming")),
                ..Faults::default()
            },
        ),
        (
            "payloads that came in pieces",
            Faults {
                deaf_files: Some(|path| is_in(path, "partial")),
                ..Faults::default()
            },
        ),
        (
            "the index",
            Faults {
                deaf_files: Some(|path| path.ends_with("index.redb")),
                ..Faults::default()
            },
        ),
        (
            "the places of payloads",
            Faults {
                deaf_folders: Some(|path| is_in(path, "segments")),
                ..Faults::default()
            },
        ),
        (
            "the places of manifests",
            Faults {
                deaf_folders: Some(|path| path.ends_with("manifests")),
                ..Faults::default()
            },
        ),
        (
            "the name of the index",
            Faults {
                deaf_folders: Some(|path| path.ends_with("store")),
                ..Faults::default()
            },
        ),
        (
            "payloads, after the commit",
            Faults {
                late_files: Some(|path| is_in(path, "incoming")),
                ..Faults::default()
            },
        ),
        (
            "the places of payloads, after the commit",
            Faults {
                late_folders: Some(|path| is_in(path, "segments")),
                ..Faults::default()
            },
        ),
    ];
    for (what, faults) in cases {
        let notices = |seed: &u64| catch_unwind(AssertUnwindSafe(|| run(*seed, faults))).is_err();
        let found = (0..1000).find(notices);
        assert!(
            found.is_some(),
            "nobody notices what a flush does not do: {what}"
        );
    }
}
