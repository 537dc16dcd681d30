//! The largest singular values of a dense matrix: what pruning and voting leave of an update has no low rank.
//!
//! A block Krylov space of `D Dᵀ`, fully orthogonal, grown until the wanted triples satisfy `D v = σ u` to 1e-9 of the
//! largest value (`Dᵀ u = σ v` holds by construction); the whole decomposition where it is small or that comes late.
//! Source: Musco and Musco 2015, arXiv:1504.05477, algorithm 2. Deviation: the residual, not a count, ends it.
//! Shapes: D `[out, in]`, b columns a block, k columns of the space.

use rand::SeedableRng;
use rand::rngs::StdRng;
use tch::{Kind, Tensor};

use super::spectrum::{Spectrum, qr};
use crate::Result;
use crate::init::normal;

/// Below this smaller side the whole decomposition is quick.
const SMALL: i64 = 384;
/// Columns of a block beyond the rank.
const MORE: i64 = 8;
/// The residual that ends the search, as a part of the largest singular value.
const TOLERANCE: f64 = 1e-9;

/// The first `rank` singular triples of `matrix`, and its whole energy.
pub(super) fn leading(matrix: &Tensor, rank: i64) -> Result<Spectrum> {
    let matrix = matrix.to_kind(Kind::Double);
    let smaller = matrix.size()[0].min(matrix.size()[1]);
    // A space of half the smaller side costs as much as the whole.
    if smaller > SMALL && 8 * (rank + MORE) < smaller {
        let energy = matrix.square().sum(Kind::Double).double_value(&[]);
        if let Some(found) = krylov(&matrix, rank, smaller / 2)? {
            return Ok(Spectrum { energy, ..found });
        }
    }
    Spectrum::of_matrix(&matrix)
}

/// None if the space reaches `most` columns before the triples are exact.
fn krylov(matrix: &Tensor, rank: i64, most: i64) -> Result<Option<Spectrum>> {
    let width = rank + MORE;
    // Any start will do that is not orthogonal to what is sought.
    let start = normal(&mut StdRng::seed_from_u64(0), matrix.size()[1], width, 1.0).to_kind(Kind::Double);
    let transposed = matrix.tr();
    let mut block = qr(&matrix.matmul(&start))?.0;
    let (mut space, mut images) = (vec![block.shallow_clone()], Vec::new());
    let mut next_look = 4;
    loop {
        // Dᵀ Q_j is needed for the next block and for the projection of D on the space.
        images.push(transposed.matmul(&block));
        if space.len() == next_look {
            let found = project(&Tensor::cat(&space, 1), &Tensor::cat(&images, 1), rank)?;
            if residual(matrix, &found) <= TOLERANCE * found.s[0] {
                return Ok(Some(found));
            }
            next_look += next_look.div_ceil(2);
        }
        if (space.len() as i64 + 1) * width > most {
            return Ok(None);
        }
        let ahead = matrix.matmul(&qr(&images[images.len() - 1])?.0);
        let basis = Tensor::cat(&space, 1);
        // Twice is enough (Kahan and Parlett): once leaves what rounding put back.
        let once = &ahead - basis.matmul(&basis.tr().matmul(&ahead));
        let twice = &once - basis.matmul(&basis.tr().matmul(&once));
        block = qr(&twice)?.0;
        // What is left of an exhausted space is rounding, whose QR need not be orthogonal to it.
        block = qr(&(&block - basis.matmul(&basis.tr().matmul(&block))))?.0;
        space.push(block.shallow_clone());
    }
}

/// The leading triples of `K Kᵀ D`: `space` is K `[out, k]`, `images` is `Dᵀ K` `[in, k]`.
fn project(space: &Tensor, images: &Tensor, rank: i64) -> Result<Spectrum> {
    let (q, r) = qr(images)?;
    let core = Spectrum::of_matrix(&r.tr())?;
    let rank = rank.min(core.s.len() as i64);
    Ok(Spectrum {
        u: space.matmul(&core.u.narrow(1, 0, rank)),
        vt: core.vt.narrow(0, 0, rank).matmul(&q.tr()),
        s: core.s[..rank as usize].to_vec(),
        energy: core.energy,
    })
}

/// The largest `‖D v - σ u‖`.
fn residual(matrix: &Tensor, found: &Spectrum) -> f64 {
    let apart = matrix.matmul(&found.vt.tr()) - &found.u * Tensor::from_slice(&found.s);
    apart
        .square()
        .sum_dim_intlist(&[0i64][..], false, Kind::Double)
        .max()
        .sqrt()
        .double_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use golden::assert_close;

    fn random(seed: u64, rows: i64, columns: i64) -> Tensor {
        normal(&mut StdRng::seed_from_u64(seed), rows, columns, 1.0)
    }

    fn check(name: &str, matrix: &Tensor, rank: i64) {
        let found = leading(matrix, rank).unwrap();
        let whole = Spectrum::of_matrix(&matrix.to_kind(Kind::Double)).unwrap();
        let values = |s: &[f64]| Tensor::from_slice(&s[..rank as usize]);
        let product = |spectrum: &Spectrum| {
            let pair = spectrum.cut(rank);
            pair.b.matmul(&pair.a)
        };
        // A residual ρ moves a value by about ρ² over the gap to the next.
        let scale = whole.s[0];
        assert_close(
            &format!("{name}: values"),
            &values(&found.s),
            &values(&whole.s),
            0.0,
            1e-9 * scale,
        );
        assert_close(
            &format!("{name}: product"),
            &product(&found),
            &product(&whole),
            1e-5,
            1e-6 * scale,
        );
        assert!((found.explained(rank) - whole.explained(rank)).abs() < 1e-9, "{name}");
    }

    #[test]
    fn the_leading_part_is_that_of_the_whole_decomposition() {
        // An update with a third of its numbers dropped: a few large values over a broad floor.
        let update = random(1, 500, 6).matmul(&random(2, 6, 450));
        check(
            "pruned",
            &(&update * random(3, 500, 450).gt(-0.4).to_kind(Kind::Float)),
            6,
        );
        check(
            "wide",
            &(&update * random(3, 500, 450).gt(-0.4).to_kind(Kind::Float)).tr(),
            6,
        );
        // Nothing stands out of noise: the hardest case there is.
        check("noise", &random(4, 640, 400), 5);
        check("exact rank", &update, 8);
        check("small", &random(5, 20, 30), 4);
    }

    #[test]
    fn a_space_of_the_allowed_size_reaches_the_pruned_update_without_the_whole() {
        let update = random(1, 500, 6).matmul(&random(2, 6, 450));
        let pruned = (&update * random(3, 500, 450).gt(-0.4).to_kind(Kind::Float)).to_kind(Kind::Double);
        assert!(krylov(&pruned, 6, 225).unwrap().is_some());
        assert!(krylov(&pruned, 6, 40).unwrap().is_none());
    }
}
