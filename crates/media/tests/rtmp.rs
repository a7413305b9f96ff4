//! Hears ffmpeg over a socket, and publishers that are written by hand; has ffmpeg decode what
//! becomes of it.

mod common;

use common::packed::{Packed, frames, items, pack, packets};
use common::rtmp::{Client, Recorded, record, replay};
use common::{folder, hashes, make};
use lavant_media::frame::{Frame, Item};
use lavant_media::rtmp::{Event, Flv, Notice};
use lavant_media::{Kind, cmaf, live};

const SOURCE: &str = "-f lavfi -i testsrc2=size=320x180:rate=30:duration=6 -f lavfi -i \
    sine=frequency=440:sample_rate=44100:duration=6";
const CODED: &str = "-c:v libx264 -preset ultrafast -bf 2 -g 60 -pix_fmt yuv420p -c:a aac";

fn items_of(events: &[Event]) -> Vec<Item> {
    let item = |event: &Event| match event {
        Event::Item(item) => Some(item.clone()),
        _ => None,
    };
    events.iter().filter_map(item).collect()
}

fn count(frames: &[Frame], track: usize) -> usize {
    frames.iter().filter(|frame| frame.track == track).count()
}

/// Decode times of each track must rise, and no picture is shown before it is decoded.
fn check_times(frames: &[Frame]) {
    for track in 0..2 {
        let own = frames.iter().filter(|frame| frame.track == track);
        let times: Vec<i64> = own.clone().map(|frame| frame.dts).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "track {track}: {times:?}");
        assert!(own.clone().all(|frame| frame.pts >= frame.dts));
    }
}

/// The packed frames must be decoded as those of the source are.
fn check_packed(name: &str, packed: &Packed, source: &[(String, String)]) {
    let path = folder(name).join("packed.mp4");
    let found = packed.hashes(&path);
    assert!(
        found == source,
        "{} of {} frames",
        found.len(),
        source.len()
    );
}

#[test]
fn ffmpeg_publishes_h264_with_pictures_out_of_order_and_aac() {
    let folder = folder("rtmp_ffmpeg");
    let source = folder.join("source.flv");
    let file = make(&source, &format!("{SOURCE} {CODED}"));
    let path = source.to_str().unwrap();
    let Recorded {
        bytes,
        events,
        dropped,
    } = record(&format!("-i {path} -c copy"), "live/KEY?token=x");
    let Some(Event::Publish(publish)) = events.first() else {
        panic!("{:?} comes first", events.first())
    };
    assert_eq!((&publish.app[..], &publish.key[..]), ("live", "KEY"));
    assert_eq!(publish.query.as_deref(), Some("token=x"));
    assert!(publish.url.starts_with("rtmp://127.0.0.1:"));
    assert_eq!(events.last(), Some(&Event::Unpublish));
    let metadata = events.iter().find_map(|event| match event {
        Event::Metadata(metadata) => Some(metadata),
        _ => None,
    });
    let metadata = metadata.unwrap();
    assert_eq!((metadata.width, metadata.height), (Some(320), Some(180)));
    assert_eq!(dropped, 0);

    let found = items_of(&events);
    let got = frames(&found);
    assert_eq!((count(&got, 0), count(&got, 1)), packets(&source));
    assert_eq!(count(&got, 0), 180);
    check_times(&got);
    let keys = got.iter().filter(|frame| frame.track == 0 && frame.key);
    assert_eq!(keys.count(), 3);
    assert!(got.iter().any(|frame| frame.pts > frame.dts));
    // The file has the same, by its tags.
    let by_file = items(&mut Flv::new(), &file, 64 << 10);
    assert_eq!(frames(&by_file), got);

    let packed = pack(live::Config::default(), found);
    assert_eq!(packed.segments.len(), 3);
    assert!(packed.segments.iter().all(|it| it.independent));
    assert_eq!(packed.frames().len(), got.len());
    check_packed("rtmp_ffmpeg", &packed, &hashes(&source));
    check_packed(
        "rtmp_ffmpeg",
        &pack(live::Config::default(), by_file),
        &hashes(&source),
    );

    for piece in [1, 127, 4096, bytes.len()] {
        let (other, result) = replay(&bytes, piece);
        assert_eq!(result, Ok(()));
        assert!(other == events, "pieces of {piece} bytes");
    }
}

#[test]
fn sound_alone_and_pictures_alone_are_published() {
    let sound = "-f lavfi -i sine=sample_rate=48000:duration=3 -c:a aac";
    let video = "-f lavfi -i testsrc2=size=64x64:rate=25:duration=3 -c:v libx264 -g 25";
    for (name, args, track) in [("rtmp_sound", sound, 1), ("rtmp_pictures", video, 0)] {
        let source = folder(name).join("source.flv");
        make(&source, args);
        let args = format!("-i {} -c copy", source.to_str().unwrap());
        let recorded = record(&args, "live/key");
        let found = items_of(&recorded.events);
        let got = frames(&found);
        assert_eq!(count(&got, track), got.len());
        check_times(&got);
        let packed = pack(live::Config::default(), found);
        check_packed(name, &packed, &hashes(&source));
    }
}

/// A box of a sample entry, without its header.
fn config<'a>(entry: &'a [u8], kind: &[u8; 4]) -> &'a [u8] {
    let at = entry.windows(4).position(|four| four == kind).unwrap();
    let size = u32::from_be_bytes(*entry[at - 4..].first_chunk().unwrap());
    &entry[at + 4..at - 4 + size as usize]
}

/// The identification header of Opus, which is little-endian (RFC 7845 section 5.1).
fn opus_head(dops: &[u8]) -> Vec<u8> {
    let [_, channels, s1, s0, r3, r2, r1, r0, g1, g0, family] = *dops else {
        panic!("a box of a mono or stereo stream")
    };
    let fields = [channels, s0, s1, r0, r1, r2, r3, g0, g1, family];
    [&b"OpusHead\x01"[..], &fields].concat()
}

/// How an enhanced message is dressed.
#[derive(Clone, Copy)]
enum Dress {
    Plain,
    /// With nanoseconds before it.
    Modified,
    /// As track 0 alone.
    Single,
    /// As track 0 behind a track 1.
    Several,
}

/// The body of an enhanced message.
fn enhanced(dress: Dress, kind: Kind, key: bool, packet: (u8, &[u8; 4], &[u8])) -> Vec<u8> {
    let (number, name, body) = packet;
    // Sound has the number 9; pictures have a bit, and whether they are keys.
    let first = match (kind, key) {
        (Kind::Audio, _) | (Kind::Video, true) => 0x90,
        (Kind::Video, false) => 0xa0,
    };
    let multitrack = first | if kind == Kind::Audio { 5 } else { 6 };
    let [_, a, b, c] = (body.len() as u32).to_be_bytes();
    match dress {
        Dress::Plain => [&[first | number][..], name, body].concat(),
        Dress::Modified => [&[first | 7, 2, 0, 0, 9, number][..], name, body].concat(),
        Dress::Single => [&[multitrack, number][..], name, &[0], body].concat(),
        Dress::Several => {
            let head = [multitrack, 0x10 | number];
            let other = [1, 0, 0, 2, 0xde, 0xad];
            [&head[..], name, &other, &[0, a, b, c], body].concat()
        }
    }
}

/// Publishes what a fragmented MP4 file has by Enhanced RTMP. Its video is named and described as
/// `video` says.
fn publish_enhanced(items: &[Item], video: (&[u8; 4], &[u8; 4]), dress: Dress) -> Vec<u8> {
    let mut client = Client::publishing();
    let mut kinds = [Kind::Video; 2];
    for item in items {
        match item {
            Item::Track(number, track) => {
                let kind = track.kind();
                kinds[*number] = kind;
                let (to, name, head) = match kind {
                    Kind::Video => (9, video.0, config(&track.entry, video.1).to_vec()),
                    Kind::Audio => (8, b"Opus", opus_head(config(&track.entry, b"dOps"))),
                };
                client.message(to, 0, &enhanced(dress, kind, true, (0, name, &head)));
            }
            Item::Frame(frame) => {
                let (to, name, kind) = match kinds[frame.track] {
                    Kind::Video => (9, video.0, Kind::Video),
                    Kind::Audio => (8, b"Opus", Kind::Audio),
                };
                let shift = ((frame.pts - frame.dts) / 90) as u32;
                let (packet, shift) = match (name, shift) {
                    (b"hvc1", 0) => (3, vec![]),
                    (b"hvc1", _) => (1, shift.to_be_bytes()[1..].to_vec()),
                    _ => (1, vec![]),
                };
                let data = [&shift[..], &frame.data].concat();
                let body = enhanced(dress, kind, frame.key, (packet, name, &data));
                client.message(to, (frame.dts / 90) as u32, &body);
            }
            _ => {}
        }
    }
    client.unpublish();
    client.bytes
}

#[test]
fn hevc_av1_vp9_and_opus_come_by_enhanced_rtmp() {
    let source = "-f lavfi -i testsrc2=size=160x90:rate=25:duration=3 -f lavfi -i \
        sine=sample_rate=48000:duration=3 -c:a libopus -b:a 32k -pix_fmt yuv420p";
    let hevc =
        "-c:v libx265 -preset ultrafast -bf 2 -x265-params keyint=25:log-level=0 -tag:v hvc1";
    let av1 = "-c:v libsvtav1 -preset 12 -g 25 -svtav1-params enable-stat-report=0";
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 25";
    let fragments = "-movflags +empty_moov+default_base_moof+frag_keyframe -strict -2";
    let dresses = [Dress::Plain, Dress::Modified, Dress::Single, Dress::Several];
    for (name, codec, video) in [
        ("rtmp_hevc", hevc, (b"hvc1", b"hvcC")),
        ("rtmp_av1", av1, (b"av01", b"av1C")),
        ("rtmp_vp9", vp9, (b"vp09", b"vpcC")),
    ] {
        let path = folder(name).join("source.mp4");
        let file = make(&path, &format!("{source} {codec} {fragments}"));
        let sent = items(&mut cmaf::Demuxer::default(), &file, 64 << 10);
        let mut hashes_of = hashes(&path);
        for dress in dresses {
            let bytes = publish_enhanced(&sent, video, dress);
            let (events, result) = replay(&bytes, 4096);
            assert_eq!((result, events.last()), (Ok(()), Some(&Event::Unpublish)));
            let told = events.iter().filter_map(|event| match event {
                Event::Notice(notice) => Some(notice),
                _ => None,
            });
            let more = [Kind::Video, Kind::Audio].map(|kind| Notice::FurtherTracks { kind });
            match dress {
                Dress::Several => assert!(told.eq(&more)),
                _ => assert_eq!(told.count(), 0),
            }
            let found = items_of(&events);
            let (got, expected) = (frames(&found), frames(&sent));
            check_times(&got);
            assert_eq!(got.len(), expected.len());
            for (got, sent) in got.iter().zip(&expected) {
                assert_eq!((got.track, got.key), (sent.track, sent.key));
                assert!(got.dts.abs_diff(sent.dts) < 90 && got.data == sent.data);
            }
            // The order of streams is that of their numbers: pictures first.
            hashes_of.sort();
            let mut packed =
                pack(live::Config::default(), found).hashes(&path.with_extension("out"));
            packed.sort();
            assert!(packed == hashes_of, "{name}");
        }
    }
}
