//! Downloads through `hf-hub`, into the cache that Python's `huggingface_hub` uses too.
//!
//! A branch or tag is asked for its commit first, and every file is then taken from that commit: a branch that moves while
//! it is read, or has moved since the last time, never gives files of two commits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::is_commit;

/// The folders of what this process has asked for already.
static KNOWN: LazyLock<Mutex<HashMap<(String, String), PathBuf>>> = LazyLock::new(Mutex::default);

/// The folder of the snapshot at `revision`, with configuration, tokenizer and weights in it.
pub(super) fn download(id: &str, revision: &str) -> Result<PathBuf, String> {
    let key = (id.to_owned(), revision.to_owned());
    // Held while it is fetched: two that want one model wait for one download.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = known.get(&key) {
        return Ok(folder.clone());
    }
    let folder = find(id, revision)?;
    known.insert(key, folder.clone());
    Ok(folder)
}

fn find(id: &str, revision: &str) -> Result<PathBuf, String> {
    let cached = cached(id, revision);
    // A commit never changes.
    if let (true, Some(folder)) = (is_commit(revision), &cached) {
        return Ok(folder.clone());
    }
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false")) {
        return cached.ok_or_else(|| "HF_HUB_OFFLINE is set and it is not in the hub's cache".into());
    }
    fetch(id, revision).or_else(|error| cached.ok_or_else(|| error.to_string()))
}

/// The snapshot in the cache, if it has a configuration: that is fetched last, so all is there.
fn cached(id: &str, revision: &str) -> Option<PathBuf> {
    let cache = Cache::from_env();
    let commit = if is_commit(revision) {
        revision.to_owned()
    } else {
        let refs = home(&cache, id).join("refs").join(revision);
        std::fs::read_to_string(refs).ok()?.trim().to_owned()
    };
    Some(snapshot(&cache, id, &commit)).filter(|folder| folder.join("config.json").exists())
}

fn home(cache: &Cache, id: &str) -> PathBuf {
    cache.path().join(Repo::model(id.to_owned()).folder_name())
}

fn snapshot(cache: &Cache, id: &str, commit: &str) -> PathBuf {
    home(cache, id).join("snapshots").join(commit)
}

fn fetch(id: &str, revision: &str) -> Result<PathBuf, ApiError> {
    let repo = |revision: &str| Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
    let api = ApiBuilder::from_env().build()?;
    let info = api.repo(repo(revision)).info()?;
    let cache = Cache::from_env();
    let folder = snapshot(&cache, id, &info.sha);
    let mut wanted: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    wanted.retain(|name| belongs(name));
    // The configuration last: a folder that has it is whole.
    wanted.sort_by_key(|name| name == "config.json");
    let at_commit = api.repo(repo(&info.sha));
    for name in wanted.iter().filter(|name| !is_there(&folder, name)) {
        at_commit.download(name)?;
    }
    // What the branch was when it was last asked for, for when there is no network.
    let _ = cache.repo(repo(revision)).create_ref(&info.sha);
    Ok(folder)
}

fn is_there(folder: &Path, name: &str) -> bool {
    folder.join(name).exists()
}

/// Whether a file of a repository is part of the model.
fn belongs(name: &str) -> bool {
    let top = !name.contains('/');
    let ends = |suffix: &str| name.to_ascii_lowercase().ends_with(suffix);
    // Some repositories hold the weights a second time, as `consolidated`.
    top && (name.starts_with("model") && ends(".safetensors")
        || ends(".json")
        || ends(".jinja")
        || matches!(name, "merges.txt" | "tokenizer.model"))
        || name.starts_with("additional_chat_templates/") && ends(".jinja")
}
