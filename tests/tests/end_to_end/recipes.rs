//! Every recipe that is shipped, trained on the tiny model: with its own settings, and at a pace at which the tiny model
//! learns within four steps, where its losses are those that were recorded.
//!
//! `RECORD_LOSSES=1 cargo test -p end-to-end recipes` writes `tests/losses.json` anew; a change that moves them says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::command::{Home, finetune, losses, metrics, root, tiny};

/// How far a loss may be from the recorded one, relatively: f32 sums in another order on another machine.
const TOLERANCE: f64 = 2e-3;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("losses.json")
}

#[test]
fn every_recipe_trains_to_its_recorded_losses() {
    let (mut found, mut rewarded) = (BTreeMap::new(), BTreeSet::new());
    for (path, recipe) in recipes() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        found.insert(name.clone(), train(&path, &recipe, Pace::Quick));
        if has_rollouts(&recipe) {
            rewarded.insert(name);
        }
    }
    if std::env::var_os("RECORD_LOSSES").is_some() {
        fs::write(recorded(), serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        return golden::skip!("`RECORD_LOSSES` writes what it would compare with");
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
        // What a policy learns from replies of its own is not seen in four steps.
        let learns = found.last() < found.first();
        assert!(learns || rewarded.contains(name), "{name} learns: {found:?}");
    }
}

#[test]
fn every_recipe_trains_with_the_settings_that_it_says() {
    for (path, recipe) in recipes() {
        let found = train(&path, &recipe, Pace::Shipped);
        assert_eq!(found.len(), 2, "{}", path.display());
        assert!(
            found.iter().all(|loss| loss.is_finite()),
            "{}: {found:?}",
            path.display()
        );
    }
}

#[test]
fn every_recipe_names_a_model_and_data_that_can_be_had() {
    let manifest: toml::Table = fs::read_to_string(root().join("crates/fetch/manifest.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let fetched = |kind: &str, name: &str| {
        let entries = manifest["entry"].as_array().unwrap();
        entries
            .iter()
            .any(|entry| entry["kind"].as_str() == Some(kind) && entry["name"].as_str() == Some(name))
    };
    for (path, recipe) in recipes() {
        let teacher = recipe["objective"].get("teacher");
        for model in [Some(&recipe["model"]["name_or_path"]), teacher].into_iter().flatten() {
            let model = model.as_str().unwrap();
            assert!(
                fetched("model", model),
                "{}: no fetch provides `{model}`",
                path.display()
            );
        }
        let rewards = recipe["objective"].get("rewards").and_then(toml::Value::as_array);
        for path_of in rewards.into_iter().flatten().filter_map(|reward| reward.get("path")) {
            let entry = path_of.as_str().unwrap().split('/').next().unwrap();
            assert!(
                fetched("data", entry),
                "{}: no fetch provides `{path_of}`",
                path.display()
            );
        }
        let lists = ["train", "eval"].map(|list| recipe["data"].get(list).and_then(toml::Value::as_array));
        for source in lists.into_iter().flatten().flatten() {
            let data = source["path"].as_str().unwrap();
            let entry = data.split('/').next().unwrap();
            // The rows of the bench are made out of fetched ones.
            assert!(
                entry == "bench" || fetched("data", entry),
                "{}: no fetch provides `{data}`",
                path.display()
            );
        }
    }
}

#[test]
fn the_rows_that_recipes_name_are_where_they_were_fetched_to() {
    let cache = checkpoint::cache_dir().map(|cache| cache.join("data"));
    let (mut found, mut missing) = (0, BTreeSet::new());
    for (path, recipe) in recipes() {
        let lists = ["train", "eval"].map(|list| recipe["data"].get(list).and_then(toml::Value::as_array));
        for source in lists.into_iter().flatten().flatten() {
            let data = source["path"].as_str().unwrap();
            let entry = data.split('/').next().unwrap();
            let complete = |cache: &&PathBuf| cache.join(entry).join("complete").is_file();
            let Some(cache) = cache.as_ref().filter(complete) else {
                missing.insert(if entry == "bench" {
                    "bench".to_owned()
                } else {
                    format!("fetch {entry}")
                });
                continue;
            };
            let there = cache.join(data);
            assert!(there.is_file(), "{}: `{}` is missing", path.display(), there.display());
            found += 1;
        }
    }
    if found == 0 {
        golden::skip!(
            "needs one of `cargo xtask {}`",
            missing.into_iter().collect::<Vec<_>>().join("`, `")
        );
    }
}

/// Every file of the folder.
fn recipes() -> Vec<(PathBuf, toml::Table)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("recipes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            assert!(
                path.extension().is_some_and(|end| end == "toml"),
                "{}: recipes are TOML files",
                path.display()
            );
            let recipe = fs::read_to_string(&path).unwrap().parse().unwrap();
            (path, recipe)
        })
        .collect()
}

/// How fast a recipe trains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// As it says.
    Shipped,
    /// In small steps of short rows, and fast.
    Quick,
}

/// Trains the recipe on the tiny model with rows of the kind it wants; its losses.
fn train(path: &Path, recipe: &toml::Table, pace: Pace) -> Vec<f64> {
    let home = Home::new();
    let run = home.path().join("run");
    let mut settings = vec![
        format!("model.name_or_path={}", tiny().display()),
        "model.dtype=f32".into(),
        "model.device=cpu".into(),
        format!("train.output_dir={}", run.display()),
        format!("train.max_steps={}", if pace == Pace::Quick { 4 } else { 2 }),
        "train.logging_steps=1".into(),
        "report.max_new_tokens=4".into(),
    ];
    // The tiny model has 128 positions; what is longer is cut to them.
    let max_length = recipe["data"].get("max_length").and_then(toml::Value::as_integer);
    if pace == Pace::Shipped && max_length.is_none_or(|length| length > 128) {
        settings.push("data.max_length=128".into());
    }
    if pace == Pace::Quick {
        settings.extend([
            "train.per_device_train_batch_size=4".into(),
            "train.learning_rate=5e-3".into(),
            "train.lr_scheduler_type=constant".into(),
            "train.warmup_ratio=0.0".into(),
            "train.warmup_steps=0".into(),
            "train.lr_scheduler_kwargs={}".into(),
            "data.max_length=96".into(),
            "data.max_tokens=128".into(),
        ]);
    }
    let surgeries = recipe["surgery"].as_array().unwrap().iter().enumerate();
    for (idx, surgery) in surgeries {
        match surgery["kind"].as_str() {
            // The tiny model's matrices have 16 rows at least.
            Some("lora") if pace == Pace::Quick || surgery.get("r").and_then(toml::Value::as_integer) > Some(16) => {
                settings.push(format!("surgery.{idx}.r=4"));
            }
            Some("prune") => settings.push(format!("surgery.{idx}.calibration={}", home.texts())),
            _ => {}
        }
    }
    let objective = recipe["objective"]["kind"].as_str().unwrap();
    if recipe["objective"].get("teacher").is_some() {
        settings.push(format!("objective.teacher={}", tiny().display()));
    }
    if objective == "memory" {
        // The tiny model has two layers. All facts in every step, so that its losses are of the same facts.
        settings.push("surgery.0.layers_to_transform=[1]".into());
        if pace == Pace::Quick {
            settings.push("train.per_device_train_batch_size=24".into());
        }
    }
    if has_rollouts(recipe) {
        let lexicon = home.file("lexicon.txt", "a\t1.5\t0.9\t[1, 2]\ne\t-0.5\t0.7\t[0, -1]\n");
        settings.push(format!("objective.rewards.0.path={lexicon}"));
    }
    for list in ["train", "eval"] {
        let sources = recipe["data"]
            .get(list)
            .and_then(|list| list.as_array())
            .map_or(&[][..], Vec::as_slice);
        for (idx, source) in sources.iter().enumerate() {
            // Rows of plain text where the recipe reads plain text.
            let is_text = source["path"].as_str().is_some_and(|path| path.contains("text"));
            let rows = match (objective, is_text) {
                ("classify", _) => home.classes(),
                ("sft" | "distill", true) => home.texts(),
                ("sft" | "distill" | "memory", false) => home.chats(),
                // Of a pair, KTO takes both replies: as many good ones as bad ones in every step.
                ("dpo" | "orpo" | "kto" | "reward" | "ppo" | "grpo", _) => home.pairs(),
                (other, _) => panic!("{}: what rows does `{other}` want?", path.display()),
            };
            settings.push(format!("data.{list}.{idx}.path={rows}"));
        }
    }
    let learns_by_itself = has_rollouts(recipe);
    let shipped = recipe;
    let recipe = path.display().to_string();
    let mut args = vec!["train", recipe.as_str()];
    for setting in &settings {
        args.extend(["--set", setting.as_str()]);
    }
    finetune(&home, &args).works();
    if pace == Pace::Shipped {
        // What was trained is what the recipe says, but for what these tests must replace.
        let resolved: toml::Table = fs::read_to_string(run.join("recipe.toml")).unwrap().parse().unwrap();
        let replaced: BTreeSet<&str> = settings
            .iter()
            .map(|setting| setting.split('=').next().unwrap())
            .collect();
        kept("", &shipped.clone().into(), &resolved.into(), &replaced);
    }
    let weights = [
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter.safetensors",
        "memory.safetensors",
    ];
    assert!(weights.iter().any(|name| run.join(name).exists()), "{recipe}: no model");
    if learns_by_itself {
        // The loss of a policy gradient is near 0 and says little; how sure the policy is of its replies says what it is.
        let entropy = |entry: &serde_json::Value| entry["objective/entropy"].as_f64();
        return metrics(&run).iter().filter_map(entropy).collect();
    }
    losses(&run)
}

/// Asserts that every value of a recipe stands in what was resolved of it, but for those that were replaced.
fn kept(at: &str, shipped: &toml::Value, resolved: &toml::Value, replaced: &BTreeSet<&str>) {
    let below = |key: &str| format!("{at}{}{key}", if at.is_empty() { "" } else { "." });
    match (shipped, resolved) {
        _ if replaced.contains(at) => {}
        (toml::Value::Table(ours), toml::Value::Table(theirs)) => {
            for (key, value) in ours {
                if let Some(found) = theirs.get(key) {
                    kept(&below(key), value, found, replaced);
                } else {
                    assert!(replaced.contains(below(key).as_str()), "`{}` is gone", below(key));
                }
            }
        }
        (toml::Value::Array(ours), toml::Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (idx, (value, found)) in ours.iter().zip(theirs).enumerate() {
                kept(&below(&idx.to_string()), value, found, replaced);
            }
        }
        (ours, theirs) => {
            let number = |value: &toml::Value| value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
            assert!(
                ours == theirs || (number(ours).is_some() && number(ours) == number(theirs)),
                "`{at}`: {ours} became {theirs}"
            );
        }
    }
}

/// Whether the model itself writes what it learns from.
fn has_rollouts(recipe: &toml::Table) -> bool {
    matches!(recipe["objective"]["kind"].as_str(), Some("ppo" | "grpo"))
}
