//! One fragment (`moof`): when its samples are, and whether it begins with a key frame.

use super::boxes::{self, Children, Reader};
use super::init::Track;
use crate::{Error, TICKS_PER_SECOND};

/// The sample flag of pictures that need others.
pub(super) const NOT_SYNC: u32 = 0x0001_0000;
/// A time in ticks beyond which arithmetic would not be safe.
const MAX_TICKS: u128 = 1 << 62;

/// What a fragment holds of one track. Times are in units of the track's time scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Decode time of the first sample, where it is told.
    pub(super) time: Option<u64>,
    pub(super) duration: u64,
    pub(super) samples: u64,
    /// True when the first sample is a key frame.
    pub(super) key: bool,
}

/// Defaults of the track in one fragment.
struct Defaults {
    duration: u32,
    flags: u32,
}

/// Converts a time of a track to ticks.
pub(super) fn ticks(time: u64, timescale: u32) -> u64 {
    // In 128 bits: 64 bits times 90,000 do not fit in fewer.
    let scale = u128::from(timescale.max(1));
    let ticks = (u128::from(time) * u128::from(TICKS_PER_SECOND) + scale / 2) / scale;
    ticks.min(MAX_TICKS) as u64
}

/// Reads the body of a `moof` box; `None` when it holds no samples of the track.
pub(super) fn read(moof: &[u8], track: &Track) -> Result<Option<Fragment>, Error> {
    let mut found: Option<Fragment> = None;
    for child in Children::of(moof) {
        let (kind, body) = child?;
        if kind != *b"traf" {
            continue;
        }
        let Some(defaults) = header(boxes::need(body, b"tfhd")?, track)? else {
            continue;
        };
        let fragment = runs(body, &defaults)?;
        match &mut found {
            None => found = fragment,
            Some(all) => {
                let more = fragment.map_or((0, 0), |more| (more.duration, more.samples));
                // A track may have several runs of its own box; time and key frame are those of the
                // first.
                all.duration = all.duration.saturating_add(more.0);
                all.samples = all.samples.saturating_add(more.1);
            }
        }
    }
    Ok(found)
}

/// Reads a fragment header; `None` for another track.
fn header(tfhd: &[u8], track: &Track) -> Result<Option<Defaults>, Error> {
    let mut reader = Reader::new(tfhd);
    let (_, flags) = reader.full()?;
    // An offset from the start of the file (ISO/IEC 14496-12 section 8.8.7) is wrong once it is
    // cut.
    if flags & 1 != 0 {
        return Err(Error::AbsoluteOffsets);
    }
    if reader.u32()? != track.id {
        return Ok(None);
    }
    let mut defaults = Defaults {
        duration: track.default_duration,
        flags: track.default_flags,
    };
    // Fields stand in this order, each only where its flag is set.
    if flags & 2 != 0 {
        reader.skip(4)?;
    }
    if flags & 8 != 0 {
        defaults.duration = reader.u32()?;
    }
    if flags & 0x10 != 0 {
        reader.skip(4)?;
    }
    if flags & 0x20 != 0 {
        defaults.flags = reader.u32()?;
    }
    Ok(Some(defaults))
}

fn runs(traf: &[u8], defaults: &Defaults) -> Result<Option<Fragment>, Error> {
    let mut fragment = Fragment {
        time: None,
        duration: 0,
        samples: 0,
        key: false,
    };
    for child in Children::of(traf) {
        match child? {
            (kind, body) if kind == *b"tfdt" => {
                let mut reader = Reader::new(body);
                let (version, _) = reader.full()?;
                fragment.time = Some(reader.word(version)?);
            }
            (kind, body) if kind == *b"trun" => run(body, defaults, &mut fragment)?,
            _ => {}
        }
    }
    Ok((fragment.samples > 0).then_some(fragment))
}

fn run(trun: &[u8], defaults: &Defaults, fragment: &mut Fragment) -> Result<(), Error> {
    let mut reader = Reader::new(trun);
    let (_, flags) = reader.full()?;
    let count = reader.u32()?;
    if flags & 1 != 0 {
        reader.skip(4)?;
    }
    let mut first = (flags & 4 != 0).then(|| reader.u32()).transpose()?;
    // Four fields of a sample, of 4 bytes each (section 8.8.8).
    let fields = (flags >> 8 & 15).count_ones() as usize;
    let entries = reader.rest();
    // Before the loop, whose length the input says: it has no more turns than there are bytes.
    if (count as usize)
        .checked_mul(fields * 4)
        .is_none_or(|len| len > entries.len())
    {
        return Err(Error::malformed("a track run is longer than its box"));
    }
    let mut duration = u64::from(count).saturating_mul(u64::from(defaults.duration));
    // Only where samples have durations or flags of their own.
    if flags & 0x500 != 0 {
        let mut sum = 0u64;
        for _ in 0..count {
            let lasts = if flags & 0x100 != 0 {
                reader.u32()?
            } else {
                defaults.duration
            };
            sum = sum.saturating_add(u64::from(lasts));
            reader.skip(if flags & 0x200 != 0 { 4 } else { 0 })?;
            if flags & 0x400 != 0 {
                let own = reader.u32()?;
                first.get_or_insert(own);
            }
            reader.skip(if flags & 0x800 != 0 { 4 } else { 0 })?;
        }
        duration = sum;
    }
    if fragment.samples == 0 && count > 0 {
        fragment.key = first.unwrap_or(defaults.flags) & NOT_SYNC == 0;
    }
    fragment.duration = fragment.duration.saturating_add(duration);
    fragment.samples = fragment.samples.saturating_add(u64::from(count));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::boxes::tests::make;
    use super::*;
    use crate::StreamInfo;

    fn track() -> Track {
        let info = StreamInfo::video("x");
        Track {
            id: 1,
            info,
            timescale: 1000,
            default_duration: 40,
            default_flags: NOT_SYNC,
            default_size: 0,
            entry: bytes::Bytes::new(),
        }
    }

    fn moof(trun: &[u8]) -> Vec<u8> {
        let tfhd = make(b"tfhd", &[0, 2, 0, 0, 0, 0, 0, 1]);
        let tfdt = make(b"tfdt", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 232]);
        make(b"traf", &[tfhd, tfdt, make(b"trun", trun)].concat())
    }

    #[test]
    fn reads_times_and_the_first_flags() {
        let body = moof(&[0, 0, 0, 4, 0, 0, 0, 25, 2, 0, 0, 0]);
        let fragment = read(&body, &track()).unwrap().unwrap();
        assert_eq!(
            fragment,
            Fragment {
                time: Some(1000),
                duration: 1000,
                samples: 25,
                key: true
            }
        );
        let body = moof(&[0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 9]);
        let fragment = read(&body, &track()).unwrap().unwrap();
        assert_eq!((fragment.duration, fragment.key), (16, false));
        assert_eq!(read(&body, &Track { id: 2, ..track() }), Ok(None));
    }

    #[test]
    fn refuses_runs_longer_than_their_box() {
        let body = moof(&[0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 7]);
        assert!(matches!(
            read(&body, &track()),
            Err(Error::Malformed { .. })
        ));
        let body = moof(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(
            read(&body, &track()).unwrap().unwrap().duration,
            0xffff_ffff * 40
        );
    }

    #[test]
    fn conversion_never_overflows() {
        assert_eq!(ticks(1001, 30_000), 3003);
        assert_eq!(ticks(u64::MAX, 1), 1 << 62);
    }
}
