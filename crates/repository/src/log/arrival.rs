//! When the bytes of a replication stream came: a stream that tells no time gets one from whoever captures it.
//!
//! Behind the bytes of the stream a slice holds 24 bytes for each *arrival*: up to which position bytes had come, and between which two
//! moments the server had recorded them, little-endian. While a capture follows a server the two moments are as close as its reads. After a
//! capture was away they are not: what it missed was recorded at some moment in between, and nobody can tell which. How many bytes are the
//! stream's follows from the slice's name, so nothing else is needed to tell the two apart.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The length of one arrival.
const ARRIVAL_BYTES: usize = 24;

/// Bytes of a stream, and when the server recorded them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The position of the last byte.
    pub through: u64,
    /// Not before this, in milliseconds since 1970.
    pub since_ms: i64,
    /// At this at the latest: when the bytes had come.
    pub at_ms: i64,
}

/// Why a slice is no slice of a replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalFault {
    /// It is shorter than its name says.
    #[error("it has fewer bytes than its name says")]
    Short,
    /// What follows the stream is no whole number of arrivals.
    #[error("what follows the stream does not say when it came")]
    Odd,
    /// Arrivals that do not follow one another, or do not end with the slice.
    #[error("what it says of when the stream came contradicts itself")]
    Contradiction,
}

/// The plain bytes of a slice: the stream, and behind it the arrivals.
pub fn with_arrivals(mut stream: BytesMut, arrivals: &[Arrival]) -> Bytes {
    stream.reserve(arrivals.len() * ARRIVAL_BYTES);
    for Arrival { through, since_ms, at_ms } in arrivals {
        stream.put_u64_le(*through);
        stream.put_i64_le(*since_ms);
        stream.put_i64_le(*at_ms);
    }
    stream.freeze()
}

/// The stream and the arrivals of a slice that begins after `after` and ends with `through`. Positions grow and the last is `through`; times
/// may go back where a clock was set.
///
/// # Errors
/// What is wrong with it.
pub fn without_arrivals(
    after: u64,
    through: u64,
    plain: Bytes,
) -> Result<(Bytes, Vec<Arrival>), ArrivalFault> {
    let length = through.checked_sub(after).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length <= plain.len()).ok_or(ArrivalFault::Short)?;
    let (stream, told) = (plain.slice(..length), &plain[length..]);
    let (told, rest) = told.as_chunks::<ARRIVAL_BYTES>();
    if !rest.is_empty() {
        return Err(ArrivalFault::Odd);
    }
    let mut arrivals: Vec<Arrival> = Vec::with_capacity(told.len());
    for one in told {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&one[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let arrival = Arrival {
            through: number(0),
            since_ms: number(8).cast_signed(),
            at_ms: number(16).cast_signed(),
        };
        let before = arrivals.last().map_or(after, |last| last.through);
        if arrival.through <= before || arrival.since_ms > arrival.at_ms {
            return Err(ArrivalFault::Contradiction);
        }
        arrivals.push(arrival);
    }
    match arrivals.last() {
        Some(last) if last.through == through => Ok((stream, arrivals)),
        _ => Err(ArrivalFault::Contradiction),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn arrival(through: u64, since_ms: i64, at_ms: i64) -> Arrival {
        Arrival { through, since_ms, at_ms }
    }

    #[test]
    fn a_slice_gives_back_what_it_was_made_of() {
        let arrivals = [arrival(12, 900, 1_000), arrival(15, 1_000, 1_000), arrival(16, -5, 2_000)];
        let plain = with_arrivals(BytesMut::from(&b"stream"[..]), &arrivals);
        let (stream, read) = without_arrivals(10, 16, plain.clone()).unwrap();
        assert_eq!((stream.as_ref(), read.as_slice()), (&b"stream"[..], &arrivals[..]));
        assert_eq!(&plain[..6], b"stream", "the stream is in front, as it is");
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let read = |arrivals: &[Arrival]| {
            without_arrivals(10, 16, with_arrivals(BytesMut::from(&b"stream"[..]), arrivals))
        };
        for (arrivals, fault) in [
            (&[][..], ArrivalFault::Contradiction),
            (&[arrival(15, 0, 0)], ArrivalFault::Contradiction),
            (&[arrival(17, 0, 0)], ArrivalFault::Contradiction),
            (&[arrival(10, 0, 0), arrival(16, 0, 0)], ArrivalFault::Contradiction),
            (&[arrival(16, 0, 0), arrival(16, 0, 0)], ArrivalFault::Contradiction),
            (&[arrival(16, 1, 0)], ArrivalFault::Contradiction),
        ] {
            assert_eq!(read(arrivals), Err(fault), "{arrivals:?}");
        }
        let whole = with_arrivals(BytesMut::from(&b"stream"[..]), &[arrival(16, 0, 0)]);
        assert_eq!(without_arrivals(10, 16, whole.slice(..20)), Err(ArrivalFault::Odd));
        assert_eq!(without_arrivals(10, 16, whole.slice(..5)), Err(ArrivalFault::Short));
        assert_eq!(without_arrivals(16, 10, whole), Err(ArrivalFault::Short));
    }
}
