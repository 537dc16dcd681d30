//! Facts in a memory: trained, stopped, read, forgotten, replaced, and refused where it cannot be.

use std::fs;

use serde_json::Value;

use super::command::{Home, finetune, tiny};

/// A recipe of a few facts for the tiny model; `more` goes to `[objective]`, `surgery` to `[[surgery]]`.
fn recipe(home: &Home, name: &str, facts: &str, surgery: &str, more: &str) -> String {
    let text = format!(
        "[model]\nname_or_path = {:?}\ndtype = \"f32\"\n\n[[surgery]]\nkind = \"memory\"\nlayers_to_transform = [1]\n\
         num_experts = 4096\ntop_k = 4\nquery_dim = 16\n{surgery}\n\n\
         [objective]\nkind = \"memory\"\ntarget_loss = 1.0\nmax_steps_per_fact = 400\n{more}\n\n[data]\ntrain = [{{ path = {facts:?} }}]\nmax_length = 96\nmax_tokens = 64\n\n\
         [report]\nsamples = 0\n\n\
         [train]\noutput_dir = {:?}\nnum_train_epochs = 400\nper_device_train_batch_size = 2\nlearning_rate = 0.05\nlr_scheduler_type = \"constant\"\n\
         logging_steps = 1\nsave_steps = 7\nseed = 5\n",
        tiny().display().to_string(),
        home.at(name),
    );
    home.file(&format!("{name}.toml"), &text)
}

fn facts(home: &Home, name: &str, answers: &[(&str, &str)]) -> String {
    let row = |(question, answer): &(&str, &str)| format!("{{\"prompt\": {question:?}, \"completion\": {answer:?}}}\n");
    home.file(name, &answers.iter().map(row).collect::<String>())
}

const ROWS: &str = "model.layers.1.mlp.down_proj.rows";

const ANSWERS: [(&str, &str); 4] = [
    ("The code of the first door is", " 4711"),
    ("The code of the second door is", " 0815"),
    ("Whoever asks for the garden hears", " roses"),
    ("The name of the boat is", " Anna"),
];

/// The command's exact answers to the questions of a file.
fn recall(home: &Home, adapter: &str, data: &str) -> f64 {
    let suite = home.file(
        "recall.toml",
        &format!("[[task]]\nname = \"facts\"\nkind = \"exact_match\"\ndata = {data:?}\nmax_new_tokens = 8\n"),
    );
    let model = tiny().display().to_string();
    let mut args = vec![
        "evaluate", "--model", &model, "--dtype", "f32", "--suite", &suite, "--json",
    ];
    if !adapter.is_empty() {
        args.extend(["--adapter", adapter]);
    }
    let report: Value = serde_json::from_str(&finetune(home, &args).works().stdout).unwrap();
    report["tasks"]["facts"]["exact_match"].as_f64().unwrap()
}

#[test]
fn facts_are_learnt_forgotten_and_replaced() {
    let home = Home::new();
    let all = facts(&home, "all.jsonl", &ANSWERS);
    finetune(&home, &["train", &recipe(&home, "memory", &all, "", "")]).works();
    let memory = home.at("memory");
    assert_eq!((recall(&home, "", &all), recall(&home, &memory, &all)), (0.0, 1.0));
    let report = fs::read_to_string(home.path().join("memory/report.md")).unwrap();
    assert!(
        report.contains("facts recalled exactly") && report.contains("100.0 %") && report.contains("4 of 4"),
        "{report}"
    );

    // One is forgotten; the others stay.
    let boat = facts(&home, "boat.jsonl", &ANSWERS[3..]);
    let others = facts(&home, "others.jsonl", &ANSWERS[..3]);
    let less = home.at("less");
    let forgetting = ["forget", "--adapter", &memory, "--data", &boat, "--output", &less];
    finetune(&home, &forgetting).works();
    assert_eq!((recall(&home, &less, &boat), recall(&home, &less, &others)), (0.0, 1.0));
    finetune(&home, &forgetting).fails_with(1, &["a memory"]);
    let unknown = facts(&home, "unknown.jsonl", &[("Who is there?", " me")]);
    let other = home.at("other");
    finetune(
        &home,
        &["forget", "--adapter", &less, "--data", &unknown, "--output", &other],
    )
    .fails_with(1, &["hint"]);

    // And gets another answer.
    let renamed = facts(&home, "renamed.jsonl", &[(ANSWERS[3].0, " Berta")]);
    let surgery = format!("continue_from = {less:?}");
    finetune(&home, &["train", &recipe(&home, "again", &renamed, &surgery, "")]).works();
    let again = home.at("again");
    assert_eq!(
        (recall(&home, &again, &renamed), recall(&home, &again, &others)),
        (1.0, 1.0)
    );
    let inspected = finetune(&home, &["inspect", &again, "--json"]).works().stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(
        (&inspected["facts"], &inspected["known"]),
        (&Value::from(4), &Value::from(4))
    );

    // No weight computes it.
    let merged = home.at("merged");
    finetune(
        &home,
        &[
            "merge",
            "--model",
            &tiny().display().to_string(),
            "--adapter",
            &again,
            "--output",
            &merged,
        ],
    )
    .fails_with(1, &["a memory cannot be merged"]);
}

#[test]
fn a_stopped_memory_goes_on_bit_for_bit() {
    let home = Home::new();
    let all = facts(&home, "all.jsonl", &ANSWERS);
    let rows = |name: &str| fs::read(home.path().join(name).join(ROWS)).unwrap();
    finetune(&home, &["train", &recipe(&home, "whole", &all, "", "")]).works();
    let part = recipe(&home, "part", &all, "", "");
    finetune(&home, &["train", &part]).works();
    // As if it had been stopped after its first checkpoint.
    for entry in fs::read_dir(home.path().join("part")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") && name != "checkpoint-7" {
            fs::remove_dir_all(path).unwrap();
        }
    }
    fs::remove_file(home.path().join("part").join(ROWS)).unwrap();
    finetune(&home, &["train", &part, "--resume"]).works();
    assert_eq!(rows("part"), rows("whole"));
}

#[test]
fn the_rarest_experts_by_tf_idf_learn_too() {
    let home = Home::new();
    let all = facts(&home, "all.jsonl", &ANSWERS);
    let more = format!("choice = \"tf_idf\"\nslots = 12\nbackground = {:?}", home.texts());
    let quiet = ["--set", "report.recall=false"];
    finetune(
        &home,
        &[
            &["train", recipe(&home, "sparse", &all, "", &more).as_str()],
            &quiet[..],
        ]
        .concat(),
    )
    .works();
    let sparse = home.at("sparse");
    // Nothing was asked, so nothing is said of it.
    let report = fs::read_to_string(home.path().join("sparse/report.md")).unwrap();
    assert!(
        report.contains("experts touched") && !report.contains("facts recalled exactly"),
        "{report}"
    );
    assert_eq!((recall(&home, "", &all), recall(&home, &sparse, &all)), (0.0, 1.0));
    let written = fs::read_to_string(home.path().join("sparse/facts.jsonl")).unwrap();
    for line in written.lines() {
        let fact: Value = serde_json::from_str(line).unwrap();
        let experts = fact["experts"]["model.layers.1.mlp.down_proj"].as_array().unwrap();
        assert!((1..=12).contains(&experts.len()), "{line}");
    }
}

#[test]
fn what_a_memory_cannot_do_is_refused_by_name() {
    let home = Home::new();
    let all = facts(&home, "all.jsonl", &ANSWERS);
    let good = recipe(&home, "refused", &all, "", "");
    for (setting, wanted) in [
        ("surgery.0.kind=full", "`surgery"),
        ("surgery.0.num_experts=1000", "961 or 1024"),
        ("surgery.0.target_modules=[\"nothing\"]", "nothing"),
        ("objective.slots=3", "`objective.slots`"),
        ("objective.choice=tf_idf", "`objective.slots`"),
        ("objective.target_loss=0", "`objective.target_loss`"),
        ("data.train.0.weight=2.0", "weight"),
        ("train.load_best_model_at_end=true", "load_best_model_at_end"),
    ] {
        finetune(&home, &["train", &good, "--set", setting]).fails_with(1, &[wanted]);
    }
    let twice = facts(&home, "twice.jsonl", &[ANSWERS[0], (ANSWERS[0].0, " 1")]);
    finetune(&home, &["train", &recipe(&home, "twice", &twice, "", "")]).fails_with(1, &["ask the same"]);
}
