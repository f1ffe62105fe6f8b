//! Lengths and strings, of which everything else is made.

use std::io::Read;

use crate::fault::Fault;
use crate::input::Input;
use crate::lzf;

/// What the beginning of a string says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StringHead {
    /// So many bytes follow.
    Plain(u64),
    /// It is this number in decimal.
    Integer(i32),
    /// So many bytes follow, from which LZF makes `raw`.
    Compressed { packed: u64, raw: u64 },
}

/// A length or, where a string may stand, one of its special forms.
enum Length {
    Count(u64),
    Special(u8),
}

#[inline]
fn length_or_special<R: Read>(input: &mut Input<R>) -> Result<Length, Fault> {
    let first = input.byte()?;
    let low = first & 0x3f;
    Ok(match first >> 6 {
        0 => Length::Count(low.into()),
        1 => Length::Count(u64::from(low) << 8 | u64::from(input.byte()?)),
        2 => match first {
            0x80 => Length::Count(u32::from_be_bytes(input.array()?).into()),
            0x81 => Length::Count(u64::from_be_bytes(input.array()?)),
            other => return Err(Fault::Length(other)),
        },
        _ => Length::Special(low),
    })
}

impl<R: Read> Input<R> {
    /// Takes a length.
    pub(crate) fn length(&mut self) -> Result<u64, Fault> {
        match length_or_special(self)? {
            Length::Count(count) => Ok(count),
            Length::Special(special) => Err(Fault::Length(special | 0xc0)),
        }
    }

    /// Takes the beginning of a string.
    #[inline]
    pub(crate) fn string_head(&mut self) -> Result<StringHead, Fault> {
        Ok(match length_or_special(self)? {
            Length::Count(count) => StringHead::Plain(count),
            Length::Special(0) => StringHead::Integer(i8::from_le_bytes(self.array()?).into()),
            Length::Special(1) => StringHead::Integer(i16::from_le_bytes(self.array()?).into()),
            Length::Special(2) => StringHead::Integer(i32::from_le_bytes(self.array()?)),
            Length::Special(3) => StringHead::Compressed { packed: self.length()?, raw: self.length()? },
            Length::Special(other) => return Err(Fault::Length(other | 0xc0)),
        })
    }

    /// Passes over a string; gives how many bytes it is of, unpacked.
    pub(crate) fn skip_string(&mut self) -> Result<u64, Fault> {
        Ok(match self.string_head()? {
            StringHead::Plain(count) => {
                self.skip(count)?;
                count
            }
            StringHead::Integer(number) => decimal_digits(number),
            StringHead::Compressed { packed, raw } => {
                self.skip(packed)?;
                raw
            }
        })
    }

    /// Takes a string of at most `max` bytes.
    pub(crate) fn string(&mut self, max: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        self.string_into(&mut bytes, max)?;
        Ok(bytes)
    }

    /// The same into `bytes`, which are empty.
    pub(crate) fn string_into(&mut self, bytes: &mut Vec<u8>, max: u64) -> Result<(), Fault> {
        match self.string_head()? {
            StringHead::Plain(count) | StringHead::Compressed { raw: count, .. } if count > max => {
                return Err(Fault::Name(count));
            }
            StringHead::Compressed { packed, .. } if packed > max => return Err(Fault::Name(packed)),
            StringHead::Plain(count) => self.append(count, bytes)?,
            StringHead::Integer(number) => bytes.extend_from_slice(number.to_string().as_bytes()),
            StringHead::Compressed { packed, raw } => {
                self.append(packed, bytes)?;
                *bytes = lzf::unpack(bytes, raw).ok_or(Fault::Compressed)?;
            }
        }
        Ok(())
    }

    /// Takes a string and gives only its first `N` bytes, or fewer when it is shorter; the rest is passed over.
    pub(crate) fn string_front<const N: usize>(&mut self) -> Result<StringFront<N>, Fault> {
        let head = self.string_head()?;
        let mut front = [0; N];
        let (bytes, known) = match head {
            StringHead::Plain(count) => {
                let known = usize::try_from(count).unwrap_or(N).min(N);
                front[..known].copy_from_slice(self.peek(known)?);
                self.skip(count)?;
                (count, known)
            }
            StringHead::Integer(number) => {
                let digits = number.to_string();
                let known = digits.len().min(N);
                front[..known].copy_from_slice(&digits.as_bytes()[..known]);
                (digits.len() as u64, known)
            }
            StringHead::Compressed { packed, raw } => {
                /// Enough for any front: a run of literals has at most 33 bytes, a copy brings at most 264 for three.
                const FRONT_PACKED_MAX: u64 = 64;
                let first = usize::try_from(packed.min(FRONT_PACKED_MAX)).unwrap_or_default();
                let unpacked = lzf::front::<N>(self.peek(first)?);
                self.skip(packed)?;
                let known = unpacked.len().min(usize::try_from(raw).unwrap_or(N));
                front[..known].copy_from_slice(&unpacked[..known]);
                (raw, known)
            }
        };
        Ok(StringFront { bytes, front, known })
    }
}

/// The beginning of a string.
pub(crate) struct StringFront<const N: usize> {
    /// Bytes of the whole string, unpacked.
    pub(crate) bytes: u64,
    front: [u8; N],
    known: usize,
}

impl<const N: usize> StringFront<N> {
    /// The first bytes of it.
    pub(crate) fn front(&self) -> &[u8] {
        &self.front[..self.known]
    }
}

fn decimal_digits(number: i32) -> u64 {
    let sign = u64::from(number < 0);
    sign + number.unsigned_abs().checked_ilog10().map_or(1, |log| u64::from(log) + 1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_string_is_read_and_passed_over() {
        for (bytes, expected) in [
            (&b"\x03abc"[..], &b"abc"[..]),
            (b"\x40\x03abc", b"abc"),
            (b"\x80\0\0\0\x03abc", b"abc"),
            (b"\x81\0\0\0\0\0\0\0\x03abc", b"abc"),
            (b"\xc0\xff", b"-1"),
            (b"\xc1\x39\x30", b"12345"),
            (b"\xc2\x00\x00\x00\x80", b"-2147483648"),
            (b"\xc3\x05\x1e\x00x\xe0\x14\x00", &[b'x'; 30]),
            (b"\x00", b""),
            (b"\xc0\x00", b"0"),
        ] {
            assert_eq!(Input::new(bytes).string(1 << 20).unwrap(), expected, "{bytes:?}");
            let mut input = Input::new(bytes);
            assert_eq!(input.skip_string().unwrap(), expected.len() as u64, "{bytes:?}");
            assert!(input.is_at_end().unwrap(), "{bytes:?}");
            let front = Input::new(bytes).string_front::<4>().unwrap();
            assert_eq!(front.front(), &expected[..expected.len().min(4)], "{bytes:?}");
            assert_eq!(front.bytes, expected.len() as u64, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_string_is_refused() {
        for bytes in [&b"\x82"[..], b"\xc4", b"\x05abc", b"\xc3\x05\x1f\x00x\xe0\x14\x00", b"\xc1\x00", b""] {
            assert!(Input::new(bytes).string(1 << 20).is_err(), "{bytes:?}");
        }
        assert!(matches!(Input::new(&b"\x7f\xff"[..]).string(100), Err(Fault::Name(0x3fff))));
    }
}
