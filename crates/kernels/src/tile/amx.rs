//! AMX: eight tile registers of 16 rows × 64 bytes, and `tdpbf16ps`, which multiplies 16×32 by 32×16 bf16 into f32.
//!
//! Rust's AMX intrinsics are not stable, its assembler knows the instructions. Linux grants a process the tile state on
//! request. The tile configuration belongs to the thread, and oneDNN uses it too, so a kernel loads its own when it
//! begins and releases it when it ends.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use half::bf16;

use super::Unit;

/// This thread's tile registers, configured as 16 rows × 64 bytes each; released when dropped.
pub(crate) struct Tiles {
    unit: Unit,
    // The configuration is this thread's.
    not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// Configures this thread's tiles if `unit` has any.
    pub(crate) fn set_up(unit: Unit) -> Self {
        #[cfg(target_arch = "x86_64")]
        if unit == Unit::Amx {
            #[repr(C, align(64))]
            struct Config {
                palette: u8,
                start_row: u8,
                reserved: [u8; 14],
                row_bytes: [u16; 16],
                rows: [u8; 16],
            }
            let mut config = Config {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                row_bytes: [0; 16],
                rows: [0; 16],
            };
            config.row_bytes[..8].fill(64);
            config.rows[..8].fill(16);
            // SAFETY: AMX was detected and permitted; the configuration is 64 valid bytes.
            unsafe {
                std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly));
            }
        }
        Self {
            unit,
            not_send: PhantomData,
        }
    }

    /// What multiplies.
    #[inline(always)]
    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.unit == Unit::Amx {
            // SAFETY: AMX was detected and permitted.
            unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) }
        }
    }
}

/// Whether the processor has bf16 tiles and the system lets this process use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn permitted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    if __cpuid(0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    let (has_bf16, has_tile) = (features >> 22 & 1 == 1, features >> 24 & 1 == 1);
    // SAFETY: a query of the kernel that changes this process's permissions only.
    has_bf16 && has_tile && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
}

/// Whether the processor has bf16 tiles and the system lets this process use them.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
pub(crate) fn permitted() -> bool {
    false
}

/// Operands of one 32 × 32 block of a product; strides in bytes.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) a: *const bf16,
    /// Between rows of A.
    pub(super) a_row: usize,
    /// Between steps of 32 columns of A.
    pub(super) a_step: usize,
    /// Two panels of B.
    pub(super) b: [*const bf16; 2],
    /// Steps of 32 along k, at least one.
    pub(super) steps: usize,
    pub(super) c: *mut f32,
    /// Between rows of C.
    pub(super) c_row: usize,
    /// Whether C is added to.
    pub(super) accumulate: bool,
}

/// One 32 × 32 block: four tiles of C stay in registers along k.
///
/// # Safety
/// [`Tiles`] are set up on this thread; the pointers cover 32 rows of A and C, and two panels of B, `steps` deep.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn multiply(block: Block) {
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
