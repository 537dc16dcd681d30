//! What can be done with sixteen f32, and the functions that follow from it.

use std::ops::{Add, Div, Mul, Sub};

use half::bf16;

/// How many numbers a [`Lanes`] holds.
pub const LANES: usize = 16;

pub trait Sealed {}

/// Sixteen f32, however this machine holds them.
pub trait Lanes:
    Copy + Sealed + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// All lanes `x`.
    fn splat(x: f32) -> Self;
    /// From memory.
    fn load(from: &[f32; LANES]) -> Self;
    /// To memory.
    fn store(self, to: &mut [f32; LANES]);
    /// From bf16, exactly.
    fn load_bf16(from: &[bf16; LANES]) -> Self;
    /// To bf16: to nearest, ties to even, NaN stays NaN.
    fn store_bf16(self, to: &mut [bf16; LANES]);
    /// What [`Self::store_bf16`] would write, as f32.
    #[must_use]
    fn round_to_bf16(self) -> Self;
    /// `self · b + c`, rounded once where the machine can.
    #[must_use]
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// At least `low`; NaN stays NaN.
    #[must_use]
    fn at_least(self, low: Self) -> Self;
    /// At most `high`; NaN stays NaN.
    #[must_use]
    fn at_most(self, high: Self) -> Self;
    /// The square root.
    #[must_use]
    fn sqrt(self) -> Self;
    /// `self · 2^n` for whole `n` from -150 to 128, rounded once.
    #[must_use]
    fn ldexp(self, n: Self) -> Self;
    /// The lanes' sum.
    fn sum(self) -> f32;
    /// The largest lane.
    fn largest(self) -> f32;

    /// `e^self` to about one unit in the last place; 0 and infinity where f32 ends.
    #[inline(always)]
    #[must_use]
    fn exp(self) -> Self {
        // Beyond these the result is 0 or infinity; within, n stays in `ldexp`'s range.
        let x = self.at_least(Self::splat(-104.0)).at_most(Self::splat(89.0));
        // Adding 1.5 · 2^23 rounds to a whole number.
        let magic = Self::splat(12_582_912.0);
        let n = x.mul_add(Self::splat(std::f32::consts::LOG2_E), magic) - magic;
        // ln 2 in two parts, the first with zeros at its end so that n times it is exact.
        let r = n.mul_add(Self::splat(-0.693_359_4), x);
        let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
        // Cephes' expf: e^r = 1 + r + r² p(r) on |r| ≤ ln 2 / 2.
        let p = Self::splat(1.987_569_1e-4);
        let p = p.mul_add(r, Self::splat(1.398_199_9e-3));
        let p = p.mul_add(r, Self::splat(8.333_452e-3));
        let p = p.mul_add(r, Self::splat(4.166_579_6e-2));
        let p = p.mul_add(r, Self::splat(1.666_666_6e-1));
        let p = p.mul_add(r, Self::splat(0.5));
        let y = (r * r).mul_add(p, r) + Self::splat(1.0);
        y.ldexp(n)
    }

    /// `1 / (1 + e^-self)`.
    #[inline(always)]
    #[must_use]
    fn sigmoid(self) -> Self {
        let one = Self::splat(1.0);
        one / (one + (Self::splat(0.0) - self).exp())
    }

    /// `self · sigmoid(self)`.
    #[inline(always)]
    #[must_use]
    fn silu(self) -> Self {
        self * self.sigmoid()
    }
}
