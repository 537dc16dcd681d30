//! A sparser or smaller model: its parts taken out, and what it takes before and after.

mod measure;
mod parts;

pub use measure::Measured;
pub use parts::{By, Sizes, Structure, Taken};
