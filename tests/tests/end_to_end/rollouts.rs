//! Learning from replies that the model writes itself: rollouts on disk, resumed in the middle of one, rewards that fail.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::command::{Home, Refusal, finetune, metrics};

const PPO: &str = "kind = \"ppo\"\nmax_completion_length = 6\nnum_ppo_epochs = 2\nnum_mini_batches = 2\n\
                   adaptive_kl = { target = 0.5, horizon = 40.0 }\n\
                   rewards = [{ kind = \"length\", target = 3 }, { kind = \"regex\", pattern = \"e\", weight = 0.0 }]\n";
const GRPO: &str = "kind = \"grpo\"\nmax_completion_length = 6\nnum_generations = 4\nsteps_per_generation = 2\nbeta = 0.05\n\
                    rewards = [{ kind = \"length\", target = 3 }]\n";

/// The common recipe with prompts in the place of conversations.
fn recipe(home: &Home, objective: &str) -> String {
    let prompts = (0..24).map(|i| format!("{{\"prompt\": \"say it {i} times\", \"answer\": \"gold {i}\"}}\n"));
    let rows = home.file("prompts.jsonl", &prompts.collect::<String>());
    let recipe = fs::read_to_string(home.recipe("")).unwrap();
    let recipe = recipe.replace(&home.at("chats.jsonl"), &rows);
    home.file("recipe.toml", &recipe.replace("kind = \"sft\"\n", objective))
}

/// A rollout on disk: its head, then its replies.
fn rollout(run: &Path, number: usize) -> Vec<Value> {
    let path = run.join(format!("rollouts/rollout-{number:06}.jsonl"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_that_is_killed_within_a_rollout_goes_on_as_if_it_had_not_been() {
    for (objective, per_rollout) in [(PPO, 4), (GRPO, 2)] {
        let home = Home::new();
        let recipe = recipe(&home, objective);
        let more = ["--set", "train.save_steps=1", "--set", "train.save_total_limit=9"];
        finetune(&home, &[&["train", recipe.as_str()], &more[..]].concat()).works();
        let run = home.path().join("run");
        let whole = metrics(&run);
        let begun: Vec<Vec<Value>> = (0..6usize.div_ceil(per_rollout))
            .map(|number| rollout(&run, number))
            .collect();
        // At step 3 both are within a rollout; what lies behind it was written by a process that no longer counts.
        for step in 4..=6 {
            fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
        }
        let behind = run.join(format!("rollouts/rollout-{:06}.jsonl", begun.len() - 1));
        fs::write(&behind, "half a rol").unwrap();
        finetune(&home, &[&["train", recipe.as_str(), "--resume"], &more[..]].concat()).works();
        assert_eq!(metrics(&run), whole, "{objective}");
        for (number, before) in begun.iter().enumerate() {
            assert_eq!(rollout(&run, number)[1..], before[1..], "{objective} {number}");
        }
    }
}

#[test]
fn rollouts_can_be_read_and_their_numbers_are_the_metrics() {
    let home = Home::new();
    let recipe = recipe(&home, PPO);
    finetune(&home, &["train", recipe.as_str()]).works();
    let run = home.path().join("run");
    let (first, second) = (rollout(&run, 0), rollout(&run, 1));
    assert_eq!((first.len(), second.len()), (9, 9));
    let number = |value: &Value| value.as_f64().unwrap();
    let lengths: Vec<f64> = first[1..]
        .iter()
        .map(|reply| reply["episode"]["reply"].as_array().unwrap().len() as f64)
        .collect();
    for (reply, length) in first[1..].iter().zip(&lengths) {
        let earned = 1.0 - (length - 3.0).abs() / 3.0;
        assert!((number(&reply["rewards"]["length"]) - earned).abs() < 1e-12);
        // A weight of 0 measures and teaches nothing.
        assert!(reply["rewards"]["regex"].is_number());
        assert_eq!(reply["episode"]["score"], reply["rewards"]["length"]);
        assert!(reply["asked"].as_str().unwrap().starts_with("say it"));
    }
    let entry = &metrics(&run)[0];
    assert_eq!(
        number(&entry["completions/mean_length"]),
        lengths.iter().sum::<f64>() / 8.0
    );
    assert_eq!(entry["reward"], first[0]["facts"]["reward"]);
    // The adapter is new, so nothing is away from the reference; then the price follows the distance.
    assert!(number(&entry["objective/kl"]).abs() < 1e-3, "{entry}");
    assert!((number(&first[0]["next_kl_coef"]) - 0.05 * (1.0 - 0.2 * 8.0 / 40.0)).abs() < 1e-6);
    assert_eq!(second[0]["kl_coef"], first[0]["next_kl_coef"]);
    assert!(run.join("value_head.safetensors").is_file() && run.join("adapter_model.safetensors").is_file());
    let report = fs::read_to_string(run.join("report.md")).unwrap();
    assert!(report.contains("reward, first and last rollout"), "{report}");
}

#[test]
fn rewards_rise_and_held_out_prompts_are_measured() {
    let free = PPO.replace("adaptive_kl = { target = 0.5, horizon = 40.0 }\n", "kl_coef = 0.0\n");
    for objective in [free.as_str(), GRPO] {
        let home = Home::new();
        let recipe = recipe(&home, objective);
        let eval = format!(
            "data.eval=[{{ path = {:?}, name = \"held\", max_samples = 24 }}]",
            home.at("prompts.jsonl")
        );
        let settings = [
            "--set",
            "train.max_steps=120",
            "--set",
            "train.save_steps=200",
            "--set",
            "train.per_device_train_batch_size=12",
            "--set",
            "train.learning_rate=2e-2",
            "--set",
            "train.eval_strategy=steps",
            "--set",
            "train.eval_steps=120",
            "--set",
            "train.lr_scheduler_type=constant",
            "--set",
            "train.eval_on_start=true",
            "--set",
            &eval,
            "--set",
            "objective.rewards=[{ kind = \"regex\", pattern = \"[0-9]\" }]",
        ];
        finetune(&home, &[&["train", recipe.as_str()], &settings[..]].concat()).works();
        let metrics = metrics(&home.path().join("run"));
        let all = |name: &str| -> Vec<f64> { metrics.iter().filter_map(|entry| entry[name].as_f64()).collect() };
        let rewards = all("reward");
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&rewards[..12]), mean(&rewards[108..]));
        assert!(last > first + 0.2, "{objective}: {first} to {last}");
        let held = all("eval/held_reward");
        assert_eq!(held.len(), 2);
        assert!(held[1] > held[0] + 0.2, "{objective}: {held:?}");
        assert!(all("eval/held_objective/kl")[1] > 0.0);
    }
}

#[test]
fn a_reward_model_over_the_policys_base_and_a_program_outside_score() {
    let home = Home::new();
    let pairs = home.pairs();
    let text = fs::read_to_string(home.recipe("")).unwrap();
    let text = text
        .replace(&home.at("chats.jsonl"), &pairs)
        .replace("kind = \"sft\"\n", "kind = \"reward\"\n");
    let reward = home.file("reward.toml", &text);
    let (place, tiny) = (home.at("reward"), super::command::tiny().display().to_string());
    finetune(
        &home,
        &["train", &reward, "--set", &format!("train.output_dir={place}")],
    )
    .works();
    let objective = format!(
        "kind = \"ppo\"\nmax_completion_length = 6\nvalue_init = \"reward_model\"\nsync_ref_model = {{ ref_model_sync_steps = 2 }}\n\
         rewards = [{{ kind = \"model\", model = {tiny:?}, adapter = {place:?} }},\n\
         {{ kind = \"command\", command = [\"sh\", \"-c\", \"read line; echo '{{\\\"id\\\": 0, \\\"score\\\": 0.25}}'; for id in 1 2 3; do echo '{{\\\"id\\\": '$id', \\\"error\\\": \\\"too long\\\"}}'; done\"], weight = 0.0 }}]\n"
    );
    let recipe = recipe(&home, &objective);
    let said = finetune(&home, &["train", recipe.as_str()]).works().stderr;
    assert!(
        said.contains("3 of 4 replies could not be scored, first: command: too long"),
        "{said}"
    );
    let run = home.path().join("run");
    for reply in &rollout(&run, 0)[1..] {
        assert!(reply["rewards"]["model"].as_f64().unwrap().abs() > 1e-6, "{reply}");
        assert_eq!(reply["episode"]["score"], reply["rewards"]["model"]);
    }
    assert_eq!(rollout(&run, 0)[1]["rewards"]["command"], 0.25);
    // Values begin where the reward model's head stands.
    let values = &rollout(&run, 0)[1]["episode"]["values"];
    assert!(values[0].as_f64().unwrap().abs() > 1e-6, "{values}");
    // With the moving reference, a resumed run goes on as before too.
    let whole = metrics(&run);
    for step in [4, 6] {
        fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
    }
    finetune(&home, &["train", recipe.as_str(), "--resume"]).works();
    assert_eq!(metrics(&run), whole);
}

#[test]
fn every_objective_trains_over_a_four_bit_base() {
    for (objective, rows) in [
        (PPO, None),
        (GRPO, None),
        ("kind = \"dpo\"\n", Some(true)),
        ("kind = \"orpo\"\n", Some(true)),
        ("kind = \"kto\"\n", Some(false)),
        ("kind = \"reward\"\n", Some(true)),
    ] {
        let home = Home::new();
        let recipe = recipe(&home, objective);
        let rows = match rows {
            None => home.at("prompts.jsonl"),
            Some(true) => home.pairs(),
            Some(false) => home.judged(),
        };
        let text = fs::read_to_string(&recipe).unwrap();
        let text = text.replace(&home.at("prompts.jsonl"), &rows).replacen(
            "[[surgery]]\n",
            "[[surgery]]\nkind = \"quantize\"\n\n[[surgery]]\n",
            1,
        );
        let recipe = home.file("recipe.toml", &text);
        finetune(&home, &["train", recipe.as_str()]).works();
        assert_eq!(metrics(&home.path().join("run")).len(), 6, "{objective}");
    }
}

#[test]
fn a_run_over_rollouts_is_estimated_before_it() {
    for objective in [PPO, GRPO] {
        let home = Home::new();
        let recipe = recipe(&home, objective);
        let told = finetune(&home, &["estimate", recipe.as_str(), "--json"])
            .works()
            .json_lines()
            .remove(0);
        assert_eq!(told["time"]["steps"].as_f64(), Some(6.0), "{told}");
        // Four replies of six tokens a step, each behind its prompt.
        assert!(told["time"]["tokens"].as_f64().unwrap() > 6.0 * 4.0 * 6.0, "{told}");
        assert!(told["time"]["seconds"].as_f64().unwrap() > 0.0, "{told}");
    }
}

#[test]
fn what_rollouts_cannot_do_is_refused() {
    let refused = |objective: &str, settings: &[&str], says: Refusal| {
        let home = Home::new();
        let recipe = recipe(&home, objective);
        finetune(&home, &[&["train", recipe.as_str()], settings].concat()).refuses(&says);
    };
    let home = Home::new();
    finetune(&home, &["train", &recipe(&home, "kind = \"ppo\"\n")]).fails_with(
        1,
        &["`objective`", "`rewards`: wanted at least one, such as", "found none"],
    );
    refused(
        GRPO,
        &["--set", "data.drop_last=true"],
        Refusal {
            place: "`data.drop_last`",
            wanted: "wanted nothing",
            found: "found `true`",
            hint: "remove it",
        },
    );
    refused(
        GRPO,
        &["--set", "objective.num_generations=3"],
        Refusal {
            place: "`objective.num_generations`",
            wanted: "a divisor of a rollout's 8 replies",
            found: "found 3",
            hint: "per_device_train_batch_size",
        },
    );
    refused(
        GRPO,
        &["--set", "data.max_length=4"],
        Refusal {
            place: "prompts.jsonl",
            wanted: "fewer than 4 tokens",
            found: "found",
            hint: "data.on_too_long",
        },
    );
    refused(
        "kind = \"grpo\"\nnum_generations = 4\nrewards = [{ kind = \"exact\", column = \"nothing\" }]\nmax_completion_length = 4\n",
        &[],
        Refusal {
            place: "rollout 0",
            wanted: "a score for some of its 4 replies",
            found: "no column `nothing`",
            hint: "try the reward",
        },
    );
}
