//! Flags that several verbs share.

mod calibration;
mod form;
mod machine;
mod model;
mod rows;

pub use calibration::CalibrationArgs;
pub use form::FormArgs;
pub use machine::MachineArgs;
pub use model::{ModelArgs, needs_language_model};
pub use rows::ReadArgs;
