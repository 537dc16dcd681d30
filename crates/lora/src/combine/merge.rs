//! Pruning and voting on tensors of one shape: TIES, DARE, trimming by magnitude.
//!
//! TIES (Yadav et al. 2023, arXiv:2306.01708): keep the largest numbers of each tensor, vote on each place's sign, and
//! average those that agree. DARE (Yu et al. 2023, arXiv:2311.03099): keep each number with probability p, divided by p.
//! As in PEFT, the vote is on unweighted numbers (a sum of 0 counts as +), the weighted ones that agree are divided by
//! their count, and there is no factor λ.

use tch::{Kind, Tensor};

use super::options::{MajoritySign, Merge};

/// Draws a mask of this shape: f32, 1 where a number stays.
pub(super) type Draw<'a> = dyn FnMut(&[i64]) -> Tensor + 'a;

/// How much stays, and how signs are voted on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pruning {
    pub(super) density: f64,
    pub(super) sign: MajoritySign,
}

/// The tensors as one, each with its weight.
pub(super) fn merge(merge: Merge, tensors: &[Tensor], weights: &[f64], pruning: Pruning, draw: &mut Draw) -> Tensor {
    let density = pruning.density;
    let pruned: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| match merge {
            Merge::Linear => tensor.shallow_clone(),
            // At 1 everything stays as it is, and nothing is drawn.
            _ if density >= 1.0 => tensor.shallow_clone(),
            Merge::Ties | Merge::MagnitudePrune => trim(tensor, density),
            Merge::DareLinear | Merge::DareTies => tensor * draw(&tensor.size()) / density,
        })
        .collect();
    if merge.votes() {
        elect(&pruned, weights, pruning.sign)
    } else {
        weighted(&pruned, weights).fold(tensors[0].zeros_like(), |sum, one| sum + one)
    }
}

fn weighted(tensors: &[Tensor], weights: &[f64]) -> impl Iterator<Item = Tensor> {
    // PEFT holds weights in f32.
    tensors
        .iter()
        .zip(weights)
        .map(|(tensor, &weight)| tensor * f64::from(weight as f32))
}

/// The `⌊density · n⌋` numbers of largest magnitude; the others are 0.
fn trim(tensor: &Tensor, density: f64) -> Tensor {
    let flat = tensor.flatten(0, -1);
    let kept = (density * flat.numel() as f64) as i64;
    let (_, places) = flat.abs().topk(kept, 0, true, false);
    let trimmed = flat.zeros_like().scatter(0, &places, &flat.gather(0, &places, false));
    trimmed.view_as(tensor)
}

/// Where the voted sign is a tensor's own, its weighted number counts; the sum is divided by how many count.
fn elect(tensors: &[Tensor], weights: &[f64], method: MajoritySign) -> Tensor {
    let votes = tensors.iter().map(|tensor| match method {
        MajoritySign::Total => tensor.shallow_clone(),
        MajoritySign::Frequency => tensor.sign(),
    });
    let total = votes.fold(tensors[0].zeros_like(), |sum, vote| sum + vote);
    let elected = total.ge(0.0).to_kind(Kind::Float) * 2.0 - 1.0;
    let mut sum = tensors[0].zeros_like();
    let mut count = tensors[0].zeros_like();
    for (tensor, weighted) in tensors.iter().zip(weighted(tensors, weights)) {
        let agrees = tensor.sign().eq_tensor(&elected).to_kind(Kind::Float);
        sum += weighted * &agrees;
        count += agrees;
    }
    sum / count.clamp_min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use golden::assert_close;

    fn merged(kind: Merge, rows: &[&[f32]], weights: &[f64], density: f64, sign: MajoritySign) -> Vec<f32> {
        let tensors: Vec<Tensor> = rows.iter().map(|row| Tensor::from_slice(row)).collect();
        let draw = &mut |_: &[i64]| unreachable!("nothing is drawn");
        Vec::try_from(merge(kind, &tensors, weights, Pruning { density, sign }, draw)).unwrap()
    }

    #[test]
    fn ties_trims_votes_and_averages_those_that_agree() {
        let (first, second): (&[f32], &[f32]) = (&[3.0, -1.0, 0.5, 2.0], &[-2.0, -1.5, 1.0, 0.1]);
        // Trimmed to [3, 0, 0, 2] and [-2, -1.5, 0, 0]; 3 - 2 is positive, so -2 does not count.
        let found = merged(Merge::Ties, &[first, second], &[1.0, 1.0], 0.5, MajoritySign::Total);
        assert_eq!(found, [3.0, -1.5, 0.0, 2.0]);
        // The weighted 1 and 2 agree and are divided by 2; of 1 and -3, -1.5 alone counts.
        let found = merged(
            Merge::Ties,
            &[&[2.0, 1.0], &[4.0, -3.0]],
            &[0.5, 0.5],
            1.0,
            MajoritySign::Total,
        );
        assert_eq!(found, [1.5, -1.5]);
    }

    #[test]
    fn a_vote_by_frequency_counts_heads() {
        let rows: [&[f32]; 3] = [&[5.0, 1.0], &[-1.0, -1.0], &[-2.0, 0.0]];
        let by = |sign| merged(Merge::Ties, &rows, &[1.0; 3], 1.0, sign);
        assert_eq!(by(MajoritySign::Total), [5.0, 1.0]);
        // Two of three are negative; a tie counts as +.
        assert_eq!(by(MajoritySign::Frequency), [-1.5, 1.0]);
    }

    #[test]
    fn a_single_tensor_at_density_1_is_itself() {
        let row: &[f32] = &[1.0, -2.0, 0.0, 4.0];
        for kind in [
            Merge::Linear,
            Merge::Ties,
            Merge::DareLinear,
            Merge::DareTies,
            Merge::MagnitudePrune,
        ] {
            assert_eq!(merged(kind, &[row], &[1.0], 1.0, MajoritySign::Total), row);
        }
        assert_eq!(
            merged(Merge::MagnitudePrune, &[row], &[0.5], 0.5, MajoritySign::Total),
            [0.0, -1.0, 0.0, 2.0]
        );
    }

    #[test]
    fn dare_drops_what_the_mask_says_and_scales_the_rest() {
        let tensors = [Tensor::from_slice(&[1.0f32, 2.0]), Tensor::from_slice(&[4.0f32, -8.0])];
        let mut masks = [[1.0f32, 0.0], [1.0, 1.0]].iter().map(|mask| Tensor::from_slice(mask));
        let draw = &mut |_: &[i64]| masks.next().unwrap();
        let pruning = Pruning {
            density: 0.5,
            sign: MajoritySign::Total,
        };
        let found = merge(Merge::DareLinear, &tensors, &[1.0, 0.25], pruning, draw);
        assert_close("dare", &found, &Tensor::from_slice(&[4.0f32, -4.0]), 0.0, 0.0);
    }
}
