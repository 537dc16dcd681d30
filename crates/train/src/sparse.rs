//! The seam for what trains without being a parameter: rows of tables whose gradient no tensor could hold.
//!
//! Why this form: such rows collect their gradients in the backward pass, as parameters do, and move with the same
//! update; the loop needs their norm to clip all gradients together, and a place in its checkpoints. Whoever holds them
//! also knows when there is nothing left to learn.

use std::path::Path;

use crate::{BoxError, Update};

/// What a run trains besides parameters.
pub trait Sparse {
    /// The Euclidean norm of the step's gradients.
    fn gradient_norm(&self) -> f64;

    /// Moves by the step's gradients, and forgets them: the step is over.
    fn update(&self, update: &Update) -> Result<(), BoxError>;

    /// Whether nothing is left to learn: the run is then completed, whatever its steps.
    fn is_done(&self) -> bool;

    /// Writes what going on needs into a checkpoint's folder.
    fn save(&self, folder: &Path) -> Result<(), BoxError>;

    /// Goes on from a checkpoint's folder.
    fn load(&self, folder: &Path) -> Result<(), BoxError>;
}
