//! Learning from replies that the policy itself wrote: PPO with a critic, GRPO and RLOO without.
//!
//! [`write`] lets the policy reply, [`look_up`] asks the reference and the critic, [`teach_by_critic`] and
//! [`teach_by_group`] turn scores into advantages, and [`PolicyGradient`] learns from rows of [`Episode`]s.

mod config;
mod critic;
mod episode;
mod objective;
mod teach;

pub use config::{Estimator, GroupLoss, GrpoConfig, MovingReference, PpoConfig, ValueInit};
pub use critic::{ValueHead, WithValues};
pub use episode::{Episode, look_up, write};
pub use objective::{PolicyGradient, PolicyRow, TokenScale, ValueTerm};
pub use teach::{teach_by_critic, teach_by_group};
