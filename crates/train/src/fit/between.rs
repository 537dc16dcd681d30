//! What happens between two steps: noting, logging, evaluating, saving.

use std::path::PathBuf;

use events::Event;
use serde_json::{Map, Value, json};
use tensor_core::device;

use super::{Run, counted};
use crate::run_dir::{COUNTED, MASTERS, OPTIMIZER, STATE};
use crate::{Best, Checkpoint, Entry, Error, EvalStrategy, Result, SaveStrategy, StepReport, tensors, trainer_state};

impl Run<'_, '_> {
    /// Adds a step to the state and the sums.
    pub(super) fn note(&mut self, report: StepReport, norm: f64, learning_rate: f64, seconds: f64) {
        let state = &mut self.state;
        state.step += 1;
        state.tokens += report.num_tokens;
        state.total_loss += report.loss;
        state.step_seconds += seconds;
        let window = &mut state.window;
        window.steps += 1;
        window.loss += report.loss;
        window.tokens += report.num_tokens;
        window.seconds += seconds;
        window.learning_rate = learning_rate;
        window.grad_norm = norm;
        for (name, value) in report.metrics {
            *window.metrics.entry(name).or_default() += value;
        }
        for (name, (sum, count)) in report.ratios {
            let ratio = window.ratios.entry(name).or_default();
            *ratio = (ratio.0 + sum, ratio.1 + count);
        }
        let speed = report.num_tokens as f64 / seconds.max(1e-9);
        let memory = device::peak_memory(self.device)
            .map_or_else(String::new, |bytes| format!("  {:.2} GB", bytes as f64 / 1e9));
        self.work
            .step(format!("loss {:.4}  {speed:.0} tokens/s{memory}", report.loss));
    }

    /// Logs the means since the last entry.
    pub(super) fn log(&mut self) -> Result<()> {
        let window = std::mem::take(&mut self.state.window);
        let steps = window.steps as f64;
        let mut values = Map::new();
        values.insert("loss".into(), json!(window.loss / steps));
        values.insert("learning_rate".into(), json!(window.learning_rate));
        values.insert("grad_norm".into(), json!(window.grad_norm));
        for (name, sum) in &window.metrics {
            values.insert(name.clone(), json!(sum / steps));
        }
        for (name, (sum, count)) in window.ratios.iter().filter(|(_, (_, count))| *count > 0.0) {
            values.insert(name.clone(), json!(sum / count));
        }
        values.insert("tokens".into(), json!(self.state.tokens));
        values.insert(
            "tokens_per_second".into(),
            json!(window.tokens as f64 / window.seconds.max(1e-9)),
        );
        if let Some(bytes) = device::peak_memory(self.device) {
            values.insert("peak_memory_bytes".into(), json!(bytes));
        }
        values.insert("seconds".into(), json!(self.state.seconds));
        self.enter(values)
    }

    pub(super) fn enter(&mut self, values: Map<String, Value>) -> Result<()> {
        let entry = Entry {
            step: self.state.step,
            epoch: self.state.epoch(),
            values,
        };
        self.metrics.write(self.hooks.dir, &entry)?;
        if let Some(on_entry) = &mut self.hooks.on_entry {
            on_entry(&entry);
        }
        self.hooks.events.tell(|| entry.as_event());
        self.state.history.push(entry);
        Ok(())
    }

    pub(super) fn is_evaluation_due(&self) -> bool {
        let step = self.state.step;
        let is_last = self.is_over();
        match self.config.eval_strategy {
            _ if self.hooks.evaluate.is_none() => false,
            _ if step == 0 => self.config.eval_on_start,
            EvalStrategy::No => false,
            EvalStrategy::Steps => is_last || step.is_multiple_of(self.config.eval_interval()),
            EvalStrategy::Epoch => is_last || step.is_multiple_of(self.state.num_steps_per_epoch),
        }
    }

    pub(super) fn evaluate(&mut self) -> Result<()> {
        let step = self.state.step;
        self.evaluated = Some(step);
        let Some(evaluate) = &mut self.hooks.evaluate else {
            return Ok(());
        };
        self.work.say("evaluating");
        let measured = evaluate(step).map_err(|source| Error::Evaluation { step, source })?;
        let values: Map<String, Value> = measured
            .into_iter()
            .map(|(name, value)| {
                let name = if name.starts_with("eval/") {
                    name
                } else {
                    format!("eval/{name}")
                };
                (name, json!(value))
            })
            .collect();
        self.enter(values.clone())?;
        if step > 0 && self.config.tracks_best() && self.note_best(&values)? {
            let keeps = self.config.load_best_model_at_end || self.config.save_strategy == SaveStrategy::Best;
            if keeps {
                self.save()?;
            }
        }
        Ok(())
    }

    /// Compares an evaluation with the best; whether it is the new one.
    pub(super) fn note_best(&mut self, values: &Map<String, Value>) -> Result<bool> {
        let metric = self.config.best_metric();
        let Some(value) = values.get(&metric) else {
            return Err(Error::NoMetric {
                wanted: metric,
                found: values
                    .keys()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        };
        // A metric that is no number is logged as null and never the best.
        let value = value.as_f64().unwrap_or(f64::NAN);
        let gain = match &self.state.best {
            _ if value.is_nan() => f64::NEG_INFINITY,
            None => f64::INFINITY,
            Some(best) if self.config.more_is_better() => value - best.value,
            Some(best) => best.value - value,
        };
        if gain > self.config.early_stopping_threshold {
            self.state.evaluations_without_improvement = 0;
        } else {
            self.state.evaluations_without_improvement += 1;
        }
        let is_best = gain > 0.0;
        if is_best {
            self.state.best = Some(Best {
                metric,
                value,
                step: self.state.step,
            });
        }
        Ok(is_best)
    }

    pub(super) fn patience_is_up(&self) -> bool {
        self.config
            .early_stopping_patience
            .is_some_and(|patience| self.state.evaluations_without_improvement >= patience)
    }

    pub(super) fn is_save_due(&self, is_end: bool) -> bool {
        let step = self.state.step;
        let is_due = match self.config.save_strategy {
            SaveStrategy::No | SaveStrategy::Best => false,
            SaveStrategy::Steps => is_end || step.is_multiple_of(self.config.save_interval()),
            SaveStrategy::Epoch => is_end || step.is_multiple_of(self.state.num_steps_per_epoch),
        };
        is_due && step > 0 && self.saved != Some(step)
    }

    pub(super) fn save(&mut self) -> Result<PathBuf> {
        let step = self.state.step;
        let dir = self.hooks.dir;
        if self.saved == Some(step) {
            return Ok(dir.checkpoint_path(step));
        }
        self.work.say("saving");
        let Checkpoint { path, .. } = dir.save(step, |folder| {
            (self.hooks.save_model)(folder)?;
            tensors::write(&folder.join(MASTERS), &self.optimizer.masters())?;
            tensors::write(&folder.join(OPTIMIZER), &self.optimizer.states())?;
            if let Some(moved) = counted(self.hooks.after_step) {
                tensors::write(&folder.join(COUNTED), &moved)?;
            }
            if let Some(sparse) = self.hooks.sparse {
                sparse.save(folder)?;
            }
            let history = trainer_state::text(&self.state, self.config, dir.path(), false);
            std::fs::write(folder.join("trainer_state.json"), history)?;
            std::fs::write(folder.join(STATE), serde_json::to_vec_pretty(&self.state)?)?;
            Ok(())
        })?;
        self.saved = Some(step);
        if let Some(limit) = self.config.save_total_limit {
            dir.rotate(limit, self.state.best.as_ref().map(|best| best.step))?;
        }
        self.write_trainer_state(false)?;
        self.hooks.events.tell(|| Event::Saved {
            step,
            path: path.clone(),
        });
        Ok(path)
    }

    pub(super) fn write_trainer_state(&self, is_finished: bool) -> Result<()> {
        let dir = self.hooks.dir;
        let text = trainer_state::text(&self.state, self.config, dir.path(), is_finished);
        dir.write_file("trainer_state.json", text.as_bytes())
    }
}
