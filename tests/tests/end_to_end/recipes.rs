//! Every recipe that is shipped, trained a few steps on the tiny model: its losses are those that were recorded.
//!
//! `RECORD_LOSSES=1 cargo test -p end-to-end recipes` writes `tests/losses.json` anew; a change that moves them says why.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::command::{Home, finetune, losses, root, tiny};

/// How far a loss may be from the recorded one, relatively: f32 sums in another order on another machine.
const TOLERANCE: f64 = 2e-3;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("losses.json")
}

#[test]
fn every_recipe_trains_to_its_recorded_losses() {
    let mut found = BTreeMap::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("recipes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        assert!(
            path.extension().is_some_and(|end| end == "toml"),
            "{}: recipes are TOML files",
            path.display()
        );
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        found.insert(name, train(&path));
    }
    if std::env::var_os("RECORD_LOSSES").is_some() {
        fs::write(recorded(), serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        return;
    }
    let wanted: BTreeMap<String, Vec<f64>> = serde_json::from_str(&fs::read_to_string(recorded()).unwrap()).unwrap();
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        wanted.keys().collect::<Vec<_>>(),
        "recipes"
    );
    for (name, found) in &found {
        assert_eq!(found.len(), wanted[name].len(), "{name}");
        for (step, (found, wanted)) in found.iter().zip(&wanted[name]).enumerate() {
            assert!(
                (found / wanted - 1.0).abs() < TOLERANCE,
                "{name} step {}: {found}, recorded {wanted}",
                step + 1
            );
        }
        assert!(found.last() < found.first(), "{name} learns: {found:?}");
    }
}

/// Trains the recipe on the tiny model with rows of the kind it wants; its losses.
fn train(path: &Path) -> Vec<f64> {
    let home = Home::new();
    let recipe: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let run = home.path().join("run");
    let mut settings = vec![
        format!("model.name_or_path={}", tiny().display()),
        "model.dtype=f32".into(),
        format!("train.output_dir={}", run.display()),
        "train.max_steps=4".into(),
        "train.per_device_train_batch_size=4".into(),
        "train.logging_steps=1".into(),
        "train.learning_rate=5e-3".into(),
        "train.lr_scheduler_type=constant".into(),
        "train.warmup_ratio=0.0".into(),
        "train.warmup_steps=0".into(),
        "train.lr_scheduler_kwargs={}".into(),
        "data.max_length=96".into(),
        "data.max_tokens=128".into(),
        "report.max_new_tokens=4".into(),
    ];
    let classifies = recipe["objective"]["kind"].as_str() == Some("classify");
    for list in ["train", "eval"] {
        let sources = recipe["data"]
            .get(list)
            .and_then(|list| list.as_array())
            .map_or(&[][..], Vec::as_slice);
        for (idx, source) in sources.iter().enumerate() {
            // Rows of plain text where the recipe reads plain text.
            let is_text = source["path"].as_str().is_some_and(|path| path.contains("text"));
            let rows = match (classifies, is_text) {
                (true, _) => home.classes(),
                (false, true) => home.texts(),
                (false, false) => home.chats(),
            };
            settings.push(format!("data.{list}.{idx}.path={rows}"));
        }
    }
    let recipe = path.display().to_string();
    let mut args = vec!["train", recipe.as_str()];
    for setting in &settings {
        args.extend(["--set", setting.as_str()]);
    }
    finetune(&home, &args).works();
    assert!(
        run.join("model.safetensors").exists() || run.join("adapter_model.safetensors").exists(),
        "{recipe}: no model"
    );
    losses(&run)
}
