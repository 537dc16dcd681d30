//! One loop for every objective, blind to methods and to data.
//!
//! [`fit`] asks [`Batches`] for the rows of a step, lets the objective weigh and score each, walks the gradients back,
//! clips, and moves what trains. Everything that outlives the process lies in a [`RunDir`]: checkpoints that are whole
//! or not there, and enough state that a resumed run equals an uninterrupted one bit for bit.
//!
//! ```
//! use train::{TrainConfig, ScheduleType};
//!
//! let config = TrainConfig {
//!     learning_rate: 2e-4,
//!     lr_scheduler_type: ScheduleType::Linear,
//!     warmup_ratio: 0.1,
//!     ..TrainConfig::default()
//! };
//! config.validate()?;
//! let total = config.total_steps(30);
//! assert_eq!((total, config.num_warmup_steps(total)), (90, 9));
//! let schedule = config.schedule(total)?;
//! assert_eq!([0, 9, 90].map(|step| schedule.factor(step)), [0.0, 1.0, 0.0]);
//! # Ok::<(), train::Error>(())
//! ```

mod checks;
mod config;
mod schedule;

mod batches;
mod fit;
mod heat;
mod hooks;
mod step;

mod adamw;
mod optimizer;
mod plan;
mod rounds;
mod sparse;
mod state_memory;

mod after;

mod run_dir;
mod state;
mod tensors;

mod metrics;
mod tensorboard;
mod trainer_state;

mod chart;
mod report;

mod error;

pub use adamw::AdamW;
pub use after::{AfterStep, Tallies};
pub use batches::{Batches, Row};
pub use config::{EvalStrategy, GradientCheckpointing, Optim, ReportTo, SaveStrategy, TrainConfig};
pub use error::{BoxError, Error, Result};
pub use fit::fit;
pub use hooks::{Evaluate, Hooks, OnEntry, SaveModel};
pub use metrics::TIMING;
pub use optimizer::{Optimizer, States, Trained, Update};
pub use plan::{choose_plan, free_memory};
pub use report::{Outcome, Report, ReportText, Sample};
pub use rounds::Rounds;
pub use run_dir::{Checkpoint, RunDir, Start};
pub use schedule::{Ramp, Schedule, ScheduleOptions, ScheduleType};
pub use sparse::Sparse;
pub use state::{Best, Entry};
pub use state_memory::{StateMemory, StateTensor};
pub use step::StepReport;

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
