//! Models of `tch::nn`: their layers become slots and sublayers, and what a method adds goes to their optimisers.
//!
//! A method is a function over slots, so a foreign model needs no more than this: [`Linear`] is made of an [`nn::Linear`]
//! and is a [`nn::ModuleT`] itself, [`FrozenModule`] makes a sublayer of any module, [`SublayerModule`] a module of any
//! sublayer, and [`add_trainable`] shows a `VarStore`, and so an [`nn::Optimizer`], the parameters that train.
//!
//! ```
//! use tch::nn::{self, ModuleT, OptimizerConfig};
//! use tch::{Device, Kind, Tensor};
//! use tensor_core::{Linear, bridge};
//!
//! let store = nn::VarStore::new(Device::Cpu);
//! let layer = nn::linear(store.root() / "layer", 3, 2, nn::LinearConfig::default());
//! let x = Tensor::ones([4, 5, 3], (Kind::Float, Device::Cpu));
//! let before = x.apply(&layer);
//! let slot = bridge::trainable_copy(&layer);
//! assert!((slot.forward_t(&x, false) - before).abs().max().double_value(&[]) < 1e-6);
//!
//! let trained = nn::VarStore::new(Device::Cpu);
//! bridge::add_trainable(&slot, &trained.root());
//! let mut optimizer = nn::Sgd::default().build(&trained, 0.1)?;
//! optimizer.backward_step(&slot.forward_t(&x, true).square().mean(Kind::Float));
//! # Ok::<(), tch::TchError>(())
//! ```

use tch::{Tensor, nn};

use crate::{
    Dense, Documents, DropoutKey, Linear, ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result, Role,
    Sublayer,
};

/// A slot over the same memory as the layer, frozen. The layer's own variables should not be written to any more: a frozen
/// weight may be kept in a packed copy.
impl From<&nn::Linear> for Linear {
    fn from(layer: &nn::Linear) -> Self {
        let weight = Param::frozen(layer.ws.shallow_clone(), Role::Base);
        let bias = layer.bs.as_ref();
        Self::new(
            Dense::new(weight),
            bias.map(|bias| Param::frozen(bias.shallow_clone(), Role::Norm)),
        )
    }
}

/// A slot with a copy of the layer's numbers, in f32, which train.
pub fn trainable_copy(layer: &nn::Linear) -> Linear {
    let bias = layer.bs.as_ref();
    Linear::new(
        Dense::new(Param::trainable(&layer.ws, Role::Base)),
        bias.map(|bias| Param::trainable(bias, Role::Norm)),
    )
}

/// Shows the store every parameter of `module` that trains, under the module's own names below `at`: an optimiser that is
/// built of the store moves them, and `VarStore::save` writes them.
///
/// The store holds the very tensors. Parameters that are frozen are left out.
pub fn add_trainable(module: &(impl Parameters + ?Sized), at: &nn::Path) {
    module.visit(&ModulePath::root(), &mut |path, param| {
        if !param.is_trainable() {
            return;
        }
        let (folders, name) = path.as_str().rsplit_once('.').unwrap_or(("", path.as_str()));
        let folders = folders.split('.').filter(|part| !part.is_empty());
        let at = folders.fold(at.clone(), |at, part| at / part);
        let _ = at.add(name, param.value().shallow_clone(), true);
    });
}

/// Applies `layer` to `[…, d]` as to `[t, d]`, in a pass that trains or evaluates; dropout is drawn from libtorch's own
/// generator, so `tch::manual_seed` repeats it.
fn in_rows(x: &Tensor, train: bool, layer: impl FnOnce(&Tensor, &Pass) -> Tensor) -> Tensor {
    let size = x.size();
    let (rows, width) = size.split_at(size.len().saturating_sub(1));
    let num_rows = rows.iter().product::<i64>();
    let documents = Documents::new(&[num_rows.max(1) as usize]);
    let pass = if train {
        let drawn = Tensor::randint(i64::MAX, [1], (tch::Kind::Int64, tch::Device::Cpu));
        Pass::train(&documents, DropoutKey(drawn.int64_value(&[0]) as u64))
    } else {
        Pass::evaluate(&documents)
    };
    let y = layer(&x.reshape([num_rows, width.first().copied().unwrap_or(1)]), &pass);
    let outputs = y.size().last().copied().unwrap_or(1);
    y.view([rows, &[outputs]].concat().as_slice())
}

impl nn::ModuleT for Linear {
    /// `[…, in]` to `[…, out]`.
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        in_rows(x, train, |x, pass| self.forward(x, pass))
    }
}

/// A foreign module as a frozen sublayer: `[t, d]` to `[t, d]`, whose gradient goes through it to its input.
#[derive(Debug)]
pub struct FrozenModule<M> {
    module: M,
    variables: Vec<(ModulePath, Param)>,
}

impl<M: nn::ModuleT> FrozenModule<M> {
    /// `module`, whose variables are those of `store`; all of them are frozen with that.
    pub fn new(module: M, store: &mut nn::VarStore) -> Self {
        store.freeze();
        let mut variables: Vec<_> = store
            .variables()
            .into_iter()
            .map(|(name, value)| {
                let role = if value.dim() < 2 { Role::Norm } else { Role::Base };
                (ModulePath::from(name), Param::frozen(value, role))
            })
            .collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        Self { module, variables }
    }
}

impl<M: nn::ModuleT + 'static> Sublayer for FrozenModule<M> {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.module.forward_t(x, pass.is_training())
    }

    /// As it is: there are no slots inside.
    fn map_projections(self: Box<Self>, _: &ModulePath, _: &mut ProjectionSurgeon) -> Result<Box<dyn Sublayer>> {
        Ok(self)
    }
}

impl<M> Parameters for FrozenModule<M> {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        for (path, param) in &self.variables {
            visitor(&at.join(path), param);
        }
    }
}

/// A sublayer as a module: `[…, d]` to `[…, d]`.
#[derive(Debug)]
pub struct SublayerModule(Box<dyn Sublayer>);

impl SublayerModule {
    /// A module that does what the sublayer does.
    pub fn new(sublayer: Box<dyn Sublayer>) -> Self {
        Self(sublayer)
    }
}

impl nn::ModuleT for SublayerModule {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        in_rows(x, train, |x, pass| self.0.forward(x, pass))
    }
}

impl Parameters for SublayerModule {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.0.visit(at, visitor);
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::{ModuleT, OptimizerConfig};
    use tch::{Device, Kind};

    use super::*;

    fn layer(store: &nn::VarStore) -> nn::Linear {
        nn::linear(store.root() / "layer", 5, 3, nn::LinearConfig::default())
    }

    fn input() -> Tensor {
        Tensor::arange(2 * 4 * 5, (Kind::Float, Device::Cpu)).view([2, 4, 5]) / 10.0
    }

    #[test]
    fn a_slot_computes_what_the_layer_computes_and_shares_its_memory() {
        let store = nn::VarStore::new(Device::Cpu);
        let layer = layer(&store);
        let slot = Linear::from(&layer);
        let wanted = input().apply(&layer);
        let found = slot.forward_t(&input(), false);
        assert_eq!(found.size(), [2, 4, 3]);
        assert!((found - wanted).abs().max().double_value(&[]) < 1e-5);
        slot.visit(&ModulePath::root(), &mut |_, param| assert!(!param.is_trainable()));
        assert_eq!(slot.projection().weight().data_ptr(), layer.ws.data_ptr());
    }

    #[test]
    fn an_optimiser_of_tch_moves_what_trains_and_nothing_else() -> std::result::Result<(), tch::TchError> {
        let store = nn::VarStore::new(Device::Cpu);
        let layer = layer(&store);
        let was = layer.ws.copy();
        let (frozen, slot) = (Linear::from(&layer), trainable_copy(&layer));
        let trained = nn::VarStore::new(Device::Cpu);
        add_trainable(&frozen, &trained.root());
        assert!(trained.is_empty(), "nothing of it trains");
        add_trainable(&slot, &(trained.root() / "a"));
        let names: std::collections::BTreeSet<_> = trained.variables().into_keys().collect();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a.bias", "a.weight"]);
        let mut optimizer = nn::Sgd::default().build(&trained, 0.1)?;
        let loss = || slot.forward_t(&input(), true).square().mean(Kind::Float);
        let before = loss().double_value(&[]);
        optimizer.backward_step(&loss());
        assert!(loss().double_value(&[]) < before);
        assert!(layer.ws.equal(&was), "the layer has its own numbers");
        Ok(())
    }

    #[test]
    fn a_frozen_module_passes_the_gradient_on_and_keeps_its_variables() {
        let mut store = nn::VarStore::new(Device::Cpu);
        let inner = nn::linear(store.root() / "mlp", 5, 5, nn::LinearConfig::default());
        let x = input().set_requires_grad(true);
        let (weight, wanted) = (inner.ws.shallow_clone(), x.apply(&inner).detach());
        let module = SublayerModule::new(Box::new(FrozenModule::new(inner, &mut store)));
        let y = module.forward_t(&x, true);
        assert!((&y - wanted).abs().max().double_value(&[]) < 1e-5);
        y.sum(Kind::Float).backward();
        // The gradient of a sum is the weight's column sums, at each token.
        let wanted = weight.sum_dim_intlist([0].as_slice(), false, Kind::Float);
        let found = x.grad().view([-1, 5]).get(0);
        assert!((found - wanted).abs().max().double_value(&[]) < 1e-5);
        assert!(!weight.grad().defined() && !weight.requires_grad());
        let mut names = Vec::new();
        module.visit(&ModulePath::from("model.layers.0"), &mut |at, _| {
            names.push(at.to_string());
        });
        assert_eq!(names, ["model.layers.0.mlp.bias", "model.layers.0.mlp.weight"]);
    }
}
