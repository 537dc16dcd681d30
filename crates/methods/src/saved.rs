//! What a run writes of what trained, and how it is opened again.

use std::fmt::Debug;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use decoder::Decoder;
use events::Events;
use memory_tuning::MemoryBank;
use models::Source;
use serde_json::{Map, Value};
use tensor_core::{Embedding, ModulePath, Param, Projection};

use super::METHODS;
use crate::peft::Adapter;

/// What is written of a trained model.
#[derive(Debug)]
pub enum Saved {
    /// The whole model.
    Whole,
    /// What trained, for the base it was trained on.
    Beside(Box<dyn SavedForm>),
}

/// What is written of what trained, without its base.
pub trait SavedForm: Debug {
    /// Writes it into `folder`; `source` is the base.
    fn save(&self, folder: &Path, model: &Decoder, source: &Source) -> Result<()>;

    /// Notes that the base's zeros stay under it.
    fn keep_zeros(&mut self) {}

    /// The memory that it is, if it is one.
    fn memory(&self) -> Option<&MemoryBank> {
        None
    }
}

/// The files of a saved form.
#[derive(Debug)]
pub struct SavedFormat {
    /// What it is called where another was wanted.
    pub name: &'static str,
    /// Whether a folder holds it.
    pub is_in: fn(&Path) -> bool,
    /// Opens the folder and checks it in itself.
    pub open: fn(&Path) -> Result<Box<dyn Attached>>,
    /// What `finetune inspect` shows of it.
    pub facts: fn(&Path) -> Result<Map<String, Value>>,
    /// Whether it can be merged into the base's weights: [`Attached::merging`] says why not.
    pub merges: bool,
}

/// A saved form on disk, opened.
pub trait Attached: Debug {
    /// The folder.
    fn path(&self) -> &Path;

    /// What its user has to know: what was not understood, or cannot be had exactly.
    fn remarks(&self) -> &[String] {
        &[]
    }

    /// Tells the remarks.
    fn tell(&self, events: &Events) {
        for remark in self.remarks() {
            events.warn(|| format!("adapter `{}`: {remark}", self.path().display()));
        }
    }

    /// Puts it into a model of its base.
    fn place(&self, model: Decoder) -> Result<Decoder>;

    /// What `merge` and `export` make of each tensor of the base; an error if no weights can hold it.
    fn merging(&self) -> Result<Box<dyn Merging + '_>>;
}

/// A saved form on its way into the base's tensors, which come one by one.
pub trait Merging {
    /// Whether anything of it belongs to the module at the path `module`.
    fn touches(&self, module: &str) -> bool;

    /// The classes of the head that it brings; none if it brings no classification head.
    fn labels(&self) -> Result<Option<Vec<String>>>;

    /// Whether the zeros of its pruned base stay under it.
    fn keeps_zeros(&self) -> bool {
        false
    }

    /// What the projection at `at` becomes.
    fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>>;

    /// What the token table at `at` becomes.
    fn table(&self, _at: &ModulePath, base: Box<dyn Embedding>) -> tensor_core::Result<Box<dyn Embedding>> {
        Ok(base)
    }

    /// What a parameter outside projections and tables becomes: a norm's, or a bias.
    fn param(&self, _at: &ModulePath, param: Param) -> tensor_core::Result<Param> {
        Ok(param)
    }

    /// An error if anything of it found no place.
    fn finish(&self) -> Result<()>;
}

/// The format of what lies in `folder`; none if no method knows it.
pub fn format_of(folder: &Path) -> Option<&'static SavedFormat> {
    let formats = METHODS.iter().filter_map(|method| method.format);
    formats.into_iter().find(|format| (format.is_in)(folder))
}

/// The key `peft_type` of the folder's `adapter_config.json`.
pub fn peft_type(folder: &Path) -> Option<String> {
    let text = std::fs::read(folder.join("adapter_config.json")).ok()?;
    let file: Value = serde_json::from_slice(&text).ok()?;
    Some(file.get("peft_type")?.as_str()?.to_owned())
}

/// Whether `folder` holds what a run without its base leaves.
pub fn holds_adapter(folder: &Path) -> bool {
    folder.join("adapter_config.json").is_file() || format_of(folder).is_some()
}

/// Opens what lies in `folder`.
pub fn open(folder: &Path) -> Result<Box<dyn Attached>> {
    super::missing::refuse_missing(folder)?;
    match format_of(folder) {
        Some(format) => (format.open)(folder),
        // No method knows it: the reader of PEFT's files says what is wrong with it.
        None => Ok(Box::new(Adapter::open(folder)?)),
    }
}

/// Opens what lies in `folder`, if the base's weights can hold it.
pub fn open_to_merge(folder: &Path) -> Result<Box<dyn Attached>> {
    let attached = open(folder)?;
    attached.merging().with_context(|| format!("`{}`", folder.display()))?;
    Ok(attached)
}

/// What `finetune inspect` shows of what lies in `folder`.
pub fn facts(folder: &Path) -> Result<Map<String, Value>> {
    let Some(format) = format_of(folder) else {
        // The reader of PEFT's files says what is wrong with it.
        Adapter::open(folder)?;
        bail!("`{}`: no method knows this adapter", folder.display());
    };
    (format.facts)(folder)
}
