//! A model's tokenizer, whatever its files are: a Hugging Face directory's or a GGUF file's metadata; and how it was given
//! its prompts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use checkpoint::{ModelDir, TokenizerFiles};
use data::{NamedEnds, Surroundings, TemplateSources, Tokenizer};

use super::{PromptFormat, Source};

impl Source {
    /// The tokens that end a text for its tokenizer and its templates end one for its model too.
    pub(super) fn with_all_end_tokens(self) -> Self {
        let ends: Vec<i64> = match &self.tokenizer {
            Ok(tokenizer) => tokenizer.eos_ids().iter().map(|id| i64::from(*id)).collect(),
            Err(_) => return self,
        };
        Self {
            dir: self.dir.with_end_tokens(&ends),
            ..self
        }
    }

    /// Its tokenizer. Says, once a process, where its files disagree.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = self.quiet_tokenizer()?;
        for note in self.notes() {
            self.events().note_once(format!("{}: {note}", self.name));
        }
        Ok(tokenizer)
    }

    /// As [`Self::tokenizer`], for whoever shows [`Self::notes`] himself.
    pub fn quiet_tokenizer(&self) -> Result<Tokenizer> {
        self.tokenizer.clone().map_err(|text| anyhow!(text))
    }

    /// Where its files disagree, and which of them counts.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.dir.notes().to_vec();
        notes.extend(self.tokenizer.iter().flat_map(Tokenizer::notes));
        notes
    }

    /// How prompts were given to it in training, if that is known.
    pub fn prompt_format(&self) -> Option<PromptFormat> {
        self.prompt_format
    }

    /// With what lies in an adapter's folder about how its prompts were given.
    pub fn with_prompt_format_in(self, adapter: &Path) -> Result<Self> {
        match PromptFormat::in_files(&TokenizerFiles::in_folder(adapter)?)? {
            Some(format) => Ok(self.with_prompt_format(Some(format))),
            None => Ok(self),
        }
    }

    /// The same model, to which prompts are given like this; it is written beside what comes of it.
    #[must_use]
    pub fn with_prompt_format(mut self, format: Option<PromptFormat>) -> Self {
        if let Some(format) = format {
            self.files.insert(PromptFormat::FILE, format.to_json().into_bytes());
            self.prompt_format = Some(format);
        }
        self
    }
}

/// A tokenizer's files as `data` reads them.
struct Files<'a> {
    files: &'a TokenizerFiles,
    /// What holds those that were made of something else.
    made_of: &'a Path,
}

impl data::TokenizerFiles for Files<'_> {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, data::Error> {
        let bytes = self.files.read(name).map_err(|error| data::Error::Io {
            path: data::TokenizerFiles::place(self, name),
            source: std::io::Error::other(error.to_string()),
        })?;
        Ok(bytes.map(std::borrow::Cow::into_owned))
    }

    fn more_templates(&self) -> Result<Vec<String>, data::Error> {
        let names = self.files.names().filter(|name| name.contains('/'));
        Ok(names.map(str::to_owned).collect())
    }

    fn place(&self, name: &str) -> PathBuf {
        let place = self.files.place(name);
        match place.as_os_str() == name {
            true => self.made_of.join(name),
            false => place,
        }
    }
}

/// The tokenizer of a model, which the user calls `name`.
pub(super) fn read(name: &str, dir: &ModelDir) -> Result<Tokenizer> {
    // Says what to do where there is none.
    let place = || format!("model `{name}` has no tokenizer that can be read");
    dir.tokenizer().tokenizer_json().with_context(place)?;
    let id = |id: &i64| u32::try_from(*id).ok();
    let ends = dir.end_tokens().iter().map(|named| NamedEnds {
        place: named.place.to_owned(),
        ids: named.ids.iter().filter_map(id).collect(),
    });
    let surroundings = Surroundings {
        rows: usize::try_from(dir.config().vocab_size).ok(),
        ends: ends.collect(),
    };
    let files = Files {
        files: dir.tokenizer(),
        made_of: dir.path(),
    };
    Ok(Tokenizer::read(&files, surroundings)?)
}

/// The chat templates that lie in a folder, such as an adapter's, by name; perhaps none.
pub fn templates_in(folder: &Path) -> Result<BTreeMap<String, String>> {
    Ok(TemplateSources::find(&folder)?.texts())
}
