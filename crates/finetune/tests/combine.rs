//! `finetune combine` on PEFT's own adapters: what it writes computes what PEFT computes, and bad input is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use events::Events;
use finetune::cli::Cli;
use golden::{Vectors, assert_close};
use methods::peft::Adapter;
use models::Source;
use models::machine::Machine;
use serde_json::Value;
use tch::{Device, Kind};
use tensor_core::Documents;

fn source(name: &str) -> String {
    golden::vectors_dir().join("combine").join(name).display().to_string()
}

/// Runs the verb; its error as the command would show it.
fn finetune(args: &[&str]) -> Result<(), String> {
    let all = [&["finetune", "combine"], args].concat();
    let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
    let code = cli.verb.run().map_err(|error| finetune::failure::text(&error))?;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    Ok(())
}

/// The logits of the tiny base with the adapter in `folder`, held against those of PEFT.
fn computes(folder: &Path, case: &str) {
    let machine = Machine {
        device: Device::Cpu,
        kind: Kind::Float,
    };
    let base = Source::open(
        &golden::vectors_dir().join("adapters/base").display().to_string(),
        &Events::none(),
    )
    .unwrap();
    let model = Adapter::open(folder)
        .unwrap()
        .place(base.decoder(machine).unwrap())
        .unwrap();
    let vectors = Vectors::open("combine");
    for document in 0..3 {
        let tokens = vectors.get(&format!("tokens.{document}"));
        let logits = model.logits(&tokens, &Documents::new(&[tokens.size()[0] as usize]));
        let wanted = vectors.get(&format!("logits.{case}.{document}"));
        // Logits of size ten, through two layers in f32.
        assert_close(&format!("{case} {document}"), &logits, &wanted, 1e-4, 2e-4);
    }
}

const MIXED: [&str; 3] = ["first=0.7", "second=-0.4", "fourth=0.5"];

fn arguments(adapters: &[&str]) -> Vec<String> {
    adapters
        .iter()
        .flat_map(|adapter| ["--adapter".to_owned(), source(adapter)])
        .collect()
}

fn combined(folder: &Path, adapters: &[&str], more: &[&str]) -> Result<(), String> {
    let (adapters, output) = (arguments(adapters), folder.display().to_string());
    let adapters: Vec<&str> = adapters.iter().map(String::as_str).collect();
    finetune(&[&adapters[..], &["--output", &output], more].concat())
}

#[test]
fn what_is_written_computes_what_peft_computes() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    for (name, adapters, more, case) in [
        ("sum", MIXED, &[][..], "cat"),
        ("cat", MIXED, &["--type", "cat"], "cat"),
        ("svd", MIXED, &["--type", "svd", "--rank", "2"], "svd-2"),
        (
            "linear",
            ["first=0.7", "second=-0.4", "third=0.5"],
            &["--type", "linear", "--json"],
            "linear",
        ),
        ("alone", ["first=1", "second=0", "third=0"], &["--type", "cat"], "first"),
    ] {
        combined(&at(name), &adapters, more).unwrap();
        computes(&at(name), case);
    }
    let config: Value = serde_json::from_slice(&fs::read(at("sum").join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (config["use_rslora"].as_bool(), config["task_type"].as_str()),
        (Some(false), Some("CAUSAL_LM"))
    );
    assert_eq!(config["r"], config["lora_alpha"]);
    assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    let ranks = config["rank_pattern"].as_object().unwrap();
    assert!(ranks.contains_key("model.layers.0.self_attn.v_proj"), "{ranks:?}");
    // Nothing but the adapter was left behind.
    let names = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    assert_eq!((names(&at("sum")).len(), names(home.path()).len()), (2, 5));
}

#[test]
fn a_combined_adapter_can_be_combined_again() {
    let home = tempfile::tempdir().unwrap();
    let (part, whole) = (home.path().join("part"), home.path().join("whole"));
    combined(&part, &["first=0.7", "second=-0.4"], &[]).unwrap();
    let (part, fourth) = (format!("{}=1", part.display()), source("fourth=0.5"));
    finetune(&[
        "--adapter",
        &part,
        "--adapter",
        &fourth,
        "--output",
        &whole.display().to_string(),
    ])
    .unwrap();
    computes(&whole, "cat");
}

#[test]
fn bad_input_is_refused_and_what_is_there_stays() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let check = |adapters: &[&str], more: &[&str], parts: &[&str]| {
        let error = combined(&out, adapters, more).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(!out.exists(), "{more:?}");
    };
    let two = ["first", "second=0.5"];
    check(&two, &["--type", "ties_svg"], &["ties_svg", "'ties_svd'"]);
    check(&["first=half"], &[], &["`half` is no number"]);
    check(&["first=nan", "second"], &[], &["`weights`", "NaN", "first"]);
    check(&two, &["--type", "ties"], &["`density`: missing"]);
    check(&two, &["--density", "0.5"], &["`density`: given with `sum`"]);
    check(
        &two,
        &["--type", "cat", "--rank", "4"],
        &["`svd_rank`: given with `cat`"],
    );
    check(
        &["first", "fourth"],
        &["--type", "linear"],
        &["self_attn.q_proj", "needs equal ranks", "3 in `"],
    );
    check(&["first", "nowhere=1"], &[], &["nowhere", "adapter_config.json"]);
    let error = finetune(&["--adapter", &source("first")]).unwrap_err();
    assert!(error.contains("--output"), "{error}");

    // An adapter that is there is not replaced.
    combined(&out, &two, &[]).unwrap();
    let before = fs::read(out.join("adapter_model.safetensors")).unwrap();
    let error = combined(&out, &["first"], &[]).unwrap_err();
    assert!(error.contains("an adapter is there already"), "{error}");
    assert_eq!(fs::read(out.join("adapter_model.safetensors")).unwrap(), before);
}

#[test]
fn adapters_of_different_bases_or_tasks_or_of_other_methods_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let changed = |name: &str, from: &str, to: &str| {
        let folder = home.path().join(name);
        fs::create_dir(&folder).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(Path::new(&source("first")).join(file), folder.join(file)).unwrap();
        }
        let path = folder.join("adapter_config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
        folder.display().to_string()
    };
    let null = "\"base_model_name_or_path\": null";
    let (one, two) = (
        changed("one", null, "\"base_model_name_or_path\": \"org/one\""),
        changed("two", null, "\"base_model_name_or_path\": \"org/two\""),
    );
    let output = out.display().to_string();
    let error = finetune(&["--adapter", &one, "--adapter", &two, "--output", &output]).unwrap_err();
    assert!(
        ["`org/one`", "`org/two`", "--base-model"]
            .iter()
            .all(|part| error.contains(part)),
        "{error}"
    );
    let classifier = changed("classifier", "\"CAUSAL_LM\"", "\"SEQ_CLS\"");
    let error = finetune(&[
        "--adapter",
        &source("first"),
        "--adapter",
        &classifier,
        "--output",
        &output,
    ])
    .unwrap_err();
    assert!(error.contains("`CAUSAL_LM`") && error.contains("`SEQ_CLS`"), "{error}");
    let dora = changed("dora", "\"use_dora\": false", "\"use_dora\": true");
    let error = finetune(&["--adapter", &one, "--adapter", &dora, "--output", &output]).unwrap_err();
    assert!(error.contains("use_dora") && error.contains("hint: "), "{error}");
    assert!(!out.exists());
    // Said to be one model, they are.
    finetune(&[
        "--adapter",
        &one,
        "--adapter",
        &two,
        "--base-model",
        "org/three",
        "--output",
        &output,
    ])
    .unwrap();
    let config: Value = serde_json::from_slice(&fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["base_model_name_or_path"], "org/three");
}
