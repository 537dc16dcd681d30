//! The 8-bit dynamic map: 256 levels in `[-1, 1]` whose spacing grows with their size, seven decades deep.
//!
//! For `i = 0..=6` the interval `[0.1, 1]` is cut into `2^i` parts (twice as many without a sign); their midpoints times
//! `10^(i - 6)`, with both signs, and 0 and 1 are the levels.
//!
//! Source: Dettmers 2015, arXiv:1511.04561, and bitsandbytes' `create_dynamic_map`, whose f32 arithmetic this repeats.

use std::sync::OnceLock;

use super::reference::at_least;

/// Numbers that share a scale where scales themselves, or an optimiser's states, are held in 8 bits.
pub const NESTED_BLOCK: usize = 256;

/// 256 ascending levels, with a table that finds the nearest in one step.
#[derive(Debug)]
pub struct DynamicMap {
    levels: [f32; 256],
    /// Midpoints of neighbours; the last is infinite.
    bounds: [f32; 256],
    /// By the upper 16 bits of a number: the code of the least number with these bits.
    first: Box<[u8; 1 << 16]>,
}

impl DynamicMap {
    /// With both signs: scales less their mean, and running means of gradients.
    pub fn signed() -> &'static Self {
        static MAP: OnceLock<DynamicMap> = OnceLock::new();
        MAP.get_or_init(|| Self::new(&dynamic_levels(true)))
    }

    /// Without a sign: running means of squares.
    pub fn unsigned() -> &'static Self {
        static MAP: OnceLock<DynamicMap> = OnceLock::new();
        MAP.get_or_init(|| Self::new(&dynamic_levels(false)))
    }

    #[expect(clippy::large_stack_arrays, reason = "64 KiB, twice a process")]
    fn new(levels: &[f32; 256]) -> Self {
        let mut bounds = [f32::INFINITY; 256];
        for (bound, pair) in bounds.iter_mut().zip(levels.windows(2)) {
            *bound = f32::midpoint(pair[0], pair[1]);
        }
        let mut first = Box::new([0u8; 1 << 16]);
        for (upper, code) in (0u32..).zip(first.iter_mut()) {
            // A negative number's least neighbour with these bits is the one with all lower bits set.
            let least = f32::from_bits(if upper >> 15 == 1 {
                upper << 16 | 0xffff
            } else {
                upper << 16
            });
            *code = bounds.partition_point(|bound| *bound < least) as u8;
        }
        Self {
            levels: *levels,
            bounds,
            first,
        }
    }

    /// By code.
    pub fn levels(&self) -> &[f32; 256] {
        &self.levels
    }

    /// The code of the level nearest to `x`; what lies on a bound goes down.
    pub fn code(&self, x: f32) -> u8 {
        let mut code = self.first[(x.to_bits() >> 16) as usize];
        // The levels are so far apart that one step is enough, but for the last decade's ends.
        while self.bounds[code as usize] < x {
            code += 1;
        }
        code
    }

    /// Codes and absmax of blocks of [`NESTED_BLOCK`] numbers, the last perhaps shorter.
    ///
    /// # Panics
    /// If there are not as many codes as numbers, and absmax as blocks.
    pub fn quantise(&self, values: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
        assert_eq!(values.len(), codes.len(), "a code a number");
        assert_eq!(values.len().div_ceil(NESTED_BLOCK), absmax.len(), "an absmax a block");
        let blocks = values.chunks(NESTED_BLOCK).zip(codes.chunks_mut(NESTED_BLOCK));
        for ((values, codes), absmax) in blocks.zip(absmax) {
            // Once NaN, always NaN: a block that holds one must not come back as numbers.
            let larger = |largest: f32, x: f32| if largest.is_nan() || x <= largest { largest } else { x };
            let largest = values.iter().fold(0.0f32, |largest, x| larger(largest, x.abs()));
            let (divisor, inverse) = (at_least(largest), 1.0 / at_least(largest));
            // As bitsandbytes has it: a shorter last block divides, and the absmax of its zeros is 1e-38.
            let whole = values.len() == NESTED_BLOCK;
            *absmax = if whole { largest } else { divisor };
            for (code, &x) in codes.iter_mut().zip(values) {
                let scaled = if whole { x * inverse } else { x / divisor };
                *code = self.code(scaled.clamp(-1.0, 1.0));
            }
        }
    }

    /// The numbers that the codes stand for.
    ///
    /// # Panics
    /// As [`Self::quantise`].
    pub fn dequantise(&self, codes: &[u8], absmax: &[f32], values: &mut [f32]) {
        assert_eq!(values.len(), codes.len(), "a code a number");
        assert_eq!(values.len().div_ceil(NESTED_BLOCK), absmax.len(), "an absmax a block");
        let blocks = values.chunks_mut(NESTED_BLOCK).zip(codes.chunks(NESTED_BLOCK));
        for ((values, codes), absmax) in blocks.zip(absmax) {
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = self.levels[code as usize] * absmax;
            }
        }
    }
}

fn dynamic_levels(signed: bool) -> [f32; 256] {
    let mut levels = Vec::with_capacity(256);
    for exponent in 0..7u32 {
        let parts = 1usize << (exponent + u32::from(!signed));
        let scale = 10f64.powi(exponent as i32 - 6) as f32;
        for part in 0..parts {
            let middle = f32::midpoint(step(parts, part), step(parts, part + 1));
            levels.push(scale * middle);
            if signed {
                levels.push(-scale * middle);
            }
        }
    }
    levels.extend([0.0, 1.0]);
    levels.sort_by(f32::total_cmp);
    levels.try_into().expect("127 pairs or 254 levels, and two more")
}

/// The `idx`-th of `parts + 1` even steps from 0.1 to 1, counted from the nearer end and rounded once, as libtorch does.
fn step(parts: usize, idx: usize) -> f32 {
    let width = (1.0f32 - 0.1) / parts as f32;
    if idx < parts.div_ceil(2) {
        width.mul_add(idx as f32, 0.1)
    } else {
        (-width).mul_add((parts - idx) as f32, 1.0)
    }
}
