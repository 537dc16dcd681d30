//! Losses over replies that people prefer, as functions of log-probabilities.
//!
//! Pairs: [`LossType`] over [`Pairs`]. Single replies that are good or bad: [`kto`]. Scores of pairs: [`bradley_terry`].

mod config;
mod loss;
mod odds;
mod pairs;
mod reward;
mod unpaired;

pub use config::{OrpoConfig, PreferenceConfig, Terms};
pub(crate) use loss::listed;
pub use loss::{LossType, Strength};
pub use odds::log_odds;
pub use pairs::{Pairs, Side};
pub use reward::bradley_terry;
pub use unpaired::{Desirability, baseline, kto};
