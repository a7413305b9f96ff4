//! Init segments and fragments, written (ISO/IEC 14496-12 sections 8.2 to 8.8; ISO/IEC 23000-19).

use bytes::Bytes;

use super::write::Boxes;
use crate::Kind;
use crate::frame::Track;

/// A picture that others depend on, and that depends on others (section 8.6.4).
const PLAIN: u32 = 0x0101_0000;
/// A picture that depends on none, and all sound.
const KEY: u32 = 0x0200_0000;
/// The matrix that leaves a picture as it is.
const UNITY: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// One sample of a fragment, in units of its track.
pub(crate) struct Sample {
    pub(crate) duration: u32,
    /// Presentation time after the decode time.
    pub(crate) offset: i32,
    pub(crate) key: bool,
    pub(crate) data: Bytes,
}

/// The samples of one track in a fragment.
pub(crate) struct Run {
    /// Number of the track, from 1 on.
    pub(crate) track: u32,
    /// Decode time of the first sample.
    pub(crate) time: u64,
    pub(crate) samples: Vec<Sample>,
}

/// The init segment of tracks, which are numbered from 1 on.
pub(crate) fn init(tracks: &[&Track]) -> Vec<u8> {
    let mut out = Boxes::default();
    out.nest(b"ftyp", |out| {
        out.put(b"iso6\0\0\0\0iso6cmfcmp41");
    });
    out.nest(b"moov", |out| {
        out.full(b"mvhd", 0, 0, |out| {
            // No dates, milliseconds, and no length: it lasts as long as fragments come.
            out.put(&[0; 8]);
            out.u32(1000);
            out.u32(0);
            // Normal speed, full volume.
            out.u32(0x1_0000);
            out.u16(0x100);
            out.put(&[0; 10]);
            UNITY.iter().for_each(|value| out.u32(*value));
            out.put(&[0; 24]);
            out.u32(numbered(tracks.len()));
        });
        for (index, track) in tracks.iter().enumerate() {
            out.nest(b"trak", |out| trak(out, numbered(index), track));
        }
        out.nest(b"mvex", |out| {
            for index in 0..tracks.len() {
                out.full(b"trex", 0, 0, |out| {
                    out.u32(numbered(index));
                    // The first sample entry; nothing else is common to all samples.
                    out.u32(1);
                    out.put(&[0; 12]);
                });
            }
        });
    });
    out.take()
}

/// The number of the track at an index.
pub(crate) fn numbered(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 1) + 1
}

fn trak(out: &mut Boxes, id: u32, track: &Track) {
    let is_video = track.kind() == Kind::Video;
    // Enabled, and part of the presentation.
    out.full(b"tkhd", 0, 3, |out| {
        out.put(&[0; 8]);
        out.u32(id);
        out.put(&[0; 16]);
        // Pictures lie in one layer; sounds are alternatives of one group.
        out.u16(0);
        out.u16(u16::from(!is_video));
        out.u16(if is_video { 0 } else { 0x100 });
        out.u16(0);
        UNITY.iter().for_each(|value| out.u32(*value));
        let side = |side: Option<u32>| side.unwrap_or(0).min(0xffff) << 16;
        out.u32(side(track.info.width));
        out.u32(side(track.info.height));
    });
    out.nest(b"mdia", |out| {
        out.full(b"mdhd", 0, 0, |out| {
            out.put(&[0; 8]);
            out.u32(track.timescale);
            out.u32(0);
            // "und": no language is known.
            out.u16(0x55c4);
            out.u16(0);
        });
        out.full(b"hdlr", 0, 0, |out| {
            out.u32(0);
            out.put(if is_video { b"vide" } else { b"soun" });
            out.put(&[0; 13]);
        });
        out.nest(b"minf", |out| {
            match is_video {
                true => out.full(b"vmhd", 0, 1, |out| out.put(&[0; 8])),
                false => out.full(b"smhd", 0, 0, |out| out.put(&[0; 4])),
            }
            out.nest(b"dinf", |out| {
                out.full(b"dref", 0, 0, |out| {
                    out.u32(1);
                    // In this file.
                    out.full(b"url ", 0, 1, |_| {});
                });
            });
            out.nest(b"stbl", |out| {
                out.full(b"stsd", 0, 0, |out| {
                    out.u32(1);
                    out.put(&track.entry);
                });
                // No samples outside of fragments.
                out.full(b"stts", 0, 0, |out| out.u32(0));
                out.full(b"stsc", 0, 0, |out| out.u32(0));
                out.full(b"stsz", 0, 0, |out| out.u64(0));
                out.full(b"stco", 0, 0, |out| out.u32(0));
            });
        });
    });
}

/// A fragment (`moof` and `mdat`) of the samples of some tracks.
pub(crate) fn fragment(sequence: u32, runs: &[Run]) -> Vec<u8> {
    let samples = runs.iter().flat_map(|run| &run.samples);
    let (count, payload) = samples.fold((0, 0), |(count, sum), sample| {
        (count + 1, sum + sample.data.len())
    });
    let mut out = Boxes::with_capacity(160 + count * 16 + payload);
    // Where each run's offset is written once the header's length is known.
    let mut offsets = Vec::new();
    out.nest(b"moof", |out| {
        out.full(b"mfhd", 0, 0, |out| out.u32(sequence));
        for run in runs {
            out.nest(b"traf", |out| offsets.push(traf(out, run)));
        }
    });
    // Data begins behind the header of `mdat`.
    let mut at = out.len() + 8;
    for (place, run) in offsets.into_iter().zip(runs) {
        out.patch(place, u32::try_from(at).unwrap_or(u32::MAX));
        at += run
            .samples
            .iter()
            .map(|sample| sample.data.len())
            .sum::<usize>();
    }
    out.nest(b"mdat", |out| {
        for sample in runs.iter().flat_map(|run| &run.samples) {
            out.put(&sample.data);
        }
    });
    out.take()
}

/// What all samples of a run have in common stands once; the rest by sample.
fn traf(out: &mut Boxes, run: &Run) -> usize {
    let samples = &run.samples;
    let first = samples.first();
    let duration = first.map_or(0, |sample| sample.duration);
    let same_duration = samples.iter().all(|sample| sample.duration == duration);
    let no_offset = samples.iter().all(|sample| sample.offset == 0);
    let rest = samples.get(1).or(first).is_some_and(|sample| sample.key);
    let same_flags = samples.iter().skip(1).all(|sample| sample.key == rest);
    let first_differs = same_flags && first.is_some_and(|sample| sample.key != rest);
    let flags = |key: bool| if key { KEY } else { PLAIN };
    // Offsets count from the `moof`; a default length and default flags.
    let header = 0x2_0000 | if same_duration { 8 } else { 0 } | if same_flags { 0x20 } else { 0 };
    out.full(b"tfhd", 0, header, |out| {
        out.u32(run.track);
        if same_duration {
            out.u32(duration);
        }
        if same_flags {
            out.u32(flags(rest));
        }
    });
    out.full(b"tfdt", 1, 0, |out| out.u64(run.time));
    let fields = 0x201
        | if first_differs { 4 } else { 0 }
        | if same_duration { 0 } else { 0x100 }
        | if same_flags { 0 } else { 0x400 }
        | if no_offset { 0 } else { 0x800 };
    let mut place = 0;
    // Version 1: offsets have a sign.
    out.full(b"trun", 1, fields, |out| {
        out.u32(u32::try_from(samples.len()).unwrap_or(u32::MAX));
        place = out.len();
        out.u32(0);
        if first_differs {
            out.u32(flags(!rest));
        }
        for sample in samples {
            if !same_duration {
                out.u32(sample.duration);
            }
            out.u32(u32::try_from(sample.data.len()).unwrap_or(u32::MAX));
            if !same_flags {
                out.u32(flags(sample.key));
            }
            if !no_offset {
                out.u32(sample.offset.cast_unsigned());
            }
        }
    });
    place
}
