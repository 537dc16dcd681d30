//! Half fine-tuning from recipe to report, Half-Reset, and the numbers of a sequence of tasks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use checkpoint::Safetensors;
use tch::{Kind, Tensor};

use super::command::{Home, finetune, losses, tiny};

fn tensors(folder: &Path) -> Vec<(String, Tensor)> {
    let file = Safetensors::open(&folder.join("model.safetensors")).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    names
        .into_iter()
        .map(|name| (name.clone(), file.tensor(&name).unwrap()))
        .collect()
}

/// The names of the tensors that differ.
fn moved(a: &Path, b: &Path) -> BTreeSet<String> {
    let pairs = tensors(a).into_iter().zip(tensors(b));
    pairs
        .filter(|((_, a), (_, b))| !a.equal(b))
        .map(|((name, _), _)| name)
        .collect()
}

#[test]
fn half_of_a_model_trains_and_the_report_says_which() {
    let home = Home::new();
    let (recipe, texts) = (home.recipe(""), home.texts());
    let surgery = "surgery.0={kind=\"hft\",granularity=\"stratified\",seed=2}";
    let forgetting = format!("report.forgetting={texts}");
    finetune(&home, &["train", &recipe, "--set", surgery, "--set", &forgetting]).works();
    let run = home.path().join("run");
    let moved = moved(&run, &tiny());
    for layer in 0..2 {
        let of = |names: [&str; 2]| {
            let paths = names.map(|name| format!("model.layers.{layer}.self_attn.{name}.weight"));
            paths.iter().filter(|path| moved.contains(*path)).count()
        };
        assert_eq!(
            (of(["q_proj", "o_proj"]), of(["k_proj", "v_proj"])),
            (1, 1),
            "{moved:?}"
        );
    }
    assert!(moved.contains("model.embed_tokens.weight"));
    // Of 6 feed-forward matrices 3 moved, of 4 norms 2 (and the last one).
    let count = |name: &str| moved.iter().filter(|path| path.contains(name)).count();
    assert_eq!((count("mlp"), count("layernorm")), (3, 2), "{moved:?}");
    let report = fs::read_to_string(run.join("report.md")).unwrap();
    for part in [
        "half fine-tuning by stratified",
        "| seed of the halves | 2 |",
        "| rounds | 1, drawn once |",
        "| trained of attention | 50.0 % of the numbers, 4 of 8 tensors |",
        "| trained of embedding | 100.0 % of the numbers, 1 of 1 tensors |",
        "| perplexity of general text |",
        "nats a token |",
    ] {
        assert!(report.contains(part), "`{part}` in {report}");
    }
}

#[test]
fn a_run_in_rounds_goes_on_from_any_checkpoint() {
    let home = Home::new();
    let recipe = home.recipe("");
    let surgery = "surgery.0={kind=\"hft\",resample=2,complement=true}";
    // `save_steps = 2`: checkpoints lie at the ends of rounds, and one in the middle is made below.
    let args = ["train", &recipe, "--set", surgery, "--set", "train.save_steps=3"];
    finetune(&home, &args).works();
    let run = home.path().join("run");
    let wanted: Vec<(String, Tensor)> = tensors(&run)
        .into_iter()
        .map(|(name, value)| (name, value.copy()))
        .collect();
    let wanted_losses = losses(&run);
    fs::remove_dir_all(run.join("checkpoint-6")).unwrap();
    finetune(&home, &[&args[..], &["--resume"]].concat()).works();
    assert_eq!(losses(&run), wanted_losses);
    for ((name, found), (_, wanted)) in tensors(&run).iter().zip(&wanted) {
        assert!(found.equal(wanted), "{name}");
    }
    let report = fs::read_to_string(run.join("report.md")).unwrap();
    assert!(report.contains("| rounds | 3, drawn anew every 2 steps |"), "{report}");
    let other = "surgery.0={kind=\"hft\",resample=2,complement=true,seed=77}";
    fs::remove_dir_all(run.join("checkpoint-6")).unwrap();
    finetune(
        &home,
        &[
            "train",
            &recipe,
            "--set",
            other,
            "--set",
            "train.save_steps=3",
            "--resume",
        ],
    )
    .fails_with(1, &["run of another recipe", "wanted `5`", "found `77`"]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (setting, parts) in [
        (
            "surgery=[{kind=\"hft\"},{kind=\"full\"}]",
            ["`surgery.0.kind`", "each decide"],
        ),
        (
            "surgery=[{kind=\"hft\"},{kind=\"hft\"}]",
            ["`surgery.1.kind`", "decides alone"],
        ),
        (
            "surgery=[{kind=\"hft\",freeze_ratio=1.5}]",
            ["`surgery.0`", "freeze_ratio"],
        ),
        (
            "surgery=[{kind=\"hft\",granularty=\"layer\"}]",
            ["granularty", "did you mean `granularity`"],
        ),
        ("surgery=[{kind=\"hft\",freeze_head=true}]", ["`freeze_head`", "tied"]),
        ("report.forgetting=nowhere.txt", ["report.forgetting", "`nowhere.txt`"]),
    ] {
        let home = Home::new();
        let recipe = home.recipe("");
        finetune(&home, &["train", &recipe, "--set", setting]).fails_with(1, &parts);
    }
}

#[test]
fn a_reset_goes_from_the_tuned_model_to_the_base_bit_for_bit() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe, "--set", "surgery.0={kind=\"full\"}"]).works();
    let (tuned, base) = (home.path().join("run"), tiny());
    let (model, from) = (home.at("run"), base.display().to_string());
    let reset = |more: &[&str], name: &str| {
        let output = home.at(name);
        let all = [
            "reset", "--model", &model, "--base", &from, "--output", &output, "--json",
        ];
        let told = finetune(&home, &[&all[..], more].concat())
            .works()
            .json_lines()
            .remove(0);
        (home.path().join(name), told)
    };
    assert_eq!(moved(&tuned, &base).len(), tensors(&base).len());
    for (more, same) in [
        (["--fraction", "0"], &tuned),
        (["--fraction", "1"], &base),
        (["--average", "0"], &tuned),
        (["--average", "1"], &base),
    ] {
        let (found, _) = reset(&more, &format!("{}-{}", more[0].trim_start_matches('-'), more[1]));
        assert!(moved(&found, same).is_empty(), "{more:?}");
    }
    let (half, told) = reset(&["--seed", "3"], "half");
    let (from_tuned, from_base) = (moved(&half, &base), moved(&half, &tuned));
    assert!(from_tuned.is_disjoint(&from_base), "every tensor is one of the two");
    assert_eq!(from_tuned.len() + from_base.len(), tensors(&base).len());
    let count = |names: &str| from_base.iter().filter(|path| path.contains(names)).count();
    assert_eq!(
        (count("self_attn"), count("mlp"), count("layernorm"), count("embed")),
        (4, 3, 2, 0)
    );
    assert_eq!(told["reset_tensors"].as_u64(), Some(from_base.len() as u64));
    let (again, _) = reset(&["--seed", "3"], "again");
    assert!(moved(&half, &again).is_empty(), "the same seed resets the same");

    let (mean, _) = reset(&["--average", "0.5"], "mean");
    for (((name, found), (_, tuned)), (_, base)) in tensors(&mean).iter().zip(tensors(&tuned)).zip(tensors(&base)) {
        let wanted = (tuned.to_kind(Kind::Double) + base.to_kind(Kind::Double)) * 0.5;
        let far = (found.to_kind(Kind::Double) - wanted).abs().max().double_value(&[]);
        // One rounding of a sum of f32 numbers below 2.
        assert!(far < 2e-7, "{name}: {far}");
    }
    let output = home.at("half");
    let there = ["reset", "--model", &model, "--base", &from, "--output", &output];
    finetune(&home, &there).fails_with(1, &["already"]);
    finetune(
        &home,
        &[&there[..5], &["--output", &home.at("x"), "--fraction", "2"]].concat(),
    )
    .fails_with(2, &["--fraction", "from 0 to 1"]);
}

#[test]
fn reports_of_a_sequence_become_overall_performance_and_backward_transfer() {
    let home = Home::new();
    let report = |name: &str, scores: &[(&str, f64)], perplexity: f64| {
        let task = |(name, score): &(&str, f64)| {
            format!("{name:?}:{{\"kind\":\"classification\",\"rows\":10,\"seconds\":0.1,\"accuracy\":{score}}}")
        };
        let text =
            format!("\"general\":{{\"kind\":\"perplexity\",\"rows\":1,\"seconds\":0.1,\"perplexity\":{perplexity}}}");
        let tasks: Vec<String> = scores.iter().map(task).chain([text]).collect();
        home.file(name, &format!("{{\"model\":\"m\",\"tasks\":{{{}}}}}", tasks.join(",")));
    };
    report("base.json", &[], 16.0);
    report("1.json", &[("a", 0.8)], 20.0);
    report("2.json", &[("a", 0.5), ("b", 0.9)], 22.0);
    report("3.json", &[("a", 0.4), ("b", 0.7), ("c", 0.6)], 24.0);
    let stages = ["a", "b", "c"].iter().enumerate();
    let stages: Vec<String> = stages
        .map(|(idx, task)| format!("[[stage]]\ntask = {task:?}\nreport = \"{}.json\"\n", idx + 1))
        .collect();
    let sequence = home.file("stages.toml", &format!("before = \"base.json\"\n{}", stages.concat()));
    let found = finetune(&home, &["evaluate", "--sequence", &sequence, "--json"])
        .works()
        .json_lines()
        .remove(0);
    let near = |name: &str, wanted: f64| {
        let value = found[name].as_f64().unwrap();
        assert!((value - wanted).abs() < 1e-9, "{name} {value}");
    };
    near("overall_performance", 1.7 / 3.0);
    near("backward_transfer", -0.3);
    assert_eq!(found["backward_transfer_divisor"], 2);
    let last = &found["drift"][0]["later"][2];
    assert!((last["relative"].as_f64().unwrap() - 0.5).abs() < 1e-9);
    assert!((last["nats_per_token"].as_f64().unwrap() - 1.5f64.ln()).abs() < 1e-9);
    let shown = finetune(&home, &["evaluate", "--sequence", &sequence]).works().stdout;
    assert!(
        shown.contains("overall performance  0.5667") && shown.contains("+50.0 %"),
        "{shown}"
    );
    fs::write(home.path().join("2.json"), "{\"model\":\"m\",\"tasks\":{}}").unwrap();
    finetune(&home, &["evaluate", "--sequence", &sequence]).fails_with(1, &["stage 2", "no task `b`"]);
    fs::write(home.path().join("2.json"), "[]").unwrap();
    finetune(&home, &["evaluate", "--sequence", &sequence]).fails_with(1, &["2.json", "wanted a report"]);
}
