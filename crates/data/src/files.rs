//! A tokenizer's files by their names, wherever they lie: in a folder, or made of another format.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, Place};

/// Where named chat templates lie beside the plain one.
pub(crate) const MORE_TEMPLATES: &str = "additional_chat_templates";

/// Files of a tokenizer in the layout of a Hugging Face directory.
pub trait TokenizerFiles {
    /// A file's bytes; none if there is no such file.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;

    /// The names of the files `additional_chat_templates/NAME.jinja`.
    fn more_templates(&self) -> Result<Vec<String>, Error>;

    /// Where a file lies, for messages.
    fn place(&self, name: &str) -> PathBuf;
}

/// A folder.
impl TokenizerFiles for &Path {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        std::fs::read(&path).map(Some).map_err(rows::io(&path))
    }

    fn more_templates(&self) -> Result<Vec<String>, Error> {
        let folder = self.join(MORE_TEMPLATES);
        let mut names = Vec::new();
        if folder.is_dir() {
            for entry in std::fs::read_dir(&folder).map_err(rows::io(&folder))? {
                let path = entry.map_err(rows::io(&folder))?.path();
                if path.extension().is_some_and(|extension| extension == "jinja")
                    && let Some(name) = path.file_name().and_then(|name| name.to_str())
                {
                    names.push(format!("{MORE_TEMPLATES}/{name}"));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.join(name)
    }
}

/// The object of a JSON file; empty if there is no such file.
pub(crate) fn object(files: &dyn TokenizerFiles, name: &str) -> Result<Map<String, Value>, Error> {
    let Some(bytes) = files.read(name)? else {
        return Ok(Map::new());
    };
    let path = files.place(name);
    match python_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Error::Malformed {
            at: Place::file(&path),
            wanted: "a JSON object",
            found: rows::brief(&other),
        }),
        Err(source) => Err(Error::Malformed {
            at: Place::line(&path, source.line()),
            wanted: "JSON",
            found: source.to_string(),
        }),
    }
}

/// An error at a key of a JSON file, with its line.
pub(crate) fn malformed(
    files: &dyn TokenizerFiles,
    name: &str,
    key: &str,
    wanted: &'static str,
    found: &Value,
) -> Error {
    let path = files.place(name);
    let bytes = files.read(name).ok().flatten().unwrap_or_default();
    let at = match python_json::line_of(&bytes, &[key]) {
        Some(line) => Place::line(&path, line),
        None => Place::file(&path),
    };
    let found = match found {
        Value::String(_) => python_json::shown(found),
        other => rows::brief(other),
    };
    Error::Malformed { at, wanted, found }
}
