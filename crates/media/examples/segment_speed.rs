//! Measures how fast a file is cut into segments: `segment_speed FILE [ROUNDS]`.
//!
//! The file is read once and pushed from memory in pieces of 64 KiB.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use lavant_media::{Config, Event, sniff};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: segment_speed FILE [ROUNDS]")?;
    let rounds: usize = args.next().map_or(Ok(5), |text| text.parse())?;
    let data = std::fs::read(path)?;
    let format = sniff(&data).ok_or("the file is neither MPEG-TS nor MP4")?;
    for _ in 0..rounds {
        let begin = Instant::now();
        let mut segmenter = format.segmenter(Config::default());
        let (mut segments, mut bytes) = (0usize, 0usize);
        let mut count = |event| {
            if let Event::Segment(segment) = event {
                segments += 1;
                bytes += segment.data.len();
            }
        };
        for piece in data.chunks(64 << 10) {
            segmenter.push(piece)?;
            std::iter::from_fn(|| segmenter.pop()).for_each(&mut count);
        }
        segmenter.finish()?;
        std::iter::from_fn(|| segmenter.pop()).for_each(&mut count);
        let rate = data.len() as f64 / 1e6 / begin.elapsed().as_secs_f64();
        println!("{format:?}: {segments} segments, {bytes} bytes, {rate:.0} MB/s");
    }
    Ok(())
}
