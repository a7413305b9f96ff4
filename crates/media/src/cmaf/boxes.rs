//! MP4 boxes: headers, children and numbers. No size is trusted.

use crate::Error;

/// The header of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: [u8; 4],
    /// Bytes of the header itself.
    pub(super) len: usize,
    /// Bytes after the header; `None` when the box reaches to the end of the file.
    pub(super) body: Option<u64>,
}

/// Reads a box header; `None` when more bytes are needed.
pub(super) fn header(data: &[u8]) -> Result<Option<Header>, Error> {
    let Some(([a, b, c, d, kind @ ..], rest)) = data.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let (len, size) = match u32::from_be_bytes([*a, *b, *c, *d]) {
        0 => {
            return Ok(Some(Header {
                kind: *kind,
                len: 8,
                body: None,
            }));
        }
        1 => match rest.first_chunk::<8>() {
            Some(size) => (16, u64::from_be_bytes(*size)),
            None => return Ok(None),
        },
        size => (8, u64::from(size)),
    };
    // A size below that of the header would lead backwards, and a loop over boxes would not end.
    let body = size.checked_sub(len as u64).ok_or(SIZE)?;
    Ok(Some(Header {
        kind: *kind,
        len,
        body: Some(body),
    }))
}

const SIZE: Error = Error::malformed("a box is smaller than its header");
const SHORT: Error = Error::malformed("a box ends too early");

/// The type of a box and its body.
type Child<'a> = ([u8; 4], &'a [u8]);

/// The boxes in a box, one after the other. A remainder too short for a header is ignored.
pub(super) struct Children<'a> {
    rest: &'a [u8],
}

impl<'a> Children<'a> {
    pub(super) fn of(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn take(&mut self) -> Result<Option<Child<'a>>, Error> {
        let Some(header) = header(self.rest)? else {
            return Ok(None);
        };
        let all = self.rest.get(header.len..).ok_or(SHORT)?;
        let len = match header.body {
            Some(len) => usize::try_from(len).map_err(|_| SHORT)?,
            None => all.len(),
        };
        let (body, rest) = all.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(Some((header.kind, body)))
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = Result<Child<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.take().transpose();
        // Where the next box begins is not known any more.
        if matches!(item, Some(Err(_))) {
            self.rest = &[];
        }
        item
    }
}

/// The first box of a kind in a box.
pub(super) fn find<'a>(body: &'a [u8], kind: &[u8; 4]) -> Result<Option<&'a [u8]>, Error> {
    for child in Children::of(body) {
        let (found, body) = child?;
        if found == *kind {
            return Ok(Some(body));
        }
    }
    Ok(None)
}

/// The first box of a kind in a box that must have one.
pub(super) fn need<'a>(body: &'a [u8], kind: &[u8; 4]) -> Result<&'a [u8], Error> {
    find(body, kind)?.ok_or(Error::malformed("a box that must be there is missing"))
}

/// Reads numbers from a box.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<(), Error> {
        self.rest = self.rest.get(count..).ok_or(SHORT)?;
        Ok(())
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// Version and flags of a full box.
    pub(super) fn full(&mut self) -> Result<(u8, u32), Error> {
        let word = self.u32()?;
        Ok(((word >> 24) as u8, word & 0x00ff_ffff))
    }

    /// A number of 32 bits, or of 64 bits in a later version.
    pub(super) fn word(&mut self, version: u8) -> Result<u64, Error> {
        if version == 0 {
            self.u32().map(u64::from)
        } else {
            self.u64()
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A box around `body`.
    pub(crate) fn make(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let size = (body.len() + 8) as u32;
        [&size.to_be_bytes(), &kind[..], body].concat()
    }

    #[test]
    fn reads_headers() {
        assert_eq!(header(b"\0\0\0\x09moo"), Ok(None));
        let plain = Header {
            kind: *b"moof",
            len: 8,
            body: Some(1),
        };
        assert_eq!(header(b"\0\0\0\x09moof"), Ok(Some(plain)));
        let open = Header {
            kind: *b"mdat",
            len: 8,
            body: None,
        };
        assert_eq!(header(b"\0\0\0\0mdat"), Ok(Some(open)));
        assert_eq!(header(b"\0\0\0\x01mdat\0\0\0\0"), Ok(None));
        let wide = Header {
            kind: *b"mdat",
            len: 16,
            body: Some(u64::MAX - 16),
        };
        let bytes = [&b"\0\0\0\x01mdat"[..], &[0xff; 8]].concat();
        assert_eq!(header(&bytes), Ok(Some(wide)));
        assert_eq!(header(b"\0\0\0\x07mdat"), Err(SIZE));
        assert_eq!(header(b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x0f"), Err(SIZE));
    }

    #[test]
    fn children_stop_at_the_first_fault() {
        let body = [
            make(b"aaaa", b"1"),
            make(b"bbbb", b""),
            b"\0\0\0\xffcccc".to_vec(),
        ]
        .concat();
        let kinds: Vec<_> = Children::of(&body)
            .map(|child| child.map(|(kind, _)| kind))
            .collect();
        assert_eq!(kinds, [Ok(*b"aaaa"), Ok(*b"bbbb"), Err(SHORT)]);
        assert_eq!(find(&body, b"aaaa"), Ok(Some(&b"1"[..])));
        assert_eq!(find(&body, b"zzzz"), Err(SHORT));
    }
}
