//! What a fuzzer calls: the parser of this crate on any bytes. A broken promise panics; what the parser answers is of no interest.

use crate::select::Wanted;
use crate::toc::{Toc, TocError};

/// An archive, whole and as more and more of it arrives, and selections of what it holds.
///
/// # Panics
/// When less of an archive is understood otherwise than more of it.
pub fn archive(bytes: &[u8]) {
    let whole = Toc::read(bytes);
    if let Ok(toc) = &whole {
        assert!(toc.bytes <= bytes.len(), "it ends behind its end");
        assert_eq!(Toc::read(&bytes[..toc.bytes]).as_ref(), Ok(toc), "what follows it changes it");
        let schemas = toc.entries.iter().filter_map(|entry| entry.schema.clone()).take(1).collect();
        let _ = toc.select(&Wanted { schemas, tables: Vec::new() });
        let tables =
            toc.entries.iter().map(|entry| (entry.schema.clone(), entry.tag.clone())).take(8).collect();
        let _ = toc.select(&Wanted { schemas: Vec::new(), tables });
    }
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        match (Toc::read(&bytes[..cut]), &whole) {
            (Ok(early), Ok(late)) => assert_eq!(&early, late, "the cut decides what comes out"),
            (Ok(_), Err(error)) => panic!("{error} comes of more bytes"),
            (Err(TocError::Incomplete), _) | (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) => panic!("{error} comes of fewer bytes"),
        }
    }
}
