//! The manifest of indexes, read when a command asks for it.

use std::path::Path;

use mainstay_indexes::Manifest;
use mainstay_model::{Error, ErrorKind, Result};

use crate::bounded;

/// The longest manifest that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Reads the manifest in the file at `path`.
///
/// # Errors
/// `Config`, naming file and line, with what to write.
pub(crate) fn read(path: &Path) -> Result<Manifest> {
    const HINT: &str =
        "correct `indexes` in [mongo], or write the file with `mainstay index import live --output FILE`";
    let text = bounded::read_text(path, FILE_BYTES_MAX).map_err(|source| {
        Error::new(ErrorKind::Config, format!("cannot read the declared indexes in {}", path.display()))
            .with_source(source)
            .with_hint(HINT)
    })?;
    let text = text.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            format!("{} is too long for a file of declared indexes", path.display()),
        )
        .with_hint(HINT)
    })?;
    Manifest::parse(&text).map_err(|error| {
        let told =
            Error::new(ErrorKind::Config, format!("{}:{}: {}", path.display(), error.line, error.message));
        match error.hint {
            Some(hint) => told.with_hint(hint),
            None => told,
        }
    })
}
