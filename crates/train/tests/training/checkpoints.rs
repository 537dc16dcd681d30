//! Checkpoints are whole or not there, whatever happens while they are written.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use train::{Error, Hooks, RunDir, Start, fit};

use crate::tiny::{Formula, NextToken, Tiny, parse, run, run_new, save_model};

fn steps(folder: &Path) -> Vec<usize> {
    let dir = RunDir::open(folder, "kind = \"test\"\n", Start::Resume).unwrap();
    dir.checkpoints()
        .unwrap()
        .iter()
        .map(|checkpoint| checkpoint.step)
        .collect()
}

#[test]
fn old_checkpoints_go_but_never_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    run_new(
        &Tiny::new(),
        &Formula::new(),
        &parse("max_steps = 7\nsave_steps = 2\nsave_total_limit = 2"),
        folder.path(),
    )
    .unwrap();
    assert_eq!(steps(folder.path()), [6, 7]);
}

#[test]
fn the_best_checkpoint_is_never_rotated_away() {
    let folder = tempfile::tempdir().unwrap();
    run_new(
        &Tiny::new(),
        &Formula::new(),
        &parse("max_steps = 8\nsave_steps = 1"),
        folder.path(),
    )
    .unwrap();
    let dir = RunDir::open(folder.path(), "kind = \"test\"\n", Start::Resume).unwrap();
    dir.rotate(2, Some(3)).unwrap();
    let left: Vec<usize> = dir
        .checkpoints()
        .unwrap()
        .iter()
        .map(|checkpoint| checkpoint.step)
        .collect();
    assert_eq!(left, [3, 8]);
    dir.rotate(1, Some(3)).unwrap();
    assert_eq!(dir.checkpoints().unwrap().len(), 2);
}

#[test]
fn a_model_with_folders_is_published_over_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::open(folder.path(), "kind = \"test\"\n", Start::New).unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), "of an older version").unwrap();
    for (file, other) in [("one", "two"), ("two", "one")] {
        let write = |aside: &Path| {
            std::fs::create_dir(aside.join("more"))?;
            std::fs::write(aside.join("more").join(file), file)?;
            std::fs::write(aside.join("model.txt"), file)?;
            Ok(())
        };
        dir.publish(write).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("model.txt")).unwrap(), file);
        let more = folder.path().join("more");
        assert!(more.join(file).is_file() && !more.join(other).exists());
        assert!(!folder.path().join("adapter_config.json").exists());
    }
}

#[test]
fn half_a_checkpoint_is_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    run_new(
        &Tiny::new(),
        &Formula::new(),
        &parse("max_steps = 2\nsave_steps = 1"),
        folder.path(),
    )
    .unwrap();
    let newest = folder.path().join("checkpoint-2");
    for name in ["state.json", "optimizer.safetensors", "masters.safetensors"] {
        let bytes = std::fs::read(newest.join(name)).unwrap();
        for length in [0, 1, bytes.len() / 2, bytes.len() - 3] {
            std::fs::write(newest.join(name), &bytes[..length]).unwrap();
            assert_eq!(steps(folder.path()), [1], "{name} of {length} bytes");
        }
        std::fs::remove_file(newest.join(name)).unwrap();
        assert_eq!(steps(folder.path()), [1], "no {name}");
        std::fs::write(newest.join(name), &bytes).unwrap();
        assert_eq!(steps(folder.path()), [1, 2]);
    }
}

#[test]
fn what_a_killed_process_left_aside_is_tidied() {
    let folder = tempfile::tempdir().unwrap();
    run_new(
        &Tiny::new(),
        &Formula::new(),
        &parse("max_steps = 2\nsave_steps = 1"),
        folder.path(),
    )
    .unwrap();
    let at = |name: &str| folder.path().join(name);
    // No process has such a number.
    std::fs::create_dir(at(".checkpoint-3.9999999-0.partial")).unwrap();
    std::fs::write(at(".checkpoint-3.9999999-0.partial/model.txt"), "half").unwrap();
    std::fs::write(at(".metrics.jsonl.9999999-1.partial"), "half").unwrap();
    // Killed while the model changed, before the one step: every name goes through a link to the old files.
    std::fs::create_dir(at(".model.old")).unwrap();
    std::fs::rename(at("model.txt"), at(".model.old/model.txt")).unwrap();
    std::os::unix::fs::symlink(".model.old", at(".model.now")).unwrap();
    std::os::unix::fs::symlink(".model.now/model.txt", at("model.txt")).unwrap();
    let model = std::fs::read(at("model.txt")).unwrap();
    assert_eq!(steps(folder.path()), [1, 2]);
    assert!(!at("model.txt").is_symlink());
    assert_eq!(std::fs::read(at("model.txt")).unwrap(), model);
    let left = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut left: Vec<String> = left.filter_map(|name| name.into_string().ok()).collect();
    left.retain(|name| name.starts_with('.'));
    left.sort();
    assert_eq!(left, [".published", ".run.lock"]);
}

/// Runs until the disk is full: `fill` says in which file of the second checkpoint there is no room left.
fn run_on_a_full_disk(folder: &Path, fill: &str) -> Error {
    let model = Tiny::new();
    let dir = RunDir::open(folder, "kind = \"test\"\n", Start::Overwrite).unwrap();
    let save = |folder: &Path| {
        if folder.to_string_lossy().contains("checkpoint-2") {
            // Writing to this device fails with ENOSPC.
            std::os::unix::fs::symlink("/dev/full", folder.join(fill))?;
        }
        save_model(&model, folder)
    };
    fit(
        &model,
        &NextToken,
        &Formula::new(),
        &parse("save_steps = 1"),
        Hooks::new(&dir, &save),
    )
    .unwrap_err()
}

#[test]
fn a_full_disk_loses_nothing_that_was_saved() {
    for fill in [
        "model.txt",
        "masters.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
        "state.json",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = run_on_a_full_disk(folder.path(), fill).to_string();
        for needle in [
            "step 2",
            "checkpoint-2` cannot be saved",
            "No space left",
            "hint: make room",
            "checkpoint-1` is whole",
        ] {
            assert!(error.contains(needle), "{fill}: {error}");
        }
        assert_eq!(steps(folder.path()), [1], "{fill}");
        let resumed = run(
            &Tiny::new(),
            &Formula::new(),
            &parse("max_steps = 3"),
            (folder.path(), Start::Resume),
            &mut |_, _| {},
        );
        assert_eq!(resumed.unwrap().num_steps, 3);
    }
}

#[test]
fn a_place_that_cannot_be_a_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "here already").unwrap();
    let error = RunDir::open(file.join("run"), "", Start::New).unwrap_err().to_string();
    assert!(error.contains("file/run`: cannot make the folder"), "{error}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "here already");
}

#[test]
fn a_folder_with_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run_new(&Tiny::new(), &Formula::new(), &parse("max_steps = 2"), folder.path()).unwrap();
    let open = |recipe: &str, start| RunDir::open(folder.path(), recipe, start);
    let other = open("kind = \"other\"\n", Start::New).unwrap_err().to_string();
    assert!(
        other.contains("another recipe") && other.contains("`kind = \"test\"`"),
        "{other}"
    );
    let same = open("kind = \"test\"\n", Start::New).unwrap_err().to_string();
    assert!(
        same.contains("saved after step 2") && same.contains("--resume"),
        "{same}"
    );
    assert!(folder.path().join("checkpoint-2/state.json").exists());
    let over = open("kind = \"other\"\n", Start::Overwrite).unwrap();
    // Until it is claimed, the folder holds the old run.
    assert_eq!(over.latest().unwrap().unwrap().step, 2);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap(),
        "kind = \"test\"\n"
    );
    over.claim().unwrap();
    assert!(over.latest().unwrap().is_none());
    assert_eq!(
        std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap(),
        "kind = \"other\"\n"
    );
}

#[test]
fn a_folder_that_holds_a_model_is_refused() {
    for start in [Start::New, Start::Overwrite, Start::Resume] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), "precious").unwrap();
        let error = RunDir::open(folder.path(), "a = 1\n", start).unwrap_err().to_string();
        assert!(
            error.contains("model.safetensors") && error.contains("hint: choose an empty folder"),
            "{error}"
        );
        assert_eq!(
            std::fs::read(folder.path().join("model.safetensors")).unwrap(),
            b"precious"
        );
    }
}

#[test]
fn two_processes_cannot_train_in_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _held = RunDir::open(folder.path(), "a = 1\n", Start::New).unwrap();
    let error = RunDir::open(folder.path(), "a = 1\n", Start::Resume)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another process"), "{error}");
}

const KILLED_FOLDER: &str = "TRAIN_TEST_KILLED_FOLDER";

/// What the process that is killed does.
fn train_until_killed(folder: &Path) {
    let config = parse("max_steps = 1000000\nsave_steps = 1\nsave_total_limit = 2");
    run(
        &Tiny::new(),
        &Formula::new(),
        &config,
        (folder, Start::Resume),
        &mut |_, _| {},
    )
    .unwrap();
}

#[test]
fn a_killed_process_leaves_whole_checkpoints() {
    // The same test in a process of its own is the one that is killed.
    if let Some(folder) = std::env::var_os(KILLED_FOLDER) {
        train_until_killed(Path::new(&folder));
        panic!("nobody killed it");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoints::a_killed_process_leaves_whole_checkpoints"])
            .env(KILLED_FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Let it get past where the last one was killed, then kill it at some odd moment.
        let begun = Instant::now();
        let newest = || {
            let names = std::fs::read_dir(folder.path()).unwrap();
            names
                .filter_map(|entry| {
                    entry
                        .unwrap()
                        .file_name()
                        .to_str()?
                        .strip_prefix("checkpoint-")?
                        .parse()
                        .ok()
                })
                .max()
                .unwrap_or(0)
        };
        while newest() < reached + 3 {
            assert!(begun.elapsed() < Duration::from_mins(2), "the child saves nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(1700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = *steps(folder.path()).last().unwrap();
        assert!(last >= reached + 3, "step {last} after {reached}");
        reached = last;
    }
    // The last one's tensors and state are read in full here.
    let config = parse(&format!("max_steps = {}", reached + 1));
    let report = run(
        &Tiny::new(),
        &Formula::new(),
        &config,
        (folder.path(), Start::Resume),
        &mut |_, _| {},
    );
    assert_eq!(report.unwrap().num_steps, reached + 1);
}
