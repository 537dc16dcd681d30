//! From what a user calls a model to a folder or file: a name in the local store, a path, a hub id.
//!
//! The store is a folder of models and data that programs share ([`cache_dir`]). A hub id is fetched into the cache that
//! Python's `huggingface_hub` uses too, at one commit, so that files of two commits never meet.
//!
//! ```
//! let here = std::env::current_dir()?;
//! assert_eq!(store::resolve(&here.display().to_string())?, here);
//! assert!(store::is_hub_id("org/name") && !store::is_hub_id("./name"));
//! let error = store::resolve("no-such-model").unwrap_err().to_string();
//! assert!(error.contains("the local store"), "{error}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "hub")]
mod hub;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A model that is nowhere.
#[derive(Debug, thiserror::Error)]
#[error("model `{name}` was not found; tried {}\nhint: {hint}", tried.join(", "))]
pub struct NotFound {
    /// What the user calls it.
    pub name: String,
    /// Where it was looked for.
    pub tried: Vec<String>,
    /// What to do.
    pub hint: String,
}

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
///
/// A hub id may end in `@REVISION`: a branch, a tag or a commit. The hub is asked once a process for each id, and not at
/// all for a commit that is in its cache.
pub fn resolve(name: &str) -> Result<PathBuf, NotFound> {
    resolve_in(name, cache_dir().as_deref())
}

/// The hub's commit that a folder given by [`resolve`] is a snapshot of; none if it is no snapshot.
pub fn revision_of(path: &Path) -> Option<&str> {
    let commit = path.file_name()?.to_str()?;
    let above = path.parent()?;
    let is_snapshot =
        above.file_name()? == "snapshots" && above.parent()?.file_name()?.to_str()?.starts_with("models--");
    (is_snapshot && is_commit(commit)).then_some(commit)
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `id@revision`: the two parts; the branch `main` where there is no revision.
fn split_revision(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, "main"))
}

#[cfg(not(feature = "hub"))]
mod hub {
    use std::path::PathBuf;

    pub(super) fn download(_: &str, _: &str) -> Result<PathBuf, &'static str> {
        Err("this build has no hub support")
    }
}

fn resolve_in(name: &str, cache: Option<&Path>) -> Result<PathBuf, NotFound> {
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
    let (id, revision) = split_revision(name);
    let hint = if is_hub_id(id) {
        match hub::download(id, revision) {
            Ok(path) => return Ok(path),
            Err(why) => tried.push(format!("the hub id `{name}` ({why})")),
        }
        "without a network, copy the model's folder here and give its path".to_owned()
    } else {
        hint(cache)
    };
    Err(NotFound {
        name: name.to_owned(),
        tried,
        hint,
    })
}

/// Whether `name` has the form of a hub id, `org/name`, of letters that the hub allows.
pub fn is_hub_id(name: &str) -> bool {
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
        "the local store is empty; `finetune fetch NAME` fills it".into()
    } else {
        format!("the local store holds {}", names.join(", "))
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
    fn a_snapshot_tells_its_commit() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let of = |path: &str| revision_of(Path::new(path)).map(str::to_owned);
        let folder = format!("/any/hub/models--org--name/snapshots/{commit}");
        assert_eq!(of(&folder).as_deref(), Some(commit));
        for path in [
            "/any/models/mine",
            "/a/models--org--name/snapshots/main",
            &format!("/a/snapshots/{commit}"),
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(split_revision("org/name@v1.0"), ("org/name", "v1.0"));
        assert_eq!(split_revision("org/name"), ("org/name", "main"));
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
