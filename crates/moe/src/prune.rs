//! Experts that can go: by trying every set of those that stay, or by how often each was used.
//!
//! A set is judged by how far the layer's output moves on sample tokens. Dropped experts leave the router's softmax, and
//! weights are normalised anew. Enumeration is exact for one layer; the sets are `C(e, r)`: 70 for 4 of 8.
//!
//! Source: Lu et al. 2024, arXiv:2402.14800, eq. 3. Deviation: the distance is of all sample tokens together, where the
//! reference sums it over batches.

use crate::{Calibration, Error, Experts, Result};

/// Sets that are tried at most.
const MOST_SETS: f64 = 1e6;

/// The `num_kept` experts, ascending, whose layer is nearest to the whole one on the sample tokens; and its distance.
///
/// Errors: more sets than a million, or a number of experts that cannot be kept.
pub fn keep_nearest(layer: &Experts, sample: &Calibration, num_kept: usize) -> Result<(Vec<usize>, f64)> {
    let num_experts = layer.experts().len();
    check(num_experts, num_kept)?;
    let sets = binomial(num_experts, num_kept);
    if sets > MOST_SETS {
        return Err(Error::Option {
            option: "num_experts",
            wanted: format!("at most {MOST_SETS} sets to try"),
            found: format!("{sets} of {num_kept} among {num_experts}"),
            hint: "keep more or fewer experts, or choose them by usage",
        });
    }
    let mut best: Option<(Vec<usize>, f64)> = None;
    let mut kept: Vec<usize> = (0..num_kept).collect();
    loop {
        let distance = sample.distance(layer, &kept)?;
        if best.as_ref().is_none_or(|(_, least)| distance < *least) {
            best = Some((kept.clone(), distance));
        }
        if !advance(&mut kept, num_experts) {
            break;
        }
    }
    Ok(best.expect("there is at least one set"))
}

/// The `num_kept` experts, ascending, that were given the most of the sample tokens; of equals the first.
pub fn keep_most_used(sample: &Calibration, num_kept: usize) -> Result<Vec<usize>> {
    let usage = sample.usage();
    check(usage.len(), num_kept)?;
    let mut order: Vec<usize> = (0..usage.len()).collect();
    order.sort_by(|&a, &b| usage[b].total_cmp(&usage[a]));
    let mut kept = order[..num_kept].to_vec();
    kept.sort_unstable();
    Ok(kept)
}

fn check(num_experts: usize, num_kept: usize) -> Result<()> {
    if (1..=num_experts).contains(&num_kept) {
        return Ok(());
    }
    Err(Error::Option {
        option: "num_experts",
        wanted: format!("1 to {num_experts} experts to keep"),
        found: num_kept.to_string(),
        hint: "a layer can only lose experts",
    })
}

fn binomial(n: usize, k: usize) -> f64 {
    (1..=k).map(|i| (n - k + i) as f64 / i as f64).product::<f64>().round()
}

/// The next set in order; false after the last.
fn advance(set: &mut [usize], n: usize) -> bool {
    let k = set.len();
    let Some(at) = (0..k).rev().find(|&i| set[i] < n - k + i) else {
        return false;
    };
    set[at] += 1;
    for i in at + 1..k {
        set[i] = set[i - 1] + 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_met_once() {
        for (n, k) in [(5, 2), (8, 4), (3, 3), (4, 1)] {
            let mut set: Vec<usize> = (0..k).collect();
            let mut met = std::collections::BTreeSet::from([set.clone()]);
            while advance(&mut set, n) {
                assert!(met.insert(set.clone()), "{set:?} twice");
            }
            assert_eq!(met.len() as f64, binomial(n, k));
        }
    }
}
