//! Frozen weights in the order in which a core's matrix unit reads them, for both directions.
//!
//! Products run on AMX tiles, over libtorch's own threads. A product may carry a low-rank term along,
//! `y = x Wᵀ + s (x Pᵀ) Qᵀ`: its second factor enters while the sums are still in the tiles, so that the update costs
//! no pass over `y`. The plain twin is [`reference`].
//!
//! Shapes: m rows, k inner and n outer width, r rank; x `[m, k]`, W `[n, k]`, P `[r, k]`, Q `[n, r]`.

#[cfg(target_arch = "x86_64")]
mod amx;
mod matrix;
mod outer;
mod product;
pub mod reference;

use tch::{Device, Kind, Tensor};

use crate::Unit;

pub use matrix::PackedMatrix;
pub use outer::outer;
pub use product::{LowRankTerm, Term, product};

impl PackedMatrix {
    /// Packs a bf16 CPU matrix `[n, k]` on a machine with matrix units; none where nothing would be gained, or where a
    /// side is no multiple of 32.
    pub fn of(matrix: &Tensor) -> Option<Self> {
        if matrix.device() != Device::Cpu || matrix.kind() != Kind::BFloat16 || Unit::best() != Unit::Amx {
            return None;
        }
        let (n, k) = matrix.size2().ok()?;
        (n % 32 == 0 && k % 32 == 0).then(|| Self::pack(&matrix.contiguous()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: i64, shape: [i64; 2]) -> Tensor {
        tch::manual_seed(seed);
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16)
    }

    /// Sums are in f32 in another order and rounded to bf16 once: an error of 2^-8 of the largest value, and of the
    /// low-rank part's own rounding.
    fn check(ours: &Tensor, plain: &Tensor, what: &str) {
        let far = (ours.to_kind(Kind::Float) - plain.to_kind(Kind::Float))
            .abs()
            .max()
            .double_value(&[]);
        let largest = plain.abs().max().double_value(&[]).max(1.0);
        assert!(far <= largest / 100.0, "{what}: {far} apart at values up to {largest}");
    }

    #[test]
    fn packed_products_equal_plain_ones() {
        for (out, input) in [(32, 64), (96, 32), (576, 192), (64, 1536), (49152, 576)] {
            let weight = random(1, [out, input]);
            let (Some(forward), Some(transposed)) = (PackedMatrix::of(&weight), PackedMatrix::of(&weight.tr())) else {
                return;
            };
            for rows in [1, 7, 31, 32, 33, 130, 517] {
                let (x, y) = (random(2, [rows, input]), random(3, [rows, out]));
                let term = |x, matrix| Term {
                    x,
                    matrix,
                    low_rank: None,
                };
                let forward = product(&[term(&x, &forward)], None);
                check(
                    &forward.0,
                    &x.matmul(&weight.tr()),
                    &format!("{rows} x {input} -> {out}"),
                );
                let back = product(&[term(&y, &transposed)], Some(&x));
                check(
                    &back.0,
                    &(y.matmul(&weight) + &x),
                    &format!("{rows} x {out} -> {input}, added"),
                );
            }
        }
    }

    #[test]
    fn terms_and_low_rank_parts_are_summed() {
        let (w1, w2) = (random(1, [64, 96]), random(2, [64, 32]));
        let (Some(p1), Some(p2)) = (PackedMatrix::of(&w1), PackedMatrix::of(&w2)) else {
            return;
        };
        for (rows, rank) in [(1, 1), (45, 8), (64, 16), (70, 17), (300, 40)] {
            let (x1, x2) = (random(3, [rows, 96]), random(4, [rows, 32]));
            let (p, q) = (random(5, [rank, 96]), random(6, [64, rank]));
            let low_rank = LowRankTerm {
                inner: &p,
                outer: &q,
                scale: 0.5,
            };
            let terms = [
                Term {
                    x: &x1,
                    matrix: &p1,
                    low_rank: Some(low_rank),
                },
                Term {
                    x: &x2,
                    matrix: &p2,
                    low_rank: None,
                },
            ];
            let (y, inner) = product(&terms, None);
            let (plain, plain_inner) = reference::product(&[(&x1, &w1, Some(low_rank)), (&x2, &w2, None)], None);
            check(&y, &plain, &format!("{rows} rows, rank {rank}"));
            assert!(inner[1].is_none());
            check(
                inner[0].as_ref().unwrap(),
                plain_inner[0].as_ref().unwrap(),
                "the inner product",
            );
        }
    }

    #[test]
    fn outer_products_equal_plain_ones() {
        for (tokens, rank, width) in [
            (1, 1, 32),
            (45, 8, 64),
            (64, 16, 96),
            (517, 17, 576),
            (100, 40, 160),
            (2048, 16, 192),
        ] {
            let (left, right) = (random(3, [tokens, rank]), random(4, [tokens, width]));
            let plain = left.to_kind(Kind::Float).tr().matmul(&right.to_kind(Kind::Float));
            let far = (outer(&left, &right) - &plain).abs().max().double_value(&[]);
            // f32 sums of products of bf16 numbers, in another order; libtorch rounds them to bf16.
            let rounding = plain.abs().max().double_value(&[]) / 256.0;
            let tolerance = if Unit::best() == Unit::Amx { 1e-3 } else { rounding };
            assert!(far <= tolerance, "{tokens} x {rank} x {width}: {far}");
        }
    }

    #[test]
    fn packing_loses_nothing() {
        let weight = random(7, [96, 64]);
        let (Some(forward), Some(transposed)) = (PackedMatrix::of(&weight), PackedMatrix::of(&weight.tr())) else {
            return;
        };
        assert!(forward.unpack().equal(&weight));
        assert!(transposed.unpack().equal(&weight.tr()));
    }

    #[test]
    fn rows_of_a_wider_buffer_are_read_in_place() {
        let weight = random(1, [32, 64]);
        let (Some(forward), Some(_)) = (PackedMatrix::of(&weight), PackedMatrix::of(&weight.tr())) else {
            return;
        };
        let wide = random(2, [40, 160]);
        let x = wide.narrow(1, 48, 64);
        let (y, _) = product(
            &[Term {
                x: &x,
                matrix: &forward,
                low_rank: None,
            }],
            None,
        );
        check(&y, &x.matmul(&weight.tr()), "a view");
    }
}
