//! Reads the canonical encoding and refuses every other.

use super::DecodeError;

/// Takes values from the front of a byte string.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from the front.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Everything that is left.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.0;
        self.0 = &[];
        rest
    }

    /// One byte of the field `what`.
    pub fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(*first)
    }

    /// `N` bytes of the field `what`.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .0
            .split_first_chunk()
            .ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(*head)
    }

    /// A shortest LEB128 of at most `max`.
    pub fn number(&mut self, what: &'static str, max: u64) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit. The others would be cut off, and two encodings
            // would mean one number.
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Limit(what));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte of zero adds nothing: there is a shorter form.
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::Invalid(what));
                }
                if number > max {
                    return Err(DecodeError::Limit(what));
                }
                return Ok(number);
            }
        }
        Err(DecodeError::Limit(what))
    }

    /// A string of at most `max` bytes.
    pub fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let text = self.blob(what, max)?;
        std::str::from_utf8(text).map_err(|_| DecodeError::Invalid(what))
    }

    /// A byte string of at most `max` bytes, its length in front.
    pub fn blob(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        // At most `max`, which is a `usize`: nothing is cut off.
        let length = self.number(what, max as u64)? as usize;
        let (blob, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(blob)
    }

    /// Refuses what is left over.
    pub const fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Writer;
    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip(number: u64) {
            let mut writer = Writer::new();
            writer.number(number);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.number("n", u64::MAX), Ok(number));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn only_the_shortest_number_is_read() {
        let read = |bytes: &[u8]| Reader::new(bytes).number("n", u64::MAX);
        assert_eq!(read(&[0x80, 0x00]), Err(DecodeError::Invalid("n")));
        assert_eq!(read(&[0x80]), Err(DecodeError::Truncated("n")));
        assert_eq!(read(&[0xff; 11]), Err(DecodeError::Limit("n")));
        assert_eq!(
            Reader::new(&[9]).number("n", 8),
            Err(DecodeError::Limit("n"))
        );
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused() {
        assert_eq!(
            Reader::new(&[5, b'a']).text("t", 9),
            Err(DecodeError::Truncated("t"))
        );
        assert_eq!(
            Reader::new(&[1, 0xff]).text("t", 9),
            Err(DecodeError::Invalid("t"))
        );
    }
}
