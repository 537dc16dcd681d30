//! Which modules PEFT chooses, with which rank and scale: the same here.

use std::collections::BTreeMap;

use lora::{LoraConfig, Wrapping, from_peft_config};
use serde_json::Value;
use tensor_core::ModulePath;

#[test]
fn the_chosen_modules_are_those_that_peft_chooses() {
    let table = golden::json("adapters/target_modules");
    let rows = table["rows"].as_array().expect("rows");
    let mut compared = 0;
    for row in rows {
        let mut options = row["options"].as_object().expect("options").clone();
        options.entry("peft_type").or_insert(Value::from("LORA"));
        options.insert("r".into(), table["r"].clone());
        options.insert("lora_alpha".into(), table["lora_alpha"].clone());
        let names: Vec<ModulePath> = table["models"][row["model"].as_str().expect("model")]
            .as_array()
            .expect("names")
            .iter()
            .map(|name| ModulePath::from(name.as_str().expect("a name")))
            .collect();
        let classifies = options.get("task_type").and_then(Value::as_str) == Some("SEQ_CLS");
        let is_output = |path: &ModulePath| path.as_str() == "lm_head" || (classifies && path.as_str() == "score");
        let is_table = |path: &ModulePath| path.name() == "embed_tokens";
        let projections: Vec<_> = names
            .iter()
            .filter(|path| !is_table(path))
            .map(|path| (path.clone(), is_output(path)))
            .collect();
        let tables: Vec<_> = names.iter().filter(|path| is_table(path)).cloned().collect();
        let ours = from_peft_config(&options)
            .and_then(|config| Ok((Wrapping::choose(config.clone(), &projections, &tables)?, config)));
        if row["refused"].as_bool() == Some(true) {
            // PEFT also refuses `all-linear` with layers; here that is allowed and means what it says.
            let allowed = options.get("target_modules").and_then(Value::as_str) == Some("all-linear");
            assert!(ours.is_err() || allowed, "PEFT refuses {options:?}");
            continue;
        }
        let (wrapping, config) = match ours {
            Ok(pair) => pair,
            Err(error) => {
                // A listed name that matches nothing is an error here; PEFT passes over it.
                assert!(error.to_string().contains("matches no module"), "{options:?}: {error}");
                continue;
            }
        };
        let chosen: BTreeMap<String, (i64, f64)> = wrapping
            .chosen()
            .map(|path| (path.to_string(), config.rank_and_scale(path).expect("patterns compile")))
            .collect();
        let theirs: BTreeMap<String, (i64, f64)> = row["chosen"]
            .as_object()
            .expect("chosen")
            .iter()
            .map(|(name, v)| {
                (
                    name.clone(),
                    (v["r"].as_i64().expect("r"), v["scaling"].as_f64().expect("scaling")),
                )
            })
            .collect();
        assert_eq!(
            chosen.keys().collect::<Vec<_>>(),
            theirs.keys().collect::<Vec<_>>(),
            "{options:?}"
        );
        for (name, (rank, scale)) in &theirs {
            assert_eq!(chosen[name].0, *rank, "{name} under {options:?}");
            assert!((chosen[name].1 - scale).abs() < 1e-9, "{name} under {options:?}");
        }
        compared += 1;
    }
    // `score` is no output layer to PEFT unless the task says so; the caller marks outputs.
    assert!(compared >= 25, "only {compared} rows were compared");
}

#[test]
fn an_active_option_that_is_not_supported_is_refused_by_name() {
    let file = serde_json::json!({"peft_type": "LORA", "use_dora": true});
    let error = from_peft_config(file.as_object().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`use_dora` is true"), "{error}");
    let _ = LoraConfig::default();
}
