//! Runs that are killed or stopped: what was saved is whole, and going on gives the same run bit for bit.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use checkpoint::{PeftAdapter, Safetensors};

use super::command::{Home, answer, command, files, finetune, metrics};

/// Every checkpoint of a run by its step.
fn checkpoints(run: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    let step = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("checkpoint-")?.parse().ok()
    };
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| Some((step(&entry.path())?, entry.path())))
        .collect();
    found.sort();
    found
}

/// Reads what a checkpoint holds: a half-written file is an error.
#[track_caller]
fn is_whole(checkpoint: &Path) {
    let state = fs::read(checkpoint.join("state.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&state).unwrap();
    for name in ["optimizer.safetensors", "masters.safetensors"] {
        Safetensors::open(&checkpoint.join(name)).unwrap();
    }
    PeftAdapter::open(checkpoint).unwrap();
}

/// Waits until the run has logged so many steps, for a minute at most.
fn wait_for(run: &Path, steps: usize) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < steps {
        assert!(Instant::now() < deadline, "no step in a minute");
        sleep(Duration::from_millis(2));
    }
}

fn start(home: &Home, args: &[&str]) -> Child {
    let mut command = command(home);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the command was built")
}

/// What must come out the same: the logged numbers that are no timing, and the bytes of the last state.
#[track_caller]
fn same_run(run: &Path, whole: &Path, last: usize, model: &str) {
    for name in [
        model.to_owned(),
        format!("checkpoint-{last}/{model}"),
        format!("checkpoint-{last}/optimizer.safetensors"),
        format!("checkpoint-{last}/masters.safetensors"),
    ] {
        let same = fs::read(run.join(&name)).unwrap() == fs::read(whole.join(&name)).unwrap();
        assert!(same, "{name} differs");
    }
    assert_eq!(metrics(run), metrics(whole));
}

const KILLS: usize = 6;

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_never_was() {
    let home = Home::new();
    // Everything that a resumed run must take up again: dropout, accumulation, several epochs, evaluations, rotation.
    let recipe = home.recipe("gradient_accumulation_steps = 2\neval_strategy = \"steps\"\neval_steps = 7\n");
    let texts = home.texts();
    let eval = format!("data.eval=[{{path={texts:?}}}]");
    let mut args = vec!["train", recipe.as_str(), "--set", &eval];
    for setting in [
        "surgery.0.lora_dropout=0.2",
        "train.max_steps=40",
        "train.save_steps=1",
        "train.save_total_limit=3",
        "train.report_to=[]",
    ] {
        args.extend(["--set", setting]);
    }
    let whole = home.path().join("whole");
    let elsewhere = format!("train.output_dir={}", whole.display());
    finetune(&home, &[&args[..], &["--set", &elsewhere]].concat()).works();
    let length = Duration::from_secs_f64(seconds(&whole));

    let run = home.path().join("run");
    let newest = || checkpoints(&run).last().map_or(0, |(step, _)| *step);
    let (mut killed, mut moment) = (0, 0.5);
    for _ in 0..KILLS {
        let reached = newest();
        let mut child = start(&home, &args);
        // Past where the last one was killed, then on for a part of a sixth of the run. The parts are spread by the golden
        // ratio: alike at every test, while no step's time is.
        let deadline = Instant::now() + Duration::from_mins(1);
        while newest() == reached && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "no checkpoint in a minute");
            sleep(Duration::from_millis(1));
        }
        moment = (moment + 0.618_034) % 1.0;
        sleep(length.mul_f64(moment / KILLS as f64));
        let _ = child.kill();
        let status = child.wait().expect("a killed process can be waited for");
        killed += usize::from(status.signal() == Some(9));
        for (_, checkpoint) in checkpoints(&run) {
            is_whole(&checkpoint);
        }
        if !args.contains(&"--resume") {
            args.push("--resume");
        }
    }
    assert!(
        killed >= KILLS / 2,
        "only {killed} of {KILLS} were killed while they ran"
    );
    finetune(&home, &args).works();
    same_run(&run, &whole, 40, "adapter_model.safetensors");
    let left = files(&run)
        .into_keys()
        .filter(|path| path.to_string_lossy().contains(".partial"));
    assert_eq!(left.count(), 0);
}

/// Seconds that a run took from its first step on.
fn seconds(run: &Path) -> f64 {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let seconds = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seconds"].as_f64();
    text.lines().filter_map(seconds).fold(0.0, f64::max)
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on_and_going_on_changes_nothing() {
    let home = Home::new();
    let recipe = home.recipe("");
    let full = "surgery.0={kind=\"full\"}";
    // Saved by Ctrl-C only, and at the end.
    let mut args = vec!["train", recipe.as_str(), "--dtype", "bf16", "--set", full];
    for setting in ["train.max_steps=80", "train.save_steps=1000000", "train.report_to=[]"] {
        args.extend(["--set", setting]);
    }
    let whole = home.path().join("whole");
    let elsewhere = format!("train.output_dir={}", whole.display());
    finetune(&home, &[&args[..], &["--set", &elsewhere]].concat()).works();

    let run = home.path().join("run");
    let child = start(&home, &args);
    wait_for(&run, 3);
    let interrupt = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let found = answer(child.wait_with_output().unwrap());
    found.fails_with(
        1,
        &[
            "stopping after this step",
            "interrupted after step",
            "saved as",
            "`--resume`",
        ],
    );
    let saved = checkpoints(&run);
    assert_eq!(saved.len(), 1, "{saved:?}");
    assert!(saved[0].0 >= 3 && saved[0].0 < 80, "{saved:?}");
    assert!(
        found.stderr.contains(&format!("interrupted after step {}", saved[0].0)),
        "{}",
        found.stderr
    );
    assert!(
        !run.join("model.safetensors").exists(),
        "an interrupted run leaves no final model"
    );
    // The same command without the word is refused, and says which word.
    finetune(&home, &args).fails_with(1, &["already holds", "`--resume` continues it"]);
    args.push("--resume");
    finetune(&home, &args).works();
    same_run(&run, &whole, 80, "model.safetensors");
}

#[test]
fn a_second_ctrl_c_leaves_at_once_in_the_middle_of_a_step() {
    let home = Home::new();
    let recipe = home.recipe("");
    let pairs = fs::read_to_string(home.pairs()).unwrap();
    let data = format!(
        "data.train=[{{path={:?}}}]",
        home.file("many.jsonl", &pairs.repeat(500))
    );
    // Two threads and a reference, so that libtorch's workers are busy when the process ends.
    let mut command = command(&home);
    command
        .env("OMP_NUM_THREADS", "2")
        .args([
            "train",
            &recipe,
            "--threads",
            "2",
            "--set",
            &data,
            "--set",
            "objective={kind=\"dpo\"}",
        ])
        .args(["--set", "train.max_steps=1000000", "--set", "train.save_steps=1000000"])
        // One step over all rows: the first signal alone cannot end it soon.
        .args(["--set", "train.gradient_accumulation_steps=3000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("the command was built");
    let deadline = Instant::now() + Duration::from_mins(1);
    while !home.path().join("run/recipe.toml").exists() {
        assert!(Instant::now() < deadline, "no run in a minute");
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(1500));
    for _ in 0..2 {
        let interrupt = format!("kill -INT {}", child.id());
        assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
        sleep(Duration::from_millis(200));
    }
    let begun = Instant::now();
    let found = answer(child.wait_with_output().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    found.fails_with(130, &["stopping after this step"]);
    for word in ["terminate", "assert", "Aborted", "core dumped"] {
        assert!(!found.stderr.contains(word), "{}", found.stderr);
    }
}

#[test]
fn a_run_in_one_folder_keeps_a_second_one_out() {
    let home = Home::new();
    let recipe = home.recipe("");
    let args = ["train", &recipe, "--set", "train.max_steps=1000000"];
    let mut child = start(&home, &args);
    wait_for(&home.path().join("run"), 2);
    finetune(&home, &["train", &recipe, "--resume"])
        .fails_with(1, &["already holds", "another process", "wait for it"]);
    child.kill().unwrap();
    child.wait().unwrap();
}
