//! Recipes: what a training run is, as a TOML file.
//!
//! `[model]` says what is trained, each `[[surgery]]` (in order) what is put into it, `[objective]` what is minimised,
//! `[data]` on what, `[train]` how. The resolved recipe, with every default, reproduces the run.

pub mod combinations;
mod data;
mod memory;
mod objective;
mod rewards;
mod schema;
mod surgery;

use std::path::{Path, PathBuf};

pub use ::recipe::{Document, listing, nearest};
use anyhow::{Result, bail};
pub use data::{DataConfig, Source};
use events::Events;
pub use memory::MemoryObjective;
use models::experts::RouterOptions;
use models::machine::Dtype;
pub use objective::{ClassifyConfig, DistillConfig, OBJECTIVES, Objective, ObjectiveConfig, SftConfig};
pub use rewards::find_beside;
pub use schema::schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use surgery::Surgery;
use train::TrainConfig;

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// What is trained.
    pub model: ModelConfig,
    /// What is put into it, in order.
    pub surgery: Vec<Surgery>,
    /// What replaces its output layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadConfig>,
    /// How experts are chosen, and their load evened out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterOptions>,
    /// What is minimised.
    pub objective: ObjectiveConfig,
    /// On what.
    pub data: DataConfig,
    /// How.
    pub train: TrainConfig,
    /// What `report.md` shows beside the curves.
    pub report: ReportConfig,
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A model directory, a `.gguf` file, a name in the local store, or a hub id.
    #[serde(alias = "model_name_or_path", alias = "base_model")]
    #[schemars(extend("x-aliases" = ["model_name_or_path", "base_model"]))]
    pub name_or_path: String,
    /// The branch, tag or commit of a hub id: `main`.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "model_revision")]
    #[schemars(extend("x-aliases" = ["model_revision"]))]
    pub revision: Option<String>,
    /// The number format to compute in; `auto` is the one that this machine multiplies faster (`finetune doctor`).
    #[serde(default, alias = "torch_dtype")]
    #[schemars(extend("x-aliases" = ["torch_dtype"]))]
    pub dtype: Dtype,
    /// Where to compute: `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "auto")]
    pub device: String,
    /// `chatml`, or a Jinja file, instead of the model's own chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

impl ModelConfig {
    /// Opens the model, with the chat template that is named.
    pub fn open(&self, events: &Events) -> Result<models::Source> {
        let source = models::Source::open_at(&self.name_or_path, self.revision.as_deref(), events)?;
        match &self.chat_template {
            Some(template) => source.with_chat_template(template),
            None => Ok(source),
        }
    }
}

/// `[head]`: a new output layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HeadConfig {
    /// A class a document.
    Classification(ClassificationHead),
}

/// Options of a classification head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassificationHead {
    /// Names of the classes, in the order of their numbers; those of the data if empty.
    pub labels: Vec<String>,
    /// How many classes there are: for labels that are numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_labels: Option<usize>,
}

/// `[report]`: samples, and what was forgotten, before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReportConfig {
    /// How many prompts of the evaluation data (the training data if there are none) are answered before and after.
    pub samples: usize,
    /// Further prompts that are answered before and after.
    pub prompts: Vec<String>,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// Whether a memory's facts, and the questions of the evaluation data, are all asked before and after, and the facts'
    /// experts looked up again.
    pub recall: bool,
    /// A general text (`.txt`, or rows with `text`) whose perplexity is measured before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<PathBuf>,
}

impl Default for ReportConfig {
    fn default() -> Self {
        Self {
            samples: 3,
            prompts: Vec::new(),
            max_new_tokens: 64,
            recall: true,
            forgetting: None,
        }
    }
}

const SECTIONS: [&str; 8] = [
    "model",
    "surgery",
    "head",
    "router",
    "objective",
    "data",
    "train",
    "report",
];

impl Recipe {
    /// Reads `path` with overrides (`train.seed=1`), checks it, and resolves every path.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::from_document(&Document::read(path, overrides)?)
    }

    /// As [`Self::read`], of a text that is already there; `path` says where it stood.
    pub fn parse(path: &Path, text: String, overrides: &[String]) -> Result<Self> {
        Self::from_document(&Document::parse(path, text, overrides)?)
    }

    fn from_document(document: &Document) -> Result<Self> {
        let recipe = Self::unchecked(document)?;
        recipe.check(document)?;
        Ok(recipe)
    }

    /// The recipe of `document`, every section right in itself, with every path found; whether the sections go together
    /// is not asked.
    pub fn unchecked(document: &Document) -> Result<Self> {
        if let Some(key) = document.keys().find(|key| !SECTIONS.contains(key)) {
            let wanted = listing(SECTIONS.into_iter());
            return Err(document.error(
                key,
                &format!("no such section; wanted one of {wanted}"),
                nearest(key, SECTIONS.into_iter()),
            ));
        }
        let Some(mut model) = document.section::<ModelConfig>("model", None)? else {
            bail!(
                "`{}`: `[model]` is missing\nhint: add `[model]` with `name_or_path = \"…\"`",
                document.path().display()
            );
        };
        let Some(mut data) = document.section::<DataConfig>("data", None)? else {
            bail!(
                "`{}`: `[data]` is missing\nhint: add `[data]` with `train = [{{ path = \"…\" }}]`",
                document.path().display()
            );
        };
        let mut train: TrainConfig = document.section("train", None)?.unwrap_or_default();
        train
            .validate()
            .map_err(|error| anyhow::anyhow!("`{}`: {error}", document.path().display()))?;
        let mut objective = objective::read(document)?;
        let head = if document.table("head")?.is_some() {
            document.kind("head", &["classification"])?;
            let head = document.section("head", Some("kind"))?.unwrap_or_default();
            Some(HeadConfig::Classification(head))
        } else {
            None
        };
        let router: Option<RouterOptions> = document.section("router", None)?;
        if let Some(Err((key, what))) = router.as_ref().map(RouterOptions::check) {
            return Err(document.error(&format!("router.{key}"), &what, None));
        }
        let places = ::recipe::Places::of(document.path());
        let surgery = surgery::read(document, train.seed, &places)?;
        model.name_or_path = places.model(&model.name_or_path);
        model.chat_template = model.chat_template.map(|template| places.template(template));
        data.resolve(document, &places)?;
        objective.resolve(document, &places)?;
        train.output_dir = std::path::absolute(&train.output_dir).unwrap_or(train.output_dir);
        let mut report: ReportConfig = document.section("report", None)?.unwrap_or_default();
        if let Some(path) = &mut report.forgetting {
            *path = found(document, &places, "report.forgetting", path)?;
        }
        Ok(Self {
            model,
            surgery,
            head,
            router,
            objective,
            data,
            train,
            report,
        })
    }

    /// Refuses sections that do not go together.
    fn check(&self, document: &Document) -> Result<()> {
        combinations::check(self, document)?;
        memory::check(self, document)?;
        match (&self.objective, &self.head) {
            (ObjectiveConfig::Classify(_) | ObjectiveConfig::Reward(_), _) if self.report.forgetting.is_some() => {
                let what = "a classifier or reward model has no perplexity\nhint: remove it, or use `objective.kind = \"sft\"`";
                Err(document.error("report.forgetting", what, None))
            }
            (ObjectiveConfig::Classify(_), _) | (_, None) => Ok(()),
            (objective, Some(HeadConfig::Classification(_))) => {
                let what = format!(
                    "a classification head is not trained by `objective.kind = \"{}\"`\nhint: use `objective.kind = \"classify\"`, or remove `[head]`",
                    objective.kind()
                );
                Err(document.error("head", &what, None))
            }
        }?;
        self.check_rollouts(document)?;
        let has_baseline =
            matches!(&self.objective, ObjectiveConfig::Kto(config) if config.loss_type == align_dpo_ppo::KtoLoss::Kto);
        if has_baseline && self.train.documents_per_step() < 2 {
            let what = "KTO's baseline pairs each prompt of a step with another one's reply: wanted a step of at least 2 documents, found 1\nhint: a larger batch or `train.gradient_accumulation_steps`, or `objective.loss_type = \"apo_zero_unpaired\"`, which has no baseline";
            return Err(document.error("train.per_device_train_batch_size", what, None));
        }
        Ok(())
    }

    /// Refuses steps that hold no whole groups, and options of the data that rollouts have no use for.
    fn check_rollouts(&self, document: &Document) -> Result<()> {
        if !self.objective.has_rollouts() {
            return Ok(());
        }
        if let ObjectiveConfig::Grpo(config) = &self.objective {
            let replies = self.train.documents_per_step() * config.steps_per_generation;
            if !replies.is_multiple_of(config.num_generations) {
                let what = format!(
                    "wanted a divisor of a rollout's {replies} replies (documents a step times `steps_per_generation`), found {}\n\
                     hint: change it, or `train.per_device_train_batch_size`",
                    config.num_generations
                );
                return Err(document.error("objective.num_generations", &what, None));
            }
        }
        let without_effect = [
            ("group_by_length", self.data.group_by_length),
            ("drop_last", self.data.drop_last),
        ];
        match without_effect.into_iter().find(|(_, set)| *set) {
            Some((key, _)) => {
                let what = "wanted nothing, found `true`, which has no effect where the model writes the replies itself\nhint: remove it";
                Err(document.error(&format!("data.{key}"), what, None))
            }
            None => Ok(()),
        }
    }

    /// The key that a flag such as `--max-steps` would be, with its section: `train.max_steps`.
    pub fn key_of_flag(flag: &str) -> Option<String> {
        let name = flag.trim_start_matches('-').replace('-', "_");
        let sections = [
            ("train", ::recipe::keys_of::<TrainConfig>()),
            ("data", ::recipe::keys_of::<DataConfig>()),
            ("model", ::recipe::keys_of::<ModelConfig>()),
            ("report", ::recipe::keys_of::<ReportConfig>()),
        ];
        let section = sections.iter().find(|(_, fields)| fields.contains(&name))?;
        Some(format!("{}.{name}", section.0))
    }

    /// The names of the classes, if the recipe lists them.
    pub fn labels(&self) -> Option<Vec<String>> {
        let Some(HeadConfig::Classification(head)) = &self.head else {
            return None;
        };
        match head.num_labels {
            _ if !head.labels.is_empty() => Some(head.labels.clone()),
            Some(count) => Some((0..count).map(|label| label.to_string()).collect()),
            None => None,
        }
    }

    /// How experts are chosen: the model's own way where the recipe says nothing.
    pub fn router_options(&self) -> RouterOptions {
        self.router.clone().unwrap_or_default()
    }

    /// As TOML, with every default.
    pub fn to_toml(&self) -> Result<String> {
        Ok(format!(
            "# The recipe of this run, with every default: it reproduces the run.\n\n{}",
            toml::to_string_pretty(self)?
        ))
    }

    /// Where the run is written.
    pub fn output_dir(&self) -> &PathBuf {
        &self.train.output_dir
    }
}

/// The data file that the key `at` names.
fn found(document: &Document, places: &::recipe::Places, at: &str, path: &Path) -> Result<PathBuf> {
    let found = places.data(&path.display().to_string());
    found.ok_or_else(|| document.error(at, &format!("no such file: `{}`", path.display()), None))
}

fn auto() -> String {
    "auto".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[model]
base_model = "some-model"

[[surgery]]
kind = "lora"
r = 4
target_modules = ["q_proj"]

[objective]
kind = "sft"

[data]
train = [{ path = "rows.jsonl", weight = 2.0 }]

[train]
seed = 7
learning_rate = 1e-3
output_dir = "out"
"#;

    fn read(text: &str, overrides: &[&str]) -> Result<Recipe> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows.jsonl"), "{}").unwrap();
        let path = folder.path().join("r.toml");
        std::fs::write(&path, text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Recipe::read(&path, &overrides)
    }

    #[test]
    fn a_flag_that_is_a_key_is_known() {
        for (flag, key) in [
            ("--max-steps", Some("train.max_steps")),
            ("--learning_rate", Some("train.learning_rate")),
            ("--max-length", Some("data.max_length")),
            ("--max-stepz", None),
            ("--resume", None),
        ] {
            assert_eq!(Recipe::key_of_flag(flag).as_deref(), key, "{flag}");
        }
    }

    #[test]
    fn a_resolved_recipe_reads_back_as_itself() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows.jsonl"), "{}").unwrap();
        let path = folder.path().join("r.toml");
        std::fs::write(&path, TEXT).unwrap();
        let recipe = Recipe::read(&path, &[]).unwrap();
        assert!(Path::new(&recipe.data.train[0].path).is_absolute());
        let lora = recipe.surgery[0].low_rank().unwrap();
        assert_eq!((lora.r, lora.seed), (4, 7));
        let again = folder.path().join("again.toml");
        std::fs::write(&again, recipe.to_toml().unwrap()).unwrap();
        assert_eq!(Recipe::read(&again, &[]).unwrap(), recipe);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            (
                "[trian]\n",
                &[],
                &["`trian`", "no such section", "did you mean `train`?"],
            ),
            ("", &["surgery.0.rr=3"], &["`surgery.0.rr`", "did you mean `r`?"]),
            ("", &["surgery.0.kind=lra"], &["did you mean `lora`?"]),
            (
                "",
                &["objective.kind=dpp"],
                &["`objective.kind`", "`sft`, `classify`, `distill`"],
            ),
            ("", &["train.learning_rate=-1"], &["`train.learning_rate`", "above 0"]),
            (
                "",
                &["data.train.0.path=nowhere.jsonl"],
                &["`nowhere.jsonl`", "no such file"],
            ),
            ("[head]\nkind = \"classification\"\n", &[], &["`head`", "classify"]),
            ("", &["model.dtype=f16"], &["`model.dtype`", "found `f16`"]),
            ("", &["data.max_length=\"x\""], &["`data.max_length`", "wanted"]),
        ];
        for (more, overrides, wanted) in cases {
            let error = format!("{:#}", read(&format!("{TEXT}\n{more}"), overrides).unwrap_err());
            for part in wanted {
                assert!(error.contains(part), "`{part}` in: {error}");
            }
        }
    }

    #[test]
    fn a_recipe_without_surgery_is_told_what_to_add() {
        let text = TEXT.replace(
            "[[surgery]]\nkind = \"lora\"\nr = 4\ntarget_modules = [\"q_proj\"]\n",
            "",
        );
        let error = read(&text, &[]).unwrap_err().to_string();
        assert!(
            error.contains("kind = \"lora\"") && error.contains("kind = \"full\""),
            "{error}"
        );
    }
}
