//! Pruning a whole model, block by block.
//!
//! What a block's projections are given is gathered over all calibration rows while it is still whole; then each is
//! pruned, and the rows go through the pruned block on to the next: later blocks are calibrated on what they will see.
//! Memory is bounded by the rows' streams and one block's statistics. Embedding, output layer and norms stay.
//!
//! Source: the order of Sun et al. 2023, arXiv:2306.11695, and Frantar and Alistarh 2023, arXiv:2301.00774.

use std::collections::BTreeSet;
use std::error::Error as StdError;

use tch::Tensor;
use tensor_core::{Dense, Found, LanguageModel, ModulePath, Observed, Param, Projection, ProjectionSurgeon};

use crate::calibration::{Calibration, Recorder, Site, Statistics};
use crate::config::Rule;
use crate::{Error, Factor, GlobalThreshold, Gram, InputNorms, Mask, Plan, Result, magnitude, sparse_gpt, wanda};

/// Replaces every projection of a model by what the surgeon makes of it.
pub type Operate<'o, M> = dyn FnMut(M, &mut ProjectionSurgeon) -> Result<M, Box<dyn StdError + Send + Sync>> + 'o;

/// What became of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Thinned {
    /// The module.
    pub at: ModulePath,
    /// `[out, in]`
    pub shape: [i64; 2],
    /// Weights that are zero now.
    pub num_zeros: usize,
}

/// Prunes `model`; `operate` is its own way of replacing projections. `progress` hears of each finished block.
///
/// Errors: a plan that needs `calibration` and gets none; a module that is not plain; inputs that fit no rule.
pub fn prune<M: LanguageModel>(
    model: M,
    plan: &Plan,
    calibration: Option<Calibration>,
    operate: &mut Operate<M>,
    progress: &mut dyn FnMut(usize),
) -> Result<(M, Vec<Thinned>)> {
    let mut paths = Vec::new();
    let mut weights = Vec::new();
    let model = operated(model, operate, &mut |at, projection| {
        // What lies outside the blocks is read by no block.
        paths.push((at.clone(), at.layer_idx().is_none()));
        weights.push(projection.weight());
        Ok(projection)
    })?;
    let chosen: BTreeSet<ModulePath> = plan
        .modules
        .choose(paths.iter().map(|(at, is_output)| (at, *is_output)))?
        .into_iter()
        .filter(|at| at.layer_idx().is_some())
        .collect();
    let threshold = match plan.rule {
        Rule::GlobalMagnitude(share) => {
            let held = || paths.iter().zip(&weights).filter(|((at, _), _)| chosen.contains(at));
            Some(GlobalThreshold::find(share, |see| {
                held().for_each(|(_, weight)| see(weight));
            })?)
        }
        _ => None,
    };
    drop(weights);
    let mut pruning = Pruning {
        plan,
        chosen,
        threshold,
        thinned: Vec::new(),
    };
    let model = match (plan.needs_calibration(), calibration) {
        (true, Some(calibration)) => pruning.by_blocks(model, calibration, operate, progress)?,
        (true, None) => {
            return Err(Error::Option {
                option: "calibration",
                found: "is missing".into(),
                hint: "give some text of the kind that the model will read; magnitude alone needs none",
            });
        }
        (false, _) => operated(model, operate, &mut |at, projection| {
            pruning.projection(at, projection, &[])
        })?,
    };
    Ok((model, pruning.thinned))
}

struct Pruning<'p> {
    plan: &'p Plan,
    chosen: BTreeSet<ModulePath>,
    threshold: Option<GlobalThreshold>,
    thinned: Vec<Thinned>,
}

/// An input of the block with what its rule made of the statistics.
struct Known {
    readers: Vec<ModulePath>,
    inputs: Inputs,
}

enum Inputs {
    Norms(Tensor),
    Factor(Factor),
}

impl Pruning<'_> {
    fn by_blocks<M: LanguageModel>(
        &mut self,
        mut model: M,
        mut calibration: Calibration,
        operate: &mut Operate<M>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<M> {
        let make: fn(i64) -> Statistics = match self.plan.rule {
            Rule::SparseGpt(..) => |width| Statistics::Gram(Gram::new(width)),
            _ => |width| Statistics::Norms(InputNorms::new(width)),
        };
        for idx in 0..model.num_blocks() {
            let is_here = |at: &ModulePath| at.layer_idx() == Some(idx) && self.chosen.contains(at);
            let recorder = Recorder::new(make);
            model = operated(model, operate, &mut |at, projection| {
                Ok(match is_here(at) {
                    true => Box::new(Observed::new(projection, recorder.listener(at))),
                    false => projection,
                })
            })?;
            calibration.show(&model, idx);
            let known = recorder
                .finish()
                .into_iter()
                .map(|site| self.known(site))
                .collect::<Result<Vec<_>>>()?;
            model = operated(model, operate, &mut |at, projection| {
                if at.layer_idx() == Some(idx) {
                    self.projection(at, projection, &known)
                } else {
                    Ok(projection)
                }
            })?;
            calibration.advance(&model, idx);
            progress(idx);
        }
        Ok(model)
    }

    fn known(&self, site: Site) -> Result<Known> {
        let inputs = match (site.statistics, self.plan.rule) {
            (Statistics::Gram(gram), Rule::SparseGpt(_, damping)) => {
                Inputs::Factor(Factor::of(&gram.hessian(), damping).map_err(|error| error.at(&site.readers[0]))?)
            }
            (Statistics::Gram(gram), _) => Inputs::Norms(gram.hessian().diagonal(0, 0, 1).sqrt()),
            (Statistics::Norms(norms), _) => Inputs::Norms(norms.norms()),
        };
        Ok(Known {
            readers: site.readers,
            inputs,
        })
    }

    /// What becomes of the projection at `at`.
    fn projection(
        &mut self,
        at: &ModulePath,
        projection: Box<dyn Projection>,
        known: &[Known],
    ) -> tensor_core::Result<Box<dyn Projection>> {
        if !self.chosen.contains(at) {
            return Ok(projection);
        }
        let dense = projection
            .into_dense()
            .map_err(|Found(found)| tensor_core::Error::NotDense {
                at: at.clone(),
                found,
                hint: "prune before quantising and before adapters, or merge the model first",
            })?;
        let param = dense.into_param();
        let (weight, role) = (param.value(), param.role());
        let surgery = |source: Error| tensor_core::Error::Surgery {
            at: at.clone(),
            source: Box::new(source),
        };
        let (left, mask) = self.thin(at, weight, known).map_err(surgery)?;
        let shape = weight.size();
        self.thinned.push(Thinned {
            at: at.clone(),
            shape: [shape[0], shape[1]],
            num_zeros: mask.num_zeros(),
        });
        let left = left.to_kind(weight.kind()).to_device(weight.device());
        Ok(Box::new(Dense::new(Param::frozen(left, role))))
    }

    /// The weight that is left, and its mask.
    fn thin(&mut self, at: &ModulePath, weight: &Tensor, known: &[Known]) -> Result<(Tensor, Mask)> {
        let sparsity = self.plan.sparsity;
        let inputs = known
            .iter()
            .find(|site| site.readers.contains(at))
            .map(|site| &site.inputs);
        let mask = match (self.plan.rule, inputs, &mut self.threshold) {
            (Rule::Magnitude(per), _, _) => magnitude(weight, sparsity, per)?,
            (Rule::GlobalMagnitude(_), _, Some(threshold)) => threshold.mask(weight),
            (Rule::Wanda, Some(Inputs::Norms(norms)), _) => wanda(weight, norms, sparsity)?,
            (Rule::SparseGpt(config, _), Some(Inputs::Factor(factor)), _) => {
                let made = sparse_gpt(weight, factor, sparsity, &config)?;
                return Ok((made.weight, made.mask));
            }
            _ => return Err(Error::Unseen),
        };
        Ok((mask.apply(weight), mask))
    }
}

pub(crate) fn operated<M>(model: M, operate: &mut Operate<M>, surgeon: &mut ProjectionSurgeon) -> Result<M> {
    operate(model, surgeon).map_err(Error::Operation)
}
