//! Where a model keeps its chat templates, in every generation of the format: the one finder of them.
//!
//! Source: `_from_pretrained` of Transformers 5.23. `chat_template.jinja` wins over `chat_template` in
//! `tokenizer_config.json`, which is a string or named ones; `additional_chat_templates/NAME.jinja` adds names.
//! Deviations: names of files do not hide the plain template of the configuration, `chat_template.json`, which
//! Transformers reads for processors only, is the last resort, and what is not used is noted. A chat with tools takes
//! `tool_use` if there is one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::ChatTemplate;
use crate::files::{self, MORE_TEMPLATES, TokenizerFiles, malformed};
use crate::{Error, Place};

const PLAIN: &str = "default";
const JINJA: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const LEGACY: &str = "chat_template.json";

/// A model's templates by name.
#[derive(Debug, Default)]
pub struct ChatTemplates {
    named: BTreeMap<String, ChatTemplate>,
}

/// Templates as they stand in files, not compiled.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TemplateSources {
    /// By name: where it stands, and its text.
    named: BTreeMap<String, (String, String)>,
    /// What is there and not used.
    notes: Vec<String>,
}

impl TemplateSources {
    /// Finds all templates among a tokenizer's files; perhaps none.
    pub fn find(files: &dyn TokenizerFiles) -> Result<Self, Error> {
        Self::find_with(files, &files::object(files, CONFIG)?)
    }

    /// As [`Self::find`], given the parsed `tokenizer_config.json`.
    pub(crate) fn find_with(files: &dyn TokenizerFiles, config: &Map<String, Value>) -> Result<Self, Error> {
        let mut found = Self::default();
        let place = |name: &str| files.place(name).display().to_string();
        if let Some(text) = text(files, JINJA)? {
            found.add(PLAIN, place(JINJA), text);
        }
        for name in files.more_templates()? {
            let title = name.trim_start_matches(MORE_TEMPLATES).trim_start_matches('/');
            if let Some(text) = text(files, &name)? {
                found.add(title.trim_end_matches(".jinja"), place(&name), text);
            }
        }
        let has_plain = found.named.contains_key(PLAIN);
        for (name, text) in in_config(files, config)? {
            if has_plain && name != PLAIN {
                // The file stands for all of them, as in Transformers.
                continue;
            }
            found.offer(&name, place(CONFIG), text);
        }
        let legacy = files::object(files, LEGACY)?;
        match legacy.get("chat_template") {
            Some(Value::String(text)) => found.offer(PLAIN, place(LEGACY), text.clone()),
            None | Some(Value::Null) => {}
            Some(other) => {
                return Err(malformed(
                    files,
                    LEGACY,
                    "chat_template",
                    "`chat_template` as a string",
                    other,
                ));
            }
        }
        Ok(found)
    }

    /// The templates' texts by name.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let named = self.named.iter();
        named.map(|(name, (_, text))| (name.clone(), text.clone())).collect()
    }

    /// What is there and not used.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Compiles every one.
    pub fn compile(&self) -> Result<ChatTemplates, Error> {
        let named = self.named.iter();
        let compiled = named.map(|(name, (place, text))| Ok((name.clone(), ChatTemplate::new(place, text)?)));
        compiled.collect::<Result<Vec<_>, Error>>().map(ChatTemplates::named)
    }

    fn add(&mut self, name: &str, place: String, text: String) {
        self.named.insert(name.to_owned(), (place, text));
    }

    /// Adds a template that one of the same name hides.
    fn offer(&mut self, name: &str, place: String, text: String) {
        match self.named.get(name) {
            None => self.add(name, place, text),
            Some((used, other)) if other.trim_end() != text.trim_end() => self.notes.push(format!(
                "there are two different chat templates: that of `{used}` is used, that of `{place}` is not"
            )),
            Some(_) => {}
        }
    }
}

impl ChatTemplates {
    /// One template for everything.
    pub fn single(template: ChatTemplate) -> Self {
        Self {
            named: BTreeMap::from([(PLAIN.to_owned(), template)]),
        }
    }

    /// Templates by name; the plain one is `default`.
    pub fn named(templates: impl IntoIterator<Item = (String, ChatTemplate)>) -> Self {
        Self {
            named: templates.into_iter().collect(),
        }
    }

    /// The template for a chat with or without tools.
    pub fn choose(&self, has_tools: bool) -> Option<&ChatTemplate> {
        let tools = if has_tools { self.named.get("tool_use") } else { None };
        tools.or_else(|| self.named.get(PLAIN))
    }

    /// A template by name.
    pub fn get(&self, name: &str) -> Option<&ChatTemplate> {
        self.named.get(name)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ChatTemplate)> {
        self.named.iter().map(|(name, template)| (name.as_str(), template))
    }
}

fn text(files: &dyn TokenizerFiles, name: &str) -> Result<Option<String>, Error> {
    let Some(bytes) = files.read(name)? else {
        return Ok(None);
    };
    match String::from_utf8(python_json::without_mark(&bytes).to_vec()) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(Error::Malformed {
            at: Place::file(&files.place(name)),
            wanted: "a chat template in UTF-8",
            found: error.to_string(),
        }),
    }
}

/// The templates in `tokenizer_config.json`: one, a list of named ones, or an object of them.
fn in_config(files: &dyn TokenizerFiles, config: &Map<String, Value>) -> Result<Vec<(String, String)>, Error> {
    let key = "chat_template";
    let refused = |found: &Value| {
        let wanted = "`chat_template` as a string or a list of {name, template}";
        malformed(files, CONFIG, key, wanted, found)
    };
    let named = |name: &Value, template: &Value| match (name.as_str(), template.as_str()) {
        (Some(name), Some(template)) => Some((name.to_owned(), template.to_owned())),
        _ => None,
    };
    match config.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![(PLAIN.to_owned(), text.clone())]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|entry| {
                let name = entry.get("name").unwrap_or(&Value::Null);
                let template = entry.get("template").unwrap_or(&Value::Null);
                named(name, template).ok_or_else(|| refused(entry))
            })
            .collect(),
        Some(Value::Object(templates)) => templates
            .iter()
            .map(|(name, template)| {
                let text = template.as_str().ok_or_else(|| refused(template))?;
                Ok((name.clone(), text.to_owned()))
            })
            .collect(),
        Some(other) => Err(refused(other)),
    }
}
