//! Where the names in a recipe lie: beside the recipe, in the working directory, or in the local store.

use std::path::{Path, PathBuf};

/// Where to look.
#[derive(Debug)]
pub struct Places {
    recipe: PathBuf,
}

impl Places {
    /// For the recipe at `path`.
    pub fn of(path: &Path) -> Self {
        Self::beside(path.parent().unwrap_or(Path::new("")))
    }

    /// For what lies in `folder`.
    pub fn beside(folder: &Path) -> Self {
        Self {
            recipe: folder.to_owned(),
        }
    }

    /// A file or folder by name: beside the recipe, then in the working directory; absolute.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let path = Path::new(name);
        [self.recipe.join(path), path.to_owned()]
            .into_iter()
            .find(|path| path.exists())
            .and_then(|path| std::path::absolute(path).ok())
    }

    /// A data file: as [`Self::find`], then in the local store.
    pub fn data(&self, name: &str) -> Option<PathBuf> {
        let stored = || {
            store::cache_dir()
                .map(|cache| cache.join("data").join(name))
                .filter(|path| path.is_file())
        };
        self.find(name).or_else(stored)
    }

    /// A model: a path that is there becomes absolute; anything else is a name that is resolved later.
    pub fn model(&self, name: &str) -> String {
        // A bare name is the store's unless a folder or file of that name is here.
        match self.find(name) {
            Some(path) if path.is_file() || path.join("config.json").is_file() => path.display().to_string(),
            _ => name.to_owned(),
        }
    }

    /// A folder, such as an adapter's: beside the recipe, then in the working directory.
    pub fn folder(&self, path: &Path) -> Option<PathBuf> {
        self.find(&path.display().to_string()).filter(|path| path.is_dir())
    }

    /// A chat template: `chatml`, or a file.
    pub fn template(&self, name: String) -> String {
        if name == "chatml" {
            return name;
        }
        self.find(&name).map_or(name, |path| path.display().to_string())
    }
}
