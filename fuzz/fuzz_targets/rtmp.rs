//! Hears arbitrary bytes as a publisher by RTMP and as an FLV file, whatever the division into
//! pieces, and packs what comes of it.
#![no_main]

use lavant_media::frame::{Demuxer, Item};
use lavant_media::live::Packager;
use lavant_media::rtmp::{Config, Error, Event, Flv, Session};
use libfuzzer_sys::fuzz_target;

const MAX_INPUT: usize = 256 << 10;

fn hear(data: &[u8], piece: usize) -> (Vec<Event>, Result<(), Error>) {
    let mut session = Session::new(Config::default(), [7; 32]);
    // The handshake, in which nothing is to be found.
    let mut result = session.push(&[3; 1 + 1536]).and(session.push(&[0; 1536]));
    let mut events = Vec::new();
    for bytes in data.chunks(piece.max(1)) {
        result = result.and(session.push(bytes));
        while let Some(event) = session.pop() {
            if matches!(event, Event::Publish(_)) {
                session.accept();
            }
            events.push(event);
        }
        let _ = session.take_output();
        // What waited for the acceptance may be wrong.
        result = result.and(session.push(&[]));
        if result.is_err() {
            break;
        }
    }
    (events, result)
}

fn file(data: &[u8], piece: usize) -> Vec<Item> {
    let mut flv = Flv::new();
    let mut items = Vec::new();
    for bytes in data.chunks(piece.max(1)) {
        let result = flv.push(bytes);
        items.extend(std::iter::from_fn(|| flv.pop()));
        if result.is_err() {
            break;
        }
    }
    items
}

fn pack(items: Vec<Item>) {
    let mut packager = Packager::new(Default::default());
    for item in items {
        let _ = packager.push(item);
        while packager.pop().is_some() {}
    }
    packager.flush();
}

fuzz_target!(|data: &[u8]| {
    let data = data.get(..MAX_INPUT).unwrap_or(data);
    let (events, result) = hear(data, data.len());
    let divided = hear(data, 97);
    // Too many answers at once is an error of the division.
    if !matches!(result, Err(Error::LimitReached { .. })) {
        assert!(
            (&events, &result) == (&divided.0, &divided.1),
            "the division matters"
        );
    }
    let items = file(data, data.len());
    assert!(items == file(data, 97), "the division changes the items");
    pack(items);
    let item = |event| match event {
        Event::Item(item) => Some(item),
        _ => None,
    };
    pack(events.into_iter().filter_map(item).collect());
});
