//! What is said of the contact itself.

use super::hello::Hello;
use crate::wire::{DecodeError, Reader, Writer};

/// What is said of the contact itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContactMessage {
    /// The first of each side.
    Hello(Hello),
    /// The first of a node that speaks the first version, which this one does not.
    TooOld,
    /// Asks for a sign of life.
    Ping(u64),
    /// The sign of life.
    Pong(u64),
}

impl ContactMessage {
    pub(crate) fn write(&self, w: &mut Writer) {
        match self {
            Self::Hello(hello) => hello.write(w.byte(0)),
            Self::TooOld => {
                w.byte(1);
            }
            Self::Ping(stamp) => {
                w.byte(2).number(*stamp);
            }
            Self::Pong(stamp) => {
                w.byte(3).number(*stamp);
            }
        }
    }

    /// The first version's hello began with 0 and its version, so that it reads as this way and the
    /// kind 1; what follows is of no interest.
    pub(crate) fn read(kind: u8, r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match kind {
            0 => Self::Hello(Hello::read(r)?),
            1 => {
                r.rest();
                Self::TooOld
            }
            2 => Self::Ping(r.number("stamp", u64::MAX)?),
            3 => Self::Pong(r.number("stamp", u64::MAX)?),
            _ => return Ok(None),
        }))
    }
}
