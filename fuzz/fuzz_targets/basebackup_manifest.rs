//! The manifest of a base backup, on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_basebackup::fuzzing::manifest(bytes));
