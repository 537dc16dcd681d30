//! Packed products without tile registers: blocks of as many sums as the vector registers hold, rows read in place.

mod outer;
mod product;

pub(super) use outer::outer;
pub(super) use product::product;
