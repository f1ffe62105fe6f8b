//! WAL, histories of timelines and names of segments, on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_basebackup::fuzzing::wal(bytes));
