//! Several adapters as one: PEFT's `add_weighted_adapter`, and the exact sum.
//!
//! Adapter i updates a module by `s_i B_i A_i`, with its own rank and scale there, and counts with weight `w_i`.
//! [`CombinationType::Sum`] is `Σ w_i s_i B_i A_i` itself; all others are PEFT's. The result is written at scale 1
//! (`lora_alpha = r`), with `rank_pattern` where ranks differ. Everything is on the CPU.
//!
//! Sources: PEFT 0.21; Ilharco et al. 2023, arXiv:2212.04089 (sums of updates); TIES and DARE are in their file.
//! Deviations from PEFT, each where it is wrong: adapters with `use_rslora` are written without it, ranks that differ
//! by module are written down, and adapters that cannot be combined (DoRA, `lora_bias`) are refused.
//!
//! ```
//! use lora::LoraConfig;
//! use lora::combine::{CombineConfig, Weighted, combine};
//! use tch::Tensor;
//!
//! let adapter = |name: &str, weight, a: [f32; 2], b: [f32; 2]| Weighted {
//!     name: name.into(),
//!     weight,
//!     config: LoraConfig { r: 1, lora_alpha: 2.0, ..LoraConfig::default() },
//!     tensors: vec![
//!         ("base_model.model.up_proj.lora_A.weight".into(), Tensor::from_slice(&a).view([1, 2])),
//!         ("base_model.model.up_proj.lora_B.weight".into(), Tensor::from_slice(&b).view([2, 1])),
//!     ],
//! };
//! let adapters = [adapter("x", 1.0, [1.0, 0.0], [3.0, 0.0]), adapter("y", 0.5, [0.0, 1.0], [0.0, 4.0])];
//! let sum = combine(&adapters, &CombineConfig::default(), &mut |_, _| ())?;
//! // 1 · 2 · [[3, 0], [0, 0]] + 0.5 · 2 · [[0, 0], [0, 4]]
//! let update = sum.tensors[1].1.matmul(&sum.tensors[0].1);
//! assert!((update - Tensor::from_slice(&[6.0f32, 0.0, 0.0, 4.0]).view([2, 2])).abs().max().double_value(&[]) < 1e-6);
//! assert_eq!((sum.config.r, sum.modules[0].rank, sum.modules[0].explained), (2, 2, 1.0));
//! # Ok::<(), lora::Error>(())
//! ```

mod dense;
mod merge;
mod options;
mod spectrum;
mod terms;
mod written;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tch::{Kind, Tensor};
use tensor_core::ModulePath;

use crate::{LoraConfig, Result};
use merge::{Draw, Pruning};
pub use options::{CombinationType, CombineConfig, MajoritySign};
use options::{Merge, Way};
use spectrum::{Pair, Spectrum, stacked};
use terms::{Module, Term};

/// An adapter with its weight.
#[derive(Debug)]
pub struct Weighted {
    /// What it is called in messages.
    pub name: String,
    /// Its options, which say each module's rank and scale.
    pub config: LoraConfig,
    /// The tensors of its `adapter_model.safetensors`, by their names there.
    pub tensors: Vec<(String, Tensor)>,
    /// What its update is multiplied by.
    pub weight: f64,
}

/// The combined adapter.
#[derive(Debug)]
pub struct Combination {
    /// Its options: what [`crate::to_peft_config`] writes.
    pub config: LoraConfig,
    /// Its tensors under PEFT's names, f32, module by module: A, then B; modules trained whole come last.
    pub tensors: Vec<(String, Tensor)>,
    /// What became of each module, in the order of their paths.
    pub modules: Vec<Combined>,
}

/// What became of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Combined {
    /// The module.
    pub at: ModulePath,
    /// The rank of its update.
    pub rank: i64,
    /// The share of the squared Frobenius norm, of what was to be cut to this rank, that the rank holds; 1 uncut.
    pub explained: f64,
    /// How far the update is from `Σ w_i s_i B_i A_i`, as a part of that (Frobenius norms): pruning, votes, cross terms
    /// and the cut together. Infinite if the sum is zero and the update is not.
    pub distance: f64,
}

/// Combines adapters of one base; `progress` hears of the modules done and of all.
///
/// Errors: options that do not fit, adapters that cannot be combined or that are not of one model, ranks that differ
/// where they must not.
pub fn combine(
    adapters: &[Weighted],
    options: &CombineConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Combination> {
    let mut streams: BTreeMap<ModulePath, StdRng> = BTreeMap::new();
    let density = options.density.unwrap_or(1.0);
    let mut draw = |at: &ModulePath, shape: &[i64]| {
        let stream = streams.entry(at.clone());
        mask(
            stream.or_insert_with(|| StdRng::seed_from_u64(options.seed ^ at.site())),
            density,
            shape,
        )
    };
    combine_drawing(adapters, options, &mut draw, progress)
}

/// As [`combine`], with the masks of DARE from `draw`: for each module every A's, then every B's, or every update's.
fn combine_drawing(
    adapters: &[Weighted],
    options: &CombineConfig,
    draw: &mut dyn FnMut(&ModulePath, &[i64]) -> Tensor,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Combination> {
    options.check()?;
    let gathered = terms::gather(adapters)?;
    let way = match (adapters, options.combination_type.way(), options.svd_rank) {
        // As in PEFT; but a rank that is asked for is kept to.
        ([_], Way::Svd | Way::Cat | Way::Factors(_) | Way::Updates(_), None) => Way::Factors(Merge::Linear),
        ([_], Way::Updates(_), Some(_)) => Way::Svd,
        (_, way, _) => way,
    };
    let largest = written::largest_rank(adapters);
    let all = gathered.modules.len();
    let (mut pairs, mut modules) = (Vec::with_capacity(all), Vec::with_capacity(all));
    for (done, (at, module)) in gathered.modules.into_iter().enumerate() {
        let work = Work {
            way,
            options,
            largest,
            at: &at,
        };
        let (pair, combined) = tch::no_grad(|| work.combine(&module, &mut |shape| draw(&at, shape)))?;
        pairs.push((at, module.slot, pair));
        modules.push(combined);
        progress(done + 1, all);
    }
    let config = written::config(adapters, &modules);
    let tensors = written::tensors(pairs, gathered.whole);
    Ok(Combination {
        config,
        tensors,
        modules,
    })
}

/// What is done at each module.
struct Work<'a> {
    way: Way,
    options: &'a CombineConfig,
    /// The largest rank that any of the adapters was given.
    largest: i64,
    at: &'a ModulePath,
}

impl Work<'_> {
    fn combine(&self, module: &Module, draw: &mut Draw) -> Result<(Pair, Combined)> {
        let terms = &module.terms;
        let (b, a) = stacked(terms);
        let float = |tensor: &Tensor| tensor.to_kind(Kind::Float).contiguous();
        let (pair, explained) = match self.way {
            Way::Cat => (
                Pair {
                    a: float(&a),
                    b: float(&b),
                },
                1.0,
            ),
            Way::Factors(merge) => (self.apart(merge, terms, draw)?, 1.0),
            Way::Sum => {
                let spectrum = Spectrum::of_product(&b, &a)?;
                let whole = spectrum.whole_rank();
                let rank = self.options.svd_rank.map_or(whole, |rank| rank.min(whole));
                (
                    spectrum.cut(rank),
                    if rank == whole { 1.0 } else { spectrum.explained(rank) },
                )
            }
            Way::Svd => self.cut(&Spectrum::of_product(&b, &a)?),
            Way::Updates(merge) => {
                let updates: Vec<Tensor> = terms.iter().map(|term| term.b.matmul(&term.a) * term.scale).collect();
                let weights: Vec<f64> = terms.iter().map(|term| term.weight).collect();
                let merged = merge::merge(merge, &updates, &weights, self.pruning(), draw);
                drop(updates);
                self.cut(&dense::leading(&merged, self.rank())?)
            }
        };
        let distance = pair.distance(&b, &a)?;
        let (at, rank) = (self.at.clone(), pair.a.size()[0]);
        Ok((
            pair,
            Combined {
                at,
                rank,
                explained,
                distance,
            },
        ))
    }

    fn rank(&self) -> i64 {
        self.options.svd_rank.unwrap_or(self.largest)
    }

    fn cut(&self, spectrum: &Spectrum) -> (Pair, f64) {
        let (pair, explained) = (spectrum.cut(self.rank()), spectrum.explained(self.rank()));
        match self.options.svd_clamp {
            Some(quantile) => (pair.clamp(quantile), explained),
            None => (pair, explained),
        }
    }

    /// A and B each on their own, with the root of what their product counts with; the sign goes to A.
    fn apart(&self, merge: Merge, terms: &[Term], draw: &mut Draw) -> Result<Pair> {
        if terms.iter().any(|term| term.rank() != terms[0].rank()) {
            let ranks: Vec<String> = terms
                .iter()
                .map(|term| format!("{} in `{}`", term.rank(), term.name))
                .collect();
            return Err(crate::Error::Ranks {
                at: self.at.clone(),
                combination: self.options.combination_type.name(),
                found: ranks.join(", "),
            });
        }
        let roots: Vec<f64> = terms.iter().map(|term| term.strength().abs().sqrt()).collect();
        let signed: Vec<f64> = terms
            .iter()
            .zip(&roots)
            .map(|(term, root)| if term.strength() < 0.0 { -root } else { *root })
            .collect();
        let a: Vec<Tensor> = terms.iter().map(|term| term.a.shallow_clone()).collect();
        let b: Vec<Tensor> = terms.iter().map(|term| term.b.shallow_clone()).collect();
        Ok(Pair {
            a: merge::merge(merge, &a, &signed, self.pruning(), draw),
            b: merge::merge(merge, &b, &roots, self.pruning(), draw),
        })
    }

    fn pruning(&self) -> Pruning {
        Pruning {
            density: self.options.density.unwrap_or(1.0),
            sign: self.options.majority_sign_method.unwrap_or_default(),
        }
    }
}

/// What DARE keeps of a tensor: each number with the probability `density`.
fn mask(rng: &mut StdRng, density: f64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>();
    let kept: Vec<f32> = (0..count)
        .map(|_| f32::from(u8::from(rng.random_bool(density))))
        .collect();
    Tensor::from_slice(&kept).view(shape)
}

#[cfg(test)]
mod tests;
