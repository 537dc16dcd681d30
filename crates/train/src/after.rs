//! The seam for what moves between two steps by another rule than a gradient, such as a router's bias by its counts.
//!
//! Why this form: layers count during the pass ([`tensor_core::SideLosses::count`]), a step hands the sums of all its rows
//! over, and what moves is saved beside the optimiser's states, so that a resumed run goes on bit for bit.

use std::collections::BTreeMap;

use tch::Tensor;
use tensor_core::ModulePath;

/// What each layer counted in a step, summed over its rows.
pub type Tallies = BTreeMap<ModulePath, Vec<f64>>;

/// What is done after each optimiser step.
pub trait AfterStep {
    /// Hears what layers counted and moves what it moves; the numbers returned are logged under their names.
    fn after_step(&self, tallies: &Tallies) -> Vec<(String, f64)>;

    /// The tensors that it moves, in place: saved with each checkpoint, and read back into them on resume.
    fn tensors(&self) -> Vec<(String, Tensor)>;
}
