//! Products with packed matrices on AMX tile registers.

mod outer;
mod product;

pub(super) use outer::outer;
pub(super) use product::product;

/// Bytes of a tile of operands: 16 rows of 32 bf16.
const TILE_BYTES: usize = 1024;
