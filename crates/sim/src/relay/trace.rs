//! Contact traces: read from files in two forms, or made.

use std::collections::BTreeMap;

use lavant_proto::time::Time;

use super::universe::Meeting;
use crate::random::Random;

/// Most meetings that are read.
/// With 24 bytes each they take half a gigabyte.
const MEETINGS_MAX: usize = 20_000_000;

/// Meetings, and the names of the nodes in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The meetings, by their beginning.
    pub meetings: Vec<Meeting>,
    /// The names of the nodes.
    pub names: Vec<String>,
}

/// Reads a trace. A line is `ID ID START END` or, as the ONE simulator reports connectivity,
/// `TIME CONN ID ID up` and `... down`; times are seconds. Empty lines and those that begin with
/// `#` are skipped; what is up at the end stays so until the last time in the file.
pub fn parse(text: &str) -> Result<Trace, String> {
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let read = match fields[..] {
            [at, "CONN", a, b, way] => reader.connection(at, (a, b), way),
            [a, b, from, to, ..] => reader.meeting((a, b), from, to),
            _ => Err("a line is 'ID ID START END' or 'TIME CONN ID ID up|down'".into()),
        };
        read.map_err(|error: String| format!("line {}: {error}", index + 1))?;
        if reader.trace.meetings.len() > MEETINGS_MAX {
            return Err(format!("more than {MEETINGS_MAX} meetings"));
        }
    }
    Ok(reader.finish())
}

#[derive(Default)]
struct Reader {
    trace: Trace,
    numbers: BTreeMap<String, u32>,
    up: BTreeMap<(u32, u32), Time>,
    last: Time,
}

impl Reader {
    fn node(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.trace.names.len() as u32;
        self.trace.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn pair(&mut self, (a, b): (&str, &str)) -> Result<(u32, u32), String> {
        let (a, b) = (self.node(a), self.node(b));
        if a == b {
            return Err("a node meets itself".into());
        }
        // Files name two nodes in any order; it is one pair.
        Ok((a.min(b), a.max(b)))
    }

    fn meeting(&mut self, nodes: (&str, &str), from: &str, to: &str) -> Result<(), String> {
        let (a, b) = self.pair(nodes)?;
        let (from, to) = (seconds(from)?, seconds(to)?);
        if to < from {
            return Err("a meeting ends before it begins".into());
        }
        self.last = self.last.max(to);
        if to > from {
            self.trace.meetings.push(Meeting { from, to, a, b });
        }
        Ok(())
    }

    fn connection(&mut self, at: &str, nodes: (&str, &str), way: &str) -> Result<(), String> {
        let (a, b) = self.pair(nodes)?;
        let at = seconds(at)?;
        self.last = self.last.max(at);
        match way {
            "up" => {
                // One that is up is not begun again: the first time counts.
                self.up.entry((a, b)).or_insert(at);
            }
            "down" => {
                if let Some(from) = self.up.remove(&(a, b))
                    && at > from
                {
                    self.trace.meetings.push(Meeting { from, to: at, a, b });
                }
            }
            _ => return Err(format!("{way:?} is neither up nor down")),
        }
        Ok(())
    }

    fn finish(mut self) -> Trace {
        for ((a, b), from) in self.up {
            if self.last > from {
                let to = self.last;
                self.trace.meetings.push(Meeting { from, to, a, b });
            }
        }
        self.trace.meetings = joined(self.trace.meetings);
        self.trace
    }
}

/// Makes one of meetings of the same nodes that overlap, and sorts them.
fn joined(mut meetings: Vec<Meeting>) -> Vec<Meeting> {
    meetings.sort_unstable_by_key(|meeting| (meeting.a, meeting.b, meeting.from, meeting.to));
    // Two nodes have one link at a time, however often a file says that they meet.
    meetings.dedup_by(|later, earlier| {
        let same = (later.a, later.b) == (earlier.a, earlier.b) && later.from <= earlier.to;
        if same {
            earlier.to = earlier.to.max(later.to);
        }
        same
    });
    // By time from now on, as whoever reads them expects.
    meetings.sort_unstable();
    meetings
}

pub(super) fn seconds(text: &str) -> Result<Time, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a time in seconds"))?;
    // In microseconds this still fits into 64 bits. What is no number is in no range.
    if !(0.0..1e12).contains(&seconds) {
        return Err(format!("{text:?} is no time from 0 on"));
    }
    Ok(Time((seconds * 1e6) as u64))
}

/// How meetings are made: nodes live in villages and meet there, some travel.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// How many nodes.
    pub nodes: u32,
    /// How many of them live together.
    pub village: u32,
    /// Of a hundred meetings, how many are with a node from elsewhere.
    pub travel: u64,
    /// Meetings of each node in an hour.
    pub hourly: f64,
    /// Mean length of a meeting in seconds.
    pub length: f64,
    /// How long it goes on, in seconds.
    pub seconds: f64,
}

/// Makes meetings: starts are spread evenly, lengths exponentially.
#[must_use]
pub fn make(made: &Made, random: &mut Random) -> Trace {
    // Each meeting is one of two nodes.
    let count = f64::from(made.nodes) * made.hourly * made.seconds / 3600.0 / 2.0;
    let fraction = |random: &mut Random| (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    let nodes = u64::from(made.nodes);
    let village = u64::from(made.village.clamp(2, made.nodes.max(2)));
    let mut meetings = Vec::new();
    if nodes < 2 {
        return Trace::default();
    }
    for _ in 0..count as u64 {
        let a = random.below(nodes);
        let b = if random.below(100) < made.travel {
            random.below(nodes)
        } else {
            // The last village may have fewer nodes.
            (a / village * village + random.below(village)).min(nodes - 1)
        };
        let from = fraction(random) * made.seconds;
        // The fraction is below 1, so no logarithm of 0 is taken.
        let length = -made.length * (1.0 - fraction(random)).ln();
        if a == b {
            continue;
        }
        let to = (from + length.max(0.1)).min(made.seconds);
        meetings.push(Meeting {
            from: Time((from * 1e6) as u64),
            to: Time((to * 1e6) as u64),
            a: a.min(b) as u32,
            b: a.max(b) as u32,
        });
    }
    let meetings = joined(meetings);
    let names = (0..made.nodes).map(|node| node.to_string()).collect();
    Trace { meetings, names }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(a: u32, b: u32, from: u64, to: u64) -> Meeting {
        Meeting {
            from: Time(from),
            to: Time(to),
            a,
            b,
        }
    }

    #[test]
    fn both_forms_are_read() {
        let trace = parse("# a comment\n7 3 1 2.5\n\n3 9 0 1\n").unwrap();
        let expected = [
            meeting(1, 2, 0, 1_000_000),
            meeting(0, 1, 1_000_000, 2_500_000),
        ];
        assert_eq!(trace.meetings, expected);
        assert_eq!(trace.names, ["7", "3", "9"]);
        let one = "1 CONN a b up\n2 CONN b a down\n3 CONN a c up\n5 CONN a b up\n6 CONN a b down";
        let trace = parse(one).unwrap();
        let expected = [
            meeting(0, 1, 1_000_000, 2_000_000),
            meeting(0, 2, 3_000_000, 6_000_000),
            meeting(0, 1, 5_000_000, 6_000_000),
        ];
        assert_eq!(trace.meetings, expected);
    }

    #[test]
    fn errors_name_the_line() {
        for (text, what) in [
            ("1 2 3", "line 1: a line is"),
            ("# x\n1 1 3 4", "line 2: a node meets itself"),
            ("1 2 4 3", "ends before"),
            ("1 2 x 3", "not a time"),
            ("1 2 -1 3", "no time"),
            ("1 CONN 2 3 away", "neither up nor down"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }
}
