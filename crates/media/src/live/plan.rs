//! How long parts and segments become.

use crate::TICKS_PER_SECOND;

/// Ticks of a millisecond.
const MS: u64 = TICKS_PER_SECOND / 1000;
/// How much earlier than its target a segment may end: key frames at a nominal distance of the
/// target come a little early after rounding.
const TOLERANCE: u64 = 50 * MS;
/// The target duration where no second key frame came in time and the stream does not tell: most
/// encoders put one every 250 pictures when nobody says otherwise.
const GUESS_SECONDS: u64 = 10;
/// The longest target duration, in seconds.
const TARGET_MAX: u64 = 30;
/// The shortest part, as a share of the target (RFC 8216bis section 4.4.4.9), in percent.
const SHORTEST: u64 = 85;

/// How a live stream is cut. All lengths are in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a part is to be. Default: 1/3 s.
    pub part: u64,
    /// A segment ends at the first key frame from here on. Default: 2 s.
    pub segment: u64,
    /// The most bytes of a segment; a longer one is cut at a part. Default: 64 MiB.
    pub max_bytes: usize,
    /// The target duration in seconds, where a stream goes on that has one. Default: none.
    pub target: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            part: TICKS_PER_SECOND / 3,
            segment: 2 * TICKS_PER_SECOND,
            max_bytes: 64 << 20,
            target: None,
        }
    }
}

impl Config {
    /// The part target for frames at this distance: whole frames fill 85 to 100 % of it. Rounded
    /// up to a millisecond, which playlists write.
    pub(super) fn part_target(&self, interval: u64) -> u64 {
        let usual = round_up(self.part);
        let frames = usual.checked_div(interval).unwrap_or(0);
        if interval == 0 || frames * interval * 100 >= usual * SHORTEST {
            return usual;
        }
        round_up(interval * frames.max(1))
    }

    /// The longest that the first segment may wait for a second key frame before its target
    /// duration is guessed.
    pub(super) fn patience(&self) -> u64 {
        self.segment + 2 * TOLERANCE
    }

    /// True when a segment of that length ends at the next key frame.
    pub(super) fn is_due(&self, elapsed: u64) -> bool {
        elapsed + TOLERANCE >= self.segment
    }

    /// The target duration, in seconds, where key frames are `distance` ticks apart.
    pub(super) fn target_duration(&self, distance: u64) -> u64 {
        // So many of them make a segment.
        let count = self
            .segment
            .saturating_sub(TOLERANCE)
            .div_ceil(distance.max(1));
        self.seconds(count.max(1).saturating_mul(distance))
    }

    /// The target duration where only this is known: what the encoder says of its distance.
    pub(super) fn guess(&self, hint: Option<u64>) -> u64 {
        hint.map_or_else(
            || self.seconds(GUESS_SECONDS * TICKS_PER_SECOND),
            |hint| self.seconds(hint),
        )
    }

    fn seconds(&self, length: u64) -> u64 {
        let length = length.max(self.segment);
        // Durations are rounded to whole seconds before they are compared with the target
        // (RFC 8216bis section 4.4.3.1).
        (length.saturating_add(TICKS_PER_SECOND / 2) / TICKS_PER_SECOND).clamp(1, TARGET_MAX)
    }
}

fn round_up(ticks: u64) -> u64 {
    ticks.div_ceil(MS) * MS
}

/// The distance of key frames that an encoder has written into a picture, in pictures: x264 and
/// x265 put their options into a message (SEI) of the first one.
pub(super) fn written_distance(picture: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b" keyint=";
    // The message has about 700 bytes and stands before the picture's slices.
    let head = picture.get(..4096).unwrap_or(picture);
    let at = head.windows(KEY.len()).position(|window| window == KEY)?;
    let digits = head.get(at + KEY.len()..)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    // Five digits are a day of pictures; more is no distance.
    let digits = digits.get(..end).filter(|digits| digits.len() <= 5)?;
    std::str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_frames_fill_a_part() {
        let config = Config::default();
        for (rate, target) in [(60, 334), (30, 334), (25, 334), (24, 334), (10, 334)] {
            assert_eq!(config.part_target(90_000 / rate), target * 90, "{rate}");
        }
        // Two pictures of 125 ms would be 75 % of a third of a second; one of 200 ms 60 %.
        assert_eq!(config.part_target(90_000 / 8), 250 * 90);
        assert_eq!(config.part_target(90_000 / 5), 200 * 90);
        assert_eq!(config.part_target(90_000), 1000 * 90);
        assert_eq!(config.part_target(0), 334 * 90);
        for rate in 1..=120u64 {
            let interval = 90_000 / rate;
            let target = config.part_target(interval);
            let filled = target / interval * interval;
            assert!(
                filled * 100 >= target * SHORTEST,
                "{rate} pictures a second"
            );
        }
    }

    #[test]
    fn the_target_duration_follows_the_distance_of_key_frames() {
        let config = Config::default();
        for (distance, seconds) in [
            (3_600, 2),
            (90_000, 2),
            (90_090, 2),
            (180_000, 2),
            (135_000, 3),
            (250_000, 3),
            (750_000, 8),
            (u64::MAX, 30),
        ] {
            assert_eq!(config.target_duration(distance), seconds, "{distance}");
        }
        assert_eq!((config.guess(None), config.guess(Some(900_000))), (10, 10));
    }

    #[test]
    fn finds_what_x264_writes() {
        let text =
            b"\0\0\x02\xaa\x06\x05x264 - core 164 - options: cabac=1 keyint=60 keyint_min=6 ";
        assert_eq!(written_distance(text), Some(60));
        assert_eq!(written_distance(b"options: keyint=infinite "), None);
        assert_eq!(written_distance(b" keyint="), None);
        assert_eq!(written_distance(b" keyint=0 "), None);
        assert_eq!(written_distance(b" keyint=999999 "), None);
    }
}
