//! The schema of recipes: what it says of the recipes that there are, and of wrong ones.

use std::fs;
use std::path::Path;

use methods::recipe;
use serde_json::Value;
use toml::Table;

use super::{pages, recipes};

/// What the schema finds wrong in a recipe.
fn problems(validator: &jsonschema::Validator, text: &str) -> Vec<String> {
    let table: Table = text.parse().expect("TOML");
    let recipe = serde_json::to_value(table).expect("TOML is JSON");
    let errors = validator.iter_errors(&recipe);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&recipe::schema()).expect("a schema of draft 7")
}

#[test]
fn the_file_for_editors_is_the_schema_of_the_types() {
    let text = serde_json::to_string_pretty(&recipe::schema()).expect("JSON") + "\n";
    pages::hold("reference/recipe.schema.json", &text);
}

#[test]
fn every_recipe_that_is_there_is_right() {
    let validator = validator();
    let (mut all, _) = recipes::of_pages();
    for entry in fs::read_dir(pages::root().join("recipes")).expect("the recipes") {
        let path = entry.expect("a recipe").path();
        if path.extension().is_some_and(|kind| kind == "toml") {
            all.push((path.display().to_string(), fs::read_to_string(&path).expect("a recipe")));
        }
    }
    assert!(all.len() > 35, "{} recipes", all.len());
    for (place, text) in all {
        let problems = problems(&validator, &text);
        assert!(problems.is_empty(), "{place}: {}", problems.join("; "));
    }
}

const RIGHT: &str = "[model]\nbase_model = \"m\"\ntorch_dtype = \"bfloat16\"\n[[surgery]]\nkind = \"lora\"\nr = 4\n\
                     init_lora_weights = \"pissa_niter_4\"\n[objective]\nkind = \"sft\"\n[data]\n\
                     train = [{ path = \"a.jsonl\" }]\n[train]\noptim = \"adamw_torch\"\n";

#[test]
fn a_wrong_recipe_is_marked() {
    let validator = validator();
    assert_eq!(problems(&validator, RIGHT), Vec::<String>::new());
    for (from, to) in [
        ("r = 4", "rank = 4"),
        ("r = 4", "r = \"four\""),
        ("\"lora\"", "\"lara\""),
        ("\"sft\"", "\"stf\""),
        ("base_model = \"m\"\n", ""),
        ("pissa_niter_4", "pissa_4"),
        ("adamw_torch", "adam"),
        ("path = ", "pth = "),
        ("[train]", "[trian]"),
    ] {
        let wrong = RIGHT.replace(from, to);
        assert_ne!(wrong, RIGHT, "{from}");
        assert!(
            !problems(&validator, &wrong).is_empty(),
            "`{to}` in the place of `{from}`"
        );
    }
}

/// Every other name that a type reads a key or a value under is in the schema.
#[test]
fn the_schema_has_every_alias_of_the_sources() {
    let schema = recipe::schema().to_string();
    let mut count = 0;
    let crates = pages::root().join("crates");
    for name in ["adapters", "hft", "methods", "models", "moe", "quant", "train"] {
        for path in sources(&crates.join(name).join("src")) {
            let text = fs::read_to_string(&path).expect("a source");
            for alias in text.split("alias = \"").skip(1) {
                let alias = alias.split('"').next().unwrap_or_default();
                let quoted = Value::from(alias).to_string();
                assert!(
                    schema.contains(&quoted),
                    "{}: `{alias}` is not in the schema",
                    path.display()
                );
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count} aliases");
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false => found.push(path),
        }
    }
    found
}
