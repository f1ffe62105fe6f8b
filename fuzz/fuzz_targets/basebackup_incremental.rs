//! Files that hold changes of others, and labels, on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_basebackup::fuzzing::incremental(bytes));
