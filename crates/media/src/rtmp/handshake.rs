//! The simple handshake: a version and 1536 bytes from each side, which the other sends back
//! (Adobe, "RTMP specification 1.0" section 5.2).

use super::Error;

/// Bytes of C1, C2, S1 and S2.
const LEN: usize = 1536;
/// The version of plain RTMP. Others up to 31 are answered with it.
const VERSION: u8 = 3;

/// The server's side of a handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    nonce: [u8; 32],
    /// C0 and C1, as far as they came.
    hello: Vec<u8>,
    /// Bytes of C2 that have to come, once C1 was answered.
    echo: Option<usize>,
}

impl Handshake {
    pub(super) fn new(nonce: [u8; 32]) -> Self {
        Self {
            nonce,
            hello: Vec::new(),
            echo: None,
        }
    }

    /// Takes bytes off `input`; true when the handshake is over.
    pub(super) fn push(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, Error> {
        if self.echo.is_none() {
            take(input, 1 + LEN - self.hello.len(), |bytes| {
                self.hello.extend(bytes);
            });
            check(&self.hello)?;
            if self.hello.len() < 1 + LEN {
                return Ok(false);
            }
            self.answer(out);
        }
        // Its bytes are not compared: encoders that would rather have a digest send others.
        let left = self.echo.get_or_insert(LEN);
        *left -= take(input, *left, |_| ());
        Ok(*left == 0)
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        out.push(VERSION);
        // Time, and no version of Flash: with one, clients would look for a digest.
        out.extend([0; 8]);
        out.extend(self.nonce.iter().cycle().take(LEN - 8));
        out.extend(&self.hello[1..]);
        self.hello = Vec::new();
        self.echo = Some(LEN);
    }
}

/// Gives up to `most` bytes of `input` to `sink`; says how many.
fn take(input: &mut &[u8], most: usize, sink: impl FnOnce(&[u8])) -> usize {
    let (taken, rest) = input.split_at(most.min(input.len()));
    sink(taken);
    *input = rest;
    taken.len()
}

fn check(hello: &[u8]) -> Result<(), Error> {
    match *hello {
        // A TLS record of a handshake. As RTMP it would be version 22, which does not exist.
        [0x16, 3, 0..=4, ..] => Err(Error::Tls),
        // Letters, of HTTP for example. Version 6 and 8 are encrypted, and fall back to 3.
        [version, ..] if version > 31 => Err(Error::NotRtmp { version }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shake(input: &[u8], piece: usize) -> Result<(bool, Vec<u8>, usize), Error> {
        let mut handshake = Handshake::new([7; 32]);
        let (mut out, mut done, mut left) = (Vec::new(), false, 0);
        for mut bytes in input.chunks(piece) {
            if !done {
                done = handshake.push(&mut bytes, &mut out)?;
            }
            left += bytes.len();
        }
        Ok((done, out, left))
    }

    #[test]
    fn the_client_gets_its_bytes_back() {
        for version in [3, 6, 31] {
            let mut input = vec![version];
            input.extend((0..LEN).map(|at| at as u8));
            let hello = input.clone();
            input.extend([9; LEN]);
            input.extend([1, 2]);
            for piece in [1, 100, 1537, 4000] {
                let (done, out, left) = shake(&input, piece).unwrap();
                assert!(done);
                assert_eq!(left, 2);
                assert_eq!(out.len(), 1 + 2 * LEN);
                assert_eq!(out[..9], [3, 0, 0, 0, 0, 0, 0, 0, 0]);
                assert_eq!(out[1 + LEN..], hello[1..]);
            }
        }
    }

    #[test]
    fn other_protocols_are_told_apart_at_once() {
        let get = shake(b"GET / HTTP/1.1", 1);
        assert_eq!(get, Err(Error::NotRtmp { version: b'G' }));
        assert_eq!(shake(&[0x16, 3, 1, 2, 0], 1), Err(Error::Tls));
        assert!(!shake(&[3, 0], 1).unwrap().0);
    }
}
