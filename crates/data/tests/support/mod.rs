//! A small tokenizer with real byte-level merges, and rows from text, for the tests of this crate.

use std::path::Path;

use data::{ChatTemplate, Dataset, ReadConfig, SpecialTokens, Tokenizer};

/// The tokenizer that `vectors/make.py` trained, with `ChatML`'s special tokens.
pub(crate) fn tokenizer() -> Tokenizer {
    let inner = tokenizers::Tokenizer::from_bytes(include_bytes!("../vectors/tokenizer.json")).unwrap();
    let special = SpecialTokens::new([
        ("bos_token", "<|endoftext|>"),
        ("eos_token", "<|im_end|>"),
        ("pad_token", "<|endoftext|>"),
    ]);
    Tokenizer::from_parts(inner, special, Some(include_str!("../vectors/smollm2.jinja"))).unwrap()
}

/// The same with another template, by its name in `vectors/templates.json`.
#[allow(dead_code, reason = "not every test file needs it")]
pub(crate) fn with_template(name: &str) -> Tokenizer {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../vectors/templates.json")).unwrap();
    let source = vectors["templates"][name].as_str().unwrap();
    tokenizer().with_template(ChatTemplate::new(name, source).unwrap())
}

/// A data set of JSON lines.
#[allow(dead_code, reason = "not every test file needs it")]
pub(crate) fn rows(lines: &str) -> Dataset {
    Dataset::parse(Path::new("rows.jsonl"), lines.as_bytes(), &ReadConfig::default()).unwrap()
}
