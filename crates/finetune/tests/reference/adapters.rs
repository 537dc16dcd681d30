//! Adapters that PEFT saved, through [`Adapter`] and [`Source`]: what they compute, their gradients, and what merging
//! makes of them.

use std::path::PathBuf;

use checkpoint::Existing;
use decoder::loss::{SupervisedLoss, TokenRow};
use decoder::{Decoder, HeadKind};
use events::Events;
use golden::Vectors;
use methods::peft::Adapter;
use methods::peft::LABELS;
use models::Source;
use models::machine::Machine;
use session::convert::Conversion;
use tch::{Device, Kind, Tensor};
use tensor_core::{Checkpointing, CheckpointingPolicy, Documents, DropoutKey, ModelPass, Objective, named_params};

/// Relative, and of logits of about size 3 absolute: sums over at most 97 f32 terms.
const OF_A_LOGIT: f64 = 1e-4;

const MACHINE: Machine = Machine {
    device: Device::Cpu,
    kind: Kind::Float,
};

/// An adapter of the golden vectors with what PEFT computed with it.
struct Recorded {
    name: String,
    adapter: Adapter,
    base: Source,
    golden: Vectors,
}

fn all() -> Vec<Recorded> {
    let vectors = golden::vectors_dir();
    let mut names = Vec::new();
    for group in ["adapters", "dora", "init"] {
        for entry in std::fs::read_dir(vectors.join(group)).expect("vectors").flatten() {
            if entry.path().join("adapter_config.json").is_file() {
                let name = entry.file_name().into_string().expect("a name");
                names.push(format!("{group}/{name}"));
            }
        }
    }
    names.sort();
    assert!(names.len() >= 23, "{names:?}");
    let recorded = |name: String| Recorded {
        adapter: Adapter::open(&vectors.join(&name)).unwrap_or_else(|error| panic!("{name}: {error:#}")),
        base: Source::open(&base_of(&name).display().to_string(), &Events::none()).expect("a base"),
        golden: Vectors::open(&name),
        name,
    };
    names.into_iter().map(recorded).collect()
}

fn base_of(name: &str) -> PathBuf {
    let vectors = golden::vectors_dir();
    match name {
        "adapters/classifier" => vectors.join("families/llama-classifier-3"),
        name if name.starts_with("dora/") => vectors.join("families/llama-biases"),
        _ => vectors.join("adapters/base"),
    }
}

impl Recorded {
    fn placed(&self) -> Decoder {
        let base = self.base.decoder(MACHINE).expect("weights");
        let placed = self.adapter.place(base);
        placed.unwrap_or_else(|error| panic!("{}: {error:#}", self.name))
    }

    fn documents(&self) -> Vec<Tensor> {
        (0..3).map(|n| self.golden.get(&format!("tokens.{n}"))).collect()
    }

    /// All documents as one packed row.
    fn row(&self) -> (Tensor, Documents) {
        let documents = self.documents();
        let lengths: Vec<usize> = documents.iter().map(|tokens| tokens.size()[0] as usize).collect();
        (Tensor::cat(&documents, 0), Documents::new(&lengths))
    }

    /// `model` says what PEFT recorded as `wanted` (`logits` or `merged.logits`), packed and each document alone.
    fn check(&self, model: &Decoder, wanted: &str) {
        let (tokens, documents) = self.row();
        let packed = said(model, &tokens, &documents);
        for (n, range) in documents.ranges().enumerate() {
            let name = format!("{wanted}.{n}");
            let theirs = self.golden.get(&name);
            let own = tokens.narrow(0, range.start as i64, range.len() as i64);
            let alone = said(model, &own, &Documents::new(&[range.len()]));
            let packed = match model.head_kind() {
                HeadKind::LanguageModel => packed.narrow(0, range.start as i64, range.len() as i64),
                _ => packed.narrow(0, n as i64, 1),
            };
            for (how, ours) in [("packed", packed), ("alone", alone)] {
                let name = format!("{}: {name} {how}", self.name);
                golden::assert_close(&name, &ours.view_as(&theirs), &theirs, OF_A_LOGIT, OF_A_LOGIT);
            }
        }
    }
}

/// Logits of every token, or of every document for a classifier.
fn said(model: &Decoder, tokens: &Tensor, documents: &Documents) -> Tensor {
    match model.head_kind() {
        HeadKind::LanguageModel => model.logits(tokens, documents),
        _ => model.classify(tokens, documents),
    }
}

#[test]
fn an_adapter_of_peft_computes_what_peft_computes() {
    for recorded in all() {
        let model = recorded.placed();
        recorded.check(&model, "logits");
        // It is the adapter that was met: without it the model says something else.
        let (tokens, documents) = recorded.row();
        let base = recorded.base.decoder(MACHINE).expect("weights");
        let moved = said(&model, &tokens, &documents) - said(&base, &tokens, &documents);
        assert!(moved.abs().max().double_value(&[]) > 0.05, "{}", recorded.name);
    }
}

#[test]
fn an_adapter_whose_base_was_changed_at_initialisation_is_not_taken_over_the_base_as_it_lies() {
    let moved: Vec<_> = all()
        .into_iter()
        .filter(|recorded| recorded.name.starts_with("init/pissa") || recorded.name.starts_with("init/olora"))
        .collect();
    assert_eq!(moved.len(), 7);
    for recorded in moved {
        let (tokens, documents) = recorded.row();
        let ours = said(&recorded.placed(), &tokens, &documents);
        let untouched: Vec<Tensor> = (0..3).map(|n| recorded.golden.get(&format!("untouched.{n}"))).collect();
        let apart = (ours - Tensor::cat(&untouched, 0)).abs().max().double_value(&[]);
        assert!(apart > 0.1, "{}: {apart}", recorded.name);
        let is_drawn = recorded.name == "init/pissa-iterations";
        assert_eq!(!recorded.adapter.remarks().is_empty(), is_drawn, "{}", recorded.name);
    }
}

#[test]
fn merging_an_adapter_of_peft_writes_the_model_that_peft_merges() {
    for recorded in all() {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("merged");
        let conversion = Conversion {
            source: &recorded.base,
            adapter: Some(&recorded.adapter),
            dtype: None,
            device: Device::Cpu,
            existing: Existing::Refuse,
            verb: "merge",
            against: None,
            keep_zeros: false,
        };
        let written = conversion.write(&to);
        written.unwrap_or_else(|error| panic!("{}: {error:#}", recorded.name));
        let merged = Source::open(&to.display().to_string(), &Events::none()).expect("a model");
        recorded.check(&merged.decoder(MACHINE).expect("weights"), "merged.logits");
        // The same in memory.
        recorded.check(&recorded.placed().merge().expect("merged"), "merged.logits");
        let weights = recorded.golden.under("merged.").into_iter();
        let weights: Vec<_> = weights.filter(|(name, _)| !name.starts_with("logits.")).collect();
        let name = recorded.name.as_str();
        let wanted = ["adapters/default", "adapters/embedding-head"].contains(&name) || name.starts_with("dora/");
        assert_eq!(!weights.is_empty(), wanted, "{}", recorded.name);
        for (name, theirs) in weights {
            let ours = merged.dir().tensor(&name).expect("a tensor");
            let name = format!("{}: {name}", recorded.name);
            golden::assert_close(&name, &ours, &theirs, 1e-6, 1e-6);
        }
    }
}

#[test]
fn the_gradients_of_an_adapter_of_peft_are_those_that_peft_takes() {
    for recorded in all()
        .into_iter()
        // Where factors were taken out of the base, what they began with stands beside them.
        .filter(|recorded| recorded.name != "adapters/classifier" && !recorded.name.starts_with("init/"))
    {
        let model = recorded.placed();
        let (tokens, documents) = recorded.row();
        let mut targets: Vec<i64> = Vec::new();
        for tokens in recorded.documents() {
            let tokens = Vec::<i64>::try_from(tokens).expect("tokens");
            targets.extend(&tokens[1..]);
            targets.push(-100);
        }
        let row = TokenRow {
            tokens,
            targets: Tensor::from_slice(&targets),
            documents,
        };
        let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, model.blocks().len());
        let policy = ModelPass::train(&model, &plan, DropoutKey(0));
        let loss = SupervisedLoss.loss(&policy, &row).expect("a loss");
        let wanted = recorded.golden.number("loss");
        let found = loss.sum.double_value(&[]);
        assert!(
            (found / wanted - 1.0).abs() < 1e-5,
            "{}: {found} {wanted}",
            recorded.name
        );
        policy.backward(&loss, 1.0, 0.0).expect("a way back");
        let mut theirs = recorded.golden.under("grad.base_model.model.");
        for (at, param) in named_params(&model) {
            if param.is_trainable() {
                let name = at.as_str().replace(".modules_to_save.", ".");
                let wanted = theirs
                    .remove(&name)
                    .unwrap_or_else(|| panic!("no gradient of `{name}`"));
                let largest = wanted.abs().max().double_value(&[]);
                let name = format!("{}: {name}", recorded.name);
                golden::assert_close(&name, &param.value().grad(), &wanted, 1e-4, 1e-5 * largest);
            }
        }
        assert!(theirs.is_empty(), "{}: {:?}", recorded.name, theirs.keys());
    }
}

#[test]
fn a_classifier_keeps_its_labels_unless_the_adapter_brings_others() {
    let vectors = golden::vectors_dir();
    let folder = tempfile::tempdir().expect("a folder");
    let (base, adapter) = (folder.path().join("base"), folder.path().join("adapter"));
    for (from, to) in [
        ("families/llama-classifier-3", &base),
        ("adapters/classifier", &adapter),
    ] {
        std::fs::create_dir(to).expect("a folder");
        for entry in std::fs::read_dir(vectors.join(from)).expect("vectors").flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
    let config = std::fs::read(base.join("config.json")).expect("a file");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    config["id2label"] = serde_json::json!({"0": "red", "1": "green", "2": "blue"});
    config["label2id"] = serde_json::json!({"red": 0, "green": 1, "blue": 2});
    std::fs::write(base.join("config.json"), config.to_string()).expect("a file");
    let merged = |to: &str| {
        let (to, source) = (
            folder.path().join(to),
            Source::open(&base.display().to_string(), &Events::none()).expect("a base"),
        );
        Conversion {
            source: &source,
            adapter: Some(&Adapter::open(&adapter).expect("an adapter")),
            dtype: None,
            device: Device::Cpu,
            existing: Existing::Refuse,
            verb: "merge",
            against: None,
            keep_zeros: false,
        }
        .write(&to)
        .expect("merged");
        Source::open(&to.display().to_string(), &Events::none())
            .expect("a model")
            .dir()
            .config()
            .labels
            .clone()
    };
    assert_eq!(merged("one"), ["red", "green", "blue"]);
    std::fs::write(adapter.join(LABELS), "[\"a\", \"b\", \"c\"]").expect("a file");
    assert_eq!(merged("two"), ["a", "b", "c"]);
}
