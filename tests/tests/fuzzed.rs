//! Every reader of outside bytes, over the kept corpus and over small changes of it.
//!
//! The long campaign runs the same targets under libFuzzer: `cargo xtask fuzz`; its figures stand in
//! `docs/reliability.md`. Here each target sees a few thousand inputs, the same ones in every run.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use end_to_end::fuzzing::{Mutator, TARGETS, Target, most_bytes};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Changed inputs a target; `FUZZED_INPUTS` asks for another number.
const INPUTS: u64 = 2_000;

/// The longest that one input may take: a debug build on a busy machine is slow, a hang is slower.
const LONGEST: Duration = Duration::from_secs(20);

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("`{}`: {error}", folder.display()));
    let mut found: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), fs::read(path).expect("a file of the corpus")))
        .collect();
    found.sort();
    found
}

/// Runs one input and says what it did wrong.
fn fault(target: &Target, bytes: &[u8]) -> Option<String> {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let begin = Instant::now();
    // What a reader panics of and catches is told by a hook that reads the symbols of the whole program: no memory of the
    // reader's.
    let hook = take_hook();
    set_hook(Box::new(|_| ()));
    let run = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    set_hook(hook);
    let (took, held) = (begin.elapsed(), ALLOCATED.peak_usage().saturating_sub(before));
    if let Err(panic) = run {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        return Some(format!(
            "panicked: {}",
            text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")
        ));
    }
    let most = most_bytes(bytes.len());
    if held > most {
        return Some(format!(
            "held {held} bytes, at most {most} are right for {} bytes",
            bytes.len()
        ));
    }
    (took > LONGEST).then(|| format!("took {took:?}"))
}

fn check(target: &Target, what: &str, bytes: &[u8]) {
    if let Some(fault) = fault(target, bytes) {
        let path = std::env::temp_dir().join(format!("fuzzed-{}-{}", target.name, std::process::id()));
        fs::write(&path, bytes).expect("a place for the input");
        panic!("`{}`, {what}: {fault}\nthe input: `{}`", target.name, path.display());
    }
}

/// What is allocated at one time belongs to one input only while one test runs.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn no_reader_panics_hangs_or_takes_memory_that_its_input_does_not_have() {
    let _alone = ALONE.lock();
    let asked = std::env::var("FUZZED_INPUTS").ok().and_then(|count| count.parse().ok());
    let inputs: u64 = asked.unwrap_or(INPUTS);
    for target in &TARGETS {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "`{}` has no corpus", target.name);
        for (path, bytes) in &corpus {
            check(target, &path.display().to_string(), bytes);
        }
        for seed in 0..inputs {
            let (path, bytes) = &corpus[seed as usize % corpus.len()];
            let (_, other) = &corpus[(seed / 7) as usize % corpus.len()];
            let changed = Mutator::new(seed).change(bytes, other);
            check(target, &format!("change {seed} of `{}`", path.display()), &changed);
        }
        println!(
            "{}: {} kept inputs, {inputs} changes of them",
            target.name,
            corpus.len()
        );
    }
}

#[test]
fn a_reader_that_takes_too_much_or_panics_is_found() {
    let _alone = ALONE.lock();
    let greedy = Target {
        name: "greedy",
        run: |_| drop(std::hint::black_box(vec![0u8; 64 << 20])),
    };
    let broken = Target {
        name: "broken",
        run: |bytes| assert!(bytes.is_empty(), "not empty"),
    };
    assert!(fault(&greedy, b"x").is_some_and(|fault| fault.contains("held")));
    assert!(fault(&broken, b"x").is_some_and(|fault| fault.contains("not empty")));
    assert_eq!(fault(&broken, b""), None);
}
