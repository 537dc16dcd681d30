//! How byte-level vocabularies split text before merging: llama.cpp's names, Hugging Face's regular expressions.
//!
//! Sources: the published `tokenizer.json` of each model; `llama-vocab.cpp` of llama.cpp for which name means which.

use serde_json::{Value, json};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-2's own, which the others grew from.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// What llama.cpp splits by where a file names nothing, one after the other: `LLAMA_VOCAB_PRE_TYPE_DEFAULT`.
const UNNAMED: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];

/// How one vocabulary treats text.
pub(super) struct Split {
    /// The `pre_tokenizer` of its `tokenizer.json`.
    pub(super) pre_tokenizer: Value,
    /// Its `normalizer`.
    pub(super) normalizer: Value,
    /// Whether a piece that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether a begin-of-text token is put first where the file does not say.
    pub(super) add_bos: bool,
}

/// The split that `tokenizer.ggml.pre` names; none if it is not known.
pub(super) fn named(pre: &str) -> Option<Split> {
    let split = |pre_tokenizer| Split {
        pre_tokenizer,
        normalizer: Value::Null,
        ignore_merges: false,
        add_bos: false,
    };
    Some(match pre {
        "default" => split(regexes(&UNNAMED)),
        "gpt-2" | "gpt2" | "phi-2" => split(byte_level(true)),
        // Deviation: Transformers' GGUF reader leaves out the digits' split that these models were trained with.
        "smollm" => split(sequence(&[
            json!({"type": "Digits", "individual_digits": true}),
            byte_level(true),
        ])),
        "smaug-bpe" => split(regex(LLAMA3)),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => Split {
            ignore_merges: true,
            add_bos: true,
            ..split(regex(LLAMA3))
        },
        "qwen2" | "deepseek-r1-qwen" => Split {
            normalizer: json!({"type": "NFC"}),
            ..split(regex(QWEN2))
        },
        "tekken" => Split {
            ignore_merges: true,
            add_bos: true,
            ..split(regex(TEKKEN))
        },
        _ => return None,
    })
}

/// The names that are known, for messages.
pub(super) const NAMES: &str = "gpt-2, default, smollm, llama-bpe, qwen2, tekken";

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn sequence(parts: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": parts})
}

fn regex(pattern: &str) -> Value {
    regexes(&[pattern])
}

/// Every piece of one pattern is split by the next.
fn regexes(patterns: &[&str]) -> Value {
    let splits = patterns.iter().map(
        |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
    );
    let mut parts: Vec<Value> = splits.collect();
    parts.push(byte_level(false));
    sequence(&parts)
}
