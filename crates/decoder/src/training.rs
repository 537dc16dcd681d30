//! Choosing what trains: full fine-tuning, half of it, or a few modules beside an adapter.

use tch::Kind;
use tensor_core::{ModulePath, Param, Parameters, Role};

use crate::decoder::Decoder;
use crate::{Error, Result};

impl Decoder {
    /// Makes the frozen parameters that `choose` names (by path and role) trainable f32 masters; the others stay as
    /// they are.
    ///
    /// A head that is tied to the embedding stays tied: both read one master, and its gradient comes from both uses.
    pub fn train_where(self, mut choose: impl FnMut(&ModulePath, Role) -> bool) -> Result<Self> {
        let (mut found, mut example) = (0, String::new());
        let mut chosen = Vec::new();
        self.visit(&ModulePath::root(), &mut |at, param| {
            found += 1;
            if example.is_empty() {
                example = at.to_string();
            }
            // What no gradient moves cannot be asked to train.
            if param.role() != Role::Balance && choose(at, param.role()) {
                chosen.push((at.clone(), param.share()));
            }
        });
        if chosen.is_empty() {
            return Err(Error::NothingTrains { found, example });
        }
        for (at, param) in chosen {
            if !param.is_trainable() {
                train(&at, &param)?;
            }
        }
        Ok(self)
    }
}

/// Turns the tensor behind every handle of `param` into an f32 leaf.
///
/// All handles change at once, which is what keeps tied weights tied; the model is owned, so nobody else holds one.
fn train(at: &ModulePath, param: &Param) -> Result<()> {
    let kind = param.value().kind();
    if !matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half) {
        return Err(Error::NotTrainable {
            at: at.clone(),
            found: format!("{kind:?}"),
            hint: "a packed weight cannot train: leave it out or do not quantise it",
        });
    }
    param.train_in_place(Param::trainable(param.value(), param.role()).value());
    Ok(())
}
