//! The plain twins of all fused operators: libtorch's own, for any device and dtype, and for tests of equality.

pub use crate::adamw::reference::{adamw, square_sum};
pub use crate::dropout::reference::dropout;
pub use crate::rms_norm::reference::{add_rms_norm, rms_norm};
pub use crate::rope::reference::{rope, rope_qkv};
pub use crate::scale_columns::reference::scale_columns;
pub use crate::swiglu::reference::{gated, gated_packed};
