//! Golden vectors: what the reference implementations compute, kept as whole tensors, for tests only.
//!
//! `vectors/` is written by the Python files in `generate/` (`cargo xtask golden`), each of which
//! describes at its top the files and tensors it makes; Python is not needed to read them.
//!
//! ```
//! let swiglu = golden::Vectors::open("kernels/swiglu");
//! let (gate, up) = (swiglu.get("gate"), swiglu.get("up"));
//! golden::assert_close("silu(gate) * up", &(gate.silu() * up), &swiglu.get("y"), 1e-12, 0.0);
//! ```

mod close;
pub mod laws;
mod random;
mod skip;
mod vectors;

pub use close::assert_close;
pub use random::random;
pub use skip::{SKIPPED_TESTS, record_skip};
pub use vectors::{Vectors, json, vectors_dir};
