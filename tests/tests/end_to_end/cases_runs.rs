//! Situations from public bug reports about runs: what is resumed, and where nothing can be written.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::command::{Answer, Home, Refusal, answer, command, files, finetune, metrics, nothing_lost, tiny};

/// Rows whose prompts are told apart.
fn rows(home: &Home, answer: &str) -> String {
    let rows = (0..8).map(|row| format!("{{\"prompt\": \"q {row}?\", \"completion\": \" {answer}\"}}\n"));
    home.file("p.jsonl", &rows.collect::<String>())
}

/// A run of four steps with its checkpoint after each second one.
fn recipe(home: &Home) -> String {
    let text = format!(
        "[model]\nname_or_path = {:?}\ndtype = \"float32\"\n\n[[surgery]]\nkind = \"lora\"\nr = 4\nlora_alpha = 8\n\
         target_modules = \"all-linear\"\n\n[objective]\nkind = \"sft\"\n\n[data]\ntrain = [{{ path = \"p.jsonl\" }}]\nmax_length = 96\n\n\
         [report]\nsamples = 0\n\n[train]\noutput_dir = {:?}\nmax_steps = 4\nper_device_train_batch_size = 2\n\
         learning_rate = 1e-3\nsave_steps = 2\nlogging_steps = 1\n",
        tiny().display().to_string(),
        home.at("out"),
    );
    home.file("r.toml", &text)
}

fn train(home: &Home, recipe: &str, more: &[&str]) -> Answer {
    finetune(home, &[&["train", recipe, "--threads", "1"], more].concat())
}

fn record(home: &Home) -> serde_json::Value {
    serde_json::from_slice(&fs::read(home.path().join("out/run.json")).unwrap()).unwrap()
}

#[test]
fn a_run_resumed_with_another_batch_rate_length_or_data_is_refused_by_name() {
    let home = Home::new();
    rows(&home, "yes");
    let recipe = recipe(&home);
    train(&home, &recipe, &[]).works();
    let out = home.path().join("out");
    let before = files(&out);
    for (settings, key, wanted, found, hint) in [
        (
            &["train.max_steps=6"][..],
            "train.max_steps",
            "`4`",
            "`6`",
            "--allow train.max_steps",
        ),
        (
            &[
                "train.per_device_train_batch_size=1",
                "train.gradient_accumulation_steps=2",
            ],
            "train.per_device_train_batch_size",
            "`2`",
            "`1`",
            "--allow train.per_device_train_batch_size",
        ),
        (
            &["train.per_device_train_batch_size=1"],
            "train.per_device_train_batch_size",
            "`2`",
            "`1`",
            "resume with the recipe that it began with",
        ),
        (
            &["train.learning_rate=5e-4"],
            "train.learning_rate",
            "`0.001`",
            "`0.0005`",
            "--allow train.learning_rate",
        ),
        (&["train.seed=7"], "train.seed", "`42`", "`7`", "resume with the recipe"),
        (
            &["data.max_length=64"],
            "data.max_length",
            "`96`",
            "`64`",
            "resume with the recipe",
        ),
        (
            &["model.chat_template=chatml"],
            "model.chat_template",
            "the template sha256:",
            "the template sha256:",
            "resume with the recipe",
        ),
    ] {
        let mut more = vec!["--resume"];
        for setting in settings {
            more.extend(["--set", *setting]);
        }
        train(&home, &recipe, &more).refuses(&Refusal {
            place: &format!("`{}` already holds", out.display()),
            wanted: &format!("`{key}`: wanted {wanted}"),
            found: &format!("found {found}"),
            hint,
        });
        nothing_lost(&out, &before);
    }
    // Other rows in a file of the same name.
    rows(&home, "no");
    train(&home, &recipe, &["--resume"]).refuses(&Refusal {
        place: "`data.train.0.path`",
        wanted: "with the contents sha256:",
        found: "found `",
        hint: "resume with the recipe that it began with",
    });
    nothing_lost(&out, &before);
    rows(&home, "yes");
    // With the same, it is over.
    train(&home, &recipe, &["--resume"]).works();
}

#[test]
fn what_is_allowed_goes_on_and_stands_in_the_record() {
    let home = Home::new();
    rows(&home, "yes");
    let recipe = recipe(&home);
    train(&home, &recipe, &[]).works();
    let begun = record(&home);
    let more = ["--resume", "--set", "train.max_steps=6", "--allow", "train.max_steps"];
    let found = train(&home, &recipe, &more).works();
    assert!(
        found
            .stderr
            .contains("`train.max_steps`: `4` as the run began, `6` from step 4 on"),
        "{}",
        found.stderr
    );
    assert_eq!(metrics(&home.path().join("out")).last().unwrap()["step"], 6);
    let record = record(&home);
    assert_eq!(record["history"][0]["step"], 4);
    let changed = &record["history"][0]["changed"][0];
    assert_eq!(
        (&changed["key"], &changed["from"], &changed["to"]),
        (&"train.max_steps".into(), &"`4`".into(), &"`6`".into())
    );
    assert_eq!(
        (&record["begun"], &record["base"], &record["inputs"]),
        (&begun["begun"], &begun["base"], &begun["inputs"])
    );
    assert!(
        fs::read_to_string(home.path().join("out/recipe.toml"))
            .unwrap()
            .contains("max_steps = 6")
    );
    train(&home, &recipe, &["--allow", "train.max_steps"]).fails_with(2, &["--resume"]);
    train(&home, &recipe, &["--resume", "--allow", "train.seed"]).refuses(&Refusal {
        place: "`--allow train.seed`",
        wanted: "`train.max_steps`",
        found: "with which no run can go on",
        hint: "begin a new run",
    });
}

#[test]
fn more_steps_at_a_constant_rate_are_the_longer_run_bit_for_bit() {
    let home = Home::new();
    rows(&home, "yes");
    let recipe = recipe(&home);
    let constant = ["--set", "train.lr_scheduler_type=constant"];
    let longer = [&constant[..], &["--set", "train.max_steps=6"]].concat();
    train(&home, &recipe, &constant).works();
    train(&home, &recipe, &[&longer[..], &["--resume"]].concat()).works();
    let bytes = |name: &str| fs::read(home.path().join(name).join("adapter_model.safetensors")).unwrap();
    let in_two = bytes("out");
    let elsewhere = format!("train.output_dir={}", home.at("whole"));
    train(&home, &recipe, &[&longer[..], &["--set", &elsewhere]].concat()).works();
    assert!(in_two == bytes("whole"), "the resumed run came to another adapter");
}

#[test]
fn a_model_that_moved_is_the_same_and_another_one_is_not() {
    let home = Home::new();
    rows(&home, "yes");
    let recipe = recipe(&home);
    train(&home, &recipe, &[]).works();
    fs::remove_dir_all(home.path().join("out/checkpoint-4")).unwrap();
    let moved = format!("model.name_or_path={}", home.model());
    train(&home, &recipe, &["--resume", "--set", &moved]).works();
    let weights = home.path().join("model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let other = train(&home, &recipe, &["--resume", "--set", &moved]);
    other.refuses(&Refusal {
        place: "`model.name_or_path`",
        wanted: "(tensors sha256:",
        found: "found `",
        hint: "resume with the recipe that it began with",
    });
    // The adapter says which base it is for, wherever it is put over one.
    let (model, adapter) = (home.at("model"), home.at("out"));
    let over = [
        "generate",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--prompt",
        "q",
        "--max-new-tokens",
        "1",
    ];
    let found = finetune(&home, &over).works();
    assert!(
        found.stderr.contains("was trained over another base"),
        "{}",
        found.stderr
    );
    let own = tiny().display().to_string();
    let over = [
        "generate",
        "--model",
        &own,
        "--adapter",
        &adapter,
        "--prompt",
        "q",
        "--max-new-tokens",
        "1",
    ];
    assert!(!finetune(&home, &over).works().stderr.contains("another base"));
}

#[test]
fn each_artefact_says_what_it_was_made_from() {
    let home = Home::new();
    rows(&home, "yes");
    train(&home, &recipe(&home), &[]).works();
    let base = record(&home)["base"].clone();
    assert_eq!(base["tensors_sha256"].as_str().unwrap().len(), 64);
    let (model, adapter) = (tiny().display().to_string(), home.at("out"));
    let (merged, packed) = (home.at("merged"), home.at("packed"));
    finetune(
        &home,
        &["merge", "--model", &model, "--adapter", &adapter, "--output", &merged],
    )
    .works();
    finetune(&home, &["quantize", "--model", &model, "--output", &packed]).works();
    for (folder, verb) in [
        ("out", "train"),
        ("out/checkpoint-4", "train"),
        ("merged", "merge"),
        ("packed", "quantize"),
    ] {
        let text = fs::read(home.path().join(folder).join("provenance.json")).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (&found["base"], found["verb"].as_str()),
            (&base, Some(verb)),
            "{folder}"
        );
        assert_eq!(found["adapter"]["tensors_sha256"].is_string(), verb == "merge");
    }
}

#[test]
fn the_day_that_a_template_tells_stays_that_of_the_run() {
    let home = Home::new();
    let model = home.model();
    let template = "{{ strftime_now('%d %B %Y') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    fs::write(Path::new(&model).join("chat_template.jinja"), template).unwrap();
    let recipe = home.recipe("");
    let model = format!("model.name_or_path={model}");
    let more = [
        "--set",
        &model,
        "--set",
        "train.save_steps=1",
        "--set",
        "report.samples=0",
    ];
    finetune(&home, &[&["train", &recipe][..], &more].concat()).works();
    let run = home.path().join("run");
    let whole = fs::read(run.join("adapter_model.safetensors")).unwrap();
    // As if it had begun on another day, and been stopped after its third step.
    let begun =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(run.join(name)).unwrap()).unwrap() };
    let at = begun("run.json")["template"]["rendered_at"]
        .as_str()
        .expect("it tells the time")
        .to_owned();
    for step in 4..=6 {
        fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
    }
    finetune(&home, &[&["train", &recipe, "--resume"][..], &more].concat()).works();
    assert_eq!(begun("run.json")["template"]["rendered_at"], at.as_str());
    assert!(fs::read(run.join("adapter_model.safetensors")).unwrap() == whole);
    let path = run.join("checkpoint-3/run.json");
    let text = fs::read_to_string(&path).unwrap().replace(&at, "2001-02-03T04:05:06");
    fs::write(&path, text).unwrap();
    for step in 4..=6 {
        fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
    }
    finetune(&home, &[&["train", &recipe, "--resume"][..], &more].concat()).works();
    assert_eq!(begun("run.json")["template"]["rendered_at"], "2001-02-03T04:05:06");
    assert!(
        fs::read(run.join("adapter_model.safetensors")).unwrap() != whole,
        "the prompts tell another day"
    );
}

/// The files of a folder and, with the folder itself, when each was changed: what is made there and taken away shows in the
/// folder's own time.
fn stamps(folder: &Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries.chain([folder.to_owned()]).collect();
    all.sort();
    let stamp = |path: std::path::PathBuf| {
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        (path, changed)
    };
    all.into_iter().map(stamp).collect()
}

#[test]
fn a_model_in_a_read_only_folder_is_trained_asked_and_measured_and_nothing_is_written_there() {
    use std::os::unix::fs::PermissionsExt as _;

    let home = Home::new();
    rows(&home, "yes");
    let (recipe, texts) = (recipe(&home), home.texts());
    let model = home.model();
    let folder = Path::new(&model);
    for entry in fs::read_dir(folder).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o444)).unwrap();
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
    let before = stamps(folder);
    let named = format!("model.name_or_path={model}");
    train(&home, &recipe, &["--set", &named]).works();
    let adapter = home.at("out");
    let asked = [
        &[
            "generate",
            "--model",
            &model,
            "--adapter",
            &adapter,
            "--prompt",
            "q",
            "--max-new-tokens",
            "2",
        ][..],
        &["score", "--model", &model, "--data", &texts],
        &["inspect", &model],
        &[
            "merge",
            "--model",
            &model,
            "--adapter",
            &adapter,
            "--output",
            &home.at("merged"),
        ],
    ];
    for args in asked {
        finetune(&home, args).works();
    }
    // The superuser may write all the same, so what is looked at is whether anything was.
    assert_eq!(stamps(folder), before);
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn reading_needs_no_writing_and_where_writing_fails_it_is_said() {
    let home = Home::new();
    rows(&home, "yes");
    let recipe = recipe(&home);
    let model = tiny().display().to_string();
    let run = |change: &dyn Fn(&mut Command), args: &[&str]| {
        let mut command = command(&home);
        change(&mut command);
        answer(command.args(args).output().unwrap())
    };
    // A cache that cannot be written, even by the superuser.
    let told = run(
        &|command| {
            command.env("FINETUNE_CACHE", "/proc/nope");
        },
        &[
            "train",
            &recipe,
            "--set",
            &format!("train.output_dir={}", home.at("out1")),
        ],
    )
    .works();
    assert!(
        told.stderr.contains("the tokens are not kept for the next run"),
        "{}",
        told.stderr
    );
    // No place for a cache at all.
    run(
        &|command| {
            command
                .env_remove("HOME")
                .env_remove("XDG_CACHE_HOME")
                .env_remove("FINETUNE_CACHE");
        },
        &[
            "train",
            &recipe,
            "--set",
            &format!("train.output_dir={}", home.at("out2")),
        ],
    )
    .works();
    // A DPO run whose reference could be kept, and cannot.
    let pairs = home.recipe("");
    let data = format!("data.train=[{{path={:?}}}]", home.pairs());
    let told = run(
        &|command| {
            command.env("FINETUNE_CACHE", "/proc/nope");
        },
        &[
            "train",
            &pairs,
            "--set",
            &data,
            "--set",
            "objective={kind=\"dpo\",precompute_ref_log_probs=true}",
        ],
    )
    .works();
    assert!(
        told.stderr.contains("under the reference are not kept"),
        "{}",
        told.stderr
    );
    // Below a file.
    let below = format!("{}/out", home.file("afile", ""));
    finetune(
        &home,
        &["train", &recipe, "--set", &format!("train.output_dir={below}")],
    )
    .fails_with(1, &[&format!("`{below}`"), "Not a directory"]);
    // A relative link to the model.
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    let mut inspect = command(&home);
    let shown = answer(
        inspect
            .current_dir(home.path())
            .args(["inspect", "link"])
            .output()
            .unwrap(),
    )
    .works();
    assert!(!shown.stdout.is_empty());
}
