//! The manifest of indexes, read when a command asks for it.

use std::path::Path;

use mainstay_indexes::Manifest;
use mainstay_model::{Error, ErrorKind, Result};

/// Reads the manifest in the file at `path`.
///
/// # Errors
/// `Config`, naming file and line, with what to write.
pub(crate) fn read(path: &Path) -> Result<Manifest> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        Error::new(ErrorKind::Config, format!("cannot read the declared indexes in {}", path.display()))
            .with_source(source)
            .with_hint("correct `indexes` in [mongo], or write the file with `mainstay index import live --output FILE`")
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
