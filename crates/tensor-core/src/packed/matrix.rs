//! A matrix in column tiles.
//!
//! W `[n, k]` lies as `[n/16][k/32]` tiles; a tile is 16 pairs of k by 16 of n, the pair side by side, as `tdpbf16ps`
//! and `vdpbf16ps` read their second operand.
#![allow(unsafe_code)]

use std::sync::Arc;

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::blob;
use crate::parallel::{self, Shared};
use crate::tile::pack::{self, Matrix};
use crate::tile::{TileKernel, TileLanes, Tiles, dispatch};

/// Numbers of a tile.
pub(super) const TILE: usize = 512;

/// One cache line of bf16, for alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [bf16; 32]);

#[cfg(target_arch = "x86_64")]
impl Line {
    pub(super) const ZERO: Self = Self([bf16::ZERO; 32]);
}

/// Lines of zeros; memory that is fresh from the system is first touched by who fills it.
fn zeros(len: usize) -> Vec<Line> {
    let lines = Box::<[Line]>::new_zeroed_slice(len);
    // SAFETY: all bits zero are zeros.
    unsafe { lines.assume_init() }.into_vec()
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
    /// From a bf16 CPU matrix `[n, k]`; both sides are filled up with zeros to multiples of 16 and 32.
    ///
    /// The transpose of a contiguous matrix is read where it lies.
    pub(crate) fn pack(matrix: &Tensor) -> Self {
        let (n, k) = matrix.size2().expect("a matrix has two dimensions");
        let is_turned = matrix.tr().is_contiguous();
        let source = if is_turned { matrix.tr() } else { matrix.contiguous() };
        let (n, k) = (n as usize, k as usize);
        let (strips, lines_a_strip) = (n.div_ceil(16), k.div_ceil(32) * 16);
        let mut lines = zeros(strips * lines_a_strip);
        let shared = Shared::new(&mut lines);
        // SAFETY: the matrix is borrowed, and nothing writes to it before this function returns.
        let numbers = unsafe { blob::slice::<bf16>(&source) };
        let rows = Matrix::new(numbers, if is_turned { n } else { k });
        parallel::for_each_range(strips, 1024_usize.div_ceil(lines_a_strip), |strips| {
            // SAFETY: each strip is met once.
            let lines = unsafe { shared.part(strips.start * lines_a_strip..strips.end * lines_a_strip) };
            dispatch(Pack {
                rows,
                is_turned,
                first: strips.start,
                numbers_a_strip: lines_a_strip * 32,
                to: numbers_mut(lines),
            });
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
        let mut matrix = Tensor::zeros([self.n as i64, self.k as i64], (Kind::BFloat16, Device::Cpu));
        let target = blob::slice_mut::<bf16>(&mut matrix);
        let packed = numbers(&self.lines);
        for (row, values) in target.chunks_exact_mut(self.k.max(1)).enumerate() {
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

struct Pack<'a> {
    /// W, or its transpose.
    rows: Matrix<'a, bf16>,
    is_turned: bool,
    first: usize,
    numbers_a_strip: usize,
    to: &'a mut [bf16],
}

impl TileKernel for Pack<'_> {
    #[inline(always)]
    fn run<L: TileLanes>(self, _: &Tiles) {
        for (i, to) in self.to.chunks_exact_mut(self.numbers_a_strip).enumerate() {
            if self.is_turned {
                pack::right_panel::<L, bf16>(self.rows, self.first + i, to);
            } else {
                pack::right_transposed_panel::<L, bf16>(self.rows, self.first + i, to);
            }
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
