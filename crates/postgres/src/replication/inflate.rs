//! Archives that the server compressed for the way, as they were.
//!
//! What comes out is handed on in portions of a bounded size, however little came in for it, and a window is no larger than any server makes, so
//! that a hostile stream costs no memory. A stream that ends early, or goes on behind its end, is refused; what is in it is judged elsewhere.

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use mainstay_engine::LinkCompression;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::WireError;

/// The largest portion that is handed on.
const PORTION_BYTES: usize = 256 * 1024;
/// The largest window of zstd, 8 MiB: many times that of the level that is asked for.
const WINDOW_LOG_MAX: u32 = 23;
/// The window of gzip.
const GZIP_WINDOW_BITS: u8 = 15;

/// An archive that is being unpacked.
pub(super) struct Inflating {
    inflater: Inflater,
    /// Compressed bytes that nobody has looked at.
    waiting: Bytes,
    /// More may come out without more going in.
    is_full: bool,
    has_ended: bool,
}

enum Inflater {
    Gzip(Decompress),
    Zstd(Decoder<'static>),
}

/// What one step did.
struct Step {
    taken: usize,
    has_ended: bool,
}

impl Inflating {
    /// For an archive so compressed; `None` for one that is not.
    pub(super) fn begin(compression: LinkCompression) -> Result<Option<Self>, WireError> {
        let inflater = match compression {
            LinkCompression::None => return Ok(None),
            LinkCompression::Gzip => Inflater::Gzip(Decompress::new_gzip(GZIP_WINDOW_BITS)),
            LinkCompression::Zstd => {
                let mut decoder = Decoder::new().map_err(|error| unusable(&error))?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                    .map_err(|error| unusable(&error))?;
                Inflater::Zstd(decoder)
            }
        };
        Ok(Some(Self { inflater, waiting: Bytes::new(), is_full: false, has_ended: false }))
    }

    /// Takes the next piece, when [`Inflating::next`] has given all of the last one.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.waiting = piece;
    }

    /// The next portion; `None` when more must go in first.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        let mut portion = Vec::with_capacity(PORTION_BYTES);
        while (self.is_full || !self.waiting.is_empty()) && portion.len() < PORTION_BYTES {
            if self.has_ended {
                return Err(unusable(&"it goes on behind its end"));
            }
            let before = portion.len();
            let step = self.inflater.step(&self.waiting, &mut portion)?;
            let _ = self.waiting.split_to(step.taken);
            self.has_ended = step.has_ended;
            self.is_full = portion.len() == PORTION_BYTES && !step.has_ended;
            if step.taken == 0 && portion.len() == before && !step.has_ended && !self.waiting.is_empty() {
                return Err(unusable(&"it leads nowhere"));
            }
        }
        Ok((!portion.is_empty()).then(|| portion.into()))
    }

    /// Makes sure that the archive has come to its end.
    pub(super) fn end(self) -> Result<(), WireError> {
        match self.has_ended && self.waiting.is_empty() {
            true => Ok(()),
            false => Err(unusable(&"it ends too early")),
        }
    }
}

impl Inflater {
    /// Fills `portion` up to its capacity.
    fn step(&mut self, compressed: &[u8], portion: &mut Vec<u8>) -> Result<Step, WireError> {
        match self {
            Self::Gzip(decompress) => {
                let before = decompress.total_in();
                let status = decompress
                    .decompress_vec(compressed, portion, FlushDecompress::None)
                    .map_err(|error| unusable(&error))?;
                let taken = (decompress.total_in() - before) as usize;
                Ok(Step { taken, has_ended: status == Status::StreamEnd })
            }
            Self::Zstd(decoder) => {
                let mut input = InBuffer::around(compressed);
                let from = portion.len();
                let mut output = OutBuffer::around_pos(portion, from);
                let hint = decoder.run(&mut input, &mut output).map_err(|error| unusable(&error))?;
                Ok(Step { taken: input.pos(), has_ended: hint == 0 })
            }
        }
    }
}

fn unusable(why: &dyn std::fmt::Display) -> WireError {
    WireError::Protocol(format!("a compressed archive cannot be unpacked: {why}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn compressed(compression: LinkCompression, plain: &[u8]) -> Vec<u8> {
        match compression {
            LinkCompression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            _ => zstd::stream::encode_all(plain, 1).unwrap(),
        }
    }

    /// What comes out of `stream` in pieces of `size`, and the largest portion.
    fn inflated(
        compression: LinkCompression,
        stream: &[u8],
        size: usize,
    ) -> Result<(Vec<u8>, usize), WireError> {
        let mut inflating = Inflating::begin(compression)?.unwrap();
        let (mut plain, mut largest) = (Vec::new(), 0);
        for piece in stream.chunks(size) {
            inflating.push(Bytes::copy_from_slice(piece));
            while let Some(portion) = inflating.next()? {
                largest = largest.max(portion.len());
                plain.extend_from_slice(&portion);
            }
        }
        inflating.end().map(|()| (plain, largest))
    }

    #[test]
    fn archives_come_out_as_they_went_in_and_in_bounded_portions() {
        let noise: Vec<u8> =
            (0..300_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for compression in [LinkCompression::Gzip, LinkCompression::Zstd] {
            // The second is a bomb: a thousand bytes for each that comes.
            for plain in [&noise[..], &vec![0; 40 << 20], b"x", b""] {
                let stream = compressed(compression, plain);
                for size in [7, 8_192, 1 << 20].into_iter().filter(|size| stream.len() / size < 50_000) {
                    let (found, largest) = inflated(compression, &stream, size).unwrap();
                    assert!(found == plain, "{compression:?} in pieces of {size}");
                    assert!(largest <= PORTION_BYTES, "{compression:?}: {largest}");
                }
            }
        }
        assert!(Inflating::begin(LinkCompression::None).unwrap().is_none());
    }

    #[test]
    fn streams_that_are_damaged_cut_off_or_too_long_are_refused() {
        for compression in [LinkCompression::Gzip, LinkCompression::Zstd] {
            let whole = compressed(compression, &[7; 100_000]);
            let mut flipped = whole.clone();
            flipped[1] ^= 1;
            for (stream, why) in [
                (whole[..whole.len() - 1].to_vec(), "it ends too early"),
                (Vec::new(), "it ends too early"),
                ([&whole[..], b"x"].concat(), "goes on behind its end"),
                (flipped, "cannot be unpacked"),
            ] {
                let error = inflated(compression, &stream, 1_000).unwrap_err();
                assert!(error.to_string().contains(why), "{compression:?} {why}: {error}");
            }
        }
    }
}
