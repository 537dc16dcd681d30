//! `tokenizer.json` and its companions from GGUF metadata.
//!
//! Two kinds: byte-level BPE (`gpt2`) with the merges that the file holds, and SentencePiece BPE (`llama`), whose merges
//! follow from its scores. Source: Transformers 5.23, `integrations/gguf/gguf_tokenizer_mapping.py`; deviation: the
//! digits of SmolLM, see `splits.rs`.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::{Error, Gguf, MetadataValue, Result, splits};

/// `tokenizer.ggml.token_type`: a token with a function, never made by merging.
const CONTROL: i64 = 3;
/// A token that users added, found whole in the text.
const USER_DEFINED: i64 = 4;

/// Names under which llama.cpp takes a control token for the end of a text or a turn, besides what the metadata names.
const ENDS: [&str; 7] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
];

/// What the two kinds of vocabulary have in common.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i64>,
}

/// What a file says of its tokenizer.
#[derive(Clone, Debug)]
pub struct FromMetadata {
    /// Its files by name, as a Hugging Face directory has them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The ids of all tokens that end a text.
    pub ends: Vec<i64>,
    /// What its user must know.
    pub notes: Vec<String>,
}

/// The tokenizer's files, its end tokens, and what is doubtful of them.
pub fn tokenizer_files<B: AsRef<[u8]>>(file: &Gguf<B>) -> Result<FromMetadata> {
    let vocabulary = vocabulary(file)?;
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let (mut json, default_bos) = match file.text(&key("model")) {
        Some("gpt2") => byte_level(file, &vocabulary)?,
        Some("llama") => (sentence_piece(file, &vocabulary)?, true),
        other => {
            return Err(Error::Unsupported {
                path: file.path().to_owned(),
                what: format!("`tokenizer.ggml.model` = {}", other.unwrap_or("none")),
                hint: "gpt2 and llama are".into(),
            });
        }
    };
    let token = |name: &str| {
        let id = file.count(&key(&format!("{name}_token_id")))?;
        Some((id, *vocabulary.tokens.get(usize::try_from(id).ok()?)?))
    };
    let add_bos = file.flag(&key("add_bos_token")).unwrap_or(default_bos) && token("bos").is_some();
    let add_eos = file.flag(&key("add_eos_token")).unwrap_or(false) && token("eos").is_some();
    json["post_processor"] = template(token("bos").filter(|_| add_bos), token("eos").filter(|_| add_eos));
    let mut config = Map::new();
    config.insert("add_bos_token".into(), json!(add_bos));
    config.insert("add_eos_token".into(), json!(add_eos));
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")] {
        if let Some((_, text)) = token(key) {
            config.insert(format!("{name}_token"), json!(text));
        }
    }
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    if let Some(length) = file.count(&format!("{}.context_length", file.architecture()?)) {
        config.insert("model_max_length".into(), json!(length));
    }
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    let mut files = BTreeMap::new();
    files.insert(
        "tokenizer.json".to_owned(),
        serde_json::to_vec(&json).expect("JSON values print"),
    );
    files.insert(
        "tokenizer_config.json".to_owned(),
        python_json::to_string(&config).into_bytes(),
    );
    if let Some(template) = file.text("tokenizer.chat_template") {
        files.insert("chat_template.jinja".to_owned(), template.as_bytes().to_vec());
    }
    let mut ends: Vec<i64> = ["eos", "eot", "eom"]
        .into_iter()
        .filter_map(|name| token(name).map(|(id, _)| id))
        .collect();
    for (id, text) in vocabulary.tokens.iter().enumerate() {
        if vocabulary.types[id] == CONTROL && ENDS.contains(text) {
            ends.push(id as i64);
        }
    }
    let mut seen = Vec::new();
    ends.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    let guessed = file.text(&key("model")) == Some("gpt2") && file.text(&key("pre")).is_none();
    let notes = guessed.then(|| {
        format!(
            "`{}` does not say how its tokenizer splits text (`tokenizer.ggml.pre`): split as llama.cpp splits such files, \
             which may not be how the model was trained\n\
             hint: convert the model to GGUF again with a newer converter, or use its Hugging Face directory",
            file.path().display()
        )
    });
    Ok(FromMetadata {
        files,
        ends,
        notes: notes.into_iter().collect(),
    })
}

fn vocabulary<B: AsRef<[u8]>>(file: &Gguf<B>) -> Result<Vocabulary<'_>> {
    let key = "tokenizer.ggml.tokens";
    let values = file.metadata().get(key).and_then(MetadataValue::as_array);
    let tokens: Option<Vec<&str>> = values.and_then(|values| values.iter().map(MetadataValue::as_str).collect());
    let tokens = tokens.ok_or_else(|| file.lacks(key))?;
    let types = file
        .metadata()
        .get("tokenizer.ggml.token_type")
        .and_then(MetadataValue::as_array);
    let types: Vec<i64> = match types {
        Some(types) if types.len() == tokens.len() => types.iter().map(|kind| kind.as_i64().unwrap_or(1)).collect(),
        Some(types) => {
            return Err(Error::Key {
                path: file.path().to_owned(),
                key: "tokenizer.ggml.token_type".into(),
                wanted: format!("{} of them, one a token", tokens.len()),
                found: types.len().to_string(),
            });
        }
        None => vec![1; tokens.len()],
    };
    Ok(Vocabulary { tokens, types })
}

/// GPT-2's kind: merges as the file lists them.
fn byte_level<B: AsRef<[u8]>>(file: &Gguf<B>, vocabulary: &Vocabulary<'_>) -> Result<(Value, bool)> {
    let pre = file.text("tokenizer.ggml.pre").unwrap_or("default");
    let split = splits::named(pre).ok_or_else(|| Error::Unsupported {
        path: file.path().to_owned(),
        what: format!("`tokenizer.ggml.pre` = \"{pre}\""),
        hint: format!("supported are {}", splits::NAMES),
    })?;
    let alphabet = alphabet();
    let spelled = |token: &str| token.chars().all(|letter| alphabet.contains(&letter));
    // Tokens that are not written in bytes' letters, such as added ones in plain text, are spelt so.
    let names: Vec<String> = vocabulary
        .tokens
        .iter()
        .map(|token| match spelled(token) {
            true => (*token).to_owned(),
            false => token.bytes().map(|byte| alphabet[usize::from(byte)]).collect(),
        })
        .collect();
    let key = "tokenizer.ggml.merges";
    let merges = file
        .metadata()
        .get(key)
        .and_then(MetadataValue::as_array)
        .ok_or_else(|| file.lacks(key))?;
    let merges: Vec<Value> = merges
        .iter()
        .map(|merge| {
            let pair = merge.as_str().and_then(|merge| merge.split_once(' '));
            pair.map(|(left, right)| json!([left, right]))
                .ok_or_else(|| file.lacks(key))
        })
        .collect::<Result<_>>()?;
    // A control token outside the bytes' letters is a label gone wrong: its text would become a new id.
    let added = added(vocabulary, |id, kind| {
        let token = vocabulary.tokens[id];
        spelled(token) && (kind == CONTROL || kind == USER_DEFINED)
    });
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": split.ignore_merges,
        "vocab": ids(names.iter().map(String::as_str)),
        "merges": merges,
    });
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    Ok((
        whole(&added, &split.normalizer, &split.pre_tokenizer, &decoder, &model),
        split.add_bos,
    ))
}

/// SentencePiece's kind: merges from the tokens' ranks, bytes for what has no token.
fn sentence_piece<B: AsRef<[u8]>>(file: &Gguf<B>, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let gemma = file.architecture()?.starts_with("gemma");
    let names: Vec<String> = vocabulary
        .tokens
        .iter()
        .map(|token| match gemma && token.contains(' ') && token.trim().is_empty() {
            // Gemma's tokens of spaces are stored as such.
            true => "\u{2581}".repeat(token.chars().count()),
            false => (*token).to_owned(),
        })
        .collect();
    let scores = if gemma {
        // Gemma's merges follow its tokens' order, not its scores.
        (0..names.len()).map(|id| -(id as f64)).collect()
    } else {
        scores(file, names.len())?
    };
    let merges = merges_of(&names, &scores);
    let unknown = file
        .count("tokenizer.ggml.unknown_token_id")
        .and_then(|id| names.get(usize::try_from(id).ok()?));
    let prefix = !gemma && file.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let (normalizer, pre_tokenizer) = if gemma {
        let split =
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
        (
            json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}),
            split,
        )
    } else {
        let scheme = if prefix { "first" } else { "never" };
        let metaspace =
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
        (Value::Null, metaspace)
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let added = added(vocabulary, |id, kind| {
        kind == CONTROL || kind == USER_DEFINED && names[id] == vocabulary.tokens[id]
    });
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": true,
        "ignore_merges": false,
        "vocab": ids(names.iter().map(String::as_str)),
        "merges": merges,
    });
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    Ok(whole(&added, &normalizer, &pre_tokenizer, &decoder, &model))
}

fn scores<B: AsRef<[u8]>>(file: &Gguf<B>, count: usize) -> Result<Vec<f64>> {
    let key = "tokenizer.ggml.scores";
    let values = file.metadata().get(key).and_then(MetadataValue::as_array);
    let scores: Option<Vec<f64>> = values.and_then(|values| {
        let scores = values.iter().map(|value| match value {
            MetadataValue::Float32(score) => Some(f64::from(*score)),
            other => other.as_f64(),
        });
        scores.collect()
    });
    scores
        .filter(|scores| scores.len() == count)
        .ok_or_else(|| file.lacks(key))
}

/// Every way to cut a token into two tokens, best score first, as Transformers' `generate_merges` orders them.
fn merges_of(names: &[String], scores: &[f64]) -> Vec<Value> {
    // Of tokens that stand twice, the last counts.
    let ids: HashMap<&str, usize> = names.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
    let mut merges: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
    for (id, name) in names.iter().enumerate() {
        if ids[name.as_str()] != id {
            continue;
        }
        let first = merges.len();
        let letters = name.chars().count();
        for (count, (at, _)) in name.char_indices().enumerate().skip(1) {
            let (left, right) = name.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((scores[id], count, letters - count, left, right));
            }
        }
        merges[first..].sort_by_key(|(.., left, right)| (ids[left], ids[right]));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    merges
        .into_iter()
        .map(|(.., left, right)| json!([left, right]))
        .collect()
}

fn ids<'a>(names: impl Iterator<Item = &'a str>) -> Map<String, Value> {
    names
        .enumerate()
        .map(|(id, name)| (name.to_owned(), json!(id)))
        .collect()
}

fn added(vocabulary: &Vocabulary<'_>, is_added: impl Fn(usize, i64) -> bool) -> Vec<Value> {
    let types = vocabulary.types.iter().enumerate();
    types
        .filter(|(id, kind)| is_added(*id, **kind))
        .map(|(id, kind)| {
            json!({
                "id": id,
                "content": vocabulary.tokens[id],
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": *kind == CONTROL,
            })
        })
        .collect()
}

fn whole(added: &[Value], normalizer: &Value, pre_tokenizer: &Value, decoder: &Value, model: &Value) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": model,
    })
}

/// Puts begin and end of text around what is encoded.
fn template(bos: Option<(i64, &str)>, eos: Option<(i64, &str)>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let around = |sequences: &[(&str, u32)]| -> Vec<Value> {
        let mut parts = Vec::new();
        for (name, kind) in sequences {
            let special = |token: (i64, &str)| json!({"SpecialToken": {"id": token.1, "type_id": kind}});
            parts.extend(bos.map(special));
            parts.push(json!({"Sequence": {"id": name, "type_id": kind}}));
            parts.extend(eos.map(special));
        }
        parts
    };
    let specials: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": around(&[("A", 0)]),
        "pair": around(&[("A", 0), ("B", 1)]),
        "special_tokens": specials,
    })
}

/// GPT-2's letter for each byte: itself where it prints, else one above 255.
fn alphabet() -> Vec<char> {
    let mut next = 256;
    (0..=255u32)
        .map(|byte| {
            let prints = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let letter = if prints { byte } else { next };
            next += u32::from(!prints);
            char::from_u32(letter).expect("letters below 512")
        })
        .collect()
}
