//! Half fine-tuning of a model of `tch::nn`: its variables as pieces, and a choice made of them.

use tch::{Tensor, nn};
use tensor_core::{ModulePath, Role, autograd};

use crate::{HalfSelection, Piece};

/// Every variable of the store by name, in the order of their names, with the role that `role` says it has: a matrix of a
/// layer is [`Role::Base`], a vector [`Role::Norm`], the table of tokens [`Role::Embedding`], the output layer
/// [`Role::Head`].
///
/// Layers are told by their number: `layers.3.up_proj.weight`. A bias belongs to the weight beside it.
pub fn pieces_of_store(store: &nn::VarStore, role: impl Fn(&ModulePath, &Tensor) -> Role) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = store
        .variables()
        .into_iter()
        .map(|(name, value)| {
            let path = ModulePath::from(name);
            let role = role(&path, &value);
            Piece {
                path,
                shape: value.size(),
                role,
            }
        })
        .collect();
    pieces.sort_by(|a, b| a.path.cmp(&b.path));
    pieces
}

/// Makes the store's variables train or stay, as the selection says; the gradients of those that stay are freed, so an
/// optimiser passes over them.
pub fn freeze(selection: &HalfSelection, store: &nn::VarStore) {
    for (name, mut value) in store.variables() {
        let trains = selection.trains(&ModulePath::from(name));
        let _ = value.requires_grad_(trains);
        if !trains {
            autograd::drop_gradient(&value);
        }
    }
}
