//! The hash that decides, and the loop that applies it.

use tensor_core::DropoutKey;
use tensor_core::parallel::{self, Shared};

use tensor_core::vector::{Kernel, LANES, Lanes, Scalar, dispatch};

/// Numbers of one block; the upper half of an index changes between blocks only.
const BLOCK: usize = 1 << 14;

/// Numbers are kept whose hash reaches this.
pub(super) fn threshold(p: f64) -> u32 {
    (p * 4_294_967_296.0) as u32
}

/// 32 bits for index `i` under `key`.
pub(super) fn hash(i: u64, key: DropoutKey) -> u32 {
    hash_low(i as u32, halves(key, i))
}

/// The key's halves for the indices that share `i`'s upper 32 bits.
#[inline(always)]
fn halves(key: DropoutKey, i: u64) -> (u32, u32) {
    let key = key.at(i >> 32).0;
    (key as u32, (key >> 32) as u32)
}

#[inline(always)]
fn hash_low(i: u32, (first, second): (u32, u32)) -> u32 {
    mix(mix(i ^ first).wrapping_add(second))
}

/// "lowbias32", a bijection of 32 bits: <https://nullprogram.com/blog/2018/07/31/>.
#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Writes the kept numbers of `x`, divided by `1 - p`, and zeros.
pub(super) fn drop<T: Scalar>(x: &[T], p: f64, key: DropoutKey, y: &mut [T]) {
    let y = Shared::new(y);
    parallel::for_each_range(x.len().div_ceil(BLOCK), 1, |blocks| {
        for block in blocks {
            let range = block * BLOCK..((block + 1) * BLOCK).min(x.len());
            // SAFETY: each block is met once.
            #[allow(unsafe_code)]
            let y = unsafe { y.part(range.clone()) };
            let halves = halves(key, range.start as u64);
            dispatch(Drop {
                first: range.start as u32,
                x: &x[range],
                halves,
                p,
                y,
            });
        }
    });
}

pub(super) struct Drop<'a, T> {
    pub(super) x: &'a [T],
    pub(super) first: u32,
    pub(super) halves: (u32, u32),
    pub(super) p: f64,
    pub(super) y: &'a mut [T],
}

impl<T: Scalar> Kernel for Drop<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (threshold, scale) = (threshold(self.p), (1.0 / (1.0 - self.p)) as f32);
        for at in (0..self.x.len()).step_by(LANES) {
            let mut factors = [0.0f32; LANES];
            for (lane, factor) in factors.iter_mut().enumerate() {
                let i = self.first.wrapping_add((at + lane) as u32);
                *factor = if hash_low(i, self.halves) >= threshold {
                    scale
                } else {
                    0.0
                };
            }
            T::write(self.y, at, T::read::<L>(self.x, at) * L::load(&factors));
        }
    }
}
