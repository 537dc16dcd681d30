//! A model's tokenizer as files: kept on disk or made from GGUF metadata, copied through on saving.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::staged::write_file;
use crate::{Error, Result};

/// Files that belong to a tokenizer in a Hugging Face directory, and the one that says how prompts are put into tokens.
const NAMES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "prompt_format.json",
];

/// Where more named templates lie.
const MORE_TEMPLATES: &str = "additional_chat_templates";

#[derive(Clone, Debug)]
enum Source {
    Disk(PathBuf),
    Memory(Vec<u8>),
}

/// The files of a tokenizer, by name.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFiles {
    files: BTreeMap<String, Source>,
}

impl From<BTreeMap<String, Vec<u8>>> for TokenizerFiles {
    fn from(files: BTreeMap<String, Vec<u8>>) -> Self {
        let files = files.into_iter().map(|(name, bytes)| (name, Source::Memory(bytes)));
        Self { files: files.collect() }
    }
}

impl TokenizerFiles {
    /// The tokenizer's files that lie in `folder`.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in NAMES {
            let path = folder.join(name);
            if path.is_file() {
                files.insert(name.to_owned(), Source::Disk(path));
            }
        }
        let more = folder.join(MORE_TEMPLATES);
        if more.is_dir() {
            for entry in std::fs::read_dir(&more).map_err(Error::io(&more, "read"))? {
                let path = entry.map_err(Error::io(&more, "read"))?.path();
                if let Some(name) = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .filter(|_| path.extension().is_some_and(|extension| extension == "jinja"))
                {
                    files.insert(format!("{MORE_TEMPLATES}/{name}"), Source::Disk(path));
                }
            }
        }
        Ok(Self { files })
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.to_owned(), Source::Memory(bytes));
    }

    /// The same files with these chat templates, by name, in the place of all that were there; the plain one is
    /// `default`.
    pub fn with_chat_templates(&self, templates: &BTreeMap<String, String>) -> Result<Self> {
        let mut files = self.clone();
        files
            .files
            .retain(|name, _| !name.starts_with("chat_template.") && !name.starts_with(MORE_TEMPLATES));
        let mut config = self.tokenizer_config()?;
        // Older readers look there first.
        if config.remove("chat_template").is_some() {
            let text = python_json::to_string(&config) + "\n";
            files.insert("tokenizer_config.json", text.into_bytes());
        }
        for (name, text) in templates {
            let file = match name.as_str() {
                "default" => "chat_template.jinja".to_owned(),
                other => format!("{MORE_TEMPLATES}/{other}.jinja"),
            };
            files.insert(&file, text.clone().into_bytes());
        }
        Ok(files)
    }

    /// Whether there is no file at all.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The bytes of the file `name`, if there is one.
    pub fn read(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>> {
        match self.files.get(name) {
            None => Ok(None),
            Some(Source::Memory(bytes)) => Ok(Some(Cow::Borrowed(bytes))),
            Some(Source::Disk(path)) => std::fs::read(path)
                .map(|bytes| Some(Cow::Owned(bytes)))
                .map_err(Error::io(path, "read")),
        }
    }

    /// The `tokenizer.json`; an error if there is none.
    pub fn tokenizer_json(&self) -> Result<Cow<'_, [u8]>> {
        self.read("tokenizer.json")?.ok_or_else(|| Error::Missing {
            path: self.place("tokenizer_config.json"),
            what: "`tokenizer.json`".into(),
            hint: "save the tokenizer with Transformers' fast tokenizers, which write this file".into(),
        })
    }

    /// The `tokenizer_config.json`; empty if there is none.
    pub fn tokenizer_config(&self) -> Result<Map<String, Value>> {
        let name = "tokenizer_config.json";
        match self.read(name)? {
            Some(bytes) => python_json::from_slice(&bytes).map_err(Error::json(&self.place(name))),
            None => Ok(Map::new()),
        }
    }

    /// Writes every file into `folder`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        for name in self.files.keys() {
            let path = folder.join(name);
            if let Some(above) = path.parent() {
                std::fs::create_dir_all(above).map_err(Error::io(above, "create"))?;
            }
            if let Some(bytes) = self.read(name)? {
                write_file(&path, &bytes)?;
            }
        }
        Ok(())
    }

    /// Where a file lies, for messages.
    pub fn place(&self, name: &str) -> PathBuf {
        match self.files.get(name) {
            Some(Source::Disk(path)) => path.clone(),
            _ => PathBuf::from(name),
        }
    }
}
