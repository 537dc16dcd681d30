//! A matrix in column tiles.
//!
//! W `[n, k]` lies as `[n/16][k/32]` tiles; a tile is 16 pairs of k by 16 of n, the pair side by side, as `tdpbf16ps`
//! reads its second operand.
#![allow(unsafe_code)]

use std::sync::Arc;

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::{blob, parallel};

/// Numbers of a tile.
pub(super) const TILE: usize = 512;

/// One cache line of bf16, for alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [bf16; 32]);

impl Line {
    pub(super) const ZERO: Self = Self([bf16::ZERO; 32]);
}

/// Lines seen as numbers.
pub(super) fn numbers(lines: &[Line]) -> &[bf16] {
    // SAFETY: a line is 32 numbers without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 32) }
}

/// Lines seen as numbers.
pub(super) fn numbers_mut(lines: &mut [Line]) -> &mut [bf16] {
    // SAFETY: a line is 32 numbers without padding.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 32) }
}

/// W `[n, k]`, packed. Clones share the memory.
#[derive(Clone)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    lines: Arc<Vec<Line>>,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix [{}, {}]", self.n, self.k)
    }
}

impl PackedMatrix {
    /// From a contiguous bf16 CPU matrix `[n, k]`; both sides are filled up with zeros to multiples of 16 and 32.
    pub(super) fn pack(matrix: &Tensor) -> Self {
        let (n, k) = matrix.size2().expect("a matrix has two dimensions");
        let (n, k) = (n as usize, k as usize);
        let source = blob::slice::<bf16>(matrix);
        let (strips, steps) = (n.div_ceil(16), k.div_ceil(32));
        let mut lines = vec![Line::ZERO; strips * steps * 16];
        let target = SendPtr(lines.as_mut_ptr());
        parallel::for_each_range(strips, 8, |range| {
            for strip in range {
                // SAFETY: each strip is written by one thread, inside the vector.
                let own = unsafe { std::slice::from_raw_parts_mut(target.get().add(strip * steps * 16), steps * 16) };
                pack_strip(source, n, k, strip, numbers_mut(own));
            }
        });
        Self {
            n,
            k,
            lines: Arc::new(lines),
        }
    }

    /// n, the outer width.
    pub fn n(&self) -> usize {
        self.n
    }

    /// k, the inner width.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Steps of 32 along k.
    pub(super) fn steps(&self) -> usize {
        self.k.div_ceil(32)
    }

    /// The tiles of columns `16 strip..16 strip + 16`.
    pub(super) fn strip(&self, strip: usize) -> *const u8 {
        let tiles = self.steps() * 16;
        self.lines[strip * tiles..(strip + 1) * tiles].as_ptr().cast()
    }

    /// The plain matrix `[n, k]` bf16 again, exactly.
    pub fn unpack(&self) -> Tensor {
        let matrix = Tensor::zeros([self.n as i64, self.k as i64], (Kind::BFloat16, Device::Cpu));
        let target = blob::slice_mut::<bf16>(&matrix);
        let packed = numbers(&self.lines);
        for (row, values) in target.chunks_exact_mut(self.k).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                *value = packed[place(self.steps(), row, column)];
            }
        }
        matrix
    }
}

/// Where W's element (row, column) lies.
fn place(steps: usize, row: usize, column: usize) -> usize {
    let tile = (row / 16) * steps + column / 32;
    tile * TILE + (column % 32) / 2 * 32 + (row % 16) * 2 + column % 2
}

fn pack_strip(source: &[bf16], n: usize, k: usize, strip: usize, tiles: &mut [bf16]) {
    let rows = 16.min(n - strip * 16);
    for lane in 0..rows {
        let row = &source[(strip * 16 + lane) * k..][..k];
        for (pair, two) in row.chunks(2).enumerate() {
            let at = pair * 32 + lane * 2;
            tiles[at..at + two.len()].copy_from_slice(two);
        }
    }
}

/// A pointer that threads write disjoint parts of.
#[derive(Clone, Copy)]
pub(super) struct SendPtr<T>(pub(super) *mut T);

// SAFETY: every use writes disjoint ranges.
unsafe impl<T> Send for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SendPtr<T> {}

impl<T> SendPtr<T> {
    pub(super) fn get(self) -> *mut T {
        self.0
    }
}
