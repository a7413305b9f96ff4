//! Bytes of a publisher as they come: which container it is, and its frames.

use lavant_media::frame::{Demuxer, Item};
use lavant_media::{Error, Format, HEAD, refusal, sniff};

/// With so many bytes most containers are known (three packets of a transport stream).
const USUAL: usize = 564;

/// A live source of bytes: an MPEG transport stream or fragmented MP4.
#[derive(Default)]
pub struct Source {
    head: Vec<u8>,
    demuxer: Option<Box<dyn Demuxer + Send>>,
}

impl Source {
    /// Takes the next bytes, in pieces of any size; what they hold is given to `take`.
    ///
    /// # Errors
    /// See [`Error`]. What was found before is given all the same.
    pub fn push<E: From<Error>>(
        &mut self,
        data: &[u8],
        mut take: impl FnMut(Item) -> Result<(), E>,
    ) -> Result<(), E> {
        let pushed = match &mut self.demuxer {
            Some(demuxer) => demuxer.push(data),
            None => {
                self.head.extend_from_slice(data);
                let found = (self.head.len() >= USUAL).then(|| sniff(&self.head));
                match found.flatten() {
                    Some(format) => self.begin(format),
                    None if self.head.len() < HEAD => return Ok(()),
                    None => Err(refusal(&self.head)),
                }
            }
        };
        self.drain(&mut take)?;
        Ok(pushed?)
    }

    /// Ends the source.
    ///
    /// # Errors
    /// See [`Error`]; also when nothing could be made of it.
    pub fn finish<E: From<Error>>(
        &mut self,
        mut take: impl FnMut(Item) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.demuxer.is_none() {
            let format = sniff(&self.head).ok_or_else(|| refusal(&self.head))?;
            self.begin(format)?;
        }
        let finished = match &mut self.demuxer {
            Some(demuxer) => demuxer.finish(),
            None => Ok(()),
        };
        self.drain(&mut take)?;
        Ok(finished?)
    }

    /// Whether anything came.
    pub(super) fn is_begun(&self) -> bool {
        self.demuxer.is_some() || !self.head.is_empty()
    }

    fn begin(&mut self, format: Format) -> Result<(), Error> {
        let head = std::mem::take(&mut self.head);
        self.demuxer.insert(format.demuxer()).push(&head)
    }

    fn drain<E>(&mut self, take: &mut impl FnMut(Item) -> Result<(), E>) -> Result<(), E> {
        let Some(demuxer) = &mut self.demuxer else {
            return Ok(());
        };
        while let Some(item) = demuxer.pop() {
            take(item)?;
        }
        Ok(())
    }
}
