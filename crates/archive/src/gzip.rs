//! Gzip for dumps: members that are made by themselves, so that every core works on one stream, and streams of anybody read back.
//!
//! A gzip file is any number of members, one after another (RFC 1952, section 2.2), and the stock tools read them so. What is written here is
//! cut into pieces that are compressed each for itself. Each member says in an extra field how long it is, so that a reader can hand whole
//! members to several cores without looking into them; readers that do not know the field pass it over.

use std::io::{self, BufRead, Read};

use libdeflater::{CompressionLvl, Crc, Decompressor};

/// Plain bytes that make one member. Larger pieces gain little, smaller ones lose what the compressor has learnt.
pub const MEMBER_BYTES: usize = 2 * 1024 * 1024;

/// The levels that may be asked for.
pub const LEVELS: std::ops::RangeInclusive<u8> = 1..=12;

/// The level whose files are not larger than those of mongodump.
pub const LEVEL: u8 = 8;

/// The most plain bytes of a member that is read as a whole.
const PLAIN_BYTES_MAX: u32 = 64 * 1024 * 1024;

const MAGIC: [u8; 3] = [0x1F, 0x8B, 8];
/// Flag for an extra field.
const FEXTRA: u8 = 4;
/// The name of the subfield that holds the member's whole length.
const SUBFIELD: [u8; 2] = *b"MS";
/// What a member of ours begins with, but for the length: magic, flags, no time, no hint, unknown system, one subfield of four bytes.
const HEAD: [u8; 16] = [0x1F, 0x8B, 8, FEXTRA, 0, 0, 0, 0, 0, 255, 8, 0, SUBFIELD[0], SUBFIELD[1], 4, 0];
const HEAD_BYTES: usize = HEAD.len() + 4;
const TAIL_BYTES: usize = 8;

/// Whether something begins like gzip.
pub fn is_gzip(front: &[u8]) -> bool {
    front.starts_with(&MAGIC)
}

/// Makes members. One for each thread.
pub struct Compressor(libdeflater::Compressor);

impl Compressor {
    /// A compressor of one of [`LEVELS`]; others are taken for the nearest.
    pub fn new(level: u8) -> Self {
        let level = i32::from(level.clamp(*LEVELS.start(), *LEVELS.end()));
        Self(libdeflater::Compressor::new(CompressionLvl::new(level).unwrap_or_default()))
    }

    /// One member that holds `plain`.
    ///
    /// # Errors
    /// When the member does not fit the room that the library says is enough, or has 4 GiB.
    pub fn member(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut member = vec![0; HEAD_BYTES + self.0.deflate_compress_bound(plain.len()) + TAIL_BYTES];
        let body = self.0.deflate_compress(plain, &mut member[HEAD_BYTES..]).map_err(io::Error::other)?;
        let mut checksum = Crc::new();
        checksum.update(plain);
        let too_large = |_| io::Error::other("a gzip member has 4 GiB");
        let (whole, length) =
            (HEAD_BYTES + body + TAIL_BYTES, u32::try_from(plain.len()).map_err(too_large)?);
        member.truncate(HEAD_BYTES + body);
        member.extend(checksum.sum().to_le_bytes());
        member.extend(length.to_le_bytes());
        member[..HEAD.len()].copy_from_slice(&HEAD);
        member[HEAD.len()..HEAD_BYTES]
            .copy_from_slice(&u32::try_from(whole).map_err(too_large)?.to_le_bytes());
        Ok(member)
    }
}

/// The whole length of the member that begins with `front`, when it was made here.
pub fn member_length(front: &[u8]) -> Option<usize> {
    let length = front.strip_prefix(&HEAD)?.first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (length >= HEAD_BYTES + TAIL_BYTES).then_some(length)
}

/// How many bytes of the front [`member_length`] needs.
pub const FRONT_BYTES: usize = HEAD_BYTES;

/// The plain bytes of a whole member that was made here.
///
/// # Errors
/// `InvalidData` when it is damaged.
pub fn inflate_member(member: &[u8]) -> io::Result<Vec<u8>> {
    let damaged =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a gzip member is damaged: {what}"));
    let body = member
        .get(HEAD_BYTES..member.len().saturating_sub(TAIL_BYTES))
        .ok_or_else(|| damaged("it is too short"))?;
    let tail = member.last_chunk::<TAIL_BYTES>().ok_or_else(|| damaged("it is too short"))?;
    let word = |at: usize| u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    let (checksum, length) = (word(0), word(4));
    if length > PLAIN_BYTES_MAX {
        return Err(damaged("it claims too many bytes"));
    }
    let mut plain = vec![0; length as usize];
    let inflated = Decompressor::new()
        .deflate_decompress(body, &mut plain)
        .map_err(|error| damaged(&error.to_string()))?;
    let mut found = Crc::new();
    found.update(&plain);
    if inflated != plain.len() || found.sum() != checksum {
        return Err(damaged("its checksum is another"));
    }
    Ok(plain)
}

/// Reads the plain bytes of any gzip stream, members of any kind one after another.
pub struct Decoder<R: BufRead>(flate2::bufread::MultiGzDecoder<R>);

impl<R: BufRead> Decoder<R> {
    /// Reads from `compressed`.
    pub fn new(compressed: R) -> Self {
        Self(flate2::bufread::MultiGzDecoder::new(compressed))
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, plain: &mut [u8]) -> io::Result<usize> {
        self.0.read(plain)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Decoder::new(bytes).read_to_end(&mut plain).map(|_| plain)
    }

    #[test]
    fn members_come_back_alone_and_together() {
        let mut compressor = Compressor::new(LEVEL);
        let pieces: Vec<Vec<u8>> =
            [0, 1, 70_000].map(|length| (0..length).map(|at| (at / 7) as u8).collect()).into();
        let members: Vec<_> = pieces.iter().map(|piece| compressor.member(piece).unwrap()).collect();
        for (piece, member) in pieces.iter().zip(&members) {
            assert!(is_gzip(member));
            assert_eq!(member_length(member), Some(member.len()));
            assert_eq!(inflate_member(member).unwrap(), *piece);
        }
        assert_eq!(decoded(&members.concat()).unwrap(), pieces.concat());
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let member = Compressor::new(1).member(b"some text, some text, some text").unwrap();
        for end in 0..member.len() {
            assert!(inflate_member(&member[..end]).is_err());
            assert!(end == 0 || decoded(&member[..end]).is_err(), "{end}");
        }
        for at in HEAD_BYTES..member.len() {
            let mut damaged = member.clone();
            damaged[at] ^= 0x10;
            // Some bits mean nothing.
            let same = |plain: Vec<u8>| plain == b"some text, some text, some text";
            assert!(inflate_member(&damaged).map_or(true, same), "{at}");
        }
        assert_eq!(member_length(&member[..FRONT_BYTES - 1]), None);
    }
}
