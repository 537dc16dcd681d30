//! Tests that cannot run here: counted as skipped, with the reason, never as passed.
//!
//! libtest knows no skipping at run time, so `skip!` appends a line to the file that `FINETUNE_SKIPPED_TESTS` names
//! (`cargo xtask test` sets it), and takes those tests out of the passed ones. Without the variable, it prints only.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Names the file of skipped tests.
pub const SKIPPED_TESTS: &str = "FINETUNE_SKIPPED_TESTS";

/// Records that the running test is skipped, and why; the test returns right after it.
///
/// ```
/// fn a_gpu_adds_as_the_cpu_does(gpu: Option<&str>) {
///     let Some(_gpu) = gpu else {
///         return golden::skip!("no GPU here");
///     };
/// }
/// a_gpu_adds_as_the_cpu_does(None);
/// ```
///
/// Arguments are those of `format!`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        $crate::record_skip(env!("CARGO_PKG_NAME"), concat!(file!(), ":", line!()), &format!($($reason)+))
    };
}

/// What `skip!` expands to: `package` and `place` say where the test stands.
///
/// # Panics
/// If the file of skipped tests cannot be written: the test would count as passed.
pub fn record_skip(package: &str, place: &str, reason: &str) {
    let thread = std::thread::current();
    // libtest names the thread after the test, unless it runs all tests on the main one.
    let test = thread.name().filter(|name| *name != "main").unwrap_or(place);
    let reason = reason.replace(['\t', '\n'], " ");
    // Past the capture of what a test prints: a plain `cargo test` shows it too.
    let _ = writeln!(std::io::stderr(), "skipped: {package} {test}: {reason}");
    if let Some(path) = std::env::var_os(SKIPPED_TESTS) {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let line = format!("{package}\t{test}\t{reason}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
    }
}
