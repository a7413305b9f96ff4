//! `lavant-sim relay`: a world, epidemic routing in the same world, and the best that could be.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::delivery::Config;
use lavant_proto::ids::PublisherKey;
use lavant_proto::time::Time;

use super::air::Share;
use super::epidemic::{self, Order};
use super::oracle::Oracle;
use super::posted;
use super::trace::{self, Made, Trace};
use super::universe::{Faults, Meeting, Setup, Spec, Universe};
use super::world::{Outcome, World};
use crate::random::Random;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides what is left to chance.
    pub seed: u64,
    /// Meetings, when they are not made.
    pub trace: Option<Trace>,
    /// How meetings are made.
    pub made: Made,
    /// How many contents are published, by nodes that are chosen at random.
    pub contents: u64,
    /// Segments of each.
    pub segments: u64,
    /// Bytes of a segment.
    pub length: u64,
    /// Bytes a second of a link in each direction; none for as fast as can be.
    pub rate: Option<u64>,
    /// How long a link takes to come up once two nodes meet: until one has dialled the other and
    /// both have proven who they are.
    pub link_up: Duration,
    /// Of a hundred bytes that are published, how many a node can store; none for all.
    pub buffer: Option<u64>,
    /// The same in bytes, of every node.
    pub store: Option<u64>,
    /// The same of nodes with these names, as numbers.
    pub stores: Vec<(Range<u64>, u64)>,
    /// What contacts of one node share.
    pub share: Share,
    /// Messages to one destination each, instead of contents: how many.
    pub messages: Option<u64>,
    /// The same, from a report of The ONE.
    pub posted: Option<String>,
    /// How long a message is of use.
    pub ttl: Duration,
    /// During which part of the time contents are published, in hundredths.
    pub publish_until: u64,
    /// Whether everything that can go wrong does.
    pub trouble: bool,
    /// Whether epidemic routing runs in the same world, plain and rarest first.
    pub compare: bool,
}

impl Options {
    /// Unlimited buffers, short meetings, 4 films of 100 segments: what goes first decides how much
    /// arrives, since a meeting carries five segments each way.
    #[must_use]
    pub fn films() -> Self {
        let mut options = Self {
            contents: 4,
            segments: 100,
            ..Self::default()
        };
        (options.made.length, options.made.hourly) = (10.0, 16.0);
        options
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            trace: None,
            made: Made {
                nodes: 200,
                village: 20,
                travel: 10,
                hourly: 4.0,
                length: 60.0,
                seconds: 12.0 * 3600.0,
            },
            contents: 20,
            segments: 20,
            length: 500_000,
            rate: Some(250_000),
            link_up: Duration::ZERO,
            buffer: None,
            store: None,
            stores: Vec::new(),
            share: Share::Nothing,
            messages: None,
            posted: None,
            ttl: Duration::from_secs(12 * 3600),
            publish_until: 50,
            trouble: false,
            compare: true,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many nodes, meetings and segments there were.
    pub nodes: u32,
    /// Meetings.
    pub meetings: u64,
    /// Segments that were published.
    pub segments: u64,
    /// Whether they were messages to one destination each.
    pub is_addressed: bool,
    /// What could be delivered at best, and the mean delay of that in seconds.
    pub oracle: (u64, f64),
    /// The relay.
    pub relay: Outcome,
    /// Plain epidemic routing.
    pub epidemic: Option<Outcome>,
    /// Epidemic routing, rarest first, each segment once.
    pub rarest: Option<Outcome>,
}

/// How the relay compares, over several seeds.
#[derive(Clone, Debug, Default)]
pub struct Ratios {
    /// Relay to plain epidemic.
    pub epidemic: Vec<f64>,
    /// Relay to epidemic, rarest first, each segment once.
    pub rarest: Vec<f64>,
}

impl Ratios {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.epidemic.extend(report.to(report.epidemic.as_ref()));
        self.rarest.extend(report.to(report.rarest.as_ref()));
    }

    /// Least, median and greatest of each ratio.
    fn rows(&self) -> impl Iterator<Item = (&'static str, [f64; 3])> {
        [("epidemic", &self.epidemic), ("rarest", &self.rarest)]
            .into_iter()
            .filter_map(|(name, ratios)| {
                let mut sorted = ratios.clone();
                sorted.sort_unstable_by(f64::total_cmp);
                let of = [
                    sorted.first()?,
                    sorted.get(sorted.len() / 2)?,
                    sorted.last()?,
                ];
                Some((name, of.map(|it| *it)))
            })
    }

    /// As lines of text.
    #[must_use]
    pub fn table(&self) -> String {
        let rows = self.rows().map(|(name, [least, median, most])| {
            format!("relay / {name}: least {least:.4}, median {median:.4}, greatest {most:.4}")
        });
        rows.collect::<Vec<_>>().join("\n")
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let rows = self.rows().map(|(name, [least, median, most])| {
            format!(
                "\"relay_to_{name}\":{{\"min\":{least:.4},\"median\":{median:.4},\
                 \"max\":{most:.4}}}"
            )
        });
        format!("{{{}}}", rows.collect::<Vec<_>>().join(","))
    }
}

/// The world that options describe.
pub fn setup(options: &Options) -> Result<Setup, String> {
    let mut random = Random::new(options.seed);
    // A stream of chance of its own: what is published does not change who meets whom.
    let made = || trace::make(&options.made, &mut Random::new(options.seed ^ 0x5eed));
    let trace = options.trace.clone().unwrap_or_else(made);
    let nodes = trace.names.len() as u32;
    let end = trace
        .meetings
        .iter()
        .map(|meeting| meeting.to)
        .max()
        .unwrap_or_default();
    let begin = trace.meetings.first().map_or(Time(0), |first| first.from);
    let span = end
        .since(begin)
        .mul_f64(options.publish_until as f64 / 100.0);
    let span = u64::try_from(span.as_micros()).unwrap_or(0);
    // Meetings are cut before anything runs, so that the oracle and epidemic routing see the same
    // ones.
    let meetings = trace.meetings.iter().filter_map(|meeting| {
        let from = meeting.from.after(options.link_up);
        (from < meeting.to).then_some(Meeting { from, ..*meeting })
    });
    let specs = (0..options.contents).map(|_| Spec {
        publisher: random.below(u64::from(nodes)) as u32,
        priority: Priority::Vod,
        created: Time(begin.0 + random.below(span.max(1))),
        ttl: Duration::from_secs(30 * 86_400),
        segments: options.segments,
        length: options.length,
        every: Duration::ZERO,
        to: None,
    });
    let universe = match messages(options, &trace, end)? {
        Some(specs) => Universe::addressed(specs, nodes),
        None => Universe::new(specs.collect()),
    };
    // One segment fits at least, or nothing would ever be carried.
    let percent = |percent: u64| (universe.bytes() * percent / 100).max(options.length);
    let capacity = options.store.or(options.buffer.map(percent));
    let mut config = Config::new(PublisherKey([0; 32]));
    // Long meetings are cheap to simulate when nobody asks for signs of life.
    config.patience.keep_alive = Duration::from_secs(3600);
    config.quantum = 64;
    let capacities = capacities(options, &trace);
    Ok(Setup {
        seed: options.seed,
        nodes,
        universe,
        meetings: meetings.collect(),
        rate: options.rate,
        delay: if options.rate.is_some() {
            Duration::from_millis(20)
        } else {
            Duration::ZERO
        },
        capacity,
        capacities,
        share: options.share,
        config,
        views: Vec::new(),
        faults: faults(options, nodes),
        end,
    })
}

fn faults(options: &Options, nodes: u32) -> Faults {
    if !options.trouble {
        return Faults::default();
    }
    Faults {
        lies: 100,
        liars: 20,
        crashes: u64::from(nodes) / 2,
        clocks: Duration::from_secs(100),
        failures: 2,
        torn: u64::from(nodes) / 2,
        until: None,
    }
}

/// The messages that are posted, when there are to be any.
fn messages(options: &Options, trace: &Trace, end: Time) -> Result<Option<Vec<Spec>>, String> {
    if let Some(text) = &options.posted {
        return posted::parse(text, &trace.names).map(Some);
    }
    let nodes = trace.names.len() as u32;
    // As for meetings: the same messages whatever else is set.
    let mut random = Random::new(options.seed ^ 0x9057);
    let made = |count| {
        let each = (options.length, options.ttl);
        posted::make((count, nodes), each, end, &mut random)
    };
    Ok(options.messages.map(made))
}

fn capacities(options: &Options, trace: &Trace) -> BTreeMap<u32, u64> {
    let named = trace.names.iter().enumerate();
    let known = named.filter_map(|(node, name)| {
        // A name that is no number is in no range.
        let name: u64 = name.parse().ok()?;
        let (_, bytes) = options
            .stores
            .iter()
            .find(|(names, _)| names.contains(&name))?;
        Some((node as u32, *bytes))
    });
    known.collect()
}

/// Simulates.
pub fn run(options: &Options) -> Result<Report, String> {
    let setup = setup(options)?;
    let oracle = Oracle::new(setup.nodes, &setup.meetings);
    let (reachable, delay) = oracle.reachable(&setup.universe, setup.end);
    // Its copy of the meetings is large, and the rest runs for long.
    drop(oracle);
    let beside = |rule| {
        // Epidemic routing is written for contents that are for everybody.
        let compares = options.compare && !setup.universe.is_addressed();
        compares.then(|| epidemic::run(&setup, rule))
    };
    let (epidemic, rarest) = (beside(Order::Random), beside(Order::RarestOnce));
    let (nodes, segments) = (setup.nodes, setup.universe.segments());
    let is_addressed = setup.universe.is_addressed();
    let relay = World::new(setup).run();
    Ok(Report {
        nodes,
        meetings: relay.meetings,
        segments,
        is_addressed,
        oracle: (reachable, mean(delay, reachable)),
        relay,
        epidemic,
        rarest,
    })
}

fn mean(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

/// One row of the report.
struct Row {
    name: &'static str,
    delivered: u64,
    percent: f64,
    /// Of those that were published, for messages to one destination each.
    fraction: f64,
    delay: f64,
    overhead: f64,
    lost: f64,
}

impl Report {
    fn row(&self, name: &'static str, outcome: &Outcome) -> Row {
        let bytes = outcome.delivered.max(1) as f64 * self.length();
        Row {
            name,
            delivered: outcome.delivered,
            fraction: outcome.delivered as f64 / self.segments.max(1) as f64,
            percent: 100.0 * outcome.delivered as f64 / self.oracle.0.max(1) as f64,
            delay: mean(outcome.delay_seconds, outcome.delivered),
            overhead: outcome.payload_bytes as f64 / bytes,
            lost: mean(outcome.lost_bytes, outcome.broken),
        }
    }

    /// Mean bytes of a delivered segment, in whole chunk groups.
    fn length(&self) -> f64 {
        let unique = self.relay.payload_bytes - self.relay.duplicate_bytes;
        unique as f64 / self.relay.delivered.max(1) as f64
    }

    /// How much the relay delivered as a part of what another one did.
    fn to(&self, other: Option<&Outcome>) -> Option<f64> {
        other.map(|other| self.relay.delivered as f64 / other.delivered.max(1) as f64)
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![self.row("relay", &self.relay)];
        let others = [("epidemic", &self.epidemic), ("rarest", &self.rarest)];
        // Those that did not run have no row.
        let others = others.into_iter();
        rows.extend(others.filter_map(|(name, it)| Some(self.row(name, it.as_ref()?))));
        rows
    }

    /// As a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{} nodes, {} meetings, {} segments\n\
             {:<10}{:>12}{:>10}{:>10}{:>10}{:>16}\n\
             {:<10}{:>12}{:>10}{:>10.0}\n",
            self.nodes,
            self.meetings,
            self.segments,
            "",
            "delivered",
            "% oracle",
            "delay s",
            "overhead",
            "lost B / break",
            "oracle",
            self.oracle.0,
            "100.0",
            self.oracle.1
        );
        for row in self.rows() {
            // A string takes all that is written: there is no error to look at.
            let _ = writeln!(
                out,
                "{:<10}{:>12}{:>10.2}{:>10.0}{:>10.3}{:>16.0}",
                row.name, row.delivered, row.percent, row.delay, row.overhead, row.lost
            );
        }
        if self.is_addressed {
            let fraction = self.row("relay", &self.relay).fraction;
            let [payload, messages] =
                [self.relay.payload_bytes, self.relay.message_bytes].map(|bytes| bytes / 1_000_000);
            let _ = writeln!(
                out,
                "delivered / posted: {fraction:.4}; {payload} MB of payload and {messages} MB of \
                 messages crossed links, {} segments made room for others",
                self.relay.evicted
            );
        }
        for (name, other) in [("epidemic", &self.epidemic), ("rarest", &self.rarest)] {
            if let Some(times) = self.to(other.as_ref()) {
                let _ = writeln!(out, "relay / {name}: {times:.4}");
            }
        }
        for (why, count) in &self.relay.closed {
            let _ = writeln!(out, "{count} contacts ended: {why}");
        }
        let _ = write!(out, "trace {}", self.relay.trace);
        out
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let mut out = format!(
            "{{\"nodes\":{},\"meetings\":{},\"segments\":{},\"oracle\":{{\"delivered\":{},\
             \"delay_seconds\":{:.1}}}",
            self.nodes, self.meetings, self.segments, self.oracle.0, self.oracle.1
        );
        for row in self.rows() {
            let _ = write!(
                out,
                ",\"{}\":{{\"delivered\":{},\"percent_of_oracle\":{:.3},\"delay_seconds\":{:.1},\
                 \"overhead\":{:.4},\"lost_bytes_per_break\":{:.0}}}",
                row.name, row.delivered, row.percent, row.delay, row.overhead, row.lost
            );
        }
        if self.is_addressed {
            let fraction = self.row("relay", &self.relay).fraction;
            let _ = write!(out, ",\"delivered_to_posted\":{fraction:.4}");
        }
        for (name, other) in [("epidemic", &self.epidemic), ("rarest", &self.rarest)] {
            if let Some(times) = self.to(other.as_ref()) {
                let _ = write!(out, ",\"relay_to_{name}\":{times:.4}");
            }
        }
        let _ = write!(out, ",\"trace\":\"{}\"}}", self.relay.trace);
        out
    }
}
