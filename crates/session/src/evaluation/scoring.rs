//! A loaded model as evaluation asks it: its decoder, with rows that choose their adapters by name.

use std::path::Path;

use align_dpo_ppo::reward::{self, RewardFunction};
use data::PromptForm;
use evaluate::{Answer, Drawing, Error, Judge, Result, Said, Scorer, Task, Verdict};
use methods::recipe;
use models::prompts::Form;
use serde_json::Value;
use tensor_core::{AdapterRouting, Documents, ModulePath, Parameters as _, Role};

use crate::Loaded;
use crate::adapters;
use crate::rewards::Speaker;

impl Scorer for Loaded {
    fn log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>> {
        self.model.log_probs(tokens, documents)
    }

    fn next_log_probs(&self, tokens: &[u32], documents: &Documents, candidates: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.model.next_log_probs(tokens, documents, candidates)
    }

    fn answer(&self, prompts: &[Vec<u32>], mixes: &[AdapterRouting], drawing: &Drawing) -> Result<Vec<Answer>> {
        self.model.answer(prompts, mixes, drawing)
    }

    fn prompt_form(&self) -> Option<PromptForm> {
        self.form.map(Form::of_rows)
    }

    fn max_positions(&self) -> Option<usize> {
        Some(self.model.max_positions())
    }

    fn judge(&self) -> Option<&dyn Judge> {
        Some(self)
    }

    fn mix(&self, chosen: Option<&Value>) -> Result<Option<AdapterRouting>, String> {
        let Some(names) = &self.adapters else { return Ok(None) };
        adapters::mix(names, chosen)
            .map(Some)
            .map_err(|error| format!("{error:#}"))
    }
}

impl Judge for Loaded {
    fn base_log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Option<Vec<f32>>> {
        let mut has_adapter = false;
        self.model.visit(&ModulePath::root(), &mut |_, param| {
            has_adapter |= matches!(param.role(), Role::Adapter | Role::AdapterOut);
        });
        match has_adapter {
            true => Ok(Some(self.model.base_log_probs(tokens, documents)?)),
            false => Ok(None),
        }
    }

    fn verdicts(&self, task: &Task, replies: &[Said]) -> Result<Vec<Verdict>> {
        let refused = |found: String| Error::Task {
            task: task.name.clone(),
            found: format!("`rewards`: {found}"),
            hint: "rewards are written as in a recipe of `objective.kind = \"ppo\"`".into(),
        };
        let mut functions: Vec<RewardFunction> = toml::Value::from(task.rewards.clone())
            .try_into()
            .map_err(|error: toml::de::Error| refused(error.message().to_owned()))?;
        recipe::find_beside(&mut functions, task.data.parent().unwrap_or(Path::new(""))).map_err(refused)?;
        let speaker = Speaker {
            model: &self.model,
            source: &self.source,
            tokenizer: &self.tokenizer,
        };
        let rewards = speaker
            .rewards(&functions, "opened")
            .map_err(|error| refused(format!("{error:#}")))?;
        let said: Vec<reward::Said> = replies
            .iter()
            .map(|said| reward::Said {
                prompt: &said.prompt,
                reply: &said.reply,
                tokens: &said.tokens,
                num_tokens: said.num_tokens,
                extra: &said.extra,
            })
            .collect();
        let verdict = |verdict: reward::Verdict| Verdict {
            parts: verdict.parts,
            score: verdict.score,
        };
        let waiting = format!(
            "`{}`: the rewards have not yet scored these {} replies",
            task.name,
            said.len()
        );
        let verdicts = self
            .source
            .events()
            .wait(&waiting, || rewards.judge(&said))
            .map_err(|error| match error {
                // What to do is the program's own, not how rewards are written.
                align_dpo_ppo::Error::Program { program, found, hint } => Error::Task {
                    task: task.name.clone(),
                    found: format!("reward program `{program}`: {found}"),
                    hint,
                },
                other => refused(other.to_string()),
            })?;
        Ok(verdicts.into_iter().map(verdict).collect())
    }
}
