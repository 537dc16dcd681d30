//! Every model family through the command: what Transformers made of the tiny models is what `score`, `generate` and
//! `evaluate` say, and `export` changes nothing.
//!
//! The vectors come without a tokenizer. One of 97 single characters stands in, so that a text is a list of tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::Safetensors;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::command::{Home, Refusal, finetune, root};

/// How far a document's summed log-probability may be from the reference one, in nats: f32, some twenty terms.
const TOLERANCE: f64 = 2e-4;

pub(crate) fn vectors(family: &str) -> PathBuf {
    root().join("crates/golden/vectors/families").join(family)
}

/// The character that stands for a token: printable ASCII, then two letters.
fn character(token: i64) -> char {
    match token {
        95 => 'é',
        96 => 'ü',
        _ => char::from(32 + token as u8),
    }
}

/// The family's model beside a tokenizer of its 97 tokens.
pub(crate) fn with_tokenizer(home: &Home, family: &str) -> String {
    let folder = home.copy(&vectors(family), family);
    for name in ["golden.safetensors", "config.v4.json"] {
        fs::remove_file(Path::new(&folder).join(name)).unwrap();
    }
    let vocabulary: BTreeMap<String, i64> = (0..97).map(|token| (character(token).to_string(), token)).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        // Token 2 ends a text in these models.
        "added_tokens": [{
            "id": 2, "content": character(2).to_string(), "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "." }, "behavior": "Isolated", "invert": false },
        "post_processor": null,
        "decoder": { "type": "Fuse" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": " " },
    });
    home.file(&format!("{family}/tokenizer.json"), &tokenizer.to_string());
    folder
}

/// A reference document: its text, and what Transformers said of it.
struct Document {
    text: String,
    tokens: Tensor,
    /// `[t, vocabulary]`; of a classifier `[labels]`.
    logits: Tensor,
}

fn documents(family: &str) -> Vec<Document> {
    let golden = Safetensors::open(&vectors(family).join("golden.safetensors")).unwrap();
    (0..3)
        .map(|n| {
            let tokens = golden.tensor(&format!("tokens.{n}")).unwrap();
            let ids = Vec::<i64>::try_from(&tokens).unwrap();
            Document {
                text: ids.into_iter().map(character).collect(),
                tokens,
                logits: golden.tensor(&format!("logits.{n}")).unwrap(),
            }
        })
        .collect()
}

impl Document {
    /// Summed log-probability of every token after the first.
    fn log_prob(&self) -> f64 {
        let predicted = self.tokens.size()[0] - 1;
        let all = self.logits.log_softmax(-1, Kind::Double).narrow(0, 0, predicted);
        let next = self.tokens.narrow(0, 1, predicted).unsqueeze(-1);
        all.gather(-1, &next, false).sum(Kind::Double).double_value(&[])
    }

    /// The likeliest next token, or class.
    fn likeliest(&self) -> i64 {
        let last = if self.logits.dim() == 2 {
            self.logits.get(-1)
        } else {
            self.logits.shallow_clone()
        };
        last.argmax(-1, false).int64_value(&[])
    }
}

/// The texts as rows.
fn rows(home: &Home, documents: &[Document]) -> String {
    let lines = documents
        .iter()
        .map(|document| json!({ "text": document.text }).to_string() + "\n");
    home.file("rows.jsonl", &lines.collect::<String>())
}

/// Every language model among the families.
fn language_models() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("crates/golden/vectors/families"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["llama-classifier-3", "llama-scalar"].contains(&name.as_str()))
        .collect();
    names.sort();
    assert!(names.len() >= 18, "{names:?}");
    names
}

#[test]
fn every_family_scores_as_the_reference_does() {
    for family in language_models() {
        let home = Home::new();
        let model = with_tokenizer(&home, &family);
        let documents = documents(&family);
        let data = rows(&home, &documents);
        let lines = finetune(
            &home,
            &["score", "--model", &model, "--data", &data, "--json", "--dtype", "f32"],
        )
        .works()
        .json_lines();
        for (n, (line, document)) in lines.iter().zip(&documents).enumerate() {
            let (found, wanted) = (line["log_prob"].as_f64().unwrap(), document.log_prob());
            assert_eq!(line["tokens"].as_i64(), Some(document.tokens.size()[0]), "{family} {n}");
            assert!(
                (found - wanted).abs() < TOLERANCE,
                "{family} {n}: {found}, reference {wanted}"
            );
        }
    }
}

#[test]
fn every_family_goes_on_as_the_reference_does() {
    for family in language_models() {
        let home = Home::new();
        let model = with_tokenizer(&home, &family);
        let documents = documents(&family);
        let data = rows(&home, &documents);
        let args = [
            "generate",
            "--model",
            &model,
            "--data",
            &data,
            "--no-chat",
            "--max-new-tokens",
            "1",
            "--dtype",
            "f32",
        ];
        for (n, (line, document)) in finetune(&home, &args)
            .works()
            .json_lines()
            .iter()
            .zip(&documents)
            .enumerate()
        {
            let likeliest = document.likeliest();
            let (text, stopped) = match likeliest {
                2 => (String::new(), "eos"),
                token => (character(token).to_string(), "length"),
            };
            assert_eq!(
                (line["text"].as_str(), line["stopped"].as_str()),
                (Some(text.as_str()), Some(stopped)),
                "{family} {n}"
            );
        }
    }
}

#[test]
fn exporting_a_family_changes_no_bit() {
    for family in [
        "gemma3",
        "llama-biases",
        "llama-sharded",
        "mistral-window",
        "qwen2-tied",
        "qwen3-untied-yarn",
    ] {
        let home = Home::new();
        let (model, out) = (with_tokenizer(&home, family), home.at("out"));
        finetune(
            &home,
            &["export", "--model", &model, "--format", "hf", "--output", &out],
        )
        .works();
        let written = Safetensors::open(&Path::new(&out).join("model.safetensors")).unwrap();
        let mut count = 0;
        for entry in fs::read_dir(&model).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|end| end != "safetensors") {
                continue;
            }
            let there = Safetensors::open(&path).unwrap();
            for name in there.names() {
                count += 1;
                assert!(
                    there.tensor(name).unwrap() == written.tensor(name).unwrap(),
                    "{family} {name}"
                );
            }
        }
        assert_eq!(written.names().count(), count, "{family}");
        let config = |folder: &str| -> Value {
            serde_json::from_slice(&fs::read(Path::new(folder).join("config.json")).unwrap()).unwrap()
        };
        for key in [
            "architectures",
            "rope_parameters",
            "sliding_window",
            "tie_word_embeddings",
            "vocab_size",
        ] {
            assert_eq!(config(&out)[key], config(&model)[key], "{family} {key}");
        }
    }
}

#[test]
fn a_classifier_gives_the_reference_classes() {
    let home = Home::new();
    let model = with_tokenizer(&home, "llama-classifier-3");
    let documents = documents("llama-classifier-3");
    let row = |document: &Document, label: i64| {
        json!({ "text": document.text, "label": format!("LABEL_{label}") }).to_string() + "\n"
    };
    let right: String = documents
        .iter()
        .map(|document| row(document, document.likeliest()))
        .collect();
    let wrong: String = documents
        .iter()
        .map(|document| row(document, (document.likeliest() + 1) % 3))
        .collect();
    for (rows, accuracy) in [(right, 1.0), (wrong, 0.0)] {
        let data = home.file("classes.jsonl", &rows);
        let suite = home.file(
            "suite.toml",
            &format!("[[task]]\nname = \"classes\"\nkind = \"classification\"\ndata = {data:?}\nmax_length = 64\n"),
        );
        let report = finetune(
            &home,
            &[
                "evaluate", "--model", &model, "--suite", &suite, "--json", "--dtype", "f32",
            ],
        )
        .works()
        .json_lines()
        .remove(0);
        assert_eq!(
            report["tasks"]["classes"]["accuracy"].as_f64(),
            Some(accuracy),
            "{report}"
        );
    }
}

#[test]
fn a_head_that_writes_no_text_is_refused_where_text_is_wanted() {
    let home = Home::new();
    let data = rows(&home, &documents("llama-scalar"));
    for family in ["llama-scalar", "llama-classifier-3"] {
        let model = with_tokenizer(&home, family);
        finetune(&home, &["score", "--data", &data, "--model", &model]).refuses(&Refusal {
            place: "scoring",
            wanted: "needs a head for language modelling",
            found: "found one for ",
            hint: "finetune classify",
        });
        // What the head says is shown where a text would be written.
        let said = finetune(&home, &["generate", "--data", &data, "--model", &model]).works();
        let key = if family == "llama-scalar" {
            "score"
        } else {
            "probabilities"
        };
        assert!(said.json_lines()[0].get(key).is_some(), "{}", said.stdout);
    }
}
