//! `[data]`: which rows, how they become tokens, how these are packed and mixed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use data::{BatchConfig, EncodeConfig, MixStrategy, Overflow, ReadConfig, Reject, SampleBy, Shape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use train::TrainConfig;

use super::{Document, ObjectiveConfig};
use ::recipe::Places;

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The files that are learnt from.
    pub train: Vec<Source>,
    /// The files that are measured during training, each with metrics of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eval: Vec<Source>,
    /// The rows' shape in every file that does not say its own, where their columns fit several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Columns under other names in every file: wanted name to the file's name; a file's own `columns` come first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Tokens a document may have; longer ones keep their start.
    pub max_length: usize,
    /// Tokens of a packed row: documents of a micro-batch share rows of at most this many.
    pub max_tokens: usize,
    /// How the training sets share an epoch.
    pub mix_strategy: MixStrategy,
    /// What becomes of a row in which nothing is learnt.
    pub on_empty: Reject,
    /// What becomes of a row whose prompt fills `max_length`.
    pub on_too_long: Reject,
    /// What becomes of the end of a plain text that is too long.
    pub overflow: Overflow,
    /// Whether documents of like length go into the same step.
    pub group_by_length: bool,
    /// Whether an epoch's last, smaller step is left out.
    #[serde(alias = "dataloader_drop_last")]
    #[schemars(extend("x-aliases" = ["dataloader_drop_last"]))]
    pub drop_last: bool,
}

/// One data file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Beside the recipe, in the working directory, or in the local store.
    pub path: PathBuf,
    /// What its metrics are called: the file's name without extension.
    #[serde(default)]
    pub name: String,
    /// Its share of the mixture, relative to the weights of the other files.
    #[serde(default = "one")]
    pub weight: f64,
    /// Use only this many samples, from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
    /// Leave out rows whose input stood in an earlier row.
    #[serde(default)]
    pub dedupe: bool,
    /// The rows' shape, where their keys fit several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Columns under other names: wanted name to the file's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// What a row of a `.txt` file is.
    #[serde(default)]
    pub sample_by: SampleBy,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            eval: Vec::new(),
            shape: None,
            columns: BTreeMap::new(),
            max_length: 1024,
            max_tokens: 2048,
            mix_strategy: MixStrategy::default(),
            on_empty: Reject::default(),
            on_too_long: Reject::default(),
            overflow: Overflow::default(),
            group_by_length: false,
            drop_last: false,
        }
    }
}

impl DataConfig {
    /// Finds every file and names every set.
    pub(super) fn resolve(&mut self, document: &Document, places: &Places) -> Result<()> {
        if self.train.is_empty() {
            return Err(document.error("data.train", "wanted at least one `{ path = \"…\" }`, found none", None));
        }
        if self.max_length < 2 {
            return Err(document.error(
                "data.max_length",
                &format!("wanted at least 2, found {}", self.max_length),
                None,
            ));
        }
        for (list, sources) in [("train", &mut self.train), ("eval", &mut self.eval)] {
            let mut names = BTreeSet::new();
            for (idx, source) in sources.iter_mut().enumerate() {
                let at = format!("data.{list}.{idx}.path");
                let wanted = source.path.display().to_string();
                source.path = places.data(&wanted).ok_or_else(|| {
                    let what = format!("no such file: `{wanted}` is neither beside the recipe, nor in the working directory, nor in the local store");
                    document.error(&at, &what, None)
                })?;
                source.fill_in(self.shape, &self.columns);
                if source.name.is_empty() {
                    source.name = free_name(&source.path, &names);
                }
                if !names.insert(source.name.clone()) {
                    let at = format!("data.{list}.{idx}.name");
                    return Err(document.error(&at, &format!("two sets are called `{}`", source.name), None));
                }
            }
        }
        Ok(())
    }

    /// How rows become tokens.
    pub fn encoding(&self, objective: &ObjectiveConfig, labels: &[String]) -> EncodeConfig {
        let (assistant_only_loss, completion_only_loss) = match objective {
            ObjectiveConfig::Sft(sft) => (sft.assistant_only_loss, sft.completion_only_loss),
            ObjectiveConfig::Distill(distill) => (distill.assistant_only_loss, distill.completion_only_loss),
            ObjectiveConfig::Memory(memory) => (memory.assistant_only_loss, memory.completion_only_loss),
            _ => (true, true),
        };
        EncodeConfig {
            max_length: Some(self.max_length),
            assistant_only_loss,
            completion_only_loss,
            on_empty: self.on_empty,
            on_too_long: self.on_too_long,
            overflow: self.overflow,
            labels: labels.to_vec(),
        }
    }

    /// How documents become steps.
    pub fn batching(&self, train: &TrainConfig) -> BatchConfig {
        BatchConfig {
            per_device_train_batch_size: train.per_device_train_batch_size,
            gradient_accumulation_steps: train.gradient_accumulation_steps,
            max_tokens: self.max_tokens,
            group_by_length: self.group_by_length,
            drop_last: self.drop_last,
            seed: train.seed,
        }
    }
}

impl Source {
    /// Takes what is said of every file where the file's own entry says nothing.
    fn fill_in(&mut self, shape: Option<Shape>, columns: &BTreeMap<String, String>) {
        self.shape = self.shape.or(shape);
        for (wanted, named) in columns {
            self.columns.entry(wanted.clone()).or_insert_with(|| named.clone());
        }
    }

    /// How the file is read.
    pub fn reading(&self) -> ReadConfig {
        ReadConfig {
            shape: self.shape,
            columns: self.columns.clone(),
            sample_by: self.sample_by,
            ..ReadConfig::default()
        }
    }
}

fn free_name(path: &Path, taken: &BTreeSet<String>) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    std::iter::once(stem.clone())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .unwrap_or(stem)
}

fn one() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../../docs/data.md");

    #[derive(Deserialize)]
    struct Documented {
        data: DataConfig,
    }

    #[test]
    fn the_documented_columns_hold_for_every_file_that_does_not_say_its_own() {
        let block = PAGE.split("```toml recipe\n").nth(1).expect("the page shows a recipe");
        let text = block.split("```").next().unwrap_or_default();
        let mut data = toml::from_str::<Documented>(text).expect("the example is TOML").data;
        for source in &mut data.train {
            source.fill_in(data.shape, &data.columns);
        }
        let columns = |idx: usize| {
            let source: &Source = &data.train[idx];
            let pairs = source
                .columns
                .iter()
                .map(|(wanted, named)| format!("{wanted} = {named}"));
            pairs.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(columns(0), "instruction = question, output = answer");
        assert_eq!(columns(1), "instruction = question, output = reply");
        assert_eq!((data.train[0].shape, data.train[1].shape), (None, Some(Shape::Alpaca)));
    }
}
