//! Finds the packets of a stream and hands them to the cutter.

use super::cutter::Cutter;
use super::packet::{self, LEN, PIDS, Packet, SYNC};
use super::tables::{PAT_PID, Tables, Update};
use crate::{Config, Error, Event};

/// Bytes without packets after which the input is no transport stream.
const MAX_GARBAGE: usize = 1 << 20;
/// Bytes of packets without a usable program after which the input is refused.
const MAX_WITHOUT_PROGRAM: usize = 8 << 20;
/// Packets whose first bytes must be right to be in step again.
const SYNC_PACKETS: usize = 3;
/// Bytes that are always enough to go forward.
const WINDOW: usize = SYNC_PACKETS * LEN + LEN;

/// What is done with the packets of an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Not of the program.
    Drop,
    /// Of the program.
    Pass,
    /// Of the stream that segments are cut by.
    Reference,
    /// PAT or PMT.
    Table,
}

/// Cuts a transport stream into segments; see [`crate::Segmenter`].
#[derive(Debug)]
pub struct Segmenter {
    cutter: Cutter,
    tables: Tables,
    classes: Box<[Class]>,
    /// Input that is not a whole packet yet; less than [`WINDOW`].
    rest: Vec<u8>,
    in_step: bool,
    garbage: usize,
    without_program: usize,
    saw_packets: bool,
    refused: Option<Error>,
}

impl Segmenter {
    /// A segmenter for one stream.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut segmenter = Self {
            cutter: Cutter::new(config),
            tables: Tables::default(),
            classes: vec![Class::Drop; PIDS].into(),
            rest: Vec::with_capacity(WINDOW),
            in_step: false,
            garbage: 0,
            without_program: 0,
            saw_packets: false,
            refused: None,
        };
        segmenter.classify();
        segmenter
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), Error> {
        while !self.rest.is_empty() && !data.is_empty() {
            let old = self.rest.len();
            // Only as much is joined as a packet and the look for the next ones need: the rest is
            // not copied.
            let (head, _) = data.split_at(data.len().min(WINDOW.saturating_sub(old)));
            let mut joined = std::mem::take(&mut self.rest);
            joined.extend_from_slice(head);
            let used = self.packets(&joined, false)?;
            // Packets are read from `data` itself from here on.
            if used >= old {
                data = data.get(used - old..).unwrap_or_default();
                joined.clear();
            } else {
                joined.drain(..used);
                data = data.get(head.len()..).unwrap_or_default();
            }
            self.rest = joined;
        }
        if !data.is_empty() {
            let used = self.packets(data, false)?;
            self.rest
                .extend_from_slice(data.get(used..).unwrap_or_default());
        }
        Ok(())
    }

    /// Works through the whole packets of `data`; gives how many bytes were used. The remainder
    /// is always shorter than [`WINDOW`].
    fn packets(&mut self, data: &[u8], last: bool) -> Result<usize, Error> {
        // From `run` to `at` are packets that are kept: they are appended in one piece.
        let (mut at, mut run) = (0, 0);
        loop {
            let left = data.get(at..).unwrap_or_default();
            if !self.in_step {
                self.cutter.append(data.get(run..at).unwrap_or_default())?;
                at += self.find_step(left, last)?;
                run = at;
                if !self.in_step {
                    return Ok(at);
                }
                continue;
            }
            let Some(packet) = packet::first(left) else {
                break;
            };
            if packet[0] != SYNC {
                self.in_step = false;
                continue;
            }
            let class = self.class(packet);
            let plain = match class {
                Class::Pass => true,
                // Inside a unit that needs no look, as nearly all packets of a film are.
                Class::Reference => !packet::starts_unit(packet) && !self.cutter.is_scanning(),
                Class::Drop | Class::Table => false,
            };
            if !plain {
                self.cutter.append(data.get(run..at).unwrap_or_default())?;
                let kept = self.special(packet, class)?;
                run = if kept { at } else { at + LEN };
            }
            at += LEN;
        }
        self.cutter.append(data.get(run..at).unwrap_or_default())?;
        Ok(at)
    }

    #[inline]
    fn class(&self, packet: &Packet) -> Class {
        if packet::is_damaged(packet) {
            return Class::Drop;
        }
        self.classes
            .get(usize::from(packet::pid(packet)))
            .copied()
            .unwrap_or(Class::Drop)
    }

    /// Handles a packet that is not simply passed on; true when it is kept.
    fn special(&mut self, packet: &Packet, class: Class) -> Result<bool, Error> {
        match class {
            Class::Pass => return Ok(true),
            Class::Reference if packet::starts_unit(packet) => {
                self.cutter.unit(packet, &self.tables)?;
                return Ok(true);
            }
            Class::Reference => {
                self.cutter.more(packet, &self.tables);
                return Ok(true);
            }
            Class::Table => self.table(packet),
            Class::Drop => {}
        }
        if self.tables.reference().is_none() {
            self.without_program += LEN;
            if self.without_program > MAX_WITHOUT_PROGRAM {
                return Err(self.missing());
            }
        }
        Ok(false)
    }

    fn table(&mut self, packet: &Packet) {
        let pmt = self.tables.pmt_pid();
        match self.tables.push(packet) {
            Update::Nothing if pmt == self.tables.pmt_pid() => {}
            Update::Nothing => self.classify(),
            Update::Repeated => {
                self.classify();
                self.cutter.repeat(&self.tables);
            }
            Update::Changed => {
                self.classify();
                self.cutter.replace(self.tables.reference());
                self.without_program = 0;
            }
        }
    }

    /// Sets what is done with each packet identifier.
    fn classify(&mut self) {
        // Anew as a whole: an identifier may belong to another stream now.
        self.classes.fill(Class::Drop);
        let reference = self.tables.reference().map(|stream| stream.pid);
        let streams = self.tables.streams();
        if !streams.is_empty() {
            set(&mut self.classes, self.tables.clock_pid(), Class::Pass);
            // A program without a clock names the identifier of padding for it, which is never
            // kept.
            set(&mut self.classes, 0x1fff, Class::Drop);
        }
        for stream in streams {
            set(&mut self.classes, stream.pid, Class::Pass);
        }
        for (pid, class) in [
            // After the others: a stream that has a table's identifier must not hide the table.
            (reference, Class::Reference),
            (self.tables.pmt_pid(), Class::Table),
            (Some(PAT_PID), Class::Table),
        ] {
            if let Some(pid) = pid {
                set(&mut self.classes, pid, class);
            }
        }
    }

    /// Looks for the first packet of a row; gives how many bytes come before it or are no packets
    /// for certain.
    fn find_step(&mut self, data: &[u8], last: bool) -> Result<usize, Error> {
        let mut skipped = 0;
        for (at, byte) in data.iter().enumerate() {
            // A byte of 0x47 may be anywhere; three of them at the distance of packets are no
            // accident.
            let marks = || (0..SYNC_PACKETS).map(|n| data.get(at + n * LEN));
            if *byte == SYNC && marks().all(|mark| mark.is_none_or(|mark| *mark == SYNC)) {
                // Not enough is here to decide; at the end of the stream fewer marks have to do.
                if marks().any(|mark| mark.is_none()) && !last {
                    break;
                }
                self.in_step = true;
                self.saw_packets = true;
                break;
            }
            skipped = at + 1;
        }
        self.garbage = if self.in_step {
            0
        } else {
            self.garbage + skipped
        };
        if self.garbage > MAX_GARBAGE {
            return Err(Error::NotTransportStream);
        }
        Ok(skipped)
    }

    /// Why there is nothing to cut.
    fn missing(&self) -> Error {
        if !self.saw_packets {
            Error::NotTransportStream
        } else if self.tables.streams().is_empty() {
            Error::NoProgram
        } else if self.tables.reference().is_none() {
            Error::NoMedia
        } else {
            Error::NoKeyFrame
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        let rest = std::mem::take(&mut self.rest);
        self.packets(&rest, true)?;
        self.cutter.finish();
        if self.cutter.has_given() {
            Ok(())
        } else {
            Err(self.missing())
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.refused.map_or(Ok(()), Err)
    }
}

fn set(classes: &mut [Class], pid: u16, class: Class) {
    if let Some(slot) = classes.get_mut(usize::from(pid)) {
        *slot = class;
    }
}

impl crate::Segmenter for Segmenter {
    fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        self.check()?;
        let result = self.take(data);
        self.refused = result.err();
        result
    }

    fn pop(&mut self) -> Option<Event> {
        self.cutter.pop()
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.check()?;
        let result = self.end();
        self.refused = Some(result.err().unwrap_or(Error::Finished));
        result
    }
}
