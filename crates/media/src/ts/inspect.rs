//! Says what one whole segment of a transport stream holds.

use super::Coding;
use super::key::{KeyScan, Verdict};
use super::packet::{self, LEN, Packet, SYNC};
use super::tables::{PAT_PID, Stream, Tables, Update};
use crate::codec::{Inspection, Kind, audio};
use crate::timeline::{Step, Timeline};
use crate::{Error, TICKS_PER_SECOND};

/// Bytes of each stream's beginning that are searched for its headers.
const MAX_HEAD: usize = 64 << 10;
/// Bytes of the last audio unit that are counted.
const MAX_TAIL: usize = 256 << 10;
/// Streams that are described.
const MAX_STREAMS: usize = 32;

/// What was seen of one stream.
struct Probe {
    stream: Stream,
    begun: bool,
    head: Vec<u8>,
}

/// What was seen of the reference stream.
struct Reference {
    stream: Stream,
    timeline: Timeline,
    first: Option<u64>,
    total: u64,
    frames: u64,
    key: Option<Verdict>,
    scan: KeyScan,
    /// Where its latest unit begins.
    latest: usize,
}

/// Says what one whole segment holds: how long it lasts, whether it begins with a key frame, and
/// its streams.
///
/// # Errors
/// When `data` is no run of whole packets with the tables of a program and at least one frame of
/// video or audio that has a time stamp.
pub fn inspect(data: &[u8]) -> Result<Inspection, Error> {
    let (packets, rest) = data.as_chunks::<LEN>();
    // Strict, unlike the segmenter: a segment is whole packets from its first byte on.
    if packets.is_empty() || packets.iter().any(|packet| packet[0] != SYNC) {
        return Err(Error::NotTransportStream);
    }
    if !rest.is_empty() {
        return Err(Error::malformed("the last transport packet is cut off"));
    }
    let mut tables = Tables::default();
    let mut probes: Vec<Probe> = Vec::new();
    let mut reference: Option<Reference> = None;
    for (index, packet) in packets
        .iter()
        .enumerate()
        .filter(|(_, p)| !packet::is_damaged(p))
    {
        let pid = packet::pid(packet);
        if pid == PAT_PID || Some(pid) == tables.pmt_pid() {
            // Only the first table: a segment with a second set of streams would be two segments.
            if tables.push(packet) == Update::Changed && reference.is_none() {
                probes = tables
                    .streams()
                    .iter()
                    .take(MAX_STREAMS)
                    .map(Probe::new)
                    .collect();
                reference = tables.reference().map(Reference::new);
            }
            continue;
        }
        if let Some(reference) = reference.as_mut().filter(|r| r.stream.pid == pid) {
            reference.take(packet, index)?;
        }
        if let Some(probe) = probes.iter_mut().find(|probe| probe.stream.pid == pid) {
            probe.take(packet);
        }
    }
    let Some(reference) = reference else {
        return Err(if tables.streams().is_empty() {
            Error::NoProgram
        } else {
            Error::NoMedia
        });
    };
    reference.conclude(data, &probes)
}

impl Probe {
    fn new(stream: &Stream) -> Self {
        Self {
            stream: *stream,
            begun: false,
            head: Vec::new(),
        }
    }

    fn take(&mut self, packet: &Packet) {
        let payload = packet::payload(packet);
        let body = match packet::pes(payload) {
            Some(pes) if packet::starts_unit(packet) => {
                self.begun = true;
                pes.body
            }
            _ => payload,
        };
        let room = MAX_HEAD - self.head.len().min(MAX_HEAD);
        if self.begun && room > 0 {
            self.head
                .extend_from_slice(body.get(..room).unwrap_or(body));
        }
    }
}

impl Reference {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            timeline: Timeline::new(packet::TIME_BITS),
            first: None,
            total: 0,
            frames: 0,
            key: None,
            scan: KeyScan::new(stream.coding),
            latest: 0,
        }
    }

    fn take(&mut self, packet: &Packet, index: usize) -> Result<(), Error> {
        if packet::is_scrambled(packet) {
            return Err(Error::Encrypted);
        }
        let payload = packet::payload(packet);
        let pes = if packet::starts_unit(packet) {
            packet::pes(payload)
        } else {
            None
        };
        let body = pes.as_ref().map_or(payload, |pes| pes.body);
        match self.key {
            None if pes.is_some() => {
                let marked = packet::is_random_access(packet);
                self.key = Some(if marked {
                    Verdict::Key
                } else {
                    self.scan.feed(body)
                });
            }
            // The first unit has ended without a sign of a key frame.
            Some(Verdict::Open) if pes.is_some() => self.key = Some(Verdict::Plain),
            Some(Verdict::Open) => self.key = Some(self.scan.feed(body)),
            _ => {}
        }
        if let Some(time) = pes.and_then(|pes| pes.time) {
            self.latest = index * LEN;
            self.frames += 1;
            self.step(time);
        }
        Ok(())
    }

    fn step(&mut self, time: u64) {
        if self.timeline.advance(time) == Step::Jump {
            self.close(self.timeline.interval());
            self.timeline.restart();
            self.timeline.advance(time);
        }
        let now = self.timeline.now();
        self.first.get_or_insert(now);
    }

    /// Adds a timeline that ends one frame after now.
    fn close(&mut self, frame: u64) {
        if let Some(first) = self.first.take() {
            let span = self.timeline.now().saturating_sub(first);
            self.total = self.total.saturating_add(span).saturating_add(frame);
        }
    }

    fn conclude(mut self, data: &[u8], probes: &[Probe]) -> Result<Inspection, Error> {
        if self.frames == 0 {
            return Err(Error::NoKeyFrame);
        }
        let tail = data.get(self.latest..).unwrap_or_default();
        // No unit follows the last one, so that its length is counted by its frames.
        let frame = match self.stream.coding.is_audio() {
            true => last_unit_span(tail, self.stream),
            false => None,
        };
        self.close(frame.unwrap_or_else(|| self.timeline.interval()));
        let mut streams = Vec::new();
        for probe in probes {
            let Some(mut info) = probe.stream.coding.describe(&probe.head) else {
                continue;
            };
            // Only of the reference stream are frames counted; one frame says nothing of a rate.
            let measured = probe.stream.pid == self.stream.pid && self.frames > 1;
            if info.kind == Kind::Video && info.frame_rate.is_none() && measured {
                let rate = (self.frames * TICKS_PER_SECOND) as f64 / self.total.max(1) as f64;
                info.frame_rate = Some(rate);
            }
            streams.push(info);
        }
        Ok(Inspection {
            duration: self.total,
            starts_with_key_frame: self.key == Some(Verdict::Key),
            streams,
        })
    }
}

/// How long the audio frames last of the unit that begins with the first of `packets`, in ticks.
pub(super) fn last_unit_span(packets: &[u8], stream: Stream) -> Option<u64> {
    let header: audio::Header = Coding::frames(stream.coding)?;
    let mut body = Vec::new();
    for packet in packets.as_chunks::<LEN>().0 {
        if packet::pid(packet) != stream.pid || body.len() > MAX_TAIL {
            continue;
        }
        let payload = packet::payload(packet);
        match packet::pes(payload) {
            Some(pes) if packet::starts_unit(packet) => body.extend_from_slice(pes.body),
            _ => body.extend_from_slice(payload),
        }
    }
    audio::span(header, &body)
}
