//! The few facts of `global/pg_control` that a server on a restored folder must be told.
//!
//! Hot standby refuses to begin when a limit is smaller than it was where the log was written; the control file says what it was. The layout is that
//! of `ControlFileData` (source, `src/include/catalog/pg_control.h`), in the machine's own order of bytes and alike, up to what is read here, from
//! version 13 to 18 of the server. Nothing of a file is believed before its own version is known and its checksum is right.

use crc_fast::{CrcAlgorithm, checksum};
use mainstay_model::{Error, ErrorKind, Result};

/// How much of the file is looked at; the rest of its 8192 bytes is empty.
pub(crate) const CONTROL_BYTES: usize = 512;
/// Where the layout's version is.
const VERSION_AT: usize = 8;
/// Each version of the layout that is known, and where its checksum is, which is of all bytes before it.
const LAYOUTS: &[(u32, usize)] = &[(1300, 288), (1800, 292)];
/// Which servers write these.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;
/// The limits: where each is, its setting, and the least that is given. A limit that was raised after the folder was copied comes in the log,
/// where recovery would stop at it; up to here it does not, for some hundred MB of address space.
const LIMITS: &[(usize, &str, u32)] = &[
    (180, "max_connections", 1000),
    (184, "max_worker_processes", 64),
    (188, "max_wal_senders", 64),
    (192, "max_prepared_transactions", 200),
    (196, "max_locks_per_transaction", 256),
];

/// Refuses a server whose control file cannot be read here.
pub(crate) fn check_known(major: u32) -> Result<()> {
    if MAJORS.contains(&major) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("this version does not know the control file of PostgreSQL {major}"),
    )
    .with_state("nothing was changed")
    .with_hint("restore without `--scratch`, and start the server by hand"))
}

/// The limits that a server is given on the folder whose control file `bytes` are, as settings: none is smaller than there.
///
/// # Errors
/// `Corrupt` for what is no control file of this machine.
pub(crate) fn limits(bytes: &[u8]) -> Result<Vec<String>> {
    let unusable = |why: String| {
        Err(Error::new(ErrorKind::Corrupt, format!("global/pg_control {why}"))
            .with_state("the folder is restored; no server was started")
            .with_hint("restore the set anew, or another one: `mainstay backup list --store postgres`"))
    };
    let Some(version) = number(bytes, VERSION_AT) else {
        return unusable(format!("has {} bytes alone", bytes.len()));
    };
    let Some((_, crc_at)) = LAYOUTS.iter().find(|(known, _)| *known == version) else {
        return match LAYOUTS.iter().any(|(known, _)| known.swap_bytes() == version) {
            true => unusable("is of a machine with another order of bytes".to_owned()),
            false => unusable(format!("has the layout {version}, which is not known")),
        };
    };
    let summed = bytes.get(..*crc_at).map(|summed| checksum(CrcAlgorithm::Crc32Iscsi, summed));
    let told = number(bytes, *crc_at).map(u64::from);
    if summed.is_none() || summed != told {
        return unusable("has a wrong checksum".to_owned());
    }
    let setting =
        |(at, name, least): &(usize, &str, u32)| Some(format!("{name}={}", number(bytes, *at)?.max(*least)));
    Ok(LIMITS.iter().filter_map(setting).collect())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A control file whose limits are `first` and those that follow.
    fn file(version: u32, crc_at: usize, first: u32) -> Vec<u8> {
        let mut bytes = vec![0; CONTROL_BYTES];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(VERSION_AT, version);
        for (value, (at, ..)) in (first..).zip(LIMITS) {
            put(*at, value);
        }
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes[..crc_at]) as u32;
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    #[test]
    fn limits_are_those_of_the_control_file_or_larger() {
        let names = LIMITS.iter().map(|(_, name, _)| *name);
        for &(version, crc_at) in LAYOUTS {
            for (first, expected) in [
                (0, [1000, 64, 64, 200, 256]),
                (61, [1000, 64, 64, 200, 256]),
                (250, [1000, 251, 252, 253, 256]),
                (5000, [5000, 5001, 5002, 5003, 5004]),
            ] {
                let told = limits(&file(version, crc_at, first)).unwrap();
                let expected: Vec<String> =
                    names.clone().zip(expected).map(|(name, value)| format!("{name}={value}")).collect();
                assert_eq!(told, expected, "{version} {first}");
            }
        }
    }

    #[test]
    fn what_is_no_control_file_is_refused() {
        let sound = file(1800, 292, 250);
        let changed = |at: usize, value: u8| {
            let mut bytes = sound.clone();
            bytes[at] = value;
            bytes
        };
        let swapped = {
            let mut bytes = sound.clone();
            bytes[8..12].reverse();
            bytes
        };
        for (bytes, why) in [
            (Vec::new(), "has 0 bytes alone"),
            (sound[..11].to_vec(), "has 11 bytes alone"),
            (sound[..295].to_vec(), "has a wrong checksum"),
            (changed(180, 1), "has a wrong checksum"),
            (changed(292, !sound[292]), "has a wrong checksum"),
            (changed(8, 9), "which is not known"),
            (swapped, "another order of bytes"),
        ] {
            let error = limits(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.message().contains(why), "{why}: {error}");
        }
        assert!(check_known(18).is_ok() && check_known(19).is_err());
    }
}
