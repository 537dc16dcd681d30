//! The `[train]` table of a recipe: names and defaults of Transformers' `TrainingArguments` where sensible.
//!
//! Deviations: `logging_steps` is 10 and the first step is logged; a micro-batch counts documents, which the data side
//! packs into rows; an option that would be ignored is an error.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Result, Schedule, ScheduleOptions, ScheduleType};

/// When to evaluate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvalStrategy {
    /// Never.
    #[default]
    No,
    /// Every `eval_steps`, and after the last step.
    Steps,
    /// After each epoch, and after the last step.
    Epoch,
}

/// When to save a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaveStrategy {
    /// Only when interrupted.
    No,
    /// Every `save_steps`, and after the last step.
    #[default]
    Steps,
    /// After each epoch, and after the last step.
    Epoch,
    /// When an evaluation is the best so far.
    Best,
}

/// Where metrics go besides `metrics.jsonl` and `trainer_state.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportTo {
    /// TensorBoard event files in `output_dir`.
    Tensorboard,
    /// `report.md` with curves as pictures.
    Markdown,
}

/// Which optimiser, and where it keeps its states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Optim {
    /// `AdamW` with both running means in f32.
    #[default]
    #[serde(rename = "adamw", alias = "adamw_torch", alias = "adamw_torch_fused")]
    #[schemars(extend("x-aliases" = ["adamw_torch", "adamw_torch_fused"]))]
    Adamw,
    /// With the running means of large parameters in 8 bits.
    #[serde(rename = "adamw_8bit", alias = "adamw_bnb_8bit")]
    #[schemars(extend("x-aliases" = ["adamw_bnb_8bit"]))]
    Adamw8bit,
    /// In f32, in a file of `output_dir` whose pages need not stay in memory.
    #[serde(rename = "paged_adamw", alias = "paged_adamw_32bit")]
    #[schemars(extend("x-aliases" = ["paged_adamw_32bit"]))]
    PagedAdamw,
    /// Both.
    #[serde(rename = "paged_adamw_8bit")]
    PagedAdamw8bit,
}

impl Optim {
    /// Whether states lie in a file.
    pub fn is_paged(self) -> bool {
        matches!(self, Self::PagedAdamw | Self::PagedAdamw8bit)
    }

    /// Whether large parameters' states have 8 bits.
    pub fn is_8bit(self) -> bool {
        matches!(self, Self::Adamw8bit | Self::PagedAdamw8bit)
    }
}

/// `gradient_checkpointing`: which blocks keep their graph and which run again in the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Checkpointing", into = "Checkpointing")]
pub enum GradientCheckpointing {
    /// As many blocks keep their graph as the memory is estimated to hold.
    #[default]
    Auto,
    /// Every block runs again: least memory, about a third more time.
    Always,
    /// Every block keeps its graph.
    Never,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Checkpointing {
    Switch(bool),
    #[schemars(extend("enum" = ["auto"]))]
    Word(String),
}

impl TryFrom<Checkpointing> for GradientCheckpointing {
    type Error = String;
    fn try_from(written: Checkpointing) -> Result<Self, String> {
        match written {
            Checkpointing::Switch(true) => Ok(Self::Always),
            Checkpointing::Switch(false) => Ok(Self::Never),
            Checkpointing::Word(word) if word == "auto" => Ok(Self::Auto),
            Checkpointing::Word(word) => Err(format!(
                "`gradient_checkpointing`: wanted \"auto\", true or false, found `{word}`"
            )),
        }
    }
}

impl From<GradientCheckpointing> for Checkpointing {
    fn from(choice: GradientCheckpointing) -> Self {
        match choice {
            GradientCheckpointing::Auto => Self::Word("auto".into()),
            GradientCheckpointing::Always => Self::Switch(true),
            GradientCheckpointing::Never => Self::Switch(false),
        }
    }
}

/// How to train. Every option acts or is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of `[train]` of its own")]
pub struct TrainConfig {
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Whether a run that `output_dir` holds already may be thrown away.
    pub overwrite_output_dir: bool,
    /// Passes over the data; ignored if `max_steps` is set.
    pub num_train_epochs: f64,
    /// Optimiser steps; -1 to count epochs instead.
    pub max_steps: i64,
    /// Documents of a micro-batch, packed into rows by the data side.
    pub per_device_train_batch_size: usize,
    /// Micro-batches of an optimiser step. Equals one batch of all of them exactly.
    pub gradient_accumulation_steps: usize,
    /// The highest learning rate of the run.
    pub learning_rate: f64,
    /// Decoupled decay of every parameter but norms and biases.
    pub weight_decay: f64,
    /// The optimiser, and where it keeps its states.
    pub optim: Optim,
    /// Decay of the gradient's running mean.
    pub adam_beta1: f64,
    /// Decay of the squared gradient's running mean.
    pub adam_beta2: f64,
    /// What is added to the root of the squared gradient's mean.
    pub adam_epsilon: f64,
    /// Largest norm of the gradient over all parameters; 0 for any.
    pub max_grad_norm: f64,
    /// How the learning rate changes over the run.
    pub lr_scheduler_type: ScheduleType,
    /// Options of that schedule.
    pub lr_scheduler_kwargs: ScheduleOptions,
    /// Optimiser steps of the warm-up; below 1, a share of all steps.
    pub warmup_steps: f64,
    /// Share of all steps that the warm-up takes.
    pub warmup_ratio: f64,
    /// LoRA+: how many times faster the second factor of an adapter (and its vectors) learns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// Which blocks run again in the backward pass.
    pub gradient_checkpointing: GradientCheckpointing,
    /// Optimiser steps between log entries.
    pub logging_steps: usize,
    /// Whether step 1 is logged too.
    pub logging_first_step: bool,
    /// Where metrics are written besides `metrics.jsonl`.
    pub report_to: Vec<ReportTo>,
    /// When the evaluation files are measured.
    pub eval_strategy: EvalStrategy,
    /// Optimiser steps between evaluations: as `logging_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<usize>,
    /// Whether to evaluate before the first step.
    pub eval_on_start: bool,
    /// When checkpoints are saved.
    pub save_strategy: SaveStrategy,
    /// Optimiser steps between checkpoints: 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_steps: Option<usize>,
    /// How many checkpoints stay; the best and the newest always do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<usize>,
    /// Whether the run ends with its best checkpoint's weights. Each best evaluation is then saved.
    pub load_best_model_at_end: bool,
    /// The evaluation metric that says which is best: `loss`. `eval_loss` and `eval/loss` mean the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_for_best_model: Option<String>,
    /// Whether more is better: unless the metric is a loss or perplexity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greater_is_better: Option<bool>,
    /// Evaluations without a new best after which to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<usize>,
    /// By how much a metric must better the best to count for the patience.
    pub early_stopping_threshold: f64,
    /// Where every random choice of the run comes from.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            output_dir: "output".into(),
            overwrite_output_dir: false,
            num_train_epochs: 3.0,
            max_steps: -1,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            learning_rate: 5e-5,
            weight_decay: 0.0,
            optim: Optim::Adamw,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            lr_scheduler_type: ScheduleType::Linear,
            lr_scheduler_kwargs: ScheduleOptions::default(),
            warmup_steps: 0.0,
            warmup_ratio: 0.0,
            loraplus_lr_ratio: None,
            gradient_checkpointing: GradientCheckpointing::Auto,
            logging_steps: 10,
            logging_first_step: true,
            report_to: vec![ReportTo::Tensorboard, ReportTo::Markdown],
            eval_strategy: EvalStrategy::No,
            eval_steps: None,
            eval_on_start: false,
            save_strategy: SaveStrategy::Steps,
            save_steps: None,
            save_total_limit: None,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            seed: 42,
        }
    }
}

impl TrainConfig {
    /// Documents of one optimiser step: what the data side cuts steps by.
    pub fn documents_per_step(&self) -> usize {
        self.per_device_train_batch_size * self.gradient_accumulation_steps
    }

    /// Optimiser steps of the whole run.
    pub fn total_steps(&self, num_steps_per_epoch: usize) -> usize {
        usize::try_from(self.max_steps)
            .ok()
            .filter(|&steps| steps > 0)
            .unwrap_or((self.num_train_epochs * num_steps_per_epoch as f64).ceil() as usize)
    }

    /// Optimiser steps of the warm-up in a run of `total_steps`.
    pub fn num_warmup_steps(&self, total_steps: usize) -> usize {
        let share = |share: f64| (share * total_steps as f64).ceil() as usize;
        match self.warmup_steps {
            steps if steps >= 1.0 => steps.round() as usize,
            0.0 => share(self.warmup_ratio),
            steps => share(steps),
        }
    }

    /// The schedule of a run of `total_steps`.
    pub fn schedule(&self, total_steps: usize) -> Result<Schedule> {
        Schedule::new(
            self.lr_scheduler_type,
            &self.lr_scheduler_kwargs,
            self.learning_rate,
            self.num_warmup_steps(total_steps),
            total_steps,
        )
    }

    /// Optimiser steps between evaluations.
    pub fn eval_interval(&self) -> usize {
        self.eval_steps.unwrap_or(self.logging_steps)
    }

    /// Optimiser steps between checkpoints.
    pub fn save_interval(&self) -> usize {
        self.save_steps.unwrap_or(500)
    }

    /// Whether any option asks which evaluation was the best.
    pub fn tracks_best(&self) -> bool {
        self.load_best_model_at_end
            || self.metric_for_best_model.is_some()
            || self.early_stopping_patience.is_some()
            || self.save_strategy == SaveStrategy::Best
    }

    /// The metric that says which evaluation is best, as it is logged: `eval/loss`.
    pub fn best_metric(&self) -> String {
        let name = self.metric_for_best_model.as_deref().unwrap_or("loss");
        let name = name
            .strip_prefix("eval_")
            .or_else(|| name.strip_prefix("eval/"))
            .unwrap_or(name);
        format!("eval/{name}")
    }

    /// Whether more of [`Self::best_metric`] is better.
    pub fn more_is_better(&self) -> bool {
        let metric = self.best_metric();
        self.greater_is_better
            .unwrap_or(!(metric.ends_with("loss") || metric.ends_with("perplexity")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> TrainConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_resolved_table_reads_back_the_same() {
        let config = parse(
            "learning_rate = 2e-4\nlr_scheduler_type = \"cosine_with_min_lr\"\ngradient_checkpointing = true\n\
             report_to = []\nearly_stopping_patience = 2\neval_strategy = \"epoch\"\n\
             [lr_scheduler_kwargs]\nmin_lr_rate = 0.1\n",
        );
        assert_eq!(config.gradient_checkpointing, GradientCheckpointing::Always);
        config.validate().unwrap();
        assert_eq!(parse(&toml::to_string(&config).unwrap()), config);
        assert_eq!(
            parse(&toml::to_string(&TrainConfig::default()).unwrap()),
            TrainConfig::default()
        );
    }

    #[test]
    fn steps_and_warm_up_are_counted_as_transformers_counts_them() {
        let config = parse("num_train_epochs = 1.5\nwarmup_ratio = 0.03");
        assert_eq!(config.total_steps(7), 11);
        assert_eq!(config.num_warmup_steps(100), 3);
        assert_eq!(config.num_warmup_steps(101), 4);
        assert_eq!(parse("max_steps = 5").total_steps(7), 5);
        assert_eq!(parse("warmup_steps = 0.1").num_warmup_steps(50), 5);
    }

    #[test]
    fn metrics_go_by_any_of_their_names() {
        for (name, metric, more) in [
            ("loss", "eval/loss", false),
            ("eval_loss", "eval/loss", false),
            ("eval/sarcasm/accuracy", "eval/sarcasm/accuracy", true),
            ("perplexity", "eval/perplexity", false),
        ] {
            let config = parse(&format!("metric_for_best_model = \"{name}\""));
            assert_eq!((config.best_metric().as_str(), config.more_is_better()), (metric, more));
        }
    }

    #[test]
    fn unknown_keys_and_words_are_refused() {
        for (text, needle) in [
            ("learning_rat = 1.0", "learning_rat"),
            ("gradient_checkpointing = \"sometimes\"", "sometimes"),
            ("lr_scheduler_type = \"cosin\"", "cosin"),
        ] {
            let error = toml::from_str::<TrainConfig>(text).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
