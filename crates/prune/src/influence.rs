//! Which blocks change the stream least: candidates to be taken out whole.
//!
//! Block influence `BI_i = 1 - mean over tokens of cos(x_i, x_{i+1})`; the lowest go. Angular distance of a run of n blocks
//! `d(l) = arccos(cos(x_l, x_{l+n})) / π` at each document's last token, mean over documents; the run with the least goes.
//! `x_i` is the stream before block i.
//!
//! Sources: Men et al. 2024, arXiv:2403.03853, eq. 1; Gromov et al. 2024, arXiv:2403.17887, eq. 7. Deviation: none.

use tch::{Kind, Tensor};
use tensor_core::LanguageModel;

use crate::{Calibration, Error, Result};

/// The influence of each block on the calibration rows, from 0 to 2.
pub fn block_influence(model: &dyn LanguageModel, mut calibration: Calibration) -> Vec<f64> {
    let mut influence = Vec::with_capacity(model.num_blocks());
    for idx in 0..model.num_blocks() {
        let before: Vec<Tensor> = calibration.rows().map(|(stream, _)| stream.shallow_clone()).collect();
        calibration.advance(model, idx);
        let (mut sum, mut count) = (0.0, 0.0);
        for (before, (after, _)) in before.iter().zip(calibration.rows()) {
            let cosines = cosine(before, after);
            sum += cosines.sum(Kind::Double).double_value(&[]);
            count += cosines.numel() as f64;
        }
        influence.push(1.0 - sum / count);
    }
    influence
}

/// The angular distance over each run of `length` blocks, by its first block; from 0 to 1.
pub fn angular_distances(model: &dyn LanguageModel, mut calibration: Calibration, length: usize) -> Result<Vec<f64>> {
    let num_blocks = model.num_blocks();
    if length == 0 || length >= num_blocks {
        return Err(Error::Option {
            option: "num_hidden_layers",
            found: format!("{length} of {num_blocks} blocks would go"),
            hint: "take out at least one, and leave some",
        });
    }
    let last = |calibration: &Calibration| -> Tensor {
        let rows = calibration
            .rows()
            .map(|(stream, documents)| stream.index_select(0, &documents.last_tokens(stream.device())));
        Tensor::cat(&rows.collect::<Vec<_>>(), 0)
    };
    let mut streams = vec![last(&calibration)];
    for idx in 0..num_blocks {
        calibration.advance(model, idx);
        streams.push(last(&calibration));
    }
    let distance = |first: usize| {
        let cosines = cosine(&streams[first], &streams[first + length]).clamp(-1.0, 1.0);
        cosines.acos().mean(Kind::Double).double_value(&[]) / std::f64::consts::PI
    };
    Ok((0..=num_blocks - length).map(distance).collect())
}

/// Between the rows of two streams, `[t]` f64.
fn cosine(a: &Tensor, b: &Tensor) -> Tensor {
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    let sum = |x: &Tensor| x.sum_dim_intlist([-1].as_slice(), false, Kind::Double);
    sum(&(&a * &b)) / (sum(&a.square()) * sum(&b.square())).sqrt()
}

/// The `count` blocks of least influence, ascending.
pub fn least_influential(influence: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..influence.len()).collect();
    order.sort_by(|&a, &b| influence[a].total_cmp(&influence[b]));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// The run of `length` blocks with the least distance.
pub fn least_run(distances: &[f64], length: usize) -> Vec<usize> {
    let least = (0..distances.len()).min_by(|&a, &b| distances[a].total_cmp(&distances[b]));
    least.map_or_else(Vec::new, |first| (first..first + length).collect())
}
