//! The levels of the 4-bit schemes, and where one bin ends and the next begins.
//!
//! NF4: with `δ = ½ (31/32 + 29/30)`, the positive levels are `Φ⁻¹` at nine even steps from δ to ½ without the last, the
//! negative ones `-Φ⁻¹` at eight, and 0; all divided by `Φ⁻¹(δ)`. Deviation from the paper: its formula does not give the
//! table that its code and everybody else use; this is the table.

use super::Scheme;

/// NF4's levels, ascending.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// FP4's levels in the order of their codes: sign, then `{0, 1/16, 8, 12, 4, 6, 2, 3} / 12`.
pub const FP4: [f32; 16] = [
    0.0,
    0.0625 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    0.5,
    2.0 / 12.0,
    0.25,
    0.0,
    -0.0625 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -0.5,
    -2.0 / 12.0,
    -0.25,
];

/// Int4's levels, even steps from -7/7 to 7/7; the sixteenth code is never written, so it stands for the largest.
pub const INT4: [f32; 16] = {
    let mut levels = [1.0; 16];
    let mut code = 0;
    while code < 15 {
        levels[code] = (code as f32 - 7.0) / 7.0;
        code += 1;
    }
    levels
};

/// A 4-bit code: levels, and the way from a number to its level.
#[derive(Debug)]
pub(super) struct Levels {
    /// By code.
    pub(super) values: [f32; 16],
    /// Midpoints of neighbouring levels: a number above `bounds[i]` lies above the i-th level. Above the last level that
    /// is written they are infinite.
    pub(super) bounds: [f32; 16],
    /// Rank among the ascending levels to code.
    pub(super) order: [u8; 16],
    /// `[-1, 1]` in even cells with at most one bound each; none where bounds lie closer.
    pub(super) cells: Option<Cells>,
}

/// Where the only bound is that a number can be compared with: its cell's.
#[derive(Debug)]
pub(super) struct Cells {
    /// How many bounds lie below the cell.
    pub(super) below: [i32; 32],
    /// The bound in it, or infinity.
    pub(super) bound: [f32; 32],
}

impl Cells {
    /// The cell of x is the whole part of `SCALE · x + SHIFT`: 0 to 31, and no bound so near a cell's edge that rounding
    /// could put a number on the wrong side of both.
    pub(super) const SCALE: f32 = 15.5;
    /// See [`Self::SCALE`].
    pub(super) const SHIFT: f32 = 15.75;

    const fn new(bounds: &[f32; 16]) -> Option<Self> {
        let (mut below, mut bound) = ([0; 32], [f32::INFINITY; 32]);
        let mut idx = 0;
        while idx < 15 && bounds[idx] < f32::INFINITY {
            let place = Self::SCALE * bounds[idx] + Self::SHIFT;
            let cell = place as usize;
            let into = place - cell as f32;
            if bound[cell] < f32::INFINITY || into < 1e-3 || into > 1.0 - 1e-3 {
                return None;
            }
            bound[cell] = bounds[idx];
            let mut above = cell + 1;
            while above < 32 {
                below[above] += 1;
                above += 1;
            }
            idx += 1;
        }
        Some(Self { below, bound })
    }
}

const ASCENDING: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
static NF4_LEVELS: Levels = Levels::new(NF4, ASCENDING, 16);
static INT4_LEVELS: Levels = Levels::new(INT4, ASCENDING, 15);
// The two zeros are neighbours: what is positive and rounds to 0 takes the second one, code 8.
static FP4_LEVELS: Levels = Levels::new(FP4, [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3], 16);

impl Levels {
    /// Of a 4-bit scheme.
    pub(super) fn of(scheme: Scheme) -> &'static Self {
        match scheme {
            Scheme::Fp4 => &FP4_LEVELS,
            Scheme::Int4 => &INT4_LEVELS,
            Scheme::Nf4 | Scheme::Int8 => &NF4_LEVELS,
        }
    }

    /// Of the first `used` ranks of `order`.
    const fn new(values: [f32; 16], order: [u8; 16], used: usize) -> Self {
        let mut bounds = [f32::INFINITY; 16];
        let mut rank = 0;
        while rank < used - 1 {
            bounds[rank] = f32::midpoint(values[order[rank] as usize], values[order[rank + 1] as usize]);
            rank += 1;
        }
        let cells = Cells::new(&bounds);
        Self {
            values,
            bounds,
            order,
            cells,
        }
    }

    /// The code of `x` in `[-1, 1]`: what lies on a bound goes down.
    pub(super) fn code(&self, x: f32) -> u8 {
        let mut rank = 0;
        for step in [8, 4, 2, 1] {
            if x > self.bounds[rank + step - 1] {
                rank += step;
            }
        }
        self.order[rank]
    }
}
