//! What is said of requests, whichever way made them.

use crate::limits::SEGMENT_BYTES_MAX;
use crate::numbers::RequestNo;
use crate::runs::{GroupRun, Run};
use crate::verify::CHUNK_GROUP_BYTES;
use crate::wire::{DecodeError, Reader, Writer};

const GROUPS_MAX: u64 = SEGMENT_BYTES_MAX / CHUNK_GROUP_BYTES;

/// What is said of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceMessage {
    /// What a request asked for is not there (any more).
    Gone(RequestNo),
    /// A request is no longer needed.
    Cancel(RequestNo),
}

impl PieceMessage {
    pub(crate) fn write(&self, w: &mut Writer) {
        let (kind, request) = match self {
            Self::Gone(request) => (1, request),
            Self::Cancel(request) => (2, request),
        };
        w.byte(kind).number(u64::from(request.0));
    }

    pub(crate) fn read(kind: u8, r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let made: fn(RequestNo) -> Self = match kind {
            1 => Self::Gone,
            2 => Self::Cancel,
            _ => return Ok(None),
        };
        let number = r.number("request", u64::from(u32::MAX))?;
        Ok(Some(made(RequestNo(number as u32))))
    }
}

pub(crate) fn write_run<K>(w: &mut Writer, run: &Run<K>) {
    w.number(run.start).number(run.count());
}

pub(crate) fn read_run<K>(r: &mut Reader<'_>, end_max: u64) -> Result<Run<K>, DecodeError> {
    let start = r.number("run", end_max)?;
    let count = r.number("run", end_max)?;
    // An empty run asks for nothing, and no answer to it would ever come.
    let end = start.saturating_add(count);
    if count == 0 || end > end_max {
        return Err(DecodeError::Invalid("run"));
    }
    Ok(Run::new(start, end))
}

pub(crate) fn read_groups(r: &mut Reader<'_>) -> Result<GroupRun, DecodeError> {
    read_run(r, GROUPS_MAX)
}
