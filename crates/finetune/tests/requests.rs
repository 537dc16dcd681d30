//! The command with several adapters: rows that choose by name, weights that mix, one that is alone.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use events::Events;
use methods::apply;
use methods::recipe::Recipe;
use models::machine::Machine;
use serde_json::{Value, json};
use session::training::saving;
use session::training::sets::Sets;
use tch::{Device, Kind};

fn tiny() -> String {
    golden::vectors_dir().join("gguf/tiny").display().to_string()
}

/// An adapter of the tiny model whose factors are both drawn.
fn adapter(folder: &Path, seed: u64) -> String {
    fs::create_dir_all(folder).unwrap();
    let text = format!(
        "[model]\nname_or_path = {:?}\n\n[[surgery]]\nkind = \"lora\"\nr = 3\nlora_alpha = 24\ninit_lora_weights = false\nseed = {seed}\n\n\
         [objective]\nkind = \"sft\"\n\n[data]\ntrain = [{{ path = \"rows.jsonl\" }}]\n",
        tiny()
    );
    fs::write(folder.join("recipe.toml"), text).unwrap();
    fs::write(folder.join("rows.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    let recipe = Recipe::read(&folder.join("recipe.toml"), &[]).unwrap();
    let source = recipe.model.open(&Events::none()).unwrap();
    let machine = Machine {
        device: Device::Cpu,
        kind: Kind::Float,
    };
    let adapted = apply(source.decoder(machine).unwrap(), &recipe, &source).unwrap();
    let sets = Sets {
        train: Vec::new(),
        eval: Vec::new(),
        labels: None,
        margins: Vec::new(),
    };
    saving::save(folder, &adapted, &source, &sets).unwrap();
    folder.display().to_string()
}

struct Home {
    folder: tempfile::TempDir,
    a: String,
    b: String,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (
            adapter(&folder.path().join("a"), 1),
            adapter(&folder.path().join("b"), 2),
        );
        Self { folder, a, b }
    }

    fn file(&self, name: &str, rows: &[Value]) -> String {
        let path = self.folder.path().join(name);
        fs::write(
            &path,
            rows.iter().map(|row| format!("{row}\n")).collect::<Vec<_>>().concat(),
        )
        .unwrap();
        path.display().to_string()
    }

    fn output(&self, verb: &str, adapters: &[&str], more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_finetune"));
        command.args([verb, "--model", &tiny(), "--dtype", "f32"]).args(more);
        for adapter in adapters {
            command.args(["--adapter", adapter]);
        }
        command
            .env("OMP_NUM_THREADS", "1")
            .env("FINETUNE_CACHE", self.folder.path());
        command.output().unwrap()
    }

    /// Every line of the command's output as JSON.
    fn lines(&self, verb: &str, adapters: &[&str], more: &[&str]) -> Vec<Value> {
        let output = self.output(verb, adapters, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn named(&self) -> [String; 2] {
        [format!("a={}", self.a), format!("b={}", self.b)]
    }
}

const TEXTS: [&str; 5] = [
    "The early bird catches the worm.",
    "All that glitters is not gold.",
    "Slow and steady wins the race.",
    "The quick brown fox jumps over the lazy dog.",
    "No smoke without fire.",
];

fn choices() -> [Value; 5] {
    [
        json!("b"),
        json!("a"),
        Value::Null,
        json!({}),
        json!({"a": 0.5, "b": -2}),
    ]
}

/// The adapters that a row with each of the choices is read with, when they are loaded without names.
fn alone(home: &Home) -> [Vec<String>; 5] {
    let (a, b) = (home.a.clone(), home.b.clone());
    let mixed = vec![format!("{a}=0.5"), format!("{b}=-2")];
    [vec![b], vec![a], vec![], vec![], mixed]
}

#[track_caller]
fn near(found: &Value, wanted: &Value) {
    let (found, wanted) = (found.as_f64().unwrap(), wanted.as_f64().unwrap());
    assert!(
        (found - wanted).abs() <= 1e-4 * (1.0 + wanted.abs()),
        "{found} {wanted}"
    );
}

#[test]
fn rows_are_scored_as_with_their_adapter_alone() {
    let home = Home::new();
    let rows: Vec<Value> = TEXTS
        .iter()
        .zip(choices())
        .map(|(text, adapter)| json!({"text": text, "adapter": adapter}))
        .collect();
    let data = home.file("rows.jsonl", &rows);
    let named = home.named();
    let found = home.lines(
        "score",
        &named.each_ref().map(String::as_str),
        &["--data", &data, "--json"],
    );
    let mut different = 0;
    for (idx, adapters) in alone(&home).iter().enumerate() {
        let adapters: Vec<&str> = adapters.iter().map(String::as_str).collect();
        let wanted = home.lines("score", &adapters, &["--data", &data, "--json"]);
        near(&found[idx]["log_prob"], &wanted[idx]["log_prob"]);
        let total: f64 = wanted[5]["log_prob"].as_f64().unwrap();
        different += usize::from((total - found[5]["log_prob"].as_f64().unwrap()).abs() > 1.0);
    }
    assert!(different >= 4, "the choices matter");
}

#[test]
fn rows_are_answered_as_with_their_adapter_alone() {
    let home = Home::new();
    let rows: Vec<Value> = TEXTS
        .iter()
        .zip(choices())
        .map(|(text, adapter)| json!({"prompt": text, "adapter": adapter}))
        .collect();
    let data = home.file("rows.jsonl", &rows);
    let named = home.named();
    let more = ["--data", &data, "--max-new-tokens", "6"];
    let found = home.lines("generate", &named.each_ref().map(String::as_str), &more);
    for (idx, adapters) in alone(&home).iter().enumerate() {
        let adapters: Vec<&str> = adapters.iter().map(String::as_str).collect();
        let wanted = home.lines("generate", &adapters, &more);
        assert_eq!(found[idx]["text"], wanted[idx]["text"], "{idx}");
        assert!(
            wanted
                .iter()
                .zip(&found)
                .any(|(other, own)| other["text"] != own["text"]),
            "{idx}: the choices matter"
        );
    }
    // A prompt of its own is answered by the first.
    let prompt = ["--prompt", TEXTS[0], "--max-new-tokens", "6", "--json"];
    let first = home.lines("generate", &named.each_ref().map(String::as_str), &prompt);
    assert_eq!(first, home.lines("generate", &[&home.a], &prompt));
}

#[test]
fn an_evaluation_measures_each_row_with_its_adapter() {
    let home = Home::new();
    let rows: Vec<Value> = TEXTS
        .iter()
        .zip(choices())
        .map(|(text, adapter)| json!({"text": text, "adapter": adapter}))
        .collect();
    home.file("rows.jsonl", &rows);
    let suite = home.folder.path().join("suite.toml");
    fs::write(
        &suite,
        "[[task]]\nname = \"t\"\nkind = \"perplexity\"\ndata = \"rows.jsonl\"\n",
    )
    .unwrap();
    let (suite, data) = (
        suite.display().to_string(),
        home.folder.path().join("rows.jsonl").display().to_string(),
    );
    let named = home.named();
    let named = named.each_ref().map(String::as_str);
    let report = home.lines("evaluate", &named, &["--suite", &suite, "--json"]).remove(0);
    let scored = home.lines("score", &named, &["--data", &data, "--json"]).pop().unwrap();
    near(&report["tasks"]["t"]["perplexity"], &scored["perplexity"]);
    assert!(report["model"].as_str().unwrap().contains(" with a="), "{report}");
}

#[test]
fn a_choice_that_is_none_is_refused_with_its_line_and_without_names_the_column_is_any_other() {
    let home = Home::new();
    let data = home.file(
        "rows.jsonl",
        &[json!({"text": "Gold."}), json!({"text": "Gold.", "adapter": "c"})],
    );
    let named = home.named();
    let output = home.output("score", &named.each_ref().map(String::as_str), &["--data", &data]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for part in ["rows.jsonl", "line 2", "`adapter`", "a, b", "`c`"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(home.lines("score", &[&home.a], &["--data", &data, "--json"]).len(), 3);
}
