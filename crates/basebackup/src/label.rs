//! `backup_label`: where recovery begins, and what an incremental backup builds on.
//!
//! Text of `NAME: VALUE` lines. A server does not start from files whose label says that they are changes alone; who has put these together
//! takes the two lines away that say so. Source: manual (18), "Backing Up the Data Directory", and the server's error "this is an
//! incremental backup, not a data directory".

use crate::manifest::position;

/// The file's path.
pub const LABEL_FILE: &str = "backup_label";
/// The longest label that is read; a server's has less than 2 KiB, most of it the text it was given.
pub const LABEL_BYTES_MAX: usize = 64 * 1024;

const FROM_LSN: &str = "INCREMENTAL FROM LSN: ";
const FROM_TIMELINE: &str = "INCREMENTAL FROM TLI: ";

/// Where the backup began that an incremental one builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildsOn {
    /// The position.
    pub begin: u64,
    /// Its timeline.
    pub timeline: u32,
}

/// What the label says that its backup builds on; `None` when it is whole.
pub fn builds_on(label: &[u8]) -> Option<BuildsOn> {
    let text = String::from_utf8_lossy(label);
    let value = |name| text.lines().find_map(|line| line.strip_prefix(name));
    Some(BuildsOn { begin: position(value(FROM_LSN)?)?, timeline: value(FROM_TIMELINE)?.parse().ok()? })
}

/// The label of the files that an incremental backup and what it builds on make together.
pub fn combined_label(label: &[u8]) -> Vec<u8> {
    let lines = label.split_inclusive(|byte| *byte == b'\n');
    let says_so =
        |line: &&[u8]| line.starts_with(FROM_LSN.as_bytes()) || line.starts_with(FROM_TIMELINE.as_bytes());
    lines.filter(|line| !says_so(line)).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_tells_what_it_builds_on_until_it_is_combined() {
        let whole = "START WAL LOCATION: 0/4000028 (file 000000010000000000000004)\nLABEL: INCREMENTAL \u{fc}\nSTART TIMELINE: 1\n";
        let label = format!("{whole}INCREMENTAL FROM LSN: 1/2000028\nINCREMENTAL FROM TLI: 3\n");
        assert_eq!(
            builds_on(label.as_bytes()),
            Some(BuildsOn { begin: (1 << 32) + 0x200_0028, timeline: 3 })
        );
        assert_eq!(combined_label(label.as_bytes()), whole.as_bytes());
        assert_eq!(builds_on(whole.as_bytes()), None);
        assert_eq!(combined_label(whole.as_bytes()), whole.as_bytes());
        assert_eq!(builds_on(b"INCREMENTAL FROM LSN: x\nINCREMENTAL FROM TLI: 3\n"), None);
        assert_eq!(combined_label(b"\xFF"), b"\xFF");
    }
}
