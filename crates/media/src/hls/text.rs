//! Numbers and attribute lists in playlists.

use crate::TICKS_PER_SECOND;

/// Whole seconds, rounded to the nearest.
pub(super) fn rounded(ticks: u64) -> u64 {
    ticks / TICKS_PER_SECOND + u64::from(ticks % TICKS_PER_SECOND >= TICKS_PER_SECOND / 2)
}

/// Seconds with six decimals, which tell every tick apart.
pub(super) fn seconds(ticks: u64) -> String {
    let whole = ticks / TICKS_PER_SECOND;
    let micros = (ticks % TICKS_PER_SECOND * 1_000_000 + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND;
    format!("{whole}.{micros:06}")
}

/// Ticks of decimal seconds, rounded to the nearest; nine decimals count.
pub(super) fn ticks(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    // By whole numbers: a float would not give back each tick that was written.
    let nanos: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u64 = nanos.parse().ok()?;
    let part = (nanos * TICKS_PER_SECOND + 500_000_000) / 1_000_000_000;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(TICKS_PER_SECOND)?
        .checked_add(part)
}

/// True when a URI can stand on a line of its own and in a quoted string.
pub(super) fn is_uri(uri: &str) -> bool {
    !uri.is_empty()
        && !uri.starts_with('#')
        && !uri
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '"')
}

/// A text without the characters that end a quoted string or a line.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() && *c != '"')
        .collect()
}

/// Names and values of an attribute list; quotes are removed. Ends at the first fault.
pub(super) fn attributes(mut rest: &str) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = quoted.split_once('"')?;
                (value, after.strip_prefix(',').unwrap_or(after))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        rest = after;
        Some((name.trim(), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_tell_every_tick() {
        assert_eq!(seconds(540_540), "6.006000");
        assert_eq!(seconds(1), "0.000011");
        assert_eq!(seconds(89_999), "0.999989");
        for tick in 0..TICKS_PER_SECOND {
            assert_eq!(ticks(&seconds(tick)), Some(tick));
        }
    }

    #[test]
    fn reads_decimals_of_others() {
        assert_eq!(ticks("9"), Some(810_000));
        assert_eq!(ticks("9.009"), Some(810_810));
        assert_eq!(ticks("9.99999999999999"), Some(900_000));
        assert_eq!(ticks("18446744073709551615"), None);
        for bad in ["", ".5", "-1", "1e3", "1.x", "\u{661}"] {
            assert_eq!(ticks(bad), None, "{bad}");
        }
    }

    #[test]
    fn rounds_halves_up() {
        assert_eq!(rounded(6 * 90_000 + 44_999), 6);
        assert_eq!(rounded(6 * 90_000 + 45_000), 7);
        assert_eq!(rounded(u64::MAX), u64::MAX / 90_000);
    }

    #[test]
    fn splits_attributes() {
        let list: Vec<_> = attributes("A=1,B=\"x,y=z\", C=D,E=\"broken").collect();
        assert_eq!(list, [("A", "1"), ("B", "x,y=z"), ("C", "D")]);
    }
}
