//! The file of a pipeline.
//!
//! ```toml
//! title = "From a base model to one that answers"
//! fetch = ["smollm2-135m-instruct"]        # models and data by name
//! suite = "suite.toml"                     # what every stage that leaves a model is measured by
//!
//! [[column]]                               # of the report, beside minutes and peak memory
//! key = "questions.exact_match"            # TASK.METRIC of the suite
//! heading = "questions right"
//! form = "share"                           # share, digits or gigabytes
//!
//! [[stage]]
//! name = "tuned"                           # its folder, too
//! about = "LoRA on the questions."
//! recipe = "…"                             # a recipe's text; it is trained into `{out}/run`
//! commands = ["merge --model m --adapter {out}/run --output {out}/model"]
//! model = ["--model", "{out}/model"]       # what is measured then; none for a stage that leaves no model
//! ```
//!
//! In every text `{out}` is the stage's folder, `{stages}` that of all stages, `{data}` that of the rows, `{seed}` the
//! seed.

use crate::read::Source;
use crate::study::{Form, Step};
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::BTreeSet;
use toml::Spanned;

/// A pipeline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pipeline {
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) about: String,
    #[serde(default)]
    pub(crate) fetch: Vec<String>,
    /// Whether `{data}` are the rows that `reproduce` makes; else it is the file's own folder.
    #[serde(default)]
    pub(crate) rows_of_studies: bool,
    /// In `{data}`.
    pub(crate) suite: String,
    #[serde(default)]
    pub(crate) seed: u64,
    pub(crate) column: Vec<Column>,
    pub(crate) stage: Vec<Stage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Column {
    /// TASK.METRIC.
    pub(crate) key: String,
    pub(crate) heading: String,
    form: ColumnForm,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ColumnForm {
    Share,
    Digits,
    Gigabytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    name: Spanned<String>,
    #[serde(default)]
    pub(crate) about: String,
    recipe: Option<String>,
    #[serde(default)]
    commands: Vec<String>,
    #[serde(default)]
    model: Vec<String>,
    /// Another suite than the pipeline's.
    suite: Option<String>,
}

impl Column {
    pub(crate) fn show(&self, value: f64) -> String {
        let form = match self.form {
            ColumnForm::Share => Form::Share,
            ColumnForm::Digits => Form::Digits(2),
            ColumnForm::Gigabytes => Form::Gigabytes,
        };
        form.show(value)
    }
}

impl Pipeline {
    /// Errors say where the file is wrong, and how.
    pub(crate) fn read(source: Source) -> Result<Self> {
        let pipeline: Self = source.parse()?;
        let mut names = BTreeSet::new();
        for stage in &pipeline.stage {
            let wrong =
                |what: &str| Err(source.error(stage.name.span().start, &format!("stage `{}`: {what}", stage.name())));
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if stage.name().is_empty() || !stage.name().chars().all(fits) {
                return wrong("wanted a name of letters, digits and dashes: it is a folder's, too");
            }
            if !names.insert(stage.name()) {
                return wrong("wanted a name of its own, found one that an earlier stage has");
            }
            if stage.recipe.is_none() && stage.commands.is_empty() && stage.model.is_empty() {
                return wrong("wanted a `recipe`, `commands` or a `model` to measure, found none");
            }
            if let Err(error) = stage.steps(&pipeline.suite) {
                return wrong(&error.to_string());
            }
        }
        if pipeline.stage.is_empty() {
            return Err(source.error(0, "wanted at least one `[[stage]]`, found none"));
        }
        Ok(pipeline)
    }
}

impl Stage {
    /// Its name, and its folder's.
    pub(crate) fn name(&self) -> &str {
        self.name.as_ref()
    }

    /// What is run, in order: the recipe, the commands, the suite.
    pub(crate) fn steps(&self, suite: &str) -> Result<Vec<Step>> {
        let known = |text: &str| text.replace("{stages}", "{study}");
        let mut steps = Vec::new();
        if let Some(recipe) = &self.recipe {
            steps.push(Step::Train {
                name: "run".to_owned(),
                recipe: known(recipe),
            });
        }
        for command in &self.commands {
            let Some(words) = shlex::split(command) else {
                bail!("`{command}`: wanted a command line, found an open quote");
            };
            steps.push(Step::Run {
                arguments: words.iter().map(|word| known(word)).collect(),
            });
        }
        if !self.model.is_empty() {
            steps.push(Step::Evaluate {
                name: "after".to_owned(),
                model: self.model.iter().map(|word| known(word)).collect(),
                suite: self.suite.clone().unwrap_or_else(|| suite.to_owned()),
            });
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    const TEXT: &str = "title = 't'\nsuite = 's.toml'\n[[column]]\nkey = 'a.b'\nheading = 'h'\nform = 'share'\n";

    fn read(stages: &str) -> Result<Pipeline> {
        let text = format!("{TEXT}{stages}");
        Pipeline::read(Source {
            file: "p.toml",
            text: &text,
        })
    }

    #[test]
    fn a_stage_is_trained_run_and_measured_in_this_order() {
        let pipeline = read("[[stage]]\nname = 'one'\nrecipe = 'x {stages}'\ncommands = [\"merge --model 'a b'\"]\nmodel = ['--model', '{out}']\n").unwrap();
        let steps = pipeline.stage[0].steps(&pipeline.suite).unwrap();
        assert!(
            matches!(&steps[0], Step::Train { recipe, .. } if recipe == "x {study}"),
            "{steps:?}"
        );
        assert!(
            matches!(&steps[1], Step::Run { arguments } if arguments[2] == "a b"),
            "{steps:?}"
        );
        assert!(
            matches!(&steps[2], Step::Evaluate { suite, .. } if suite == "s.toml"),
            "{steps:?}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_stage_is_told() {
        for (stages, wanted) in [
            ("", "missing field `stage`"),
            ("[[stage]]\nname = 'a b'\nmodel = ['m']\n", "wanted a name of letters"),
            ("[[stage]]\nname = 'a'\n", "wanted a `recipe`"),
            ("[[stage]]\nname = 'a'\nmodle = ['m']\n", "did you mean `model`?"),
            ("[[stage]]\nname = 'a'\ncommands = [\"merge 'm\"]\n", "open quote"),
            (
                "[[stage]]\nname = 'a'\nmodel = ['m']\n[[stage]]\nname = 'a'\nmodel = ['m']\n",
                "stage `a`: wanted a name of its own",
            ),
        ] {
            let error = format!("{:#}", read(stages).unwrap_err());
            assert!(error.contains("`p.toml:") && error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn the_houses_own_pipelines_are_such_files_with_recipes_that_are_toml() {
        let mut count = 0;
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines")).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let source = Source {
                file: "p.toml",
                text: &text,
            };
            let pipeline = Pipeline::read(source).unwrap();
            for stage in &pipeline.stage {
                stage.steps(&pipeline.suite).unwrap();
                if let Some(recipe) = &stage.recipe {
                    recipe
                        .parse::<toml::Table>()
                        .unwrap_or_else(|error| panic!("{}: {error}", stage.name()));
                }
            }
            count += 1;
        }
        assert!(count > 0);
    }
}
