//! What a run writes of what trained, and how it is opened again.

use std::fmt::Debug;
use std::path::Path;

use anyhow::Result;
use decoder::Decoder;
use memory_tuning::MemoryBank;
use serde_json::{Map, Value};

use super::METHODS;
use crate::model::{self, Adapter, Source};

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
    /// Whether a folder holds it.
    pub is_in: fn(&Path) -> bool,
    /// Opens the folder and checks it in itself.
    pub open: fn(&Path) -> Result<Box<dyn Attached>>,
    /// What `finetune inspect` shows of it.
    pub facts: fn(&Path) -> Result<Map<String, Value>>,
    /// Why it cannot be merged into weights, if it cannot.
    pub not_linear: Option<fn() -> anyhow::Error>,
}

/// A saved form on disk, opened.
pub trait Attached: Debug {
    /// The folder.
    fn path(&self) -> &Path;

    /// Puts it into a model of its base.
    fn place(&self, model: Decoder) -> Result<Decoder>;
}

impl Attached for Adapter {
    fn path(&self) -> &Path {
        self.path()
    }

    fn place(&self, model: Decoder) -> Result<Decoder> {
        self.place(model)
    }
}

/// The format of what lies in `folder`, where that is not PEFT's of LoRA.
pub fn format_of(folder: &Path) -> Option<&'static SavedFormat> {
    let formats = METHODS.iter().filter_map(|method| method.format);
    formats.into_iter().find(|format| (format.is_in)(folder))
}

/// Whether `folder` holds what a run without its base leaves.
pub fn holds_adapter(folder: &Path) -> bool {
    folder.join("adapter_config.json").is_file() || format_of(folder).is_some()
}

/// Opens what lies in `folder`; what no other method recognises is read as PEFT's LoRA or DoRA.
pub fn open(folder: &Path) -> Result<Box<dyn Attached>> {
    model::refuse_missing(folder)?;
    match format_of(folder) {
        Some(format) => (format.open)(folder),
        None => Ok(Box::new(Adapter::open(folder)?)),
    }
}
