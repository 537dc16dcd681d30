//! Lanes as an array, in plain loops that the compiler vectorises as far as it may.

use std::array::from_fn;
use std::ops::{Add, Div, Mul, Sub};

use half::bf16;

use super::lanes::{LANES, Lanes, Sealed};
use super::scalar::bf16_from_f32;

#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Sealed for Portable {}

macro_rules! operator {
    ($trait:ident, $method:ident, $op:tt) => {
        impl $trait for Portable {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(from_fn(|i| self.0[i] $op other.0[i]))
            }
        }
    };
}
operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);
operator!(Div, div, /);

impl Lanes for Portable {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }
    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        Self(from_fn(|i| f32::from_bits(u32::from(from[i].to_bits()) << 16)))
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES]) {
        *to = from_fn(|i| bf16_from_f32(self.0[i]));
    }
    #[inline(always)]
    fn round_to_bf16(self) -> Self {
        Self(from_fn(|i| {
            f32::from_bits(u32::from(bf16_from_f32(self.0[i]).to_bits()) << 16)
        }))
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // Two roundings: without FMA instructions `f32::mul_add` is a slow library call.
        self * b + c
    }
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        Self(from_fn(|i| if self.0[i] < low.0[i] { low.0[i] } else { self.0[i] }))
    }
    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        Self(from_fn(|i| if self.0[i] > high.0[i] { high.0[i] } else { self.0[i] }))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn ldexp(self, n: Self) -> Self {
        let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        Self(from_fn(|i| {
            let n = n.0[i] as i32;
            let half = n >> 1;
            self.0[i] * power(half) * power(n - half)
        }))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
