//! What adapters bring to each module, with the scale that each one's own configuration gives it.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};
use tensor_core::ModulePath;

use super::Weighted;
use crate::place::Parts;
use crate::{Error, Placement, Result};

/// One adapter's part in a module's combination. Shapes: r rank, in and out widths.
#[derive(Debug)]
pub(super) struct Term {
    /// The adapter's name.
    pub(super) name: String,
    /// A `[r, in]` f32.
    pub(super) a: Tensor,
    /// B `[out, r]` f32.
    pub(super) b: Tensor,
    /// s, of the update `s B A`.
    pub(super) scale: f64,
    /// w.
    pub(super) weight: f64,
}

impl Term {
    /// What `B A` counts with: `w s`.
    pub(super) fn strength(&self) -> f64 {
        self.weight * self.scale
    }

    pub(super) fn rank(&self) -> i64 {
        self.a.size()[0]
    }

    /// Rows and columns of the update.
    pub(super) fn shape(&self) -> [i64; 2] {
        [self.b.size()[0], self.a.size()[1]]
    }
}

/// Which kind of module an update is of: their tensors have other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Projection,
    Table,
}

/// A module that is updated.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) slot: Slot,
    pub(super) terms: Vec<Term>,
}

/// All adapters, module by module.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) modules: BTreeMap<ModulePath, Module>,
    /// Tensors of modules that one adapter trained whole.
    pub(super) whole: BTreeMap<ModulePath, Tensor>,
}

/// Reads the adapters; what cannot be weighted and summed is refused by name.
pub(super) fn gather(adapters: &[Weighted]) -> Result<Gathered> {
    let mut gathered = Gathered::default();
    for adapter in adapters {
        refuse(adapter)?;
        let tensors = adapter
            .tensors
            .iter()
            .map(|(key, tensor)| (key.clone(), tensor.shallow_clone()));
        let parts = Placement::new(adapter.config.clone(), tensors)?.into_parts();
        gathered.add(adapter, parts)?;
    }
    for path in gathered.whole.keys() {
        let module = ModulePath::from(path.as_str().rsplit_once('.').map_or("", |(module, _)| module));
        if let Some(Module { terms, .. }) = gathered.modules.get(&module) {
            return Err(uncombined(
                &terms[0].name,
                module.as_str(),
                "an update of a module that another adapter trained whole",
                "combine adapters that leave this module alone, or merge one of them into the model first",
            ));
        }
    }
    Ok(gathered)
}

impl Gathered {
    fn add(&mut self, adapter: &Weighted, parts: Parts) -> Result<()> {
        let Parts {
            projections,
            tables,
            whole,
        } = parts;
        let projections = projections.into_iter().map(|(at, pair)| (at, pair, Slot::Projection));
        for (at, (a, b), slot) in projections.chain(tables.into_iter().map(|(at, pair)| (at, pair, Slot::Table))) {
            let term = term(adapter, &at, &a, &b)?;
            let module = self.modules.entry(at.clone()).or_insert_with(|| Module {
                slot,
                terms: Vec::new(),
            });
            if let Some(first) = module.terms.first().filter(|first| first.shape() != term.shape()) {
                return Err(Error::OtherModel {
                    at,
                    first: first.name.clone(),
                    wanted: first.shape(),
                    second: term.name,
                    found: [b.size()[0], a.size()[1]],
                });
            }
            module.terms.push(term);
        }
        #[expect(
            clippy::float_cmp,
            reason = "only a weight of exactly 1 leaves a whole module as it is"
        )]
        let weighs_one = adapter.weight == 1.0;
        for (path, tensor) in whole {
            if !weighs_one {
                return Err(uncombined(
                    &adapter.name,
                    path.as_str(),
                    "a module that was trained whole (`modules_to_save`), which has no update to be weighted",
                    "give this adapter weight 1, or merge it into the model first",
                ));
            }
            if self.whole.contains_key(&path) {
                return Err(uncombined(
                    &adapter.name,
                    path.as_str(),
                    "a module that another adapter trained whole too (`modules_to_save`)",
                    "leave one of the two out, or merge one of them into the model first",
                ));
            }
            self.whole.insert(path, tensor);
        }
        Ok(())
    }
}

fn term(adapter: &Weighted, at: &ModulePath, a: &Tensor, b: &Tensor) -> Result<Term> {
    let (rank, scale) = adapter.config.rank_and_scale(at)?;
    for (tensor, factor, side) in [("lora_A", a, 0), ("lora_B", b, 1)] {
        let found = factor.size();
        if found.len() != 2 || found[side] != rank {
            let other = *found.get(1 - side).unwrap_or(&-1);
            let wanted = if side == 0 {
                vec![rank, other]
            } else {
                vec![other, rank]
            };
            return Err(Error::Shape {
                at: at.clone(),
                tensor,
                wanted,
                found,
            });
        }
    }
    let plain = |factor: &Tensor| factor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    Ok(Term {
        name: adapter.name.clone(),
        a: plain(a),
        b: plain(b),
        scale,
        weight: adapter.weight,
    })
}

/// What no type of combination means anything for.
fn refuse(adapter: &Weighted) -> Result<()> {
    if !adapter.weight.is_finite() {
        return Err(Error::Option {
            option: "weights",
            found: format!("{} for adapter `{}`", adapter.weight, adapter.name),
            hint: "a weight is a number; negative ones take an adapter out",
        });
    }
    if adapter.config.init_lora_weights.takes_from_base() {
        return Err(uncombined(
            &adapter.name,
            &format!("init_lora_weights = \"{}\"", adapter.config.init_lora_weights.name()),
            "an update of what is left of the base after its first update was taken out, so it is no update of the base",
            "convert the adapter in PEFT with `save_pretrained(folder, path_initial_model_for_weight_conversion=…)`",
        ));
    }
    for (key, tensor) in &adapter.tensors {
        let what = if key.contains("lora_magnitude_vector") {
            "DoRA's magnitudes, which do not add up"
        } else if key.ends_with("lora_B.bias") || key.ends_with("lora_B.default.bias") {
            "the bias of an update (`lora_bias`), which has no place in a product of factors"
        } else if tensor.isfinite().all().int64_value(&[]) == 0 {
            let hint = "the run that made this adapter diverged; take an earlier checkpoint";
            return Err(uncombined(
                &adapter.name,
                key,
                "a tensor with numbers that are not finite",
                hint,
            ));
        } else {
            continue;
        };
        let hint = "merge this adapter into the model first, and combine the others over the merged model";
        return Err(uncombined(&adapter.name, key, what, hint));
    }
    Ok(())
}

fn uncombined(adapter: &str, what: &str, is: &'static str, hint: &'static str) -> Error {
    Error::Uncombined {
        adapter: adapter.to_owned(),
        what: what.to_owned(),
        is,
        hint,
    }
}
