//! The bytes of a file, taken in order: a window over the source, with the checksum of all that was taken.

use std::io::{self, Read};

use crc_fast::{CrcAlgorithm, Digest};

use crate::fault::Fault;

/// The size of the window. Larger than nearly every value, and small beside a processor's second cache.
const WINDOW_BYTES: usize = 256 * 1024;

/// A source with a window.
pub(crate) struct Input<R> {
    source: R,
    window: Box<[u8]>,
    /// What has not been taken yet: `window[start..end]`.
    start: usize,
    end: usize,
    /// What was taken from `summed..start` is not in the checksum yet.
    summed: usize,
    /// Bytes of the source before the window.
    before: u64,
    checksum: Digest,
}

impl<R: Read> Input<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            window: vec![0; WINDOW_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            summed: 0,
            before: 0,
            checksum: Digest::new(CrcAlgorithm::Crc64Redis),
        }
    }

    /// Bytes that were taken.
    pub(crate) fn offset(&self) -> u64 {
        self.before + self.start as u64
    }

    /// The checksum of the bytes that were taken.
    pub(crate) fn checksum(&mut self) -> u64 {
        self.sum();
        self.checksum.finalize()
    }

    /// Takes `N` bytes.
    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.fill(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.window[self.start..self.start + N]);
        self.start += N;
        Ok(bytes)
    }

    /// Takes one byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    /// Looks at the next `count` bytes, at most a window's, without taking them.
    pub(crate) fn peek(&mut self, count: usize) -> Result<&[u8], Fault> {
        self.fill(count)?;
        Ok(&self.window[self.start..self.start + count])
    }

    /// Takes `count` bytes and passes them over.
    pub(crate) fn skip(&mut self, count: u64) -> Result<(), Fault> {
        self.pieces(count, |_| {})
    }

    /// Takes `count` bytes and appends them to `out`, which grows as they come and not before.
    pub(crate) fn append(&mut self, count: u64, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.pieces(count, |piece| out.extend_from_slice(piece))
    }

    fn pieces(&mut self, count: u64, mut each: impl FnMut(&[u8])) -> Result<(), Fault> {
        let mut left = count;
        while left > 0 {
            if self.start == self.end {
                self.fill(1)?;
            }
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.end - self.start);
            each(&self.window[self.start..self.start + here]);
            self.start += here;
            left -= here as u64;
        }
        Ok(())
    }

    /// Whether the source has ended and everything of it was taken.
    pub(crate) fn is_at_end(&mut self) -> Result<bool, Fault> {
        match self.fill(1) {
            Ok(()) => Ok(false),
            Err(Fault::Truncated) => Ok(true),
            Err(fault) => Err(fault),
        }
    }

    /// Sees to it that `count` bytes can be taken from the window.
    #[inline]
    fn fill(&mut self, count: usize) -> Result<(), Fault> {
        if self.end - self.start >= count {
            return Ok(());
        }
        self.refill(count)
    }

    #[cold]
    fn refill(&mut self, count: usize) -> Result<(), Fault> {
        debug_assert!(count <= WINDOW_BYTES, "more is taken at once than the window holds");
        self.sum();
        self.window.copy_within(self.start..self.end, 0);
        self.before += self.start as u64;
        self.end -= self.start;
        (self.start, self.summed) = (0, 0);
        while self.end < count {
            match self.source.read(&mut self.window[self.end..]) {
                Ok(0) => return Err(Fault::Truncated),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sum(&mut self) {
        let taken = std::mem::replace(&mut self.summed, self.start)..self.start;
        self.checksum.update(&self.window[taken]);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        let mut input = Input::new(&b"123456789rest"[..]);
        input.skip(9).unwrap();
        assert_eq!((input.checksum(), input.offset()), (0xe9c6_d914_c4b8_d9ca, 9));
    }

    #[test]
    fn what_is_taken_is_what_comes_whatever_the_windows() {
        let bytes: Vec<u8> = (0..3 * WINDOW_BYTES + 7).map(|index| (index % 251) as u8).collect();
        let mut input = Input::new(&bytes[..]);
        input.skip(5).unwrap();
        let mut seen = Vec::new();
        input.append(2 * WINDOW_BYTES as u64, &mut seen).unwrap();
        assert_eq!(seen, bytes[5..5 + 2 * WINDOW_BYTES]);
        assert_eq!(input.array::<2>().unwrap(), bytes[5 + 2 * WINDOW_BYTES..][..2]);
        assert!(!input.is_at_end().unwrap());
        assert!(matches!(input.skip(1 << 40), Err(Fault::Truncated)));
    }
}
