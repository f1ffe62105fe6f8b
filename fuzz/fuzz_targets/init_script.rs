//! A one-time script of a database image, on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_ops::fuzzing::script(bytes));
