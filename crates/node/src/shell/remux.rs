//! A stream in another container, on its way to a file or a pipe.

use std::io::{Error, ErrorKind, Result, Write};

use lavant_media::frame::Demuxer as _;
use lavant_media::{cmaf, ts};

/// Takes fragmented MP4 and writes it as an MPEG transport stream.
pub struct TransportStream<W> {
    demuxer: cmaf::Demuxer,
    muxer: ts::Muxer,
    out: W,
}

impl<W: Write> TransportStream<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            demuxer: cmaf::Demuxer::default(),
            muxer: ts::Muxer::default(),
            out,
        }
    }
}

impl<W: Write> Write for TransportStream<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let failed = |error| Error::new(ErrorKind::InvalidData, error);
        let pushed = self.demuxer.push(bytes);
        while let Some(item) = self.demuxer.pop() {
            self.muxer.push(item).map_err(failed)?;
        }
        self.out.write_all(&self.muxer.take())?;
        pushed.map_err(failed)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }
}
