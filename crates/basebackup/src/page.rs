//! Pages of 8 KiB and their checksums.
//!
//! Source: manual (18), "Database Page Layout", and the definition of the checksum in `src/include/storage/checksum_impl.h`: 32 sums beside each
//! other, each a variant of FNV-1a over every 32nd word of the page, folded and mixed with the block's number; never 0. The checksum's own field
//! counts as zero.

/// The size of a page.
pub(crate) const PAGE_BYTES: usize = 8192;
/// Blocks per segment file.
pub(crate) const SEGMENT_BLOCKS: u32 = 131_072;
/// How many sums lie beside each other.
const LANES: usize = 32;
/// A word for each of them.
const ROW_BYTES: usize = LANES * 4;
/// Where a page keeps its own checksum.
const CHECKSUM_AT: usize = 8;
const PRIME: u32 = 16_777_619;
/// Where each sum begins.
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// A page as it lies in its file.
pub(crate) type Page = [u8; PAGE_BYTES];

/// What is seen of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its checksum is right, or it holds nothing yet.
    Sound,
    /// Its checksum is wrong, and it was written after the backup began: it may have been read half-written, and recovery writes it anew.
    Torn,
    /// Its checksum is wrong.
    Damaged,
}

/// Judges the page `block` of its relation in a backup that began at `begun_at`.
pub(crate) fn judge(page: &Page, block: u32, begun_at: u64) -> Verdict {
    if half(page, 14) == 0 || half(page, CHECKSUM_AT) == checksum(page, block) {
        Verdict::Sound
    } else if written_at(page) >= begun_at {
        Verdict::Torn
    } else {
        Verdict::Damaged
    }
}

/// The position of the last change that the page was written for.
fn written_at(page: &Page) -> u64 {
    u64::from(word(page, 0)) << 32 | u64::from(word(page, 4))
}

/// The checksum that the page must have as block `block` of its relation.
pub(crate) fn checksum(page: &Page, block: u32) -> u16 {
    let mut sums = OFFSETS;
    let (first, rest) = page.split_at(ROW_BYTES);
    let mut first: [u8; ROW_BYTES] = first.try_into().expect("a page begins with a row");
    first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
    add_row(&mut sums, &first);
    for row in rest.chunks_exact(ROW_BYTES) {
        add_row(&mut sums, row.try_into().expect("the pieces are rows"));
    }
    let folded = sums.into_iter().fold(0, |folded, sum| folded ^ mix(mix(sum, 0), 0));
    u16::try_from((folded ^ block) % 65_535 + 1).unwrap_or(u16::MAX)
}

/// Adds a word to each sum. Nothing in here depends on the row, so that the processor does several lanes at once.
fn add_row(sums: &mut [u32; LANES], row: &[u8; ROW_BYTES]) {
    for (sum, bytes) in sums.iter_mut().zip(row.as_chunks::<4>().0) {
        *sum = mix(*sum, u32::from_le_bytes(*bytes));
    }
}

fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

fn half(page: &Page, at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn word(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// The number of the first block in the file at `path`, as the manifest names it; `None` when the file has no pages.
pub(crate) fn first_block(path: &str) -> Option<u32> {
    let parts: Vec<&str> = path.split('/').collect();
    let is_oid = |text: &str| text.parse::<u32>().is_ok();
    let file = match parts[..] {
        ["global", file] => file,
        ["base", database, file] if is_oid(database) => file,
        ["pg_tblspc", tablespace, version, database, file]
            if is_oid(tablespace) && version.starts_with("PG_") && is_oid(database) =>
        {
            file
        }
        _ => return None,
    };
    let (relation, segment) = file.split_once('.').unwrap_or((file, "0"));
    let (number, fork) = relation.split_once('_').unwrap_or((relation, "main"));
    if !is_oid(number) || !matches!(fork, "main" | "fsm" | "vm" | "init") {
        return None;
    }
    segment.parse::<u32>().ok()?.checked_mul(SEGMENT_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_pages_are_told_by_their_names() {
        for (path, block) in [
            ("global/1262", Some(0)),
            ("base/5/2619_fsm", Some(0)),
            ("base/5/2619.2", Some(262_144)),
            ("base/5/2619_vm.1", Some(131_072)),
            ("pg_tblspc/16400/PG_18_202506291/5/16401", Some(0)),
            ("global/pg_control", None),
            ("global/pg_filenode.map", None),
            ("base/5/PG_VERSION", None),
            ("base/5/t3_16400", None),
            ("base/5/2619_other", None),
            ("pg_xact/0000", None),
            ("pg_multixact/offsets/0000", None),
            ("base/5/1.4294967295", None),
        ] {
            assert_eq!(first_block(path), block, "{path}");
        }
    }

    #[test]
    fn a_page_is_judged_by_its_checksum_and_its_age() {
        let mut page = [0; PAGE_BYTES];
        assert_eq!(judge(&page, 3, 0), Verdict::Sound, "nothing in it yet");
        page[4..8].copy_from_slice(&100_u32.to_le_bytes());
        page[14] = 1;
        page[5_000] = 9;
        let right = checksum(&page, 3).to_le_bytes();
        page[8..10].copy_from_slice(&right);
        assert_eq!(judge(&page, 3, 200), Verdict::Sound);
        assert_eq!(judge(&page, 4, 200), Verdict::Damaged, "in another place");
        page[5_001] ^= 1;
        assert_eq!(judge(&page, 3, 101), Verdict::Damaged);
        assert_eq!(judge(&page, 3, 100), Verdict::Torn);
    }
}
