//! One block of a product on tile registers.
#![allow(unsafe_code)]

use half::bf16;

/// Operands of one 32 × 32 block of a product; strides in bytes.
#[derive(Clone, Copy)]
pub(in crate::tile) struct Block {
    pub(in crate::tile) a: *const bf16,
    /// Between rows of A.
    pub(in crate::tile) a_row: usize,
    /// Between steps of 32 columns of A.
    pub(in crate::tile) a_step: usize,
    /// Two panels of B.
    pub(in crate::tile) b: [*const bf16; 2],
    /// Steps of 32 along k, at least one.
    pub(in crate::tile) steps: usize,
    pub(in crate::tile) c: *mut f32,
    /// Between rows of C.
    pub(in crate::tile) c_row: usize,
    /// Whether C is added to.
    pub(in crate::tile) accumulate: bool,
}

/// One 32 × 32 block: four tiles of C stay in registers along k.
///
/// # Safety
/// [`super::Tiles`] are set up on this thread; the pointers cover 32 rows of A and C, and two panels of B, `steps` deep.
#[inline(always)]
pub(in crate::tile) unsafe fn multiply(block: Block) {
    // SAFETY: the caller's.
    unsafe {
        std::arch::asm!(
            "test {accumulate:e}, {accumulate:e}",
            "jnz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{c0} + {c_row}*1]",
            "tileloadd tmm1, [{c0} + {c_row}*1 + 64]",
            "tileloadd tmm2, [{c1} + {c_row}*1]",
            "tileloadd tmm3, [{c1} + {c_row}*1 + 64]",
            "3:",
            "tileloadd tmm6, [{b0} + {b_row}*1]",
            "tileloadd tmm4, [{a0} + {a_row}*1]",
            "tileloadd tmm7, [{b1} + {b_row}*1]",
            "tileloadd tmm5, [{a1} + {a_row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, {a_step}",
            "add {a1}, {a_step}",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 3b",
            "tilestored [{c0} + {c_row}*1], tmm0",
            "tilestored [{c0} + {c_row}*1 + 64], tmm1",
            "tilestored [{c1} + {c_row}*1], tmm2",
            "tilestored [{c1} + {c_row}*1 + 64], tmm3",
            accumulate = in(reg) usize::from(block.accumulate),
            a0 = inout(reg) block.a => _,
            a1 = inout(reg) block.a.byte_add(16 * block.a_row) => _,
            a_row = in(reg) block.a_row,
            a_step = in(reg) block.a_step,
            b0 = inout(reg) block.b[0] => _,
            b1 = inout(reg) block.b[1] => _,
            b_row = in(reg) 64usize,
            steps = inout(reg) block.steps => _,
            c0 = in(reg) block.c,
            c1 = in(reg) block.c.byte_add(16 * block.c_row),
            c_row = in(reg) block.c_row,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
