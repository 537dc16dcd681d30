//! What is chosen among: a model's parameters by path, shape and role, without their numbers.

use tensor_core::{ModulePath, Parameters, Role};

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The parameter's path: `model.layers.0.mlp.up_proj.weight`.
    pub path: ModulePath,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its part in the model.
    pub role: Role,
}

/// Every parameter of a model, in the model's order.
pub fn pieces_of(model: &(impl Parameters + ?Sized)) -> Vec<Piece> {
    let mut pieces = Vec::new();
    model.visit(&ModulePath::root(), &mut |at, param| {
        pieces.push(Piece {
            path: at.clone(),
            shape: param.value().size(),
            role: param.role(),
        });
    });
    pieces
}

impl Piece {
    /// How many numbers it holds.
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// The module that it belongs to.
    pub(crate) fn module(&self) -> &str {
        let path = self.path.as_str();
        path.rsplit_once('.').map_or(path, |(module, _)| module)
    }

    /// The module's own name: `up_proj`.
    pub(crate) fn module_name(&self) -> &str {
        let module = self.module();
        module.rsplit_once('.').map_or(module, |(_, name)| name)
    }

    pub(crate) fn is_bias(&self) -> bool {
        self.path.name() == "bias"
    }
}
