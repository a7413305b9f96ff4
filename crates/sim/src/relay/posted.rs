//! Messages to one destination each: read from a file, or made.

use std::collections::BTreeMap;
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::time::Time;

use super::trace::seconds;
use super::universe::Spec;
use crate::random::Random;

/// Reads messages as The ONE reports them when they are created (`CreatedMessagesReport`): time in
/// seconds, name, bytes, sender, addressee, time to live in minutes. `nodes` are the names of a
/// trace's nodes; The ONE puts a letter for the group before them here, but not there.
pub fn parse(text: &str, nodes: &[String]) -> Result<Vec<Spec>, String> {
    let numbers: BTreeMap<&str, u32> = nodes
        .iter()
        .enumerate()
        .map(|(number, name)| (name.as_str(), number as u32))
        .collect();
    let node = |name: &str| {
        let plain = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        // As it stands first: a trace may use letters, too.
        let number = numbers.get(name).or_else(|| numbers.get(plain)).copied();
        number.ok_or_else(|| format!("{name:?} never meets anybody in the trace"))
    };
    let mut specs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let read = || {
            let [at, _, bytes, from, to, minutes, ..] = fields[..] else {
                return Err("a line is 'TIME NAME BYTES FROM TO MINUTES'".to_owned());
            };
            let number = |text: &str| {
                let number = text.parse::<u64>();
                number.map_err(|_| format!("{text:?} is not a number"))
            };
            Ok(Spec {
                // A payload without bytes has no chunk group and could not be asked for.
                length: number(bytes)?.max(1),
                ttl: Duration::from_secs(number(minutes)?.saturating_mul(60)),
                ..message(node(from)?, node(to)?, seconds(at)?)
            })
        };
        specs.push(read().map_err(|error| format!("line {}: {error}", index + 1))?);
    }
    Ok(specs)
}

/// Makes messages: each at a random time before `end`, from a random node to a random other one.
pub(super) fn make(
    (count, nodes): (u64, u32),
    (length, ttl): (u64, Duration),
    end: Time,
    random: &mut Random,
) -> Vec<Spec> {
    let one = |_| {
        let from = random.below(u64::from(nodes));
        // Never to its sender.
        let to = (from + 1 + random.below(u64::from(nodes.max(2) - 1))) % u64::from(nodes.max(1));
        Spec {
            length,
            ttl,
            ..message(from as u32, to as u32, Time(random.below(end.0.max(1))))
        }
    };
    (0..count).map(one).collect()
}

const fn message(from: u32, to: u32, created: Time) -> Spec {
    Spec {
        publisher: from,
        priority: Priority::Vod,
        created,
        ttl: Duration::ZERO,
        segments: 1,
        length: 1,
        every: Duration::ZERO,
        to: Some(to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_the_one_is_read() {
        let nodes = ["19".to_owned(), "42".to_owned()];
        let text = "# time  ID  size\n32.5 M1 618834 c42 p19 300 N \n";
        let read = parse(text, &nodes).unwrap();
        let [it] = read[..] else {
            panic!("{read:?}");
        };
        assert_eq!((it.publisher, it.to, it.length), (1, Some(0), 618_834));
        assert_eq!(it.created, Time(32_500_000));
        assert_eq!(it.ttl, Duration::from_secs(18_000));
    }

    #[test]
    fn errors_name_the_line() {
        let nodes = ["1".to_owned()];
        for (text, what) in [
            ("1 M1 5 1 7 300", "line 1: \"7\" never meets anybody"),
            ("#\n1 M1 5 1", "line 2: a line is"),
            ("1 M1 big 1 1 300", "\"big\" is not a number"),
        ] {
            let error = parse(text, &nodes).unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }
}
