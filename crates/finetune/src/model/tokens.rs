//! A model's tokenizer, whatever its files are: a Hugging Face directory's or a GGUF file's metadata.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use checkpoint::{ModelDir, TokenizerFiles};
use data::{NamedEnds, Surroundings, TemplateSources, Tokenizer};

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
pub(crate) fn templates_in(folder: &Path) -> Result<BTreeMap<String, String>> {
    Ok(TemplateSources::find(&folder)?.texts())
}
