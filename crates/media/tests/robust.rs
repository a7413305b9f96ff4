//! No input makes anything panic, and every playlist that is written is read back the same.

mod common;

use std::sync::OnceLock;

use common::{drive, folder, make};
use lavant_media::hls::{
    MasterPlaylist, MediaPlaylist, MediaSegment, Playlist, PlaylistType, Start, Variant,
};
use lavant_media::{Config, Event, Format, cmaf, sniff, ts};
use proptest::prelude::*;

const CLIP: &str = "-f lavfi -i testsrc2=size=64x64:rate=10:duration=2 -f lavfi -i \
    sine=duration=2 -c:v libx264 -preset ultrafast -g 5 -c:a aac -b:a 32k";
const SMALL: Config = Config {
    target: 45_000,
    max_duration: 900_000,
    max_bytes: 1 << 20,
};

fn sample(format: Format) -> &'static [u8] {
    static TS: OnceLock<Vec<u8>> = OnceLock::new();
    static MP4: OnceLock<Vec<u8>> = OnceLock::new();
    let (cell, name, args) = match format {
        Format::TransportStream => (&TS, "sample.ts", "-f mpegts"),
        Format::Cmaf => (
            &MP4,
            "sample.mp4",
            "-movflags +empty_moov+default_base_moof+frag_keyframe",
        ),
    };
    cell.get_or_init(|| make(&folder("robust").join(name), &format!("{CLIP} {args}")))
}

/// Drives everything that reads bytes.
fn read_all(data: &[u8], piece: usize) {
    let _ = sniff(data);
    for format in [Format::TransportStream, Format::Cmaf] {
        let (events, _) = drive(format, SMALL, data, piece);
        for event in &events {
            let (Event::Init(bytes) | Event::Segment(lavant_media::Segment { data: bytes, .. })) =
                event;
            assert!(bytes.len() <= SMALL.max_bytes + 4096);
        }
    }
    let _ = ts::inspect(data);
    let _ = cmaf::inspect(None, data);
    let _ = cmaf::inspect_init(data);
    let _ = cmaf::inspect(Some(sample(Format::Cmaf)), data);
    let _ = Playlist::parse(&String::from_utf8_lossy(data));
}

fn uri() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9/._~%?=&:-]{1,20}"
}

fn segment() -> impl Strategy<Value = MediaSegment> {
    (uri(), 0u64..900_000, any::<bool>(), any::<bool>(), uri()).prop_map(
        |(uri, duration, discontinuity, gap, init)| MediaSegment {
            uri,
            duration,
            discontinuity,
            gap,
            init: Some(init),
            ..MediaSegment::default()
        },
    )
}

fn media() -> impl Strategy<Value = MediaPlaylist> {
    let kind = prop_oneof![
        Just(None),
        Just(Some(PlaylistType::Vod)),
        Just(Some(PlaylistType::Event))
    ];
    let start = proptest::option::of((-9_000_000_000i64..9_000_000_000, any::<bool>()));
    let parts = (
        any::<u64>(),
        any::<u64>(),
        kind,
        start,
        any::<bool>(),
        any::<bool>(),
    );
    (
        parts,
        proptest::collection::vec(segment(), 0..20),
        0usize..20,
    )
        .prop_map(
            |(
                (media_sequence, discontinuity_sequence, kind, start, independent, end),
                mut list,
                n,
            )| {
                list.iter_mut()
                    .take(n)
                    .for_each(|segment| segment.init = None);
                MediaPlaylist {
                    target_duration: 10,
                    media_sequence,
                    discontinuity_sequence,
                    kind,
                    start: start.map(|(offset, precise)| Start { offset, precise }),
                    independent_segments: independent,
                    segments: list,
                    end,
                    ..MediaPlaylist::default()
                }
            },
        )
}

fn variant() -> impl Strategy<Value = Variant> {
    let option = proptest::option::of::<BoxedStrategy<u32>>;
    (
        uri(),
        any::<u64>(),
        proptest::option::of(any::<u64>()),
        proptest::option::of("[a-z0-9.,]{0,20}"),
        proptest::option::of(any::<(u32, u32)>()),
        option((0u32..1_000_000).boxed()),
    )
        .prop_map(
            |(uri, bandwidth, average_bandwidth, codecs, resolution, millis)| Variant {
                uri,
                bandwidth,
                average_bandwidth,
                codecs,
                resolution,
                frame_rate: millis.map(|millis| f64::from(millis) / 1000.0),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn arbitrary_bytes(
        data in proptest::collection::vec(any::<u8>(), 0..4096),
        piece in 1usize..600,
    ) {
        read_all(&data, piece);
    }

    #[test]
    fn arbitrary_boxes(kinds in proptest::collection::vec((0usize..12, any::<Vec<u8>>()), 0..40)) {
        let names = [
            b"ftyp", b"moov", b"moof", b"mdat", b"traf", b"trun", b"tfhd", b"tfdt", b"sidx",
            b"free", b"trak", b"styp",
        ];
        let mut data = Vec::new();
        for (kind, body) in kinds {
            data.extend((body.len() as u32 + 8).to_be_bytes());
            data.extend(names[kind]);
            data.extend(body);
        }
        read_all(&data, 100);
    }

    #[test]
    fn mutated_streams(
        is_ts in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        near in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        piece in 100usize..70_000,
    ) {
        let format = if is_ts { Format::TransportStream } else { Format::Cmaf };
        let mut data = sample(format).to_vec();
        let range = if near { 2000 } else { data.len() };
        for (at, value) in changes {
            data[at.index(range)] = value;
        }
        data.truncate(cut.index(data.len()) + data.len() / 2);
        read_all(&data, piece);
        let whole = drive(format, SMALL, &data, data.len());
        prop_assert_eq!(whole.0, drive(format, SMALL, &data, 61).0);
    }

    #[test]
    fn media_playlists_are_read_back(list in media()) {
        let text = list.render().unwrap();
        prop_assert_eq!(Playlist::parse(&text), Ok(Playlist::Media(list)));
    }

    #[test]
    fn master_playlists_are_read_back(
        independent_segments in any::<bool>(),
        variants in proptest::collection::vec(variant(), 1..8),
    ) {
        let list = MasterPlaylist { independent_segments, variants };
        let text = list.render().unwrap();
        prop_assert_eq!(MasterPlaylist::parse(&text), Ok(list));
    }

    #[test]
    fn arbitrary_lines(
        lines in proptest::collection::vec(
            "(#EXT(M3U|INF|-X-(MAP|START|KEY|STREAM-INF|GAP))?:?)?.{0,20}",
            0..20,
        )
    ) {
        let _ = Playlist::parse(&format!("#EXTM3U\n{}", lines.join("\n")));
    }
}
