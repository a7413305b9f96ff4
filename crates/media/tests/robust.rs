//! No input makes anything panic, and every playlist that is written is read back the same.

mod common;

use std::sync::OnceLock;

use common::rtmp::{record, replay};
use common::{drive, folder, make};
use lavant_media::frame::{Demuxer, Item};
use lavant_media::hls::{
    MasterPlaylist, MediaPlaylist, MediaSegment, Playlist, PlaylistType, Start, Variant,
};
use lavant_media::{Config, Error, Event, Format, cmaf, live, rtmp, sniff, ts};
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

/// What ffmpeg sends by RTMP, from its first byte.
fn publisher() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| record(CLIP, "live/key").bytes)
}

/// The same media in a file.
fn flv() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| make(&folder("robust").join("sample.flv"), CLIP))
}

/// Takes bytes apart. What comes out is no more than what went in: every frame has bytes of its
/// own, and so has every header.
fn demux(demuxer: &mut dyn Demuxer, data: &[u8], piece: usize) -> (Vec<Item>, Result<(), Error>) {
    let mut items = Vec::new();
    let mut result = Ok(());
    for bytes in data.chunks(piece.max(1)) {
        result = demuxer.push(bytes);
        items.extend(std::iter::from_fn(|| demuxer.pop()));
        if result.is_err() {
            break;
        }
    }
    result = result.and(demuxer.finish());
    items.extend(std::iter::from_fn(|| demuxer.pop()));
    assert!(items.len() <= data.len() + 1, "{} items", items.len());
    let size = |item: &Item| match item {
        Item::Frame(frame) => frame.data.len(),
        _ => 0,
    };
    let size: usize = items.iter().map(size).sum();
    // A start code of three bytes becomes a length of four.
    assert!(size <= data.len() * 4 / 3, "{size} bytes of {}", data.len());
    (items, result)
}

/// Packs items: what comes out is no more than what went in, with headers.
fn pack(items: Vec<Item>) {
    let config = live::Config {
        max_bytes: 1 << 20,
        ..Default::default()
    };
    let mut packager = live::Packager::new(config);
    let mut frames = 0;
    for item in items {
        frames += usize::from(matches!(item, Item::Frame(_)));
        let _ = packager.push(item);
        while let Some(event) = packager.pop() {
            if let live::Event::Part(part) = event {
                assert!(part.data.len() <= config.max_bytes + (64 << 10));
                frames = frames.saturating_sub(1);
            }
        }
    }
    packager.flush();
    let rest = std::iter::from_fn(|| packager.pop()).count();
    assert!(rest <= 4 * frames + 16, "{rest} events of {frames} frames");
}

/// Takes bytes apart by every demuxer, in pieces and at once.
fn demux_all(data: &[u8], piece: usize) {
    let all: [fn() -> Box<dyn Demuxer>; 3] = [
        || Box::new(ts::Demuxer::default()),
        || Box::new(cmaf::Demuxer::default()),
        || Box::new(rtmp::Flv::new()),
    ];
    for make in all {
        let whole = demux(&mut *make(), data, data.len());
        assert!(whole == demux(&mut *make(), data, piece));
        pack(whole.0);
    }
}

/// Drives everything that reads bytes.
fn read_all(data: &[u8], piece: usize) {
    let _ = sniff(data);
    demux_all(data, piece);
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

/// Bytes with some of them changed (near the beginning, or anywhere), and cut off in their second
/// half.
fn mutated(
    data: &[u8],
    changes: Vec<(prop::sample::Index, u8)>,
    near: bool,
    cut: prop::sample::Index,
) -> Vec<u8> {
    let mut data = data.to_vec();
    let range = if near { 2000 } else { data.len() };
    for (at, value) in changes {
        data[at.index(range)] = value;
    }
    data.truncate(cut.index(data.len()) + data.len() / 2);
    data
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
        let data = mutated(sample(format), changes, near, cut);
        read_all(&data, piece);
        let whole = drive(format, SMALL, &data, data.len());
        prop_assert_eq!(whole.0, drive(format, SMALL, &data, 61).0);
    }

    #[test]
    fn mutated_flv(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        near in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        piece in 1usize..5000,
    ) {
        demux_all(&mutated(flv(), changes, near, cut), piece);
    }

    #[test]
    fn mutated_publishers(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        near in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        piece in 1usize..5000,
    ) {
        // Beyond the handshake, in which nothing can break.
        let (hands, session) = publisher().split_at(1 + 2 * 1536);
        let data = [hands, &mutated(session, changes, near, cut)].concat();
        let whole = replay(&data, data.len());
        prop_assert!(whole == replay(&data, piece));
        let item = |event| match event {
            rtmp::Event::Item(item) => Some(item),
            _ => None,
        };
        pack(whole.0.into_iter().filter_map(item).collect());
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
