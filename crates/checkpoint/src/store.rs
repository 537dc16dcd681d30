//! From what a user calls a model to a folder or file: a name in the local store, a path, a hub id.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{Error, Result};

/// The folder that this process has chosen.
static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Keeps models and data of this process in `folder`, whatever the environment says; the first call decides.
///
/// For programs that use these crates as a library. Returns the folder that is in use.
pub fn use_cache_dir(folder: PathBuf) -> &'static Path {
    CHOSEN.get_or_init(|| folder)
}

/// Where models and data are kept: the folder given to [`use_cache_dir`], else `$FINETUNE_CACHE`, else
/// `$XDG_CACHE_HOME/finetune`, else `~/.cache/finetune`.
pub fn cache_dir() -> Option<PathBuf> {
    if let Some(chosen) = CHOSEN.get() {
        return Some(chosen.clone());
    }
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    choose(set("FINETUNE_CACHE"), set("XDG_CACHE_HOME"), set("HOME"))
}

fn choose(cache: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The XDG rules say to ignore paths that are not absolute.
    let xdg = xdg.filter(|path| path.is_absolute()).map(|path| path.join("finetune"));
    cache.or(xdg).or(home.map(|home| home.join(".cache/finetune")))
}

/// The folder or file of the model `name`: in the local store, else a path, else downloaded from the hub.
pub fn resolve(name: &str) -> Result<PathBuf> {
    resolve_in(name, cache_dir().as_deref())
}

fn resolve_in(name: &str, cache: Option<&Path>) -> Result<PathBuf> {
    let mut tried = Vec::new();
    let plain = !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..";
    if plain && let Some(cache) = cache {
        let stored = cache.join("models").join(name);
        if stored.exists() {
            return Ok(stored);
        }
        tried.push(format!("the local store (`{}`)", stored.display()));
    }
    let path = Path::new(name);
    if !name.is_empty() && path.exists() {
        return Ok(path.to_owned());
    }
    tried.push(format!("the path `{name}`"));
    let hint = if is_hub_id(name) {
        match hub::download(name) {
            Ok(path) => return Ok(path),
            Err(why) => tried.push(format!("the hub id `{name}` ({why})")),
        }
        "without a network, copy the model's folder here and give its path".to_owned()
    } else {
        hint(cache)
    };
    Err(Error::NotFound {
        name: name.to_owned(),
        tried,
        hint,
    })
}

/// `org/name`, of letters that the hub allows.
fn is_hub_id(name: &str) -> bool {
    let part = |text: &str| {
        !text.is_empty()
            && !text.starts_with('.')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    matches!(name.split_once('/'), Some((org, name)) if part(org) && part(name))
}

fn hint(cache: Option<&Path>) -> String {
    let entries = cache.and_then(|cache| std::fs::read_dir(cache.join("models")).ok());
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    if names.is_empty() {
        "the local store is empty; `cargo xtask fetch` fills it".into()
    } else {
        format!("the local store holds {}", names.join(", "))
    }
}

#[cfg(feature = "hub")]
mod hub {
    //! Downloads through `hf-hub`, into the cache that Python's `huggingface_hub` uses too.

    use std::path::PathBuf;

    use hf_hub::Cache;
    use hf_hub::api::sync::{ApiBuilder, ApiError};

    /// The snapshot's folder, with configuration, tokenizer and weights in it.
    pub(super) fn download(id: &str) -> Result<PathBuf, String> {
        if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false")) {
            let cached = Cache::from_env().model(id.to_owned()).get("config.json");
            return match cached.as_deref().and_then(|config| config.parent()) {
                Some(folder) => Ok(folder.to_owned()),
                None => Err("HF_HUB_OFFLINE is set and it is not in the hub's cache".into()),
            };
        }
        fetch(id).or_else(|error| {
            let cached = Cache::from_env().model(id.to_owned()).get("config.json");
            match cached.as_deref().and_then(|config| config.parent()) {
                Some(folder) => Ok(folder.to_owned()),
                None => Err(error.to_string()),
            }
        })
    }

    fn fetch(id: &str) -> Result<PathBuf, ApiError> {
        let repository = ApiBuilder::from_env().build()?.model(id.to_owned());
        let files = repository.info()?.siblings.into_iter().map(|file| file.rfilename);
        let mut wanted: Vec<String> = files.filter(|name| belongs(name)).collect();
        // The configuration last: a folder that has it is whole.
        wanted.sort_by_key(|name| name == "config.json");
        let mut folder = PathBuf::new();
        for name in &wanted {
            let path = repository.get(name)?;
            if name == "config.json" {
                path.parent().unwrap_or(&path).clone_into(&mut folder);
            }
        }
        if folder.as_os_str().is_empty() {
            folder = repository
                .get("config.json")?
                .parent()
                .map(PathBuf::from)
                .unwrap_or_default();
        }
        Ok(folder)
    }

    /// Whether a file of a repository is part of the model.
    pub(super) fn belongs(name: &str) -> bool {
        let top = !name.contains('/');
        let ends = |suffix: &str| name.to_ascii_lowercase().ends_with(suffix);
        // Some repositories hold the weights a second time, as `consolidated`.
        top && (name.starts_with("model") && ends(".safetensors")
            || ends(".json")
            || ends(".jinja")
            || matches!(name, "merges.txt" | "tokenizer.model"))
            || name.starts_with("additional_chat_templates/") && ends(".jinja")
    }
}

#[cfg(not(feature = "hub"))]
mod hub {
    use std::path::PathBuf;

    pub(super) fn download(_: &str) -> Result<PathBuf, &'static str> {
        Err("this build has no hub support")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_xtask_puts_it() {
        let path = |text: &str| Some(PathBuf::from(text));
        let check = |cache, xdg, home, wanted: &str| assert_eq!(choose(cache, xdg, home), path(wanted));
        check(path("/a"), path("/b"), path("/c"), "/a");
        check(None, path("/b"), path("/c"), "/b/finetune");
        check(None, path("relative"), path("/c"), "/c/.cache/finetune");
        check(None, None, path("/c"), "/c/.cache/finetune");
        assert_eq!(choose(None, None, None), None);
    }

    #[test]
    fn a_stored_name_comes_before_a_path() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models/tiny");
        std::fs::create_dir_all(&model).unwrap();
        assert_eq!(resolve_in("tiny", Some(cache.path())).unwrap(), model);
        let here = cache.path().join("models");
        assert_eq!(resolve_in(here.to_str().unwrap(), Some(cache.path())).unwrap(), here);
    }

    #[test]
    fn a_name_that_is_nowhere_says_where_it_was_looked_for() {
        let cache = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(cache.path().join("models/smollm2-135m-instruct")).unwrap();
        let text = resolve_in("smollm", Some(cache.path())).unwrap_err().to_string();
        for part in [
            "`smollm`",
            "models/smollm`",
            "the path `smollm`",
            "holds smollm2-135m-instruct",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_hub_id_has_two_parts() {
        for (name, wanted) in [
            ("org/name", true),
            ("a/b/c", false),
            ("name", false),
            ("./name", false),
            ("/tmp/x", false),
            ("Qwen/Qwen2.5-0.5B", true),
        ] {
            assert_eq!(is_hub_id(name), wanted, "{name}");
        }
    }
}
