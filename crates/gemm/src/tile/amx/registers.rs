//! AMX tile registers, through inline assembly: four of sums, two of rows, two of packed columns.
//!
//! All tiles are 16 rows of 64 bytes. `tmm0..=tmm3` hold a 32 × 32 block of f32 sums, from `clear` to `store`: every block of
//! assembly names the tiles that it writes, and no code of this program but such blocks is compiled for tile registers.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, chapter 18.
#![allow(unsafe_code)]

use super::Tiles;
use crate::tile::BLOCK;
use crate::unit::Unit;

/// This thread's tile registers for a product of one's own: sums are cleared, added to, and stored.
#[derive(Debug)]
pub struct TileSums {
    _tiles: Tiles,
}

/// A block of sums as it leaves the tiles: `[32, 32]` f32.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Sums(pub [f32; BLOCK * BLOCK]);

impl TileSums {
    /// Configures this thread's tiles; what their sums are is not said before [`Self::clear`].
    ///
    /// # Panics
    /// If [`Unit::best`] is not [`Unit::Amx`].
    pub fn set_up() -> Self {
        let tiles = Tiles::set_up();
        assert_eq!(tiles.unit(), Unit::Amx, "tile registers");
        Self { _tiles: tiles }
    }

    /// Clears the sums.
    pub fn clear(&self) {
        // SAFETY: the tiles are set up.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem)
            );
        }
    }

    /// Adds two row tiles times two column tiles, `steps` of each, all consecutive.
    ///
    /// # Safety
    /// Each pointer has `steps` tiles.
    pub unsafe fn add(&self, rows: [*const u8; 2], columns: [*const u8; 2], steps: usize) {
        if steps == 0 {
            return;
        }
        // SAFETY: the caller's.
        unsafe {
            std::arch::asm!(
                "2:",
                "tileloadd tmm4, [{a0} + {s}*1]",
                "tileloadd tmm6, [{b0} + {s}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {s}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {s}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {k}",
                "jnz 2b",
                a0 = inout(reg) rows[0] => _,
                a1 = inout(reg) rows[1] => _,
                b0 = inout(reg) columns[0] => _,
                b1 = inout(reg) columns[1] => _,
                k = inout(reg) steps => _,
                s = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
    }

    /// As [`Self::add`] with one column tile: the sums' left half.
    ///
    /// # Safety
    /// As [`Self::add`].
    pub unsafe fn add_narrow(&self, rows: [*const u8; 2], column: *const u8, steps: usize) {
        if steps == 0 {
            return;
        }
        // SAFETY: the caller's.
        unsafe {
            std::arch::asm!(
                "2:",
                "tileloadd tmm4, [{a0} + {s}*1]",
                "tileloadd tmm6, [{b0} + {s}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {s}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "dec {k}",
                "jnz 2b",
                a0 = inout(reg) rows[0] => _,
                a1 = inout(reg) rows[1] => _,
                b0 = inout(reg) column => _,
                k = inout(reg) steps => _,
                s = in(reg) 64usize,
                out("tmm0") _, out("tmm2") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack, readonly),
            );
        }
    }

    /// Adds one row tile times the two column tiles at `columns`, and, if `both`, times the next two into the lower sums.
    ///
    /// # Safety
    /// `row` has one tile, `columns` has two or four.
    pub unsafe fn add_one_row(&self, row: *const u8, columns: *const u8, both: bool) {
        // SAFETY: the caller's.
        unsafe {
            std::arch::asm!(
                "tileloadd tmm4, [{a} + {s}*1]",
                "tileloadd tmm6, [{b} + {s}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {s}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                a = in(reg) row,
                b = in(reg) columns,
                s = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
            if both {
                std::arch::asm!(
                    "tileloadd tmm6, [{b} + {s}*1 + 2048]",
                    "tdpbf16ps tmm2, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {s}*1 + 3072]",
                    "tdpbf16ps tmm3, tmm4, tmm7",
                    b = in(reg) columns,
                    s = in(reg) 64usize,
                    out("tmm2") _, out("tmm3") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly),
                );
            }
        }
    }

    /// Writes the sums.
    pub fn store(&self, sums: &mut Sums) {
        // SAFETY: 32 rows of 128 bytes.
        unsafe {
            std::arch::asm!(
                "tilestored [{c} + {s}*1], tmm0",
                "tilestored [{c} + {s}*1 + 64], tmm1",
                "tilestored [{c} + {s}*1 + 2048], tmm2",
                "tilestored [{c} + {s}*1 + 2112], tmm3",
                c = in(reg) sums.0.as_mut_ptr(),
                s = in(reg) 128usize,
                options(nostack),
            );
        }
    }
}
