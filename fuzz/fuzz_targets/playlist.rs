//! Reads arbitrary text as a playlist; what can be written again must be read back the same.
#![no_main]

use lavant_media::hls::{MasterPlaylist, MediaPlaylist, Playlist};
use libfuzzer_sys::fuzz_target;

const MAX_INPUT: usize = 64 << 10;

fuzz_target!(|data: &[u8]| {
    let data = data.get(..MAX_INPUT).unwrap_or(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Playlist::parse(text) {
        Ok(Playlist::Media(list)) => {
            if let Ok(text) = list.render() {
                assert_eq!(MediaPlaylist::parse(&text), Ok(list));
            }
        }
        Ok(Playlist::Master(list)) => {
            if let Ok(text) = list.render() {
                let read = MasterPlaylist::parse(&text).map(|list| list.variants.len());
                assert_eq!(read, Ok(list.variants.len()));
            }
        }
        Err(_) => {}
    }
});
