//! AMX: eight tile registers of 16 rows × 64 bytes, and `tdpbf16ps`, which multiplies 16×32 by 32×16 bf16 into f32.
//!
//! Rust's AMX intrinsics are not stable, its assembler knows the instructions. Linux grants a process the tile state on
//! request. The tile configuration belongs to the thread, and oneDNN uses it too, so a kernel loads its own when it
//! begins; the outermost one of a thread releases it when it ends.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod block;
#[cfg(test)]
mod clobbers;
#[cfg(target_arch = "x86_64")]
mod registers;

use std::cell::Cell;
use std::marker::PhantomData;

use crate::unit::Unit;

#[cfg(target_arch = "x86_64")]
pub use registers::{Sums, TileSums};

thread_local! {
    /// How many [`Tiles`] this thread holds: a kernel may run another one inside.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// This thread's tile registers, configured as 16 rows × 64 bytes each; released when dropped.
#[derive(Debug)]
pub struct Tiles {
    unit: Unit,
    // The configuration is this thread's.
    not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// Configures this thread's tiles if the best unit has any.
    pub(crate) fn set_up() -> Self {
        let unit = Unit::best();
        HELD.set(HELD.get() + 1);
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
        HELD.set(HELD.get() - 1);
        #[cfg(target_arch = "x86_64")]
        if self.unit == Unit::Amx && HELD.get() == 0 {
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
