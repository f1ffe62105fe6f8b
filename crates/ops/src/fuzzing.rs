//! What a fuzzer calls: the scanner of an image's scripts on any bytes. A broken promise panics; what the scanner answers is of no interest.

use mainstay_indexes::Manifest;

use crate::init::scripts::{Image, ScriptFile, read};

/// A folder of one script, under each name that is read otherwise.
///
/// # Panics
/// When a place has no line, or the declaration for PostgreSQL is no TOML.
pub fn script(bytes: &[u8]) {
    for (name, image) in [
        ("a.js", Image::Mongo),
        ("a.sh", Image::Mongo),
        ("a.sql", Image::Postgres),
        ("a.sh", Image::Postgres),
        ("a.sql.gz", Image::Postgres),
    ] {
        let file = ScriptFile { name: name.to_owned(), bytes: bytes.to_vec(), executable: false };
        let report = read(vec![file], image, "test");
        let lines = report.found.iter().map(|found| found.line);
        assert!(lines.chain(report.unread.iter().map(|unread| unread.line)).all(|line| line > 0), "{name}");
        if image == Image::Postgres
            && let Err(error) = Manifest::parse(&report.toml)
        {
            panic!("{error}: {}", report.toml);
        }
    }
}
