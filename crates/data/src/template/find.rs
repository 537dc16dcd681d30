//! Where a model directory keeps its chat templates, in both generations of the format.
//!
//! `chat_template.jinja` wins over `chat_template` in `tokenizer_config.json`, which is a string or a list of named
//! ones; `additional_chat_templates/NAME.jinja` adds further names. A chat with tools takes `tool_use` if there is one.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::ChatTemplate;
use crate::{Error, Place, error};

/// A model's templates by name.
#[derive(Debug, Default)]
pub struct ChatTemplates {
    named: BTreeMap<String, ChatTemplate>,
}

impl ChatTemplates {
    /// One template for everything.
    pub fn single(template: ChatTemplate) -> Self {
        Self {
            named: BTreeMap::from([("default".to_owned(), template)]),
        }
    }

    /// Templates by name; the plain one is `default`.
    pub fn named(templates: impl IntoIterator<Item = (String, ChatTemplate)>) -> Self {
        Self {
            named: templates.into_iter().collect(),
        }
    }

    /// The templates of a model directory, given its parsed `tokenizer_config.json`; perhaps none.
    pub fn in_dir(dir: &Path, tokenizer_config: &Value) -> Result<Self, Error> {
        let mut templates = Self::default();
        let file = dir.join("chat_template.jinja");
        let config = dir.join("tokenizer_config.json");
        if file.exists() {
            templates.add_file("default", &file)?;
        } else {
            match tokenizer_config.get("chat_template") {
                None | Some(Value::Null) => {}
                Some(Value::String(source)) => templates.add("default", &config.display().to_string(), source)?,
                Some(Value::Array(list)) => {
                    for entry in list {
                        let (Some(name), Some(source)) = (
                            entry.get("name").and_then(Value::as_str),
                            entry.get("template").and_then(Value::as_str),
                        ) else {
                            return Err(malformed(&config, entry));
                        };
                        templates.add(name, &format!("{} ({name})", config.display()), source)?;
                    }
                }
                Some(other) => return Err(malformed(&config, other)),
            }
        }
        let more = dir.join("additional_chat_templates");
        if more.is_dir() {
            for entry in std::fs::read_dir(&more).map_err(error::io(&more))? {
                let path = entry.map_err(error::io(&more))?.path();
                if path.extension().is_some_and(|extension| extension == "jinja")
                    && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
                {
                    templates.add_file(name, &path)?;
                }
            }
        }
        Ok(templates)
    }

    /// The template for a chat with or without tools.
    pub fn choose(&self, has_tools: bool) -> Option<&ChatTemplate> {
        let tools = if has_tools { self.named.get("tool_use") } else { None };
        tools.or_else(|| self.named.get("default"))
    }

    /// A template by name.
    pub fn get(&self, name: &str) -> Option<&ChatTemplate> {
        self.named.get(name)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ChatTemplate)> {
        self.named.iter().map(|(name, template)| (name.as_str(), template))
    }

    fn add(&mut self, name: &str, label: &str, source: &str) -> Result<(), Error> {
        self.named.insert(name.to_owned(), ChatTemplate::new(label, source)?);
        Ok(())
    }

    fn add_file(&mut self, name: &str, path: &Path) -> Result<(), Error> {
        let source = std::fs::read_to_string(path).map_err(error::io(path))?;
        self.add(name, &path.display().to_string(), &source)
    }
}

fn malformed(path: &Path, found: &Value) -> Error {
    Error::Malformed {
        at: Place::file(path),
        wanted: "`chat_template` as a string or a list of {name, template}",
        found: crate::message::brief(found),
    }
}
