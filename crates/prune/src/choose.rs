//! Which scores are the smallest. Of equal scores the first go, so that a mask depends on nothing but the numbers.

use tch::{Kind, Tensor};
use tensor_core::blob;

use crate::{Mask, Pattern, Per, Result, Sparsity};

/// The mask that takes the smallest scores (`[out, in]`).
pub(crate) fn mask(scores: &Tensor, sparsity: Sparsity, per: Per) -> Result<Mask> {
    let (out, width) = scores.size2().expect("scores are a matrix");
    let scores = scores.to_kind(Kind::Double).to_device(tch::Device::Cpu).contiguous();
    let scores = &blob::to_vec::<f64>(&scores);
    let mut kept = vec![true; scores.len()];
    match (sparsity, per) {
        (Sparsity::Pattern(pattern), _) => {
            pattern.fits(width as usize)?;
            for (scores, kept) in groups(scores, &mut kept, pattern.of()) {
                drop_smallest(scores, pattern.zeros(), kept);
            }
        }
        (Sparsity::Share(share), Per::Matrix) => drop_smallest(scores, part(share, scores.len()), &mut kept),
        (Sparsity::Share(share), Per::Row) => {
            let count = part(share, width as usize);
            for (scores, kept) in groups(scores, &mut kept, width as usize) {
                drop_smallest(scores, count, kept);
            }
        }
    }
    Ok(Mask::new(Tensor::from_slice(&kept).view([out, width])))
}

/// `⌊share · count⌋`.
pub(crate) fn part(share: f64, count: usize) -> usize {
    (share * count as f64) as usize
}

/// Marks the `count` smallest scores as gone.
pub(crate) fn drop_smallest(scores: &[f64], count: usize, kept: &mut [bool]) {
    if count == 0 {
        return;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, |&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
    }
    for &at in order.iter().take(count) {
        kept[at] = false;
    }
}

/// Marks the smallest scores of one group of a pattern as gone: a group has too few for a selection to pay.
pub(crate) fn drop_in_group(scores: &[f64], pattern: Pattern, kept: &mut [bool]) {
    kept.fill(true);
    for _ in 0..pattern.zeros() {
        let left = (0..scores.len()).filter(|&at| kept[at]);
        if let Some(least) = left.min_by(|&a, &b| scores[a].total_cmp(&scores[b])) {
            kept[least] = false;
        }
    }
}

fn groups<'a>(
    scores: &'a [f64],
    kept: &'a mut [bool],
    length: usize,
) -> impl Iterator<Item = (&'a [f64], &'a mut [bool])> {
    scores.chunks(length.max(1)).zip(kept.chunks_mut(length.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_scores_the_first_go() {
        let scores = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
        for (count, wanted) in [
            (0, [true; 6]),
            (2, [true, false, true, false, true, true]),
            (4, [false, false, true, false, true, false]),
            (6, [false; 6]),
        ] {
            let mut kept = [true; 6];
            drop_smallest(&scores, count, &mut kept);
            assert_eq!(kept, wanted, "{count}");
            let mut in_group = [true; 6];
            if let Ok(pattern) = Pattern::new(count, 6) {
                drop_in_group(&scores, pattern, &mut in_group);
                assert_eq!(in_group, wanted, "{count}");
            }
        }
    }
}
