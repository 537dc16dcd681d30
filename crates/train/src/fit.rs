//! The loop: step, log, evaluate, save, until the steps, the patience or the user say stop.
//!
//! Everything between two steps depends on the step's number and the state alone, so that a run resumed from any
//! checkpoint goes on as if it had never stopped.

mod between;
mod resume;

use std::sync::atomic::Ordering;
use std::time::Instant;

use events::Work;
use tch::{Device, Tensor};
use tensor_core::{CheckpointingPolicy, DropoutKey, LanguageModel, Objective, named_params};

use self::resume::{load, round_state};
use crate::metrics::Metrics;
use crate::run_dir::{COUNTED, MASTERS};
use crate::state::State;
use crate::step::accumulate;
use crate::{
    AdamW, AfterStep, Batches, Error, EvalStrategy, Hooks, Optimizer, Outcome, Report, Result, Schedule, Sparse,
    StateMemory, States, StepReport, TrainConfig, choose_plan, tensors,
};

/// The caller's optimiser states, or those in f32 where `optim` has them.
fn states(hooks: &mut Hooks, config: &TrainConfig) -> Result<Box<dyn States>> {
    match hooks.states.take() {
        Some(states) => Ok(states),
        None if config.optim.is_8bit() => Err(Error::NoEffect {
            option: "optim",
            why: "states in 8 bits come from the caller, who gave none".into(),
            hint: "give them with `Hooks::with_states`, or set it to \"adamw\"",
        }),
        None => Ok(Box::new(AdamW::new(StateMemory::of(config)?))),
    }
}

/// Steps after which every trainable parameter must have met a gradient.
const STEPS_TO_REACH_ALL: usize = 2;

/// Trains `model` on `objective` over `batches`, from the newest checkpoint if the hooks' folder resumes.
///
/// On an error, every checkpoint saved before it is whole.
pub fn fit<B>(
    model: &dyn LanguageModel,
    objective: &dyn Objective<Batch = B>,
    batches: &dyn Batches<B>,
    config: &TrainConfig,
    hooks: Hooks<'_>,
) -> Result<Report> {
    let mut run = Run::begin(model, batches, config, hooks)?;
    let outcome = run.train(model, &|run, key| {
        accumulate(model, objective, batches, &run.plan, (run.state.step, key)).map_err(|error| run.with_saved(error))
    })?;
    run.finish(outcome)
}

/// A run under way.
struct Run<'c, 'h> {
    config: &'c TrainConfig,
    hooks: Hooks<'h>,
    schedule: Schedule,
    plan: CheckpointingPolicy,
    optimizer: Optimizer,
    state: State,
    total: usize,
    metrics: Metrics,
    work: Work,
    device: Device,
    started: Instant,
    /// Steps that this process began after.
    first: usize,
    saved: Option<usize>,
    evaluated: Option<usize>,
}

type Gradients<'g> = dyn Fn(&Run, DropoutKey) -> Result<StepReport> + 'g;

impl<'c, 'h> Run<'c, 'h> {
    fn begin<B>(
        model: &dyn LanguageModel,
        batches: &dyn Batches<B>,
        config: &'c TrainConfig,
        mut hooks: Hooks<'h>,
    ) -> Result<Self> {
        config.validate()?;
        if config.eval_strategy != EvalStrategy::No && hooks.evaluate.is_none() {
            return Err(Error::NoEffect {
                option: "eval_strategy",
                why: "there are no evaluation data".into(),
                hint: "name some under `data.eval`, or set it to \"no\"",
            });
        }
        let num_steps_per_epoch = batches.num_steps_per_epoch();
        if num_steps_per_epoch == 0 {
            return Err(Error::NoData);
        }
        let total = config.total_steps(num_steps_per_epoch);
        let schedule = config.schedule(total)?;
        let states = states(&mut hooks, config)?;
        let mut optimizer = match hooks.sparse {
            Some(_) => Optimizer::of_any(model, config, states)?,
            None => Optimizer::new(model, config, states)?,
        };
        let device = match optimizer.params().first() {
            Some(param) => param.value.device(),
            None => named_params(model)
                .first()
                .map_or(Device::Cpu, |(_, param)| param.value().device()),
        };
        let resumed = hooks.dir.resume_from()?;
        let rounds = hooks.rounds;
        let state = if let Some(checkpoint) = &resumed {
            let state = load(
                checkpoint,
                model,
                &mut optimizer,
                rounds,
                (config.seed, num_steps_per_epoch),
            )?;
            if let Some(moved) = counted(hooks.after_step) {
                tensors::read_into(&checkpoint.path.join(COUNTED), &moved)?;
            }
            if let Some(sparse) = hooks.sparse {
                sparse.load(&checkpoint.path).map_err(|source| Error::Sparse {
                    what: "go on from its checkpoint",
                    source,
                })?;
            }
            state
        } else {
            let mut state = State::new(config.seed, num_steps_per_epoch);
            if let Some(rounds) = rounds {
                optimizer.redraw(model, &rounds.frozen(0), rounds.frozen_kind())?;
                state.rounds = Some(round_state(rounds, 0, &optimizer));
            }
            state
        };
        let changes = rounds.is_some_and(|rounds| rounds.round_of(total - 1, num_steps_per_epoch) > 0);
        if changes && config.load_best_model_at_end {
            return Err(Error::NoEffect {
                option: "load_best_model_at_end",
                why: "what trains changes during the run, so the best checkpoint's weights do not fit its end".into(),
                hint: "set it to false; each checkpoint holds the whole model, the best one too",
            });
        }
        if hooks.sparse.is_some() && config.load_best_model_at_end {
            return Err(Error::NoEffect {
                option: "load_best_model_at_end",
                why: "rows of a memory have no best step: each fact is trained until it is known".into(),
                hint: "set it to false",
            });
        }
        // Everything that could be refused was: what an earlier run left may go now.
        hooks.dir.claim()?;
        let evaluated = state
            .history
            .iter()
            .rev()
            .find(|entry| entry.is_evaluation())
            .map(|entry| entry.step);
        Ok(Self {
            config,
            schedule,
            plan: choose_plan(model, config.gradient_checkpointing, batches.longest_row(), device),
            optimizer,
            total,
            metrics: Metrics::open(hooks.dir, config, &state.history, state.step)?,
            work: hooks.events.resume("steps", total, state.step),
            device,
            started: Instant::now(),
            first: state.step,
            saved: resumed.map(|checkpoint| checkpoint.step),
            evaluated,
            state,
            hooks,
        })
    }

    fn train(&mut self, model: &dyn LanguageModel, gradients: &Gradients<'_>) -> Result<Outcome> {
        let seconds_before = self.state.seconds;
        loop {
            self.state.seconds = seconds_before + self.started.elapsed().as_secs_f64();
            if self.hooks.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) && self.state.step < self.total {
                let path = self.save()?;
                return Ok(Outcome::Interrupted {
                    step: self.state.step,
                    checkpoint: path,
                });
            }
            if self.is_evaluation_due() && self.evaluated != Some(self.state.step) {
                self.evaluate()?;
                continue;
            }
            let is_over = self.is_over();
            let gave_up = self.patience_is_up();
            if (is_over || gave_up) && self.state.window.steps > 0 {
                self.log()?;
            }
            if self.is_save_due(is_over || gave_up) {
                self.save()?;
            }
            if is_over {
                return Ok(Outcome::Completed);
            }
            if gave_up {
                return Ok(Outcome::StoppedEarly { step: self.state.step });
            }
            self.begin_round(model)?;
            self.step(gradients)?;
            self.state.seconds = seconds_before + self.started.elapsed().as_secs_f64();
            let is_first = self.state.step == 1 && self.config.logging_first_step;
            let is_last = self.state.step == self.total;
            if is_first || is_last || self.state.step.is_multiple_of(self.config.logging_steps) {
                self.log()?;
            }
        }
    }

    /// Whether every step was done, or nothing is left to learn.
    fn is_over(&self) -> bool {
        self.state.step >= self.total || self.hooks.sparse.is_some_and(Sparse::is_done)
    }

    /// Draws anew if the next step lies in another round.
    fn begin_round(&mut self, model: &dyn LanguageModel) -> Result<()> {
        let (Some(rounds), Some(now)) = (self.hooks.rounds, &self.state.rounds) else {
            return Ok(());
        };
        let round = rounds.round_of(self.state.step, self.state.num_steps_per_epoch);
        if round == now.round {
            return Ok(());
        }
        self.optimizer
            .redraw(model, &rounds.frozen(round), rounds.frozen_kind())?;
        self.state.rounds = Some(round_state(rounds, round, &self.optimizer));
        self.first = self.state.step;
        Ok(())
    }

    fn step(&mut self, gradients: &Gradients<'_>) -> Result<()> {
        let begun = Instant::now();
        let number = self.state.step + 1;
        let mut report = gradients(self, DropoutKey(self.config.seed))?;
        self.check_reach(number)?;
        let of_rows = self.hooks.sparse.map_or(0.0, Sparse::gradient_norm);
        let norm = self.optimizer.gradient_norm().hypot(of_rows);
        if !norm.is_finite() {
            let all = "all parameters together (the norm overflows)";
            return Err(Error::GradientNotFinite {
                step: number,
                parameter: self.optimizer.first_non_finite().unwrap_or(all).to_owned(),
                saved: self.hooks.dir.saved(),
            });
        }
        // As `torch.nn.utils.clip_grad_norm_`.
        let scale = match self.config.max_grad_norm {
            0.0 => 1.0,
            largest => (largest / (norm + 1e-6)).min(1.0),
        };
        let learning_rate = self.config.learning_rate * self.schedule.factor(self.state.step);
        let update = self.optimizer.update(learning_rate, scale);
        if let Some(sparse) = self.hooks.sparse {
            sparse.update(&update).map_err(|source| Error::Sparse {
                what: "move its rows",
                source,
            })?;
        }
        if let Some(after) = self.hooks.after_step {
            report.metrics.extend(after.after_step(&report.tallies));
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.note(report, norm, learning_rate, seconds);
        Ok(())
    }

    /// Refuses parameters that train in name only.
    fn check_reach(&self, number: usize) -> Result<()> {
        if number != self.first + STEPS_TO_REACH_ALL && number != self.total {
            return Ok(());
        }
        let missed = self.optimizer.without_gradient();
        if missed.is_empty() {
            return Ok(());
        }
        let more = if missed.len() > 3 { ", …" } else { "" };
        Err(Error::NoGradient {
            step: number,
            num: missed.len(),
            of: self.optimizer.params().len(),
            names: format!("`{}`{more}", missed[..missed.len().min(3)].join("`, `")),
        })
    }

    /// Leaves the final model and the run's record.
    fn finish(self, outcome: Outcome) -> Result<Report> {
        if !matches!(outcome, Outcome::Interrupted { .. }) {
            if let (true, Some(best)) = (self.config.load_best_model_at_end, &self.state.best) {
                let path = self.hooks.dir.checkpoint_path(best.step).join(MASTERS);
                tensors::read_into(&path, &self.optimizer.masters())?;
                if let Some(moved) = counted(self.hooks.after_step) {
                    let path = self.hooks.dir.checkpoint_path(best.step).join(COUNTED);
                    tensors::read_into(&path, &moved)?;
                }
            }
            self.hooks.dir.publish(|folder| (self.hooks.save_model)(folder))?;
            self.write_trainer_state(true)?;
        }
        Ok(Report::new(outcome, self.state, self.config, self.device))
    }

    /// An error that says what is safe on disk.
    fn with_saved(&self, error: Error) -> Error {
        match error {
            Error::LossNotFinite {
                step, row, loss, place, ..
            } => Error::LossNotFinite {
                step,
                row,
                loss,
                place,
                saved: self.hooks.dir.saved(),
            },
            other => other,
        }
    }
}

/// What moves by counting, if anything does.
fn counted(after: Option<&dyn AfterStep>) -> Option<Vec<(String, Tensor)>> {
    after.map(AfterStep::tensors).filter(|tensors| !tensors.is_empty())
}
