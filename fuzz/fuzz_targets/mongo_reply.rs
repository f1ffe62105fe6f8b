//! A server's answer on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_mongo::fuzzing::reply(bytes));
