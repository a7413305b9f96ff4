//! Range requests (RFC 9110 section 14): one range of bytes.

use std::ops::Range;

/// What a Range header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything: no header, several ranges, or a unit that is not bytes.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing that exists.
    Unsatisfiable,
}

/// Reads a Range header for something of `length` bytes.
pub(super) fn parse(header: Option<&str>, length: u64) -> Wanted {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    // What is not understood is answered with everything, which RFC 9110 (section 14.2) always
    // allows.
    let Some((first, last)) = spec.split_once('-') else {
        return Wanted::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => return Wanted::Whole,
        (true, false) => match number(last) {
            // The last 0 bytes are none.
            Some(0) => return Wanted::Unsatisfiable,
            // A suffix longer than the whole is the whole.
            Some(suffix) => length.saturating_sub(suffix)..length,
            None => return Wanted::Whole,
        },
        (false, true) => match number(first) {
            Some(first) => first..length,
            None => return Wanted::Whole,
        },
        (false, false) => match (number(first), number(last)) {
            // A last byte may lie beyond the end, up to 2^64 - 1.
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
            _ => return Wanted::Whole,
        },
    };
    if range.start >= length {
        Wanted::Unsatisfiable
    } else {
        Wanted::Part(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_served_and_odd_ones_ignored() {
        let cases = [
            (None, Wanted::Whole),
            (Some("bytes=0-0"), Wanted::Part(0..1)),
            (Some("bytes=5-"), Wanted::Part(5..10)),
            (Some("bytes=-3"), Wanted::Part(7..10)),
            (Some("bytes=-30"), Wanted::Part(0..10)),
            (Some("bytes=2-99"), Wanted::Part(2..10)),
            (Some("bytes=2-18446744073709551615"), Wanted::Part(2..10)),
            (Some("bytes=10-"), Wanted::Unsatisfiable),
            (Some("bytes=-0"), Wanted::Unsatisfiable),
            (Some("bytes=4-2"), Wanted::Whole),
            (Some("bytes=a-b"), Wanted::Whole),
            (Some("bytes=0-1,3-4"), Wanted::Whole),
            (Some("lines=0-1"), Wanted::Whole),
            (Some("bytes=-"), Wanted::Whole),
        ];
        for (header, wanted) in cases {
            assert_eq!(parse(header, 10), wanted, "{header:?}");
        }
        assert_eq!(parse(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }
}
