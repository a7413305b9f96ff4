//! Cuts and inspects arbitrary bytes as transport streams, whatever the division into pieces.
#![no_main]

use lavant_media::frame::{Demuxer, Item};
use lavant_media::live::Packager;
use lavant_media::{Config, Error, Event, Format, ts};
use libfuzzer_sys::fuzz_target;

const MAX_INPUT: usize = 256 << 10;
const CONFIG: Config = Config {
    target: 90_000,
    max_duration: 900_000,
    max_bytes: 128 << 10,
};

fn cut(data: &[u8], piece: usize) -> (Vec<Event>, Result<(), Error>) {
    let mut segmenter = Format::TransportStream.segmenter(CONFIG);
    let mut events = Vec::new();
    for bytes in data.chunks(piece.max(1)) {
        let result = segmenter.push(bytes);
        events.extend(std::iter::from_fn(|| segmenter.pop()));
        if result.is_err() {
            return (events, result);
        }
    }
    let result = segmenter.finish();
    events.extend(std::iter::from_fn(|| segmenter.pop()));
    (events, result)
}

fn demux(data: &[u8], piece: usize) -> Vec<Item> {
    let mut demuxer = ts::Demuxer::default();
    let mut items = Vec::new();
    for bytes in data.chunks(piece.max(1)) {
        let result = demuxer.push(bytes);
        items.extend(std::iter::from_fn(|| demuxer.pop()));
        if result.is_err() {
            return items;
        }
    }
    let _ = demuxer.finish();
    items.extend(std::iter::from_fn(|| demuxer.pop()));
    items
}

fuzz_target!(|data: &[u8]| {
    let data = data.get(..MAX_INPUT).unwrap_or(data);
    let (events, result) = cut(data, data.len());
    let (divided, other) = cut(data, 97);
    assert_eq!(result.is_ok(), other.is_ok());
    assert!(events == divided, "the division changes the segments");
    let _ = ts::inspect(data);
    let items = demux(data, data.len());
    assert!(items == demux(data, 97), "the division changes the items");
    let mut packager = Packager::new(Default::default());
    for item in items {
        let _ = packager.push(item);
        while packager.pop().is_some() {}
    }
    packager.flush();
});
