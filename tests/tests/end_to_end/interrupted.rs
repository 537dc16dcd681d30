//! Runs that are killed or stopped: what was saved is whole, and going on gives the same run bit for bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::command::{Home, answer, command, finetune, losses};

/// Every whole checkpoint of a run.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("checkpoint-"))
        .collect()
}

fn start(home: &Home, recipe: &str, more: &[&str]) -> Child {
    let mut command = command(home);
    command
        .args(["train", recipe])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().expect("the command was built")
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_never_was() {
    let home = Home::new();
    let recipe = home.recipe("num_train_epochs = 1\n");
    let settings = [
        "--set",
        "train.max_steps=24",
        "--set",
        "train.save_steps=1",
        "--set",
        "train.report_to=[]",
    ];
    let whole = home.at("whole");
    let mut args = vec!["train", recipe.as_str()];
    args.extend(settings);
    let elsewhere = format!("train.output_dir={whole}");
    args.extend(["--set", &elsewhere]);
    let begun = Instant::now();
    finetune(&home, &args).works();
    let length = begun.elapsed();

    // Moments spread over the run by the golden ratio: the same at every test, unlike any step's.
    let run = home.path().join("run");
    let mut moment = 0.5;
    let mut resume: &[&str] = &[];
    for _ in 0..6 {
        let mut more = settings.to_vec();
        more.extend(resume);
        let mut child = start(&home, &recipe, &more);
        moment = (moment + 0.618_034) % 1.0;
        sleep(length.mul_f64(moment));
        let _ = child.kill();
        child.wait().expect("a killed process can be waited for");
        for checkpoint in checkpoints(&run) {
            finetune(&home, &["inspect", &checkpoint.display().to_string()]).works();
        }
        resume = &["--resume"];
    }
    let mut args = vec!["train", recipe.as_str()];
    args.extend(settings);
    args.push("--resume");
    finetune(&home, &args).works();
    for name in [
        "adapter_model.safetensors",
        "checkpoint-24/optimizer.safetensors",
        "checkpoint-24/masters.safetensors",
    ] {
        assert!(
            fs::read(run.join(name)).unwrap() == fs::read(Path::new(&whole).join(name)).unwrap(),
            "{name} differs"
        );
    }
    assert_eq!(losses(&run), losses(Path::new(&whole)));
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let home = Home::new();
    let recipe = home.recipe("");
    let settings = ["--set", "train.max_steps=100000", "--set", "train.save_steps=1000000"];
    let child = start(&home, &recipe, &settings);
    let run = home.path().join("run");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() >= 2) {
        assert!(Instant::now() < deadline, "no step in a minute");
        sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let found = answer(child.wait_with_output().unwrap());
    found.fails_with(1, &["interrupted after step", "--resume"]);
    let saved = checkpoints(&run);
    assert_eq!(saved.len(), 1, "{saved:?}");
    let step: usize = saved[0].file_name().unwrap().to_string_lossy()["checkpoint-".len()..]
        .parse()
        .unwrap();
    let last = format!("train.max_steps={}", step + 2);
    finetune(&home, &["train", &recipe, "--resume", "--set", &last]).works();
    assert!(run.join("adapter_model.safetensors").is_file());
}

#[test]
fn a_full_disk_is_said_plainly_and_loses_nothing() {
    let home = Home::new();
    let recipe = home.recipe("");
    let disk = home.path().join("disk");
    fs::create_dir(&disk).unwrap();
    // A small file system of our own, where this user may make one.
    let script = "mount -t tmpfs -o size=220k none \"$1\" && shift && \"$@\"";
    let mut shell = std::process::Command::new("unshare");
    shell
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(&disk);
    let can_mount = shell.arg("true").output().is_ok_and(|output| output.status.success());
    if !can_mount {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    let mut shell = std::process::Command::new("unshare");
    shell
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(&disk);
    shell
        .arg(command(&home).get_program())
        .args(["train", &recipe, "--set", "train.save_steps=1"]);
    shell.args([
        "--set",
        &format!("train.output_dir={}/run", disk.display()),
        "--set",
        "train.max_steps=60",
    ]);
    shell.env("FINETUNE_CACHE", home.path().join("cache"));
    answer(shell.output().unwrap()).fails_with(
        1,
        &[
            "checkpoint",
            "cannot be saved",
            "is whole, and `--resume` continues from it",
        ],
    );
}
