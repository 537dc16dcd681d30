//! Situations from public bug reports in which a run learns nothing, or something else than it was given: each is refused
//! or told at the first sight.

use std::fs;

use serde_json::Value;

use super::command::{Answer, Home, Refusal, finetune, metrics};

/// The common recipe with other rows and another objective; two steps.
fn recipe(home: &Home, name: &str, rows: &str, objective: &str) -> String {
    let rows = home.file(&format!("{name}.jsonl"), rows);
    let text = fs::read_to_string(home.recipe("report_to = []\n")).unwrap();
    let text = text
        .replace(&home.at("chats.jsonl"), &rows)
        .replace(&home.at("run"), &home.at(name))
        .replace("max_steps = 6", "max_steps = 2")
        .replace("kind = \"sft\"\n", objective);
    home.file(&format!("{name}.toml"), &text)
}

fn train(home: &Home, recipe: &str, settings: &[&str]) -> Answer {
    let mut args = vec!["train", recipe];
    for setting in settings {
        args.extend(["--set", setting]);
    }
    finetune(home, &args)
}

fn line(row: &Value) -> String {
    format!("{row}\n")
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> String {
    line(&serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }))
}

fn judged(prompt: &str, reply: &str, good: bool) -> String {
    line(&serde_json::json!({ "prompt": prompt, "completion": reply, "label": good }))
}

#[test]
fn pairs_that_are_the_same_from_the_start_or_once_cut_are_refused_where_all_are_and_counted_where_some_are() {
    let home = Home::new();
    let same = pair("q?", " yes", " yes").repeat(4);
    let long = " one two three four five".repeat(20);
    let cut: String = (0..4)
        .map(|i| pair(&format!("q{i}?"), &format!("{long} yes"), &format!("{long} no")))
        .collect();
    for objective in ["dpo", "orpo", "reward"] {
        let kind = format!("kind = \"{objective}\"\n");
        for (name, rows, how) in [
            ("same", &same, None),
            ("cut", &cut, Some("both are cut at `data.max_length` = 32")),
        ] {
            let recipe = recipe(&home, &format!("{objective}-{name}"), rows, &kind);
            let said = train(&home, &recipe, &["data.max_length=32"]);
            said.refuses(&Refusal {
                place: "`data.train`",
                wanted: "wants pairs of two different replies",
                found: "found all 4 pairs with the same reply twice",
                hint: "`data.max_length`",
            });
            assert!(
                said.stderr.contains(how.unwrap_or("rows 1, 2, 3, 4")),
                "{}",
                said.stderr
            );
            assert!(
                !home
                    .path()
                    .join(format!("{objective}-{name}"))
                    .join("metrics.jsonl")
                    .exists()
            );
        }
    }
    let some = format!(
        "{}{}{}",
        pair("a?", " b", " c"),
        pair("d?", " e", " e"),
        pair("f?", " g", " h")
    );
    let mixed = recipe(&home, "some", &some, "kind = \"dpo\"\n");
    let said = train(&home, &mixed, &[]).works().stderr;
    assert!(
        said.contains("1 of 3 pairs hold the same reply twice: they teach no preference (row 2)"),
        "{said}"
    );
    // Learning from the better reply alone needs no difference.
    let sft = recipe(&home, "sft", &same, "kind = \"dpo\"\nloss_type = \"sft\"\n");
    train(&home, &sft, &[]).works();
}

const PROMPTS: &str = "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n{\"prompt\": \"three\"}\n{\"prompt\": \"four\"}\n";

fn grpo(rewards: &str) -> String {
    format!("kind = \"grpo\"\nnum_generations = 2\nmax_completion_length = 6\nbeta = 0.0\nrewards = [{rewards}]\n")
}

#[test]
fn groups_in_which_every_reply_earns_the_same_are_told_at_the_first_rollout_and_at_the_end() {
    let home = Home::new();
    for (name, rewards) in [
        ("never", "{ kind = \"regex\", pattern = \"ZZZZZZ\" }"),
        (
            "cancel",
            "{ kind = \"length\", target = 4, weight = 0.1 }, { kind = \"length\", target = 4, weight = -0.1 }",
        ),
    ] {
        let recipe = recipe(&home, name, PROMPTS, &grpo(rewards));
        let said = train(&home, &recipe, &[]).works().stderr;
        for part in [
            "rollout 0: in 2 of 2 groups all replies earned the same reward; nothing is learnt from it",
            "hint: `rollouts/rollout-000000.jsonl` holds the replies",
            "nothing was learnt from rewards",
        ] {
            assert!(said.contains(part), "`{part}` in: {said}");
        }
        assert!(
            said.find("rollout 0").unwrap() < said.find("step     1").unwrap(),
            "{said}"
        );
        for entry in metrics(&home.path().join(name)) {
            assert!(
                entry.get("reward").is_none() || entry["frac_reward_zero_std"] == 1.0,
                "{entry}"
            );
        }
    }
    // PPO compares all replies of a rollout.
    let ppo = recipe(
        &home,
        "ppo",
        PROMPTS,
        "kind = \"ppo\"\nmax_completion_length = 6\nrewards = [{ kind = \"regex\", pattern = \"ZZZZZZ\" }]\n",
    );
    let said = train(&home, &ppo, &[]).works().stderr;
    assert!(
        said.contains("rollout 0: all 4 replies earned the same reward"),
        "{said}"
    );
    // A reward that tells replies apart says nothing of the kind at the end.
    let fair = recipe(
        &home,
        "fair",
        PROMPTS,
        &grpo("{ kind = \"regex\", pattern = \"[a-m]\" }, { kind = \"length\", target = 3 }"),
    );
    let said = train(&home, &fair, &["train.per_device_train_batch_size=16"])
        .works()
        .stderr;
    assert!(!said.contains("nothing was learnt"), "{said}");
    let shares: Vec<f64> = metrics(&home.path().join("fair"))
        .iter()
        .filter_map(|entry| entry["frac_reward_zero_std"].as_f64())
        .collect();
    assert!(
        !shares.is_empty() && shares.iter().all(|share| *share < 1.0),
        "{shares:?}"
    );
}

/// A shell script as a reward, in a recipe's words.
fn script(text: &str) -> String {
    format!("{{ kind = \"command\", command = [\"sh\", \"-c\", {text:?}], timeout_seconds = 1.0 }}")
}

#[test]
fn a_reward_program_gives_each_reply_its_own_score_or_the_run_stops() {
    let home = Home::new();
    let each = "while read -r line; do echo '{\"score\": 1}'; done";
    for (name, program, found) in [
        (
            "banner",
            format!("echo Loading model...; {each}"),
            "in line 1, found `Loading model...`",
        ),
        (
            "few",
            "head -n 2 | while read -r l; do echo '{\"score\": 1}'; done".into(),
            "for each of 4 replies, found 2",
        ),
        (
            "many",
            "while read -r l; do echo '{\"score\": 1}'; echo '{\"score\": 0}'; done".into(),
            "found one more in line 5",
        ),
        (
            "nan",
            "while read -r l; do echo '{\"score\": NaN}'; done".into(),
            "found `{\"score\": NaN}`",
        ),
        (
            "null",
            "while read -r l; do echo '{\"score\": null}'; done".into(),
            "found `{\"score\": null}`",
        ),
        ("bare", "while read -r l; do echo 1.0; done".into(), "found `1.0`"),
        (
            "skip",
            "n=0; while read -r l; do n=$((n+1)); [ $n = 2 ] || echo '{\"score\": 1}'; done".into(),
            "found 3",
        ),
        (
            "crash",
            "exit 3".into(),
            "ended with exit status: 3 after 0 of 4 answers",
        ),
        (
            "hang",
            "sleep 600".into(),
            "said nothing for 1 s, after 0 of 4 answers, and was stopped",
        ),
    ] {
        let recipe = recipe(&home, name, PROMPTS, &grpo(&script(&program)));
        let said = train(&home, &recipe, &[]);
        said.refuses(&Refusal {
            place: "step 1: reward program `sh -c ",
            wanted: if ["crash", "hang"].contains(&name) {
                "answers"
            } else {
                "wanted "
            },
            found,
            hint: if name == "hang" {
                "`timeout_seconds`"
            } else {
                "answers each line"
            },
        });
        assert!(
            !home.path().join(name).join("rollouts/rollout-000000.jsonl").exists(),
            "{name}"
        );
    }
    // By id, in another order: what a reply earned is its own.
    let reversed = "tac | sed -E 's/.*\"id\":([0-9]+),.*/{\"id\": \\1, \"score\": \\1}/'";
    let recipe = recipe(&home, "reversed", PROMPTS, &grpo(&script(reversed)));
    train(&home, &recipe, &[]).works();
    let text = fs::read_to_string(home.path().join("reversed/rollouts/rollout-000000.jsonl")).unwrap();
    let scores: Vec<f64> = text
        .lines()
        .skip(1)
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["rewards"]["command"]
                .as_f64()
                .unwrap()
        })
        .collect();
    assert_eq!(scores, [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn kto_is_told_what_its_rows_lack() {
    let home = Home::new();
    let kto = "kind = \"kto\"\n";
    let good: String = (0..4).map(|i| judged(&format!("q{i}?"), " yes", true)).collect();
    let good = recipe(&home, "good", &good, kto);
    let said = train(&home, &good, &[]).works().stderr;
    assert!(
        said.contains("all 4 replies are good ones") && said.contains("hint: `objective.kind = \"sft\"`"),
        "{said}"
    );
    assert!(said.contains("4 of 4 prompts of a step meet their own reply"), "{said}");
    let mixed: String = (0..5)
        .map(|i| judged(&format!("q{i}?"), &format!(" yes {i}"), i % 2 == 0))
        .collect();
    let mixed = recipe(&home, "mixed", &mixed, kto);
    train(&home, &mixed, &["train.per_device_train_batch_size=1"]).refuses(&Refusal {
        place: "`train.per_device_train_batch_size`",
        wanted: "wanted a step of at least 2 documents",
        found: "found 1",
        hint: "apo_zero_unpaired",
    });
    train(
        &home,
        &mixed,
        &[
            "train.per_device_train_batch_size=1",
            "objective.loss_type=apo_zero_unpaired",
        ],
    )
    .works();
    let said = train(
        &home,
        &mixed,
        &[
            "train.per_device_train_batch_size=2",
            "train.max_steps=3",
            "train.overwrite_output_dir=true",
        ],
    );
    let said = said.works().stderr;
    assert!(said.contains("a step has a single sample"), "{said}");
    assert!(
        !said.contains("meet their own reply") && !said.contains("replies are good ones"),
        "{said}"
    );
    let same: String = (0..4).map(|i| judged("q?", " yes", i % 2 == 0)).collect();
    let same = recipe(&home, "same", &same, kto);
    let said = train(&home, &same, &[]);
    said.refuses(&Refusal {
        place: "`data.train`",
        wanted: "wants replies that differ",
        found: "found 4 times the same prompt and reply",
        hint: "finetune inspect",
    });
    let both = format!(
        "{}{}{}",
        judged("a?", " b", true),
        judged("a?", " b", false),
        judged("c?", " d", true)
    );
    let both = recipe(&home, "both", &both, kto);
    let said = train(&home, &both, &[]).works().stderr;
    assert!(
        said.contains("2 of 3 replies are called good in one row and bad in another"),
        "{said}"
    );
    for (label, found) in [("1", "1"), ("\"good\"", "\"good\""), ("null", "null")] {
        let row = format!("{{\"prompt\": \"q?\", \"completion\": \" yes\", \"label\": {label}}}\n");
        let wrong = recipe(&home, "wrong", &row.repeat(2), kto);
        let said = train(&home, &wrong, &[]);
        said.fails_with(1, &["wrong.jsonl", "label"]);
        assert!(said.stderr.contains(found) || label == "null", "{}", said.stderr);
    }
}

#[test]
fn an_evaluation_set_that_is_learnt_too_is_told() {
    let home = Home::new();
    let rows: String = (0..6)
        .map(|i| pair(&format!("q{i}?"), &format!(" {i}"), " none"))
        .collect();
    let recipe = recipe(&home, "sft", &rows, "kind = \"dpo\"\n");
    let same = format!("data.eval=[{{ path = {:?}, name = \"held\" }}]", home.at("sft.jsonl"));
    let said = train(&home, &recipe, &[&same]).works().stderr;
    assert!(
        said.contains("held: 6 of 6 samples are in the training data too; its numbers say what was memorised"),
        "{said}"
    );
    let other = home.file(
        "other.jsonl",
        &format!("{}{}", pair("q0?", " 0", " none"), pair("new?", " 1", " none")),
    );
    let some = format!("data.eval=[{{ path = {other:?}, name = \"held\" }}]");
    let more = ["train.overwrite_output_dir=true", some.as_str()];
    let said = train(&home, &recipe, &more).works().stderr;
    assert!(
        said.contains("held: 1 of 2 samples are in the training data too; they make its numbers look better"),
        "{said}"
    );
    let limited = format!("data.train=[{{ path = {:?}, max_samples = 4 }}]", home.at("sft.jsonl"));
    let rest: String = (4..6)
        .map(|i| pair(&format!("q{i}?"), &format!(" {i}"), " none"))
        .collect();
    let rest = home.file("rest.jsonl", &rest);
    let held = format!("data.eval=[{{ path = {rest:?}, name = \"held\" }}]");
    let said = train(&home, &recipe, &["train.overwrite_output_dir=true", &limited, &held])
        .works()
        .stderr;
    assert!(!said.contains("in the training data too"), "{said}");
}

#[test]
fn a_class_alone_and_a_teacher_that_is_the_student_are_refused() {
    let home = Home::new();
    let class = "{\"text\": \"a\", \"label\": \"good\"}\n{\"text\": \"b\", \"label\": \"good\"}\n";
    let recipe_of = recipe(&home, "class", class, "kind = \"classify\"\n");
    train(
        &home,
        &recipe_of,
        &["head={kind=\"classification\",labels=[\"good\",\"bad\"]}"],
    )
    .refuses(&Refusal {
        place: "`data.train`",
        wanted: "rows of at least two classes",
        found: "found 2 rows of `good` alone",
        hint: "max_samples",
    });
    let tiny = super::command::tiny().display().to_string();
    let texts = "{\"text\": \"The early bird catches the worm.\"}\n".repeat(4);
    let distill = recipe(
        &home,
        "distill",
        &texts,
        &format!("kind = \"distill\"\nteacher = {tiny:?}\n"),
    );
    train(&home, &distill, &[]).refuses(&Refusal {
        place: "`objective.teacher`",
        wanted: "another model than the student",
        found: "for both",
        hint: "larger model of the same family",
    });
    train(&home, &distill, &["objective.alpha=0.5"]).works();
}

#[test]
fn only_the_loss_of_a_token_is_called_a_perplexity() {
    let home = Home::new();
    let pairs = home.pairs();
    let labelled: String = (0..6)
        .map(|i| judged(&format!("q{i}?"), &format!(" {i}"), i % 2 == 0))
        .collect();
    let held = home.file("held.jsonl", &labelled);
    for kind in ["dpo", "orpo", "reward", "kto"] {
        let (rows, held): (String, _) = match kind {
            "kto" => (labelled.replace('q', "p"), &held),
            _ => (
                (0..6)
                    .map(|i| pair(&format!("q{i}?"), &format!(" {i}"), " none"))
                    .collect(),
                &pairs,
            ),
        };
        let eval = format!("data.eval=[{{ path = {held:?}, name = \"held\" }}]");
        let recipe = recipe(&home, kind, &rows, &format!("kind = \"{kind}\"\n"));
        let evaluated = ["train.eval_strategy=steps", "train.eval_steps=2", eval.as_str()];
        train(&home, &recipe, &evaluated).works();
        let entries = metrics(&home.path().join(kind));
        let names: Vec<&String> = entries
            .iter()
            .filter_map(Value::as_object)
            .flat_map(|entry| entry.keys())
            .collect();
        assert!(names.iter().any(|name| *name == "eval/held_loss"), "{names:?}");
        assert!(
            !names.iter().any(|name| name.contains("perplexity")),
            "{kind}: {names:?}"
        );
        // It can be no best metric either.
        let best = [
            &evaluated[..],
            &[
                "train.metric_for_best_model=held_perplexity",
                "train.overwrite_output_dir=true",
            ],
        ];
        train(&home, &recipe, &best.concat()).fails_with(1, &["`train.metric_for_best_model`", "held_perplexity"]);
    }
}

#[test]
fn a_first_step_on_replies_of_a_policy_with_dropout_finds_the_policy_that_wrote_them() {
    let home = Home::new();
    let rewards = "{ kind = \"length\", target = 3 }";
    let ppo = format!("kind = \"ppo\"\nmax_completion_length = 6\nrewards = [{rewards}]\n");
    for (name, objective) in [("grpo", grpo(rewards)), ("ppo", ppo)] {
        let recipe = recipe(&home, name, PROMPTS, &objective);
        // Factors that begin away from zero, so that dropout would be seen in the first step.
        let lora = "surgery=[{kind=\"lora\",r=3,lora_alpha=48,lora_dropout=0.5,init_lora_weights=\"pissa\",target_modules=\"all-linear\"}]";
        let said = train(&home, &recipe, &[lora]).works().stderr;
        assert!(said.contains("dropout (0.5) stays off"), "{said}");
        let first = &metrics(&home.path().join(name))[0];
        let drift = first["policy/approxkl_avg"].as_f64().unwrap();
        assert!(drift < 1e-8, "{name}: {first}");
    }
}
