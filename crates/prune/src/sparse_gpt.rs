//! `SparseGPT`: weights go column by column, and the columns after make up for each one.
//!
//! With U of [`Factor`]: a weight costs `w_j² / U_jj²`. In column j the error is `e = (w_j - q_j) / U_jj`, `q_j` being 0
//! where the weight goes; then `W[:, j..] -= e · U[j, j..]`, inside a block of columns at once, behind it by one product
//! a block. A share is chosen when its block begins, over all rows; a pattern when its group begins, row by row.
//!
//! Source: Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1. Deviation: [`Counting::Exact`] is the default.

use tch::{Kind, Tensor};
use tensor_core::{blob, parallel};

use crate::choose::{drop_in_group, drop_smallest, part};
use crate::{Error, Factor, Mask, Pattern, Result, Sparsity};

/// Options of the sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SparseGptConfig {
    /// Columns whose mask is chosen at once: a share is spread over blocks evenly.
    pub block_size: usize,
    /// How many weights of a block a share takes.
    pub counting: Counting,
}

/// How many of n weights a share takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// Exactly `⌊s n⌋`.
    Exact,
    /// All up to the weight at place `⌊s n⌋`: one more, and all that are equal to it. The authors' code does this.
    UpToThreshold,
}

impl Default for SparseGptConfig {
    fn default() -> Self {
        Self {
            block_size: 128,
            counting: Counting::Exact,
        }
    }
}

/// A pruned matrix whose remaining weights make up for what went.
#[derive(Debug)]
pub struct Reconstruction {
    /// `[out, in]` f64, zero where the mask says so.
    pub weight: Tensor,
    /// Which weights stay.
    pub mask: Mask,
    /// `Σ e² / 2`: what pruning cost in `‖X (W - W')ᵀ‖²`, damping included.
    pub loss: f64,
}

/// Prunes a weight `[out, in]`.
pub fn sparse_gpt(
    weight: &Tensor,
    factor: &Factor,
    sparsity: Sparsity,
    config: &SparseGptConfig,
) -> Result<Reconstruction> {
    let (out, width) = weight.size2().unwrap_or((-1, -1));
    if width != factor.width() as i64 {
        return Err(Error::Shape {
            what: "the weight",
            wanted: vec![out, factor.width() as i64],
            found: weight.size(),
        });
    }
    let pattern = match sparsity {
        Sparsity::Pattern(pattern) => {
            pattern.fits(width as usize)?;
            Some(pattern)
        }
        Sparsity::Share(_) => None,
    };
    let block_size = block_size(config, pattern)?;
    let rest = weight.detach().to_device(tch::Device::Cpu).to_kind(Kind::Double);
    let rest = rest.masked_fill(factor.dead(), 0.0).contiguous();
    let (mut masks, mut loss) = (Vec::new(), 0.0);
    for start in (0..width).step_by(block_size) {
        let length = width.min(start + block_size as i64) - start;
        let narrow = rest.narrow(1, start, length);
        let upper = factor.upper().narrow(0, start, length);
        let within = upper.narrow(1, start, length).contiguous();
        let mut block = Block::of(&narrow, &within);
        if let Sparsity::Share(share) = sparsity {
            block.choose(share, config.counting);
        }
        block.sweep(pattern);
        narrow.shallow_clone().copy_(&block.weights());
        let behind = width - start - length;
        if behind > 0 {
            let correction = block.errors().matmul(&upper.narrow(1, start + length, behind));
            let _ = rest.narrow(1, start + length, behind).g_sub_(&correction);
        }
        loss += block.loss();
        masks.push(block.kept());
    }
    Ok(Reconstruction {
        weight: rest,
        mask: Mask::new(Tensor::cat(&masks, 1)),
        loss,
    })
}

/// A pattern's groups do not cross blocks.
fn block_size(config: &SparseGptConfig, pattern: Option<Pattern>) -> Result<usize> {
    let of = pattern.map_or(1, Pattern::of);
    let size = config.block_size / of * of;
    if size > 0 {
        return Ok(size);
    }
    Err(Error::Option {
        option: "block_size",
        found: format!("{} columns hold no group of {of}", config.block_size),
        hint: "128 is the paper's",
    })
}

/// Some columns of all rows, each row by itself.
struct Block {
    upper: Vec<f64>,
    length: usize,
    rows: Vec<Row>,
}

struct Row {
    weights: Vec<f64>,
    errors: Vec<f64>,
    kept: Vec<bool>,
}

impl Block {
    fn of(weights: &Tensor, upper: &Tensor) -> Self {
        let length = weights.size()[1] as usize;
        let numbers = blob::to_vec::<f64>(weights);
        let rows = numbers.chunks(length).map(|row| Row {
            weights: row.to_vec(),
            errors: vec![0.0; length],
            kept: vec![true; length],
        });
        Self {
            upper: blob::to_vec::<f64>(upper),
            length,
            rows: rows.collect(),
        }
    }

    fn choose(&mut self, share: f64, counting: Counting) {
        let costs: Vec<f64> = self
            .rows
            .iter()
            .flat_map(|row| row.weights.iter().enumerate())
            .map(|(j, weight)| cost(*weight, self.upper[j * self.length + j]))
            .collect();
        let count = part(share, costs.len());
        let mut kept = vec![true; costs.len()];
        match counting {
            Counting::UpToThreshold if count > 0 => {
                let mut sorted = costs.clone();
                let (_, threshold, _) = sorted.select_nth_unstable_by(count, f64::total_cmp);
                for (kept, cost) in kept.iter_mut().zip(&costs) {
                    *kept = cost > threshold;
                }
            }
            _ => drop_smallest(&costs, count, &mut kept),
        }
        for (row, kept) in self.rows.iter_mut().zip(kept.chunks(self.length)) {
            row.kept.copy_from_slice(kept);
        }
    }

    fn sweep(&mut self, pattern: Option<Pattern>) {
        let (upper, length) = (&self.upper, self.length);
        parallel::for_each_chunk(&mut self.rows, 8, |rows| {
            for row in rows {
                row.sweep(upper, length, pattern);
            }
        });
    }

    fn loss(&self) -> f64 {
        self.rows
            .iter()
            .flat_map(|row| &row.errors)
            .map(|error| error * error / 2.0)
            .sum()
    }

    fn weights(&self) -> Tensor {
        self.tensor(|row| &row.weights)
    }

    fn errors(&self) -> Tensor {
        self.tensor(|row| &row.errors)
    }

    fn kept(&self) -> Tensor {
        self.tensor(|row| &row.kept)
    }

    fn tensor<T: tch::kind::Element>(&self, part: impl Fn(&Row) -> &Vec<T>) -> Tensor {
        let rows: Vec<Tensor> = self.rows.iter().map(|row| Tensor::from_slice(part(row))).collect();
        Tensor::stack(&rows, 0)
    }
}

impl Row {
    fn sweep(&mut self, upper: &[f64], length: usize, pattern: Option<Pattern>) {
        for j in 0..length {
            if let Some(pattern) = pattern.filter(|pattern| j % pattern.of() == 0) {
                let group = j..j + pattern.of();
                let costs: Vec<f64> = group
                    .clone()
                    .map(|k| cost(self.weights[k], upper[k * length + k]))
                    .collect();
                drop_in_group(&costs, pattern, &mut self.kept[group]);
            }
            if self.kept[j] {
                continue;
            }
            let row = &upper[j * length + j..(j + 1) * length];
            let error = self.weights[j] / row[0];
            self.errors[j] = error;
            for (weight, factor) in self.weights[j..].iter_mut().zip(row) {
                *weight -= error * factor;
            }
            self.weights[j] = 0.0;
        }
    }
}

/// `w² / U_jj²`.
fn cost(weight: f64, pivot: f64) -> f64 {
    (weight / pivot).powi(2)
}
