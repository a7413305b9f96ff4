//! A transport stream taken apart into frames.

use std::collections::VecDeque;

use super::Coding;
use super::packet::{self, LEN, Packet, SYNC, TIME_BITS};
use super::tables::{PAT_PID, Stream, Tables, Update};
use super::units::{Adts, Sets};
use crate::frame::{self, Frame, Item, TRACKS_MAX, Track};
use crate::{Error, Kind, TICKS_PER_SECOND};

/// Bytes without packets after which the input is no transport stream.
const MAX_GARBAGE: usize = 1 << 20;
/// Bytes of packets without a usable program after which the input is refused.
const MAX_WITHOUT_PROGRAM: usize = 8 << 20;
/// So many packets of a stream in a row must be scrambled before it counts as encrypted: a bit that
/// flips on the way makes a single one look like that.
const SCRAMBLED: u32 = 500;
/// A picture of which nothing more came for so many ticks of the other streams is whole: where
/// pictures are rare, the next one would show that much later.
const SILENT: i64 = TICKS_PER_SECOND as i64 / 2;
/// The most bytes of one unit.
const MAX_UNIT: usize = 16 << 20;

/// Takes a transport stream apart; see [`crate::frame::Demuxer`].
#[derive(Debug, Default)]
pub struct Demuxer {
    rest: Vec<u8>,
    tables: Tables,
    streams: Vec<Elementary>,
    /// The latest decode time, unwrapped.
    clock: Option<i64>,
    items: VecDeque<Item>,
    saw_packets: bool,
    garbage: usize,
    without_program: usize,
    refused: Option<Error>,
}

/// One elementary stream that is taken.
#[derive(Debug)]
struct Elementary {
    stream: Stream,
    number: usize,
    track: Option<Track>,
    /// The open unit.
    unit: Vec<u8>,
    open: bool,
    /// Bytes that the open unit has, where its header says so.
    length: Option<usize>,
    dts: Option<i64>,
    pts: Option<i64>,
    sets: Sets,
    adts: Adts,
    /// Ticks at which the next frame of sound begins if none is told.
    next: Option<i64>,
    /// Packets in a row that were scrambled.
    scrambled: u32,
    /// The latest decode time of all streams when something of the open unit came.
    touched: Option<i64>,
}

impl Demuxer {
    fn take(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(data);
        let mut rest = joined.as_slice();
        while let Some(packet) = packet::first(rest) {
            if packet[0] != SYNC || rest.get(LEN).is_some_and(|byte| *byte != SYNC) {
                // The next place where two packets may stand one after the other.
                let skip = (1..rest.len()).find(|at| {
                    rest.get(*at) == Some(&SYNC)
                        && rest.get(at + LEN).is_none_or(|byte| *byte == SYNC)
                });
                let skip = skip.unwrap_or(rest.len());
                self.garbage += skip;
                if self.garbage > MAX_GARBAGE {
                    return Err(Error::NotTransportStream);
                }
                rest = rest.get(skip..).unwrap_or_default();
                continue;
            }
            // Whether a packet is one shows with the byte that follows; the last of all has none.
            if rest.len() == LEN {
                break;
            }
            self.saw_packets = true;
            self.garbage = 0;
            let packet = *packet;
            rest = rest.get(LEN..).unwrap_or_default();
            self.packet(&packet)?;
        }
        self.rest = rest.to_vec();
        Ok(())
    }

    fn packet(&mut self, packet: &Packet) -> Result<(), Error> {
        if packet::is_damaged(packet) {
            return Ok(());
        }
        let pid = packet::pid(packet);
        if pid == PAT_PID || Some(pid) == self.tables.pmt_pid() {
            if self.tables.push(packet) == Update::Changed {
                self.replace();
            }
            return Ok(());
        }
        let Some(index) = self.streams.iter().position(|it| it.stream.pid == pid) else {
            if self.streams.is_empty() {
                self.without_program += LEN;
                if self.without_program > MAX_WITHOUT_PROGRAM {
                    return Err(self.missing());
                }
            }
            return Ok(());
        };
        if self.is_left_out(index, packet)? {
            // What follows in the clear does not belong to the picture before.
            if packet::starts_unit(packet) {
                self.close(index);
            }
            return Ok(());
        }
        let payload = packet::payload(packet);
        if packet::starts_unit(packet) {
            self.close(index);
            self.open(index, payload);
            self.close_silent(index);
        } else if let Some(it) = self.streams.get_mut(index).filter(|it| it.open) {
            if it.unit.len() + payload.len() > MAX_UNIT {
                return Err(Error::LimitReached {
                    what: "a picture of over 16 MiB",
                });
            }
            it.unit.extend_from_slice(payload);
            it.touched = self.clock;
        }
        // Sound says how long its units are, and need not wait for the next one.
        let it = self.streams.get(index);
        if it.is_some_and(|it| it.length.is_some_and(|length| it.unit.len() >= length)) {
            self.close(index);
        }
        Ok(())
    }

    /// Whether a packet is of no use because it is scrambled.
    fn is_left_out(&mut self, index: usize, packet: &Packet) -> Result<bool, Error> {
        let is_scrambled = packet::is_scrambled(packet);
        let Some(it) = self.streams.get_mut(index) else {
            return Ok(true);
        };
        it.scrambled = if is_scrambled { it.scrambled + 1 } else { 0 };
        match it.scrambled > SCRAMBLED {
            true => Err(Error::Encrypted),
            false => Ok(is_scrambled),
        }
    }

    /// The program has other streams: what is open of the old ones ends.
    fn replace(&mut self) {
        for index in 0..self.streams.len() {
            self.close(index);
        }
        let mut old = std::mem::take(&mut self.streams);
        for stream in self.tables.streams().to_vec() {
            if !matches!(stream.coding, Coding::H264 | Coding::Hevc | Coding::Adts) {
                self.items.extend(named(stream).map(Item::LeftOut));
                continue;
            }
            // The first of each kind: players take no others.
            let same_kind =
                |it: &Elementary| it.stream.coding.is_video() == stream.coding.is_video();
            if self.streams.iter().any(same_kind) || self.streams.len() >= TRACKS_MAX {
                let name = named(stream).map(|name| format!("a further {name}"));
                self.items.extend(name.map(Item::LeftOut));
                continue;
            }
            let kept = old.iter().position(|it| it.stream == stream);
            let number = usize::from(!stream.coding.is_video());
            self.streams.push(match kept {
                Some(kept) => old.swap_remove(kept),
                None => Elementary::new(stream, number),
            });
        }
        if !self.streams.is_empty() {
            self.items.push_back(Item::Expected(self.streams.len()));
        }
    }

    fn open(&mut self, index: usize, payload: &[u8]) {
        let pes = packet::pes(payload);
        let time = pes
            .as_ref()
            .and_then(|pes| pes.time)
            .map(|time| self.unwrap(time));
        let Some(it) = self.streams.get_mut(index) else {
            return;
        };
        let Some(pes) = pes else {
            it.open = false;
            return;
        };
        it.open = true;
        it.unit.clear();
        it.unit.extend_from_slice(pes.body);
        // What the header counts begins after its first six bytes; 0 means that it does not tell.
        let header = payload.len() - pes.body.len();
        let length = match *payload {
            [_, _, _, _, high, low, ..] => usize::from(high) << 8 | usize::from(low),
            _ => 0,
        };
        it.length = (length > 0).then(|| (length + 6).saturating_sub(header));
        it.touched = self.clock;
        it.dts = time;
        it.pts = match (time, pes.shown) {
            (Some(dts), Some(shown)) => Some(near(dts, shown)),
            _ => time,
        };
    }

    /// Ends pictures of which nothing came for long while this stream went on.
    fn close_silent(&mut self, index: usize) {
        for other in 0..self.streams.len() {
            let is_silent = self.streams.get(other).is_some_and(|it| {
                let times = self.clock.zip(it.touched);
                let silence = times.map_or(0, |(now, then)| now.saturating_sub(then));
                it.open && it.stream.coding.is_video() && silence >= SILENT
            });
            if other != index && is_silent {
                self.close(other);
            }
        }
    }

    /// The time stamp that is nearest to the latest one.
    fn unwrap(&mut self, raw: u64) -> i64 {
        let time = self
            .clock
            .map_or(raw.cast_signed(), |clock| near(clock, raw));
        self.clock = Some(time);
        time
    }

    fn close(&mut self, index: usize) {
        let Some(it) = self.streams.get_mut(index) else {
            return;
        };
        if std::mem::take(&mut it.open) {
            it.length = None;
            match it.stream.coding.is_video() {
                true => it.picture(&mut self.items),
                false => it.sound(&mut self.items),
            }
            it.unit.clear();
        }
    }

    fn missing(&self) -> Error {
        if !self.saw_packets {
            Error::NotTransportStream
        } else if self.tables.streams().is_empty() {
            Error::NoProgram
        } else if self.streams.is_empty() {
            Error::NoMedia
        } else if self.streams.iter().all(|it| it.scrambled > 0) {
            Error::Encrypted
        } else {
            Error::NoKeyFrame
        }
    }
}

/// A stream's codec and kind, for people; none when it is neither video nor audio.
fn named(stream: Stream) -> Option<String> {
    let info = stream.coding.fallback()?;
    let kind = match info.kind {
        Kind::Video => "video",
        Kind::Audio => "audio",
    };
    Some(format!("{} {kind}", info.codec))
}

/// The time with these 33 bits that is nearest to another one.
fn near(clock: i64, raw: u64) -> i64 {
    let shift = 64 - TIME_BITS;
    let delta = (raw.wrapping_sub(clock.cast_unsigned()) << shift).cast_signed() >> shift;
    clock.saturating_add(delta)
}

impl Elementary {
    fn new(stream: Stream, number: usize) -> Self {
        Self {
            stream,
            number,
            track: None,
            unit: Vec::new(),
            open: false,
            length: None,
            dts: None,
            pts: None,
            sets: Sets::default(),
            adts: Adts::default(),
            next: None,
            scrambled: 0,
            touched: None,
        }
    }

    /// Gives a track where it is another one than before.
    fn describe(&mut self, track: Option<Track>, items: &mut VecDeque<Item>) {
        if let Some(track) = track
            && self
                .track
                .as_ref()
                .is_none_or(|old| old.entry != track.entry)
        {
            items.push_back(Item::Track(self.number, track.clone()));
            self.track = Some(track);
        }
    }

    fn picture(&mut self, items: &mut VecDeque<Item>) {
        let (picture, came) = self.sets.picture(self.stream.coding, &self.unit);
        if came {
            let track = self.sets.track(self.stream.coding);
            self.describe(track, items);
        }
        let (Some(picture), Some(dts), Some(_)) = (picture, self.dts, &self.track) else {
            return;
        };
        items.push_back(Item::Frame(Frame {
            track: self.number,
            dts,
            pts: self.pts.unwrap_or(dts),
            samples: 0,
            key: picture.key,
            data: picture.data,
        }));
    }

    fn sound(&mut self, items: &mut VecDeque<Item>) {
        let mut told = self.dts;
        for sound in self.adts.frames(&self.unit) {
            // The time in a header is that of the first frame that begins behind it.
            let time = match sound.late {
                true => self.next,
                false => told.take().or(self.next),
            };
            let Some(time) = time else { continue };
            let lasts = u64::from(sound.samples) * TICKS_PER_SECOND / u64::from(sound.rate.max(1));
            self.next = Some(time.saturating_add(lasts.cast_signed()));
            let known = self.track.as_ref().map(|track| track.timescale);
            let track = Track::aac(&sound.config).ok();
            self.describe(track, items);
            if known.is_none() && self.track.is_none() {
                continue;
            }
            items.push_back(Item::Frame(Frame {
                track: self.number,
                dts: time,
                pts: time,
                samples: sound.samples,
                key: true,
                data: sound.data,
            }));
        }
    }
}

impl frame::Demuxer for Demuxer {
    fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let result = self.take(data);
        self.refused = result.err();
        result
    }

    fn pop(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    fn finish(&mut self) -> Result<(), Error> {
        if let Some(error) = self.refused.replace(Error::Finished) {
            return Err(error);
        }
        let rest = std::mem::take(&mut self.rest);
        if let Some(packet) = packet::first(&rest)
            && packet[0] == SYNC
            && self.saw_packets
        {
            self.packet(packet)?;
        }
        for index in 0..self.streams.len() {
            self.close(index);
        }
        let any = self.streams.iter().any(|it| it.track.is_some());
        if any { Ok(()) } else { Err(self.missing()) }
    }
}

#[cfg(test)]
mod tests {
    use crate::frame::Demuxer as _;

    use super::*;

    #[test]
    fn a_packet_counts_when_the_next_one_follows_it() {
        let mut packet = [0; LEN];
        packet[..4].copy_from_slice(&[SYNC, 0x1f, 0xff, 0x10]);
        // The third is followed by something else, wherever the input is divided.
        let input = [&packet[..], &packet, &packet, &[1; 400], &packet, &packet].concat();
        let passed = |piece: usize| {
            let mut demuxer = Demuxer::default();
            for bytes in input.chunks(piece) {
                demuxer.push(bytes).unwrap();
            }
            let _ = demuxer.finish();
            demuxer.without_program
        };
        for piece in [1, 97, LEN, 3 * LEN, input.len()] {
            assert_eq!(passed(piece), 4 * LEN, "pieces of {piece}");
        }
    }
}
