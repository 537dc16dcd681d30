//! How much each group of heads and each channel of the feed-forward matters.
//!
//! A unit acts through what it hands to the projection behind it: a group's part of `o_proj`'s input, a channel of
//! `down_proj`'s. *Activation*: per document the mean over tokens of `|a|` (of `‖a‖₂` for a group), then the root of the sum
//! of squares over documents. *Taylor*: per document `(Σ_t a · ∂L/∂a)²`, L the summed next-token cross-entropy: to first
//! order the squared change of the loss if the unit were zero, which equals `(Σ w · ∂L/∂w)²` over its column.
//!
//! Sources: Muralidharan et al. 2024, arXiv:2407.14679, section 2.2 (activation); Molchanov et al. 2019, arXiv:1906.10771,
//! eq. 7 with a gate on each unit, and Ma et al. 2023, arXiv:2305.11627 (Taylor; there per weight).
//! Shapes: t tokens, u units, w numbers of a unit.

use std::sync::{Arc, Mutex, PoisonError};

use tch::{Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, Found, LanguageModel, Loss, ModelPass, ModulePath,
    Observed, OnInput, Projection, autograd,
};

use crate::cut::Shape;
use crate::prune::{Operate, operated};
use crate::{Error, Result};

/// By what units are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// By how strongly they act.
    Activation,
    /// By what the loss would lose.
    Taylor,
}

/// A number a unit of each layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Units {
    /// Groups of heads: one a key-value head.
    pub groups: Vec<Vec<f64>>,
    /// Channels of the feed-forward.
    pub channels: Vec<Vec<f64>>,
}

/// Weighs the units of `model`, which comes back as it was, on rows of tokens (`[t]` i64) with their documents.
///
/// `progress` hears of each finished row.
pub fn units<M: LanguageModel>(
    model: M,
    shape: Shape,
    importance: Importance,
    rows: &[(Tensor, Documents)],
    operate: &mut Operate<M>,
    progress: &mut dyn FnMut(usize),
) -> Result<(M, Units)> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut readers = Readers::default();
    let model = operated(model, operate, &mut |at, projection| {
        readers.note(at, projection.as_ref());
        let count = match at.name() {
            "o_proj" => shape.num_kv_heads,
            "down_proj" => shape.intermediate_size,
            _ => return Ok(projection),
        };
        if at.layer_idx().is_none() {
            return Ok(projection);
        }
        let (tally, at) = (tally.clone(), at.clone());
        let on_input: OnInput = match importance {
            Importance::Activation => Box::new(move |x| {
                lock(&tally).acts(&at, x, count);
                x.shallow_clone()
            }),
            Importance::Taylor => probe(Arc::new(move |x, dx| lock(&tally).costs(&at, x, dx, count))),
        };
        Ok(Box::new(Observed::new(projection, on_input)))
    })?;
    readers.check(model.num_blocks(), shape)?;
    for (idx, (tokens, documents)) in rows.iter().enumerate() {
        lock(&tally).documents = Some(documents.clone());
        match importance {
            Importance::Activation => {
                let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks());
                drop(ModelPass::evaluate(&model, &plan).hidden(tokens, documents));
            }
            Importance::Taylor => walk_back(&model, tokens, documents)?,
        }
        progress(idx);
    }
    let model = operated(model, operate, &mut |at, projection| match at.name() {
        "o_proj" | "down_proj" => {
            let found = projection
                .into_dense()
                .map_err(|Found(found)| tensor_core::Error::NotDense {
                    at: at.clone(),
                    found,
                    hint: "prune before quantising and before adapters, or merge the model first",
                })?;
            Ok(Box::new(found) as Box<dyn Projection>)
        }
        _ => Ok(projection),
    })?;
    let units = std::mem::take(&mut *lock(&tally)).units(model.num_blocks(), shape);
    Ok((model, units))
}

/// The modules that read heads and channels, by layer, with their inputs.
#[derive(Default)]
struct Readers(Vec<(ModulePath, i64)>);

impl Readers {
    fn note(&mut self, at: &ModulePath, projection: &dyn Projection) {
        // A mixture's experts have the same names, or others, but never one of each a layer.
        if at.layer_idx().is_some() && ["o_proj", "down_proj"].contains(&at.name()) {
            self.0.push((at.clone(), projection.weight().size()[1]));
        }
    }

    /// An error unless each layer has one of each, as wide as `shape` says.
    fn check(&self, num_layers: usize, shape: Shape) -> Result<()> {
        let wanted = [
            ("o_proj", shape.num_heads * shape.head_dim),
            ("down_proj", shape.intermediate_size),
        ];
        for (layer, (module, wanted)) in (0..num_layers).flat_map(|layer| wanted.map(|wanted| (layer, wanted))) {
            let is_it = |at: &ModulePath| at.layer_idx() == Some(layer) && at.name() == module;
            let here: Vec<_> = self.0.iter().filter(|(at, _)| is_it(at)).collect();
            let found = match here[..] {
                [(_, width)] if *width == wanted as i64 => continue,
                [] => "none of that name".to_owned(),
                [(at, width)] => format!("`{at}` with {width}"),
                [(first, _), .., (last, _)] => format!("{}, from `{first}` to `{last}`", here.len()),
            };
            return Err(Error::NotDense {
                layer,
                module,
                wanted,
                found,
            });
        }
        Ok(())
    }
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The gradient of a row's summed next-token cross-entropy, through the engine that training uses.
fn walk_back(model: &dyn LanguageModel, tokens: &Tensor, documents: &Documents) -> Result<()> {
    let plan = CheckpointingPolicy::uniform(Checkpointing::Recompute, model.num_blocks());
    let policy = ModelPass::train(model, &plan, DropoutKey(0));
    let hidden = policy.hidden(tokens, documents);
    // The last token of a document predicts nothing.
    let targets = Tensor::full_like(tokens, kernels::cross_entropy::IGNORED);
    for range in documents.ranges() {
        let (start, length) = (range.start as i64, range.len() as i64 - 1);
        targets
            .narrow(0, start, length)
            .copy_(&tokens.narrow(0, start + 1, length));
    }
    let weight = policy.head().projection().weight().to_kind(hidden.kind());
    let sum = kernels::linear_cross_entropy(&hidden, &weight, &targets);
    let loss = Loss {
        sum,
        metrics: vec![],
        ratios: vec![],
    };
    Ok(policy.backward(&loss, 1.0, 0.0)?)
}

/// Sums over documents so far, `[u]` f64 a module.
#[derive(Default)]
struct Tally {
    documents: Option<Documents>,
    sums: Vec<(ModulePath, Tensor)>,
}

impl Tally {
    fn acts(&mut self, at: &ModulePath, x: &Tensor, count: usize) {
        let sizes = units_of(x, count).norm_scalaropt_dim(2.0, [-1].as_slice(), false);
        self.add(at, &sizes, |sum, tokens| (sum / tokens).square());
    }

    fn costs(&mut self, at: &ModulePath, x: &Tensor, dx: &Tensor, count: usize) {
        let each = (units_of(x, count) * units_of(dx, count)).sum_dim_intlist([-1].as_slice(), false, Kind::Double);
        self.add(at, &each, |sum, _| sum.square());
    }

    /// `each`: `[t, u]` f64; `of` makes a document's number from its sum and its tokens.
    fn add(&mut self, at: &ModulePath, each: &Tensor, of: impl Fn(Tensor, f64) -> Tensor) {
        let Some(documents) = &self.documents else { return };
        let mut total = Tensor::zeros([each.size()[1]], (Kind::Double, tch::Device::Cpu));
        for range in documents.ranges() {
            let part = each.narrow(0, range.start as i64, range.len() as i64);
            let sum = part.sum_dim_intlist([0].as_slice(), false, Kind::Double);
            total += of(sum, range.len() as f64).to_device(tch::Device::Cpu);
        }
        match self.sums.iter_mut().find(|(module, _)| module == at) {
            Some((_, sum)) => *sum += total,
            None => self.sums.push((at.clone(), total)),
        }
    }

    fn units(self, num_layers: usize, shape: Shape) -> Units {
        let empty = |count: usize| vec![vec![0.0; count]; num_layers];
        let mut units = Units {
            groups: empty(shape.num_kv_heads),
            channels: empty(shape.intermediate_size),
        };
        for (at, sum) in self.sums {
            let numbers = Vec::<f64>::try_from(sum.sqrt()).unwrap_or_default();
            let kind = if at.name() == "o_proj" {
                &mut units.groups
            } else {
                &mut units.channels
            };
            if let Some(slot) = at.layer_idx().and_then(|layer| kind.get_mut(layer)) {
                *slot = numbers;
            }
        }
        units
    }
}

/// `[t, u w]` as `[t, u, w]` in f64.
fn units_of(x: &Tensor, count: usize) -> Tensor {
    x.detach()
        .to_kind(Kind::Double)
        .reshape([x.size()[0], count as i64, -1])
}

type OnGradient = Arc<dyn Fn(&Tensor, &Tensor) + Send + Sync>;

/// Tells of an input and its gradient, once a backward pass; the weight stays frozen.
fn probe(on_gradient: OnGradient) -> OnInput {
    Box::new(move |x| {
        if !autograd::is_recording() {
            return x.shallow_clone();
        }
        // Nothing before the first block trains, but its gradient is asked for.
        let source = if x.requires_grad() {
            x.shallow_clone()
        } else {
            x.detach().set_requires_grad(true)
        };
        let (seen, copy) = tch::no_grad(|| (x.detach(), x.copy()));
        let on_gradient = on_gradient.clone();
        autograd::attach(&[&source], copy, move |dx| {
            if let Some(dx) = &dx {
                on_gradient(&seen, dx);
            }
            vec![dx]
        })
    })
}

impl Units {
    /// An error if a number is not one: an overflow on the way.
    pub fn checked(self) -> Result<Self> {
        let is_sound = |kind: &[Vec<f64>]| kind.iter().flatten().all(|number| number.is_finite());
        if is_sound(&self.groups) && is_sound(&self.channels) {
            return Ok(self);
        }
        Err(Error::Option {
            option: "calibration",
            found: "gives activations that are not finite".into(),
            hint: "compute in f32, or look at the text",
        })
    }
}
