//! LZF, the compression of strings in a database file.
//!
//! A control byte below 32 is followed by that many literals and one; any other is a copy of what came out before: its three high bits are
//! the length less 2 (7: the next byte is added), its low five and one byte more are the distance less 1.

/// The most that one copy brings; it takes three bytes.
const COPY_MAX: usize = 264;

/// What comes out of `packed`; `None` unless it is exactly `length` bytes. `length` is believed only as far as `packed` can expand.
pub(crate) fn unpack(packed: &[u8], length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok()?;
    if length > packed.len().saturating_mul(COPY_MAX) {
        return None;
    }
    let mut out = Vec::with_capacity(length);
    let mut rest = packed;
    while !rest.is_empty() {
        rest = step(rest, &mut out)?;
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

/// Takes one run of literals or one copy from the beginning of `packed`; gives what is behind it.
fn step<'a>(packed: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (&control, mut rest) = packed.split_first()?;
    if control < 32 {
        let (literals, behind) = rest.split_at_checked(usize::from(control) + 1)?;
        out.extend_from_slice(literals);
        return Some(behind);
    }
    let mut count = usize::from(control >> 5) + 2;
    if control >> 5 == 7 {
        let (&more, behind) = rest.split_first()?;
        count += usize::from(more);
        rest = behind;
    }
    let (&low, rest) = rest.split_first()?;
    let distance = (usize::from(control & 31) << 8 | usize::from(low)) + 1;
    let from = out.len().checked_sub(distance)?;
    // What is copied may overlap what it makes: byte by byte is what it means.
    for at in from..from + count {
        out.push(out[at]);
    }
    Some(rest)
}

/// The first `N` bytes of what comes out of something that begins with `packed`, or as many as that gives.
pub(crate) fn front<const N: usize>(packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(N + COPY_MAX);
    let mut rest = packed;
    while out.len() < N {
        match step(rest, &mut out) {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    out.truncate(N);
    out
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn literals_copies_and_overlaps_come_out() {
        assert_eq!(unpack(&[2, b'a', b'b', b'c'], 3).unwrap(), b"abc");
        // Three literals, then five bytes from three back: overlapping.
        assert_eq!(unpack(&[2, b'a', b'b', b'c', 3 << 5, 2], 8).unwrap(), b"abcabcab");
        // One literal, then 7 + 2 + 20 of it.
        assert_eq!(unpack(&[0, b'x', 7 << 5, 20, 0], 30).unwrap(), [b'x'; 30]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (packed, length) in [
            (&[2, b'a'][..], 3),
            (&[0, b'a'], 2),
            (&[0, b'a', 1 << 5], 4),
            (&[0, b'a', 1 << 5, 1], 4),
            (&[0, b'a', 7 << 5], 40),
            (&[0, b'a'], u64::MAX),
        ] {
            assert_eq!(unpack(packed, length), None, "{packed:?}");
        }
    }
}
