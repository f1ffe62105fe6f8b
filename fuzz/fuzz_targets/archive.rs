//! The archive reader on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_archive::fuzzing::archive(bytes));
