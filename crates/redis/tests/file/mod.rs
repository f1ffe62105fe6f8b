//! Database files, for the tests that look into them.

use mainstay_rdb::{Item, WalkError, Walker};

/// Walks to the end and gives how many keys there are.
pub(crate) fn count_keys(file: &[u8]) -> Result<u64, WalkError> {
    let mut walker = Walker::new(file);
    let mut keys = 0;
    while let Some(item) = walker.next_item()? {
        keys += u64::from(matches!(item, Item::Key(_)));
    }
    Ok(keys)
}
