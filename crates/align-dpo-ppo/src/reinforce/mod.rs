//! What a policy gradient is made of: advantages, clipped losses, penalties for leaving the reference.
//!
//! Numbers of one reply's tokens are slices; what a gradient goes through is a tensor. Shapes: t tokens.

mod advantages;
mod clip;
mod group;
mod kl;

pub use advantages::{Shift, advantages, returns, whiten};
pub use clip::{Clip, clip_fraction, policy_loss, value_loss};
pub use group::{GroupScale, group_advantages, has_no_spread, leave_one_out};
pub use kl::{AdaptiveKl, KlEstimator};
