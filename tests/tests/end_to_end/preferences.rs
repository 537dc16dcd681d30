//! Preferences through the command: a reference that is known, a run that is resumed, rows that do not fit.

use std::fs;

use super::command::{Home, Refusal, finetune, losses, metrics};

/// The common recipe with other rows and another objective.
fn recipe(home: &Home, rows: &str, objective: &str) -> String {
    let recipe = fs::read_to_string(home.recipe("")).unwrap();
    let recipe = recipe.replace(&home.at("chats.jsonl"), rows);
    home.file("recipe.toml", &recipe.replace("kind = \"sft\"\n", objective))
}

const DPO: &str = "kind = \"dpo\"\nbeta = 0.5\n";

#[test]
fn a_reference_computed_before_is_the_one_computed_on_the_way_and_is_found_again() {
    let home = Home::new();
    let recipe = recipe(&home, &home.pairs(), DPO);
    let train = |run: &str, more: &[&str]| {
        let place = format!("train.output_dir={}", home.at(run));
        let mut args = vec!["train", recipe.as_str(), "--set", place.as_str()];
        args.extend(more);
        let answer = finetune(&home, &args).works();
        (metrics(&home.path().join(run)), answer.stderr)
    };
    let precompute = [
        "--set",
        "objective.precompute_ref_log_probs=true",
        "--set",
        "data.max_tokens=64",
    ];
    let (on_the_way, _) = train("a", &precompute[2..]);
    let (computed, said) = train("b", &precompute);
    assert!(!said.contains("were known"), "{said}");
    let (found, said) = train("c", &precompute);
    assert!(
        said.contains("48 log-probabilities under the reference were known"),
        "{said}"
    );
    assert_eq!(computed, found);
    // The set's own order packs other documents beside each other than a step does.
    for (ours, theirs) in computed.iter().zip(&on_the_way) {
        for key in [
            "loss",
            "rewards/chosen",
            "rewards/margins",
            "logps/rejected",
            "grad_norm",
        ] {
            let (ours, theirs) = (ours[key].as_f64().unwrap(), theirs[key].as_f64().unwrap());
            assert!(
                (ours - theirs).abs() < 1e-4 * (1.0 + theirs.abs()),
                "{key}: {ours} {theirs}"
            );
        }
    }
    assert!((computed[0]["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6);
    // A base that trains whole is compared with what it was.
    let full = [
        "--set",
        "surgery.0={kind=\"full\"}",
        "--set",
        "train.learning_rate=1e-3",
    ];
    let (copied, said) = train("d", &[&full[..], &precompute[2..]].concat());
    assert!(said.contains("a copy of it is kept as the reference"), "{said}");
    let (known, _) = train("e", &[&full[..], &precompute].concat());
    for (ours, theirs) in known.iter().zip(&copied) {
        let (ours, theirs) = (ours["loss"].as_f64().unwrap(), theirs["loss"].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
}

#[test]
fn every_objective_over_replies_resumes_bit_for_bit() {
    for (objective, pairs) in [
        (DPO, true),
        ("kind = \"orpo\"\n", true),
        ("kind = \"kto\"\n", false),
        ("kind = \"kto\"\n", true),
        ("kind = \"reward\"\n", true),
    ] {
        let home = Home::new();
        let rows = if pairs { home.pairs() } else { home.judged() };
        let recipe = recipe(&home, &rows, objective);
        finetune(&home, &["train", recipe.as_str()]).works();
        let run = home.path().join("run");
        let whole = metrics(&run);
        for step in [4, 6] {
            fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
        }
        finetune(&home, &["train", recipe.as_str(), "--resume"]).works();
        assert_eq!(metrics(&run), whole, "{objective}");
        let losses = losses(&run);
        assert!(losses.last() < losses.first(), "{objective} learns: {losses:?}");
    }
}

#[test]
fn a_reward_model_is_merged_into_a_classifier_of_one_label() {
    let home = Home::new();
    let recipe = recipe(&home, &home.pairs(), "kind = \"reward\"\n");
    finetune(&home, &["train", recipe.as_str()]).works();
    let (run, merged) = (home.at("run"), home.at("merged"));
    let tiny = super::command::tiny().display().to_string();
    finetune(
        &home,
        &["merge", "--model", &tiny, "--adapter", &run, "--output", &merged],
    )
    .works();
    let config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(home.path().join("merged/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    let weights = fs::read(home.path().join("merged/model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&weights[..4000]).contains("\"score.weight\":{\"dtype\":\"F32\",\"shape\":[1,"));
}

#[test]
fn a_margin_in_the_rows_is_asked_for_between_the_scores() {
    let home = Home::new();
    let losses = |margin: &str| {
        let pairs = fs::read_to_string(home.pairs()).unwrap();
        let rows = home.file("margins.jsonl", &pairs.replace("}\n", &format!("{margin}}}\n")));
        let recipe = recipe(&home, &rows, "kind = \"reward\"\n");
        let place = format!("train.output_dir={}", home.at(&format!("run{}", margin.len())));
        finetune(&home, &["train", &recipe, "--set", &place]).works();
        losses(&home.path().join(format!("run{}", margin.len())))[0]
    };
    let (none, zero, one) = (losses(""), losses(", \"margin\": 0"), losses(", \"margin\": 1.0"));
    assert!((none - zero).abs() < 1e-6, "{none} {zero}");
    // Scores begin near each other: ln(1 + e^0) grows to ln(1 + e^1).
    assert!((one - none - 0.62).abs() < 0.05, "{none} {one}");
    let pairs = fs::read_to_string(home.pairs()).unwrap();
    let rows = home.file("wrong.jsonl", &pairs.replace("}\n", ", \"margin\": -1}\n"));
    finetune(&home, &["train", &recipe(&home, &rows, "kind = \"reward\"\n")]).refuses(&Refusal {
        place: "wrong.jsonl",
        wanted: "a number of 0 or more",
        found: "found -1",
        hint: "a margin says",
    });
}

#[test]
fn rows_and_options_that_do_not_fit_are_refused() {
    let home = Home::new();
    let (pairs, judged, chats) = (home.pairs(), home.judged(), home.chats());
    for (rows, objective, place, wanted, found, hint) in [
        (
            &chats,
            DPO,
            "chats.jsonl",
            "wants rows with two replies",
            "found 24 without",
            "`prompt`, `chosen`, `rejected`",
        ),
        (
            &judged,
            DPO,
            "judged.jsonl",
            "wants rows with two replies",
            "found 24 without",
            "kto",
        ),
        (
            &chats,
            "kind = \"kto\"\n",
            "chats.jsonl",
            "whether it is a good one",
            "found 24 without",
            "`label`",
        ),
        (
            &pairs,
            "kind = \"sft\"\n",
            "pairs.jsonl",
            "wanted rows with one reply",
            "found 24 with two",
            "dpo",
        ),
        (
            &judged,
            "kind = \"sft\"\n",
            "judged.jsonl",
            "without a verdict",
            "found 24 with a `label`",
            "kto",
        ),
        (
            &pairs,
            "kind = \"dpo\"\nlabel_smoothing = 0.1\n",
            "recipe.toml",
            "`label_smoothing`",
            "no effect on `sigmoid`",
            "robust",
        ),
    ] {
        let recipe = recipe(&home, rows, objective);
        finetune(&home, &["train", recipe.as_str()]).refuses(&Refusal {
            place,
            wanted,
            found,
            hint,
        });
    }
    for (objective, parts) in [
        (
            "kind = \"dpo\"\nloss_type = \"sigmod\"\n",
            ["`objective.loss_type`", "sigmoid"],
        ),
        ("kind = \"dpo\"\nbeta = 0.0\n", ["`beta`", "above 0"]),
        (
            "kind = \"kto\"\nundesirable_weight = -1.0\n",
            ["`undesirable_weight`", "above 0"],
        ),
    ] {
        let recipe = recipe(&home, &pairs, objective);
        finetune(&home, &["train", recipe.as_str()]).fails_with(1, &parts);
    }
}

#[test]
fn an_estimate_counts_a_copy_of_the_base_only_where_one_is_kept() {
    let home = Home::new();
    let recipe = recipe(&home, &home.pairs(), DPO);
    let second = |more: &[&str]| {
        let mut args = vec!["estimate", recipe.as_str(), "--json"];
        args.extend(more);
        let answer = finetune(&home, &args).works().json_lines().remove(0);
        answer["memory"]["weights_of_the_teacher_or_reference"].as_f64()
    };
    assert_eq!(second(&[]), None, "adapters off are the reference");
    let full = ["--set", "surgery.0={kind=\"full\"}", "--dtype", "f32"];
    let copy = second(&full);
    let numbers = finetune(&home, &["inspect", &home.model(), "--json"])
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(copy, numbers["parameters"].as_f64().map(|count| 4.0 * count));
    let known = ["--set", "objective.precompute_ref_log_probs=true"];
    assert_eq!(second(&[&full[..], &known].concat()), None);
}
