//! The gzip reader and the names of files on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_archive::fuzzing::gzip_and_names(bytes));
