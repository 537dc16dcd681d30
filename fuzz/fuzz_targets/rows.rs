//! libFuzzer over `rows`: see `end_to_end::fuzzing`.
#![no_main]

// The Parquet library panics on some broken files, and the reader makes an error of that: only panics that leave the
// reader count, so libFuzzer's hook, which aborts at once, is put away.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |bytes: &[u8]| {
    end_to_end::fuzzing::rows(bytes);
});
