//! Every change of generation, stopped before each of its system calls: what readers find then and afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::disk::fault::{allow_links, stop_after};
use crate::{StagedDir, disk, is_model_file, tidy};

/// File to text.
type Files = &'static [(&'static str, &'static str)];

/// A full model in one file.
const FULL: Files = &[
    ("config.json", "full"),
    ("model.safetensors", "full weights"),
    ("tokenizer.json", "full tokenizer"),
    ("additional_chat_templates/tool.jinja", "full template"),
];
const SHARDS: Files = &[
    ("config.json", "shards"),
    ("model.safetensors.index.json", "shards index"),
    ("model-00001-of-00002.safetensors", "shards 1"),
    ("model-00002-of-00002.safetensors", "shards 2"),
];
const ADAPTER: Files = &[
    ("adapter_config.json", "adapter"),
    ("adapter_model.safetensors", "adapter weights"),
    ("tokenizer.json", "adapter tokenizer"),
];
const NEXT_ADAPTER: Files = &[
    ("adapter_config.json", "next"),
    ("adapter_model.safetensors", "next weights"),
    ("labels.json", "next labels"),
];
const BOTTLENECK: Files = &[
    ("adapter_config.json", "bottleneck"),
    ("adapter.safetensors", "bottleneck weights"),
];
const MEMORY: Files = &[
    ("memory_config.json", "memory"),
    ("memory.safetensors", "memory tensors"),
    ("model.layers.0.mlp.down_proj.rows", "memory rows"),
];
/// A form that no list knows yet.
const FUTURE: Files = &[
    ("future_config.json", "future"),
    ("parts/a.bin", "future part"),
    ("parts/b/c.bin", "deep"),
];
/// What is in the folder besides.
const OTHERS: Files = &[
    ("README.md", "mine"),
    ("checkpoint-2/config.json", "a checkpoint's"),
    ("metrics.jsonl", "{}"),
];

/// Every form is an old one and a new one.
const CHANGES: [(Files, Files); 10] = [
    (ADAPTER, FULL),
    (FULL, ADAPTER),
    (FULL, SHARDS),
    (SHARDS, FULL),
    (ADAPTER, NEXT_ADAPTER),
    (NEXT_ADAPTER, BOTTLENECK),
    (BOTTLENECK, MEMORY),
    (MEMORY, FUTURE),
    (FUTURE, SHARDS),
    (FULL, FULL),
];

fn stage(folder: &Path, files: Files) -> crate::Result<StagedDir> {
    let staged = StagedDir::create(folder)?;
    for (name, text) in files {
        let path = staged.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Ok(staged)
}

fn publish(folder: &Path, files: Files) {
    let staged = stage(folder, files).unwrap().with_list().unwrap();
    staged.publish(is_model_file).unwrap();
}

/// What a program that follows links finds: text by file, what is hidden left out, dead links as if they were not there.
fn view(folder: &Path) -> BTreeMap<String, String> {
    let files = disk::files_below(folder).unwrap();
    let shown = files.iter().filter(|path| !path.to_str().unwrap().starts_with('.'));
    shown
        .filter_map(|path| Some((path.display().to_string(), fs::read_to_string(folder.join(path)).ok()?)))
        .collect()
}

fn wanted(files: Files) -> BTreeMap<String, String> {
    let all = files.iter().chain(OTHERS);
    all.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

fn has_entry(view: &BTreeMap<String, String>) -> bool {
    ["config.json", "adapter_config.json", "memory_config.json"]
        .iter()
        .any(|name| view.contains_key(*name))
}

/// Changes `old` to `new`, stopped after `count` changes of names: the folder, and whether the end was reached.
fn stopped(old: Files, new: Files, count: usize) -> (tempfile::TempDir, bool) {
    let home = tempfile::tempdir().unwrap();
    for (name, text) in OTHERS {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    publish(home.path(), old);
    assert_eq!(view(home.path()), wanted(old));
    let staged = stage(home.path(), new).unwrap().with_list().unwrap();
    stop_after(count);
    let done = staged.publish(is_model_file);
    stop_after(usize::MAX);
    (home, done.is_ok())
}

/// The file names of a folder that is at rest: nothing hidden but the list, no links.
fn is_at_rest(folder: &Path) {
    for path in disk::files_below(folder).unwrap() {
        let name = path.display().to_string();
        assert!(!name.starts_with('.') || name == super::LIST, "{name} is left over");
        assert!(!folder.join(&path).is_symlink(), "{name} is a link");
    }
}

/// Every change, every place to stop; `is_right` judges what a reader finds at once. How many places there were.
fn check(is_right: impl Fn(&BTreeMap<String, String>, Files, Files) -> bool) -> usize {
    let mut stops = 0;
    for (old, new) in CHANGES {
        for count in 0.. {
            let (home, done) = stopped(old, new, count);
            let at_once = view(home.path());
            assert!(
                is_right(&at_once, old, new),
                "after {count} of {old:?} to {new:?}: {at_once:?}"
            );
            // Whoever writes next, stopped in turn while tidying, then not.
            stop_after(count % 7);
            let _ = tidy(home.path());
            stop_after(usize::MAX);
            assert!(is_right(&view(home.path()), old, new), "after {count}, half tidied");
            tidy(home.path()).unwrap();
            let settled = view(home.path());
            assert!(
                settled == wanted(old) || settled == wanted(new),
                "after {count}: {settled:?}"
            );
            // What this process left aside is younger than a moment; all else is gone.
            for name in disk::names(home.path()).unwrap() {
                if name.to_str().unwrap().ends_with(".partial") {
                    fs::remove_dir_all(home.path().join(name)).unwrap();
                }
            }
            is_at_rest(home.path());
            publish(home.path(), new);
            assert_eq!(view(home.path()), wanted(new));
            is_at_rest(home.path());
            stops += 1;
            if done {
                break;
            }
        }
    }
    stops
}

#[test]
fn stopped_anywhere_a_reader_finds_the_old_generation_or_the_new_one() {
    let stops = check(|found, old, new| *found == wanted(old) || *found == wanted(new));
    assert!(stops > CHANGES.len() * 15, "{stops}");
}

#[test]
fn without_links_a_reader_finds_one_generation_or_nothing_to_enter_by() {
    allow_links(false);
    // A form without an entry that is known cannot be ordered by it: its own reader must check what it reads.
    let is_known = |files: Files| files.iter().any(|(name, _)| crate::forms::is_entry(name));
    let stops = check(|found, old, new| {
        !is_known(old) || !is_known(new) || !has_entry(found) || *found == wanted(old) || *found == wanted(new)
    });
    allow_links(true);
    assert!(stops > CHANGES.len() * 10, "{stops}");
}

#[test]
fn a_mixture_that_an_earlier_version_left_is_cleared() {
    let home = tempfile::tempdir().unwrap();
    for (name, text) in [FULL, SHARDS, ADAPTER, OTHERS].into_iter().flatten() {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    publish(home.path(), MEMORY);
    assert_eq!(view(home.path()), wanted(MEMORY));
}

#[test]
fn a_file_may_follow_a_folder_but_never_takes_one_that_holds_more() {
    for links in [true, false] {
        allow_links(links);
        let home = tempfile::tempdir().unwrap();
        let publish = |files: Files| stage(home.path(), files)?.with_list()?.publish(is_model_file);
        publish(&[("parts/a", "1"), ("parts/b/c", "2")]).unwrap();
        publish(&[("parts", "3")]).unwrap();
        assert_eq!(view(home.path()), BTreeMap::from([("parts".into(), "3".into())]));
        publish(&[("parts/b/c", "4")]).unwrap();
        fs::write(home.path().join("parts/mine"), "5").unwrap();
        let error = publish(&[("parts", "6")]).unwrap_err().to_string();
        assert!(error.contains("parts`: cannot replace"), "{error}");
        let left = BTreeMap::from([("parts/b/c".into(), "4".into()), ("parts/mine".into(), "5".into())]);
        assert_eq!(view(home.path()), left);
        is_at_rest(home.path());
    }
    allow_links(true);
}

#[cfg(unix)]
#[test]
fn a_link_of_the_users_is_replaced_and_what_it_points_to_stays() {
    let home = tempfile::tempdir().unwrap();
    let (store, run) = (home.path().join("store"), home.path().join("run"));
    fs::create_dir_all(&store).unwrap();
    fs::create_dir_all(&run).unwrap();
    fs::write(store.join("blob"), "stored").unwrap();
    std::os::unix::fs::symlink("../store/blob", run.join("model.safetensors")).unwrap();
    for count in 0.. {
        let staged = stage(&run, ADAPTER).unwrap();
        stop_after(count);
        let done = staged.publish(is_model_file);
        stop_after(usize::MAX);
        let found = view(&run);
        let is_old = found == BTreeMap::from([("model.safetensors".into(), "stored".into())]);
        assert!(is_old || found.len() == ADAPTER.len(), "after {count}: {found:?}");
        if done.is_ok() {
            break;
        }
        tidy(&run).unwrap();
    }
    assert_eq!(fs::read_to_string(store.join("blob")).unwrap(), "stored");
}
