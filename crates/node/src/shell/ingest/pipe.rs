//! Standard input, read by a thread of its own: a read of a pipe cannot be interrupted, but the
//! wait for what it gives can.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::error::IngestError;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that are read ahead.
const CHUNKS: usize = 4;
/// How often the user's wish to stop is looked at.
const WATCH: Duration = Duration::from_millis(100);

/// A source whose first bytes can be looked at before it is read.
pub(super) struct Pipe {
    chunks: Receiver<io::Result<Vec<u8>>>,
    head: Vec<u8>,
    /// Bytes of the head that were read.
    taken: usize,
    failed: Option<io::Error>,
}

impl Pipe {
    /// Starts to read.
    pub(super) fn start(mut source: Box<dyn Read + Send>) -> Self {
        // Bounded, so that a fast source waits for what is behind it.
        let (give, chunks) = sync_channel(CHUNKS);
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let given = match source.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(n) => {
                        chunk.truncate(n);
                        give.send(Ok(chunk))
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => {
                        let _ = give.send(Err(e));
                        return;
                    }
                };
                // Nobody takes it any more. A read that hangs is left behind with its thread.
                if given.is_err() {
                    return;
                }
            }
        });
        Self {
            chunks,
            head: Vec::new(),
            taken: 0,
            failed: None,
        }
    }

    /// The first bytes: `limit` of them or all there are, and fewer when a slow source has given
    /// something and then nothing more within `patience`.
    pub(super) fn head(
        &mut self,
        limit: usize,
        patience: Duration,
        cancel: &AtomicBool,
    ) -> Result<&[u8], IngestError> {
        let begun = Instant::now();
        while self.head.len() < limit && self.failed.is_none() {
            if cancel.load(Ordering::Relaxed) {
                return Err(IngestError::Cancelled);
            }
            match self.chunks.recv_timeout(WATCH) {
                Ok(Ok(chunk)) => self.head.extend_from_slice(&chunk),
                Ok(Err(e)) => self.failed = Some(e),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Without a byte it is waited for: a camera may start much later than this.
            if !self.head.is_empty() && begun.elapsed() > patience {
                break;
            }
        }
        // What came before a failure is used first; the failure is met again by `read`.
        match self.failed.take_if(|_| self.head.is_empty()) {
            Some(error) => Err(IngestError::io("standard input cannot be read")(error)),
            None => Ok(&self.head),
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.head.len() {
            // After all that came before it.
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.taken = 0;
            self.head.clear();
            match self.chunks.recv() {
                Ok(chunk) => self.head = chunk?,
                // The thread has ended without an error: that is the end of the input.
                Err(_) => return Ok(0),
            }
        }
        let n = (&self.head[self.taken..]).read(buffer)?;
        self.taken += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one by one, then nothing for long.
    struct Slow(u8);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                std::thread::sleep(Duration::from_secs(30));
                return Ok(0);
            }
            self.0 -= 1;
            buffer[0] = self.0;
            Ok(1)
        }
    }

    static NEVER: AtomicBool = AtomicBool::new(false);

    #[test]
    fn the_head_is_read_again() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let mut pipe = Pipe::start(Box::new(io::Cursor::new(bytes.clone())));
        let second = Duration::from_secs(1);
        assert_eq!(
            pipe.head(1000, second, &NEVER).unwrap()[..1000],
            bytes[..1000]
        );
        assert!(pipe.head(100_000, second, &NEVER).unwrap().len() >= 100_000);
        let mut read = Vec::new();
        pipe.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn slow_sources_are_not_waited_for() {
        let mut pipe = Pipe::start(Box::new(Slow(3)));
        let head = pipe.head(1000, Duration::from_millis(300), &NEVER).unwrap();
        assert_eq!(head, [2, 1, 0]);
        let stopped = AtomicBool::new(true);
        let result = pipe.head(1000, Duration::from_secs(9), &stopped);
        assert!(matches!(result, Err(IngestError::Cancelled)));
    }
}
