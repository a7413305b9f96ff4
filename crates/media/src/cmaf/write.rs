//! MP4 boxes, written.

/// Boxes one after the other, and inside of each other.
#[derive(Debug, Default)]
pub(crate) struct Boxes {
    out: Vec<u8>,
}

impl Boxes {
    /// With room for so many bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            out: Vec::with_capacity(capacity),
        }
    }

    /// A box of a kind around what `body` writes.
    pub(crate) fn nest(&mut self, kind: &[u8; 4], body: impl FnOnce(&mut Self)) {
        let at = self.out.len();
        self.u32(0);
        self.put(kind);
        body(self);
        // Known only now. What is written here is below the limits of segments, far from 4 GiB.
        let size = u32::try_from(self.out.len() - at).unwrap_or(u32::MAX);
        self.patch(at, size);
    }

    /// A box with version and flags before its body.
    pub(crate) fn full(
        &mut self,
        kind: &[u8; 4],
        version: u8,
        flags: u32,
        body: impl FnOnce(&mut Self),
    ) {
        self.nest(kind, |out| {
            out.u32(u32::from(version) << 24 | flags & 0x00ff_ffff);
            body(out);
        });
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// Replaces four bytes that were written before.
    pub(crate) fn patch(&mut self, at: usize, value: u32) {
        if let Some(place) = self.out.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// What was written.
    pub(crate) fn take(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_what_is_inside() {
        let mut out = Boxes::default();
        out.nest(b"aaaa", |out| out.full(b"bbbb", 1, 2, |out| out.u16(7)));
        assert_eq!(
            out.take(),
            b"\0\0\0\x16aaaa\0\0\0\x0ebbbb\x01\0\0\x02\0\x07"
        );
    }
}
