//! Parameters: a tensor and the part it plays.
//!
//! Freezing, saving and learning-rate groups ask the role, never a substring of a name. A parameter that trains is an
//! f32 leaf (its master); the compute copy is made by [`Param::cast`], which the gradient passes through.

use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::packed::{PackedMatrix, Packings};
use crate::{ModulePath, Way, autograd};

/// The part that a parameter plays in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Role {
    /// A weight of the pre-trained network.
    Base,
    /// A token embedding (and the head tied to it).
    Embedding,
    /// A normalisation gain or a bias: never decayed.
    Norm,
    /// The first factor of a low-rank update, or any other adapter weight.
    Adapter,
    /// The second factor of a low-rank update, which LoRA+ trains faster.
    AdapterOut,
    /// What chooses between experts.
    Router,
    /// What is added to a router's scores to even out its choice: moved by counting, never by a gradient.
    Balance,
    /// A row of a memory of facts.
    Memory,
    /// An output layer that replaces the pre-trained one.
    Head,
}

/// A tensor with its role. Trainable parameters are f32 leaves; frozen ones have the model's dtype.
#[derive(Debug)]
pub struct Param {
    value: Tensor,
    role: Role,
    packings: Arc<Packings>,
}

impl Param {
    /// A parameter that does not train.
    #[expect(clippy::needless_pass_by_value, reason = "the parameter owns it from here on")]
    pub fn frozen(value: Tensor, role: Role) -> Self {
        Self::holding(value.detach(), role)
    }

    /// A parameter that trains: `value` is copied into an f32 leaf of its own.
    pub fn trainable(value: &Tensor, role: Role) -> Self {
        let master = value.detach().to_kind(Kind::Float).contiguous();
        let master = if master.data_ptr() == value.data_ptr() {
            master.copy()
        } else {
            master
        };
        Self::holding(master.set_requires_grad(true), role)
    }

    fn holding(value: Tensor, role: Role) -> Self {
        Self {
            value,
            role,
            packings: Arc::default(),
        }
    }

    /// The tensor as it is held: shape as in the checkpoint.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The part it plays.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the optimiser moves it.
    pub fn is_trainable(&self) -> bool {
        self.value.requires_grad()
    }

    /// Differs from every earlier stamp once the value has been written to: by libtorch, or through
    /// [`crate::blob::slice_mut_shared`] as optimisers do. For what is computed from parameters and kept.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            memory: self.value.detach(),
            version: self.value.internal_version(),
        }
    }

    /// The value in dtype `kind`, differentiably; the value itself if it has that dtype.
    pub fn cast(&self, kind: Kind) -> Tensor {
        if self.value.kind() == kind {
            self.value.shallow_clone()
        } else {
            self.value.to_kind(kind)
        }
    }

    /// The same parameter, made trainable (in f32) or frozen (in `kind`).
    #[must_use]
    pub fn with_training(self, trains: bool, kind: Kind) -> Self {
        match (trains, self.is_trainable()) {
            (true, false) => Self::trainable(&self.value, self.role),
            (false, true) => Self::frozen(self.value.detach().to_kind(kind), self.role),
            _ => self,
        }
    }

    /// A second handle on the same storage, for tied weights.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            value: self.value.shallow_clone(),
            role: self.role,
            packings: self.packings.clone(),
        }
    }

    /// Makes the parameter trainable behind every handle on it, with `master` as its f32 leaf.
    ///
    /// `master` is held, not copied: nothing else may write to it, or lie over memory that cannot be written.
    pub fn train_in_place(&self, master: &Tensor) {
        self.hold(&master.to_kind(Kind::Float), true);
    }

    /// Freezes the parameter behind every handle on it, as `value` (held, not copied); its gradient is freed.
    pub fn freeze_in_place(&self, value: &Tensor) {
        self.hold(value, false);
    }

    /// All handles share one tensor, whose data change under them; the gradient and packings of the old are no more.
    fn hold(&self, value: &Tensor, trains: bool) {
        let mut handle = self.value.shallow_clone();
        autograd::drop_gradient(&handle);
        // The dtype may change only while no gradient is expected.
        let _ = handle.requires_grad_(false);
        handle.set_data(&value.detach());
        let _ = handle.requires_grad_(trains);
        self.packings.forget();
    }

    /// The matrix of a frozen parameter packed for one direction, made when it is first asked for; none where this
    /// machine gains nothing by it, or where the parameter trains.
    pub(crate) fn packed(&self, way: Way) -> Option<PackedMatrix> {
        if self.is_trainable() {
            return None;
        }
        self.packings.get(way, &self.value, PackedMatrix::of)
    }
}

/// A parameter's value at one time: equal as long as nothing was written.
///
/// It keeps the value's memory, so that no other tensor can come to lie at its address while the stamp lives.
#[derive(Debug)]
pub struct Stamp {
    memory: Tensor,
    version: i64,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        let place = |stamp: &Self| (stamp.memory.data_ptr() as usize, stamp.version, stamp.memory.numel());
        place(self) == place(other)
    }
}

/// Anything that holds parameters and can name them.
pub trait Parameters {
    /// Shows every parameter with its path, in a fixed order, each storage once.
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param));
}

/// Every parameter below `module`, with second handles on the same storage.
pub fn named_params(module: &(impl Parameters + ?Sized)) -> Vec<(ModulePath, Param)> {
    let mut params = Vec::new();
    module.visit(&ModulePath::root(), &mut |at, param| {
        params.push((at.clone(), param.share()));
    });
    params
}

/// How many numbers are held, and how many of them train.
pub fn num_params(module: &(impl Parameters + ?Sized)) -> (usize, usize) {
    let (mut all, mut trainable) = (0, 0);
    module.visit(&ModulePath::root(), &mut |_, param| {
        let count = param.value().numel();
        all += count;
        trainable += if param.is_trainable() { count } else { 0 };
    });
    (all, trainable)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{Dense, Documents, Pass, Projection};

    #[test]
    fn a_stamp_tells_of_every_write() {
        let param = Param::trainable(&Tensor::from_slice(&[1.0f32, 2.0]), Role::Adapter);
        let mut seen = vec![param.stamp()];
        assert_eq!(param.share().stamp(), seen[0]);
        // SAFETY: nothing else has a slice of it.
        #[allow(unsafe_code)]
        unsafe {
            crate::blob::slice_mut_shared::<f32>(param.value())[0] = 3.0;
        }
        seen.push(param.stamp());
        tch::no_grad(|| param.value().shallow_clone().copy_(&Tensor::from_slice(&[4.0f32, 5.0])));
        seen.push(param.stamp());
        param
            .value()
            .shallow_clone()
            .set_data(&Tensor::from_slice(&[6.0f32, 7.0]));
        seen.push(param.stamp());
        let _ = (param.cast(Kind::Float) * 2.0).sum(Kind::Float);
        assert_eq!(param.stamp(), seen[3], "reading is no write");
        seen.dedup();
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn a_stamp_is_not_that_of_a_tensor_that_comes_to_lie_where_the_old_one_was() {
        let param = Param::frozen(Tensor::zeros([1000], (Kind::Float, Device::Cpu)), Role::Adapter);
        let stamp = param.stamp();
        for value in 0..64 {
            // The old memory is free, but for the stamp; the allocator gives the same block to the next of its size.
            param.freeze_in_place(&Tensor::full([1000], value, (Kind::Float, Device::Cpu)));
            assert_ne!(param.stamp(), stamp, "after {value}");
        }
    }

    fn ones(kind: Kind) -> Tensor {
        Tensor::ones([64, 32], (kind, Device::Cpu))
    }

    #[test]
    fn a_parameter_changes_behind_every_handle() {
        let param = Param::frozen(ones(Kind::BFloat16), Role::Base);
        let tied = param.share();
        let master = ones(Kind::Float) * 3.0;
        param.train_in_place(&master);
        assert!(tied.is_trainable() && tied.value().equal(&master));
        (tied.value() * 2.0).sum(Kind::Float).backward();
        assert!(param.value().grad().defined());
        param.freeze_in_place(&master.to_kind(Kind::BFloat16));
        assert!(!tied.is_trainable() && tied.value().kind() == Kind::BFloat16);
        assert!(!tied.value().grad().defined(), "the gradient is freed");
        param.train_in_place(&master);
        (tied.value() * 2.0).sum(Kind::Float).backward();
        assert_eq!(tied.value().grad(), ones(Kind::Float) * 2.0);
    }

    #[test]
    fn a_matrix_that_is_frozen_again_is_computed_with_its_new_value() {
        let documents = Documents::new(&[2]);
        for kind in [Kind::BFloat16, Kind::Float] {
            let dense = Dense::new(Param::frozen(ones(kind), Role::Base));
            let x = Tensor::ones([2, 32], (kind, Device::Cpu));
            let both = || {
                let y = dense.forward(&x, &Pass::evaluate(&documents));
                // The way back is packed apart.
                let back = crate::FrozenMap::apply_transposed(&dense, &y, None);
                (y.double_value(&[0, 0]), back.double_value(&[0, 0]))
            };
            assert_eq!(both(), (32.0, 2048.0));
            dense.param().train_in_place(&ones(Kind::Float));
            dense.param().freeze_in_place(&(ones(kind) * 2.0));
            assert_eq!(both(), (64.0, 8192.0), "{kind:?}");
        }
    }
}
