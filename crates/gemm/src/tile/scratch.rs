//! Memory that a thread keeps between kernels, so that none allocates while it works.
#![allow(unsafe_code)]

use std::cell::RefCell;

/// A cache line, which tile loads want to begin at.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A pool of aligned memory.
#[derive(Default)]
pub struct Pool {
    lines: Vec<Line>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Lines that `n` numbers of `T` take of a pool.
const fn lines<T>(n: usize) -> usize {
    n.checked_mul(size_of::<T>())
        .expect("scratch memory of a size")
        .div_ceil(64)
}

/// Hands out slices of a pool, one after the other.
pub struct Scratch<'a> {
    rest: &'a mut [Line],
}

impl<'a> Scratch<'a> {
    /// The next `n` numbers, aligned to 64 bytes, of unspecified content.
    ///
    /// # Panics
    /// If the plan asked for less.
    pub fn take<T: Plain>(&mut self, n: usize) -> &'a mut [T] {
        let (mine, rest) = std::mem::take(&mut self.rest).split_at_mut(lines::<T>(n));
        self.rest = rest;
        // SAFETY: initialised, aligned memory of at least `n` numbers, whose every bit pattern is valid.
        unsafe { std::slice::from_raw_parts_mut(mine.as_mut_ptr().cast::<T>(), n) }
    }
}

/// Numbers whose every bit pattern is valid.
///
/// # Safety
/// As it says, and an alignment that divides 64.
pub unsafe trait Plain: Copy {}
// SAFETY: any bits are a number.
unsafe impl Plain for f32 {}
// SAFETY: any bits are a number.
unsafe impl Plain for half::bf16 {}

/// How much scratch a kernel needs.
#[derive(Clone, Copy, Default)]
pub struct Need(usize);

impl Need {
    /// Adds `n` numbers.
    #[must_use]
    pub fn and<T: Plain>(self, n: usize) -> Self {
        Self(self.0 + lines::<T>(n))
    }
}

/// This thread's scratch memory while a kernel holds it; a second one at the same time has memory of its own.
///
/// It is a value and not a closure's argument: a kernel's body must stay inside the function whose instruction set it
/// is compiled for, and closures that are passed on do not.
pub struct Held(Pool);

/// Takes this thread's memory, at least as much as `need`.
pub fn hold(need: Need) -> Held {
    let mut pool = POOL.take();
    if pool.lines.len() < need.0 {
        pool.lines = vec![Line([0; 64]); need.0];
    }
    Held(pool)
}

impl Held {
    /// All of it.
    pub fn scratch(&mut self) -> Scratch<'_> {
        Scratch {
            rest: &mut self.0.lines,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        POOL.set(std::mem::take(&mut self.0));
    }
}
