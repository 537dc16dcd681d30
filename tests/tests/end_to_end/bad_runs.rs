//! Runs that cannot go on: no numbers, no room, a folder that is taken. What was saved before stays.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::command::{Answer, Home, Refusal, answer, command, files, finetune, nothing_lost, tiny};

/// The largest number of bf16, which f32 holds too.
const LARGEST: f32 = f32::from_bits(0x7f7f_0000);

/// Sets all numbers of a tensor of the model to the largest there is in any dtype: finite, but no sum over it is.
fn overflow(model: &str, tensor: &str) {
    fill(model, tensor, LARGEST, usize::MAX);
}

/// Sets the first `count` numbers of a tensor of the model.
fn fill(model: &str, tensor: &str, value: f32, count: usize) {
    let path = Path::new(model).join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let [begin, end] = [0, 1].map(|idx: usize| tensors[tensor]["data_offsets"][idx].as_u64().unwrap() as usize);
    for number in bytes[8 + header + begin..8 + header + end].chunks_mut(4).take(count) {
        number.copy_from_slice(&value.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_loss_that_is_no_number_names_its_step_and_the_first_block_that_made_it() {
    for (tensor, place) in [
        (
            "model.layers.0.mlp.down_proj.weight",
            "block 0 (of 0 to 1) is the first whose output is not finite",
        ),
        (
            "model.layers.1.self_attn.v_proj.weight",
            "block 1 (of 0 to 1) is the first whose output is not finite",
        ),
        (
            "model.norm.weight",
            "the last norm made it; every block's output is finite",
        ),
    ] {
        let home = Home::new();
        let model = home.model();
        overflow(&model, tensor);
        let recipe = home.recipe("");
        finetune(
            &home,
            &["train", &recipe, "--set", &format!("model.name_or_path={model}")],
        )
        .refuses(&Refusal {
            place: "step 1, row 1",
            wanted: place,
            found: "the loss is NaN",
            hint: "try a lower learning rate",
        });
    }
}

#[test]
fn a_run_that_diverges_keeps_its_checkpoints() {
    let home = Home::new();
    let recipe = home.recipe("max_grad_norm = 0.0\n");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=2"]).works();
    let run = home.path().join("run");
    let before = files(&run.join("checkpoint-2"));
    assert!(before.len() > 5);
    let more = ["--set", "train.max_steps=9", "--set", "train.learning_rate=1e30"];
    let allow = ["--allow", "train.max_steps", "--allow", "train.learning_rate"];
    finetune(&home, &[&["train", &recipe, "--resume"][..], &more, &allow].concat()).refuses(&Refusal {
        place: "step 4",
        wanted: "block ",
        found: "is not finite",
        hint: &format!(
            "`{}` is whole, and `--resume` continues from it",
            run.join("checkpoint-2").display()
        ),
    });
    nothing_lost(&run, &before);
    // What failed has left no trace: what counts is what the checkpoint was made with.
    let more = ["--set", "train.max_steps=3", "--allow", "train.max_steps"];
    finetune(&home, &[&["train", &recipe, "--resume"][..], &more].concat()).works();
}

#[test]
fn weights_that_are_no_numbers_are_named_wherever_the_model_is_read() {
    let home = Home::new();
    let model = home.model();
    fill(&model, "model.layers.0.mlp.down_proj.weight", f32::NAN, 2);
    let (texts, recipe, out) = (home.texts(), home.recipe(""), home.at("out"));
    let change = format!("model.name_or_path={model}");
    for args in [
        &["generate", "--prompt", "a", "--model", &model][..],
        &["score", "--data", &texts, "--model", &model],
        &["train", &recipe, "--set", &change],
        &["export", "--model", &model, "--format", "hf", "--output", &out],
        &["quantize", "--model", &model, "--output", &out],
    ] {
        finetune(&home, args).refuses(&Refusal {
            place: "tensor `model.layers.0.mlp.down_proj.weight`",
            wanted: "are not finite",
            found: "(2 NaN, 0 infinite)",
            hint: "the file is damaged",
        });
    }
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn weights_whose_products_are_no_numbers_are_said_so() {
    let home = Home::new();
    let model = home.model();
    overflow(&model, "model.layers.0.mlp.down_proj.weight");
    let texts = home.texts();
    for (args, place) in [
        (&["generate", "--prompt", "a"][..], "generation"),
        (&["score", "--data", &texts], "rows 1 to 24"),
    ] {
        finetune(&home, &[args, &["--model", &model]].concat()).refuses(&Refusal {
            place,
            wanted: "wanted finite",
            found: "found NaN or infinity",
            hint: "the weights are damaged",
        });
    }
}

#[test]
fn weights_that_outgrow_the_dtype_that_is_asked_for_are_not_called_damaged() {
    let home = Home::new();
    let model = home.model();
    fill(&model, "model.layers.0.mlp.down_proj.weight", f32::MAX, 3);
    let args = ["generate", "--prompt", "a", "--model", &model, "--dtype"];
    finetune(&home, &[&args[..], &["bf16"]].concat()).refuses(&Refusal {
        place: "tensor `model.layers.0.mlp.down_proj.weight`",
        wanted: "are not finite",
        found: "(0 NaN, 3 infinite)",
        hint: "the file holds larger numbers than this dtype: compute in float32",
    });
}

/// Runs the command with no file allowed to grow past `blocks` of 512 bytes: a disk that is full.
fn cramped(home: &Home, blocks: usize, args: &[&str]) -> Answer {
    let finetune = command(home);
    let mut shell = Command::new("sh");
    // Ignored, the signal becomes an error of the write, as on a full disk.
    shell.args([
        "-c",
        "trap '' XFSZ; ulimit -f \"$0\" && exec \"$@\"",
        &blocks.to_string(),
    ]);
    shell.arg(finetune.get_program()).args(args);
    for (name, value) in finetune.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    answer(shell.output().expect("there is a shell"))
}

#[test]
fn no_room_for_a_checkpoint_leaves_the_older_ones() {
    let home = Home::new();
    let recipe = home.recipe("report_to = []\n");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=4"]).works();
    let run = home.path().join("run");
    let mut before = files(&run);
    // These tell of the run as it goes on.
    before.retain(|path, _| {
        path.parent() != Some(run.as_path())
            || !["recipe.toml", "run.json", "metrics.jsonl"]
                .iter()
                .any(|name| path.ends_with(name))
    });
    assert!(before.keys().any(|path| path.starts_with(run.join("checkpoint-4"))));
    let args = [
        "train",
        &recipe,
        "--resume",
        "--set",
        "train.max_steps=8",
        "--allow",
        "train.max_steps",
    ];
    cramped(&home, 40, &args).refuses(&Refusal {
        place: &format!(
            "step 6: checkpoint `{}` cannot be saved",
            run.join("checkpoint-6").display()
        ),
        wanted: "cannot be saved",
        found: "optimizer.safetensors`: File too large",
        hint: &format!(
            "`{}` is whole, and `--resume` continues from it",
            run.join("checkpoint-4").display()
        ),
    });
    nothing_lost(&run, &before);
    assert!(!run.join("checkpoint-6").exists());
    finetune(&home, &args).works();
    assert!(run.join("checkpoint-8/state.json").is_file());
}

#[test]
fn no_room_for_a_model_leaves_no_half_of_one() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=1"]).works();
    let (model, adapter, out) = (tiny().display().to_string(), home.at("run"), home.at("out"));
    let before = files(home.path());
    for args in [
        &["merge", "--model", &model, "--adapter", &adapter, "--output", &out][..],
        &["export", "--model", &model, "--format", "hf", "--output", &out],
        &["import", &model, "--output", &out],
        &["import", &model, "--name", "mine"],
    ] {
        cramped(&home, 40, args).refuses(&Refusal {
            place: "model.safetensors`",
            wanted: "bytes were to be written",
            found: "the disk is full",
            hint: "free some space or save elsewhere",
        });
        nothing_lost(home.path(), &before);
        // Hashes of weights and rates of this machine are remembered in the cache; nothing else is new.
        let left = files(home.path());
        let new = left.keys().find(|path| {
            !before.contains_key(*path)
                && !["digests", "rates"]
                    .iter()
                    .any(|name| path.starts_with(home.path().join("cache").join(name)))
        });
        assert_eq!(new, None, "{args:?}");
    }
}

#[test]
fn a_disk_that_fills_up_is_said_plainly_and_loses_nothing() {
    let home = Home::new();
    let recipe = home.recipe("report_to = []\n");
    let (disk, kept) = (home.at("disk"), home.at("kept"));
    fs::create_dir(&disk).unwrap();
    // A small file system of our own, where this user may make one; it goes with the process, so its files are kept.
    let script = "mount -t tmpfs -o size=240k none \"$0\" || exit 77; kept=$1; shift; \"$@\"; code=$?; cp -r \"$0/run\" \"$kept\"; exit $code";
    let finetune_command = command(&home);
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, &disk, &kept]);
    shell.arg(finetune_command.get_program());
    shell.args([
        "train",
        &recipe,
        "--set",
        "train.save_steps=1",
        "--set",
        "train.max_steps=60",
    ]);
    shell.args(["--set", &format!("train.output_dir={disk}/run")]);
    for (name, value) in finetune_command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let found = match shell.output() {
        Ok(output) if output.status.code() != Some(77) && !output.stderr.starts_with(b"unshare:") => answer(output),
        _ => return golden::skip!("needs a user who may mount a file system of their own (`unshare --user --mount`)"),
    };
    found.refuses(&Refusal {
        place: &format!("checkpoint `{disk}/run/checkpoint-"),
        wanted: "cannot be saved",
        found: "/run/checkpoint-",
        hint: "is whole, and `--resume` continues from it",
    });
    assert!(
        found.stderr.contains("No space left") || found.stderr.contains("the disk is full"),
        "{}",
        found.stderr
    );
    // What it calls whole is whole: the run goes on from it where there is room.
    let left = files(Path::new(&kept));
    assert!(
        !left.keys().any(|path| path.to_string_lossy().contains(".partial")),
        "{:?}",
        left.keys()
    );
    let checkpoints = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path());
    let mut checkpoints = checkpoints.filter(|path| path.to_string_lossy().contains("/checkpoint-"));
    // The state is written last.
    assert!(checkpoints.all(|checkpoint| left.contains_key(&checkpoint.join("state.json"))));
    let elsewhere = format!("train.output_dir={kept}");
    let args = [
        "train",
        &recipe,
        "--resume",
        "--set",
        &elsewhere,
        "--set",
        "train.max_steps=60",
    ];
    finetune(&home, &args).works();
}

#[test]
fn an_output_folder_that_holds_another_run_is_left_alone() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe]).works();
    let run = home.at("run");
    let before = files(Path::new(&run));
    let other = ["--set", "surgery.0.r=2"];
    finetune(&home, &[&["train", &recipe][..], &other].concat()).refuses(&Refusal {
        place: &format!("`{run}` already holds"),
        wanted: "this one `r = 2`",
        found: "a run of another recipe (it says `r = 3`",
        hint: "overwrite_output_dir",
    });
    nothing_lost(Path::new(&run), &before);
    finetune(&home, &[&["train", &recipe, "--resume"][..], &other].concat()).refuses(&Refusal {
        place: &format!("`{run}` already holds a run of another recipe"),
        wanted: "`surgery.0.r`: wanted `3`",
        found: "found `2`",
        hint: "resume with the recipe that it began with",
    });
    nothing_lost(Path::new(&run), &before);
    finetune(&home, &["train", &recipe]).refuses(&Refusal {
        place: &format!("`{run}` already holds"),
        wanted: "saved after step 6",
        found: "this run",
        hint: "`--resume` continues it",
    });
    nothing_lost(Path::new(&run), &before);
    // A run that may overwrite takes nothing before it can begin.
    let overwrite = ["--set", "train.overwrite_output_dir=true"];
    let typo = ["--set", "surgery.0.target_modules=[\"q_prj\"]"];
    finetune(&home, &[&["train", &recipe][..], &overwrite, &typo].concat()).fails_with(1, &["`q_prj`"]);
    nothing_lost(Path::new(&run), &before);
    finetune(
        &home,
        &[
            &["train", &recipe, "--set", "train.max_steps=1"][..],
            &overwrite,
            &other,
        ]
        .concat(),
    )
    .works();
    assert!(!Path::new(&run).join("checkpoint-6").exists());
    let text = fs::read_to_string(Path::new(&run).join("recipe.toml")).unwrap();
    assert!(
        text.contains("r = 2") && !text.contains("overwrite_output_dir = true"),
        "{text}"
    );
}

#[test]
fn a_folder_that_no_run_made_is_left_alone() {
    let home = Home::new();
    let recipe = home.recipe("");
    let model = home.model();
    let before = files(Path::new(&model));
    let setting = format!("train.output_dir={model}");
    for more in [&[][..], &["--resume"], &["--set", "train.overwrite_output_dir=true"]] {
        finetune(&home, &[&["train", &recipe, "--set", &setting][..], more].concat()).refuses(&Refusal {
            place: &format!("`{model}` already holds"),
            wanted: "choose an empty folder",
            found: "`config.json`, which no run of ours left",
            hint: "train.output_dir",
        });
        nothing_lost(Path::new(&model), &before);
    }
}
