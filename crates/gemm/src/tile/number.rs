//! The two kinds of number that blocks are made of, and how each lies in memory.

use half::bf16;

use super::{LANES, TileLanes};
use crate::vector::Scalar;

/// f32 or bf16 as an operand of [`super::product`].
pub trait Number: Scalar {
    /// Rows of a right operand that lie together: 2 for bf16, 1 for f32.
    const DEPTH: usize;
    /// Numbers of a left operand's row that one vector holds.
    const PER_VECTOR: usize = LANES * Self::DEPTH;

    /// The bits of [`Self::PER_VECTOR`] numbers.
    fn bits<L: TileLanes>(from: &[Self]) -> L;
    /// Writes what [`Self::bits`] read.
    fn store_bits<L: TileLanes>(bits: L, to: &mut [Self]);
    /// The bits of [`Self::DEPTH`] rows of sixteen, as a right operand holds them.
    fn weave<L: TileLanes>(rows: [&[Self; LANES]; 2]) -> L;
    /// Writes two rows of a panel.
    fn store_pairs<L: TileLanes>(even: L, odd: L, to: &mut [Self]);
    /// Writes two rows of a left operand.
    fn store_rows<L: TileLanes>(even: L, odd: L, to_even: &mut [Self], to_odd: &mut [Self]);
    /// Adds the product of [`Self::DEPTH`] numbers of a left operand and as many rows of a panel.
    ///
    /// # Safety
    /// `a` covers `DEPTH` numbers, `b` sixteen times as many.
    #[allow(unsafe_code)]
    unsafe fn add<L: TileLanes>(sum: L, a: *const Self, b: *const Self) -> L;
}

#[allow(unsafe_code)]
impl Number for f32 {
    const DEPTH: usize = 1;

    #[inline(always)]
    fn bits<L: TileLanes>(from: &[Self]) -> L {
        L::load(from.first_chunk().expect("sixteen numbers"))
    }
    #[inline(always)]
    fn store_bits<L: TileLanes>(bits: L, to: &mut [Self]) {
        bits.store(to.first_chunk_mut().expect("sixteen numbers"));
    }
    #[inline(always)]
    fn weave<L: TileLanes>(rows: [&[Self; LANES]; 2]) -> L {
        L::load(rows[0])
    }
    #[inline(always)]
    fn store_pairs<L: TileLanes>(even: L, odd: L, to: &mut [Self]) {
        let (to_even, to_odd) = to.split_at_mut(LANES);
        Self::store_rows(even, odd, to_even, to_odd);
    }
    #[inline(always)]
    fn store_rows<L: TileLanes>(even: L, odd: L, to_even: &mut [Self], to_odd: &mut [Self]) {
        Self::store_bits(even, to_even);
        Self::store_bits(odd, to_odd);
    }
    #[inline(always)]
    unsafe fn add<L: TileLanes>(sum: L, a: *const Self, b: *const Self) -> L {
        // SAFETY: the caller's.
        unsafe { L::splat(*a).mul_add(L::load(&*b.cast()), sum) }
    }
}

#[allow(unsafe_code)]
impl Number for bf16 {
    const DEPTH: usize = 2;

    #[inline(always)]
    fn bits<L: TileLanes>(from: &[Self]) -> L {
        let from: &[Self; 2 * LANES] = from.first_chunk().expect("thirty-two numbers");
        // SAFETY: 64 bytes either way; f32 has no invalid bits, and the load needs no alignment beyond f32's.
        unsafe { L::load(&std::mem::transmute::<[Self; 2 * LANES], [f32; LANES]>(*from)) }
    }
    #[inline(always)]
    fn store_bits<L: TileLanes>(bits: L, to: &mut [Self]) {
        let to: &mut [Self; 2 * LANES] = to.first_chunk_mut().expect("thirty-two numbers");
        let mut out = [0.0; LANES];
        bits.store(&mut out);
        // SAFETY: 64 bytes either way; bf16 has no invalid bits.
        *to = unsafe { std::mem::transmute::<[f32; LANES], [Self; 2 * LANES]>(out) };
    }
    #[inline(always)]
    fn weave<L: TileLanes>(rows: [&[Self; LANES]; 2]) -> L {
        L::weave(rows[0], rows[1])
    }
    #[inline(always)]
    fn store_pairs<L: TileLanes>(even: L, odd: L, to: &mut [Self]) {
        L::store_pairs(even, odd, to.first_chunk_mut().expect("sixteen pairs"));
    }
    #[inline(always)]
    fn store_rows<L: TileLanes>(even: L, odd: L, to_even: &mut [Self], to_odd: &mut [Self]) {
        let expected = "sixteen numbers";
        L::store_rows(
            even,
            odd,
            to_even.first_chunk_mut().expect(expected),
            to_odd.first_chunk_mut().expect(expected),
        );
    }
    #[inline(always)]
    unsafe fn add<L: TileLanes>(sum: L, a: *const Self, b: *const Self) -> L {
        // SAFETY: the caller's.
        unsafe { sum.add_pairs(*a.cast(), L::load(&b.cast::<[f32; LANES]>().read_unaligned())) }
    }
}
