//! Everything that reads bytes from outside, each as a function of bytes alone.
//!
//! `fuzz/` runs each target under libFuzzer; `tests/fuzzed.rs` runs each over the kept corpus and over small changes of
//! it in every test run. A target returns whatever its input is: a panic, a hang, or memory beyond [`most_bytes`] is a
//! fault of the reader.

mod files;
mod mutate;
mod texts;

pub use files::{adapter, checkpoint, config, gguf, safetensors};
pub use mutate::Mutator;
pub use texts::{answers, recipe, rows, template};

/// One reader.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As `fuzz/fuzz_targets` and `fuzz/corpus` name it.
    pub name: &'static str,
    /// Reads any bytes.
    pub run: fn(&[u8]),
}

/// Every reader.
pub const TARGETS: [Target; 9] = [
    Target {
        name: "gguf",
        run: gguf,
    },
    Target {
        name: "safetensors",
        run: safetensors,
    },
    Target {
        name: "config",
        run: config,
    },
    Target {
        name: "adapter",
        run: adapter,
    },
    Target {
        name: "checkpoint",
        run: checkpoint,
    },
    Target {
        name: "rows",
        run: rows,
    },
    Target {
        name: "template",
        run: template,
    },
    Target {
        name: "recipe",
        run: recipe,
    },
    Target {
        name: "answers",
        run: answers,
    },
];

/// The most bytes that a reader may hold at once for an input of `length` bytes.
///
/// A row of one letter becomes a map of strings, and an array's element a tagged value, so the multiple is large; what a
/// header only promises must never be allocated before it is compared with the bytes that are there.
pub const fn most_bytes(length: usize) -> usize {
    (16 << 20) + 256 * length
}
