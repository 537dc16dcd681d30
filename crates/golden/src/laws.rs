//! What holds for every projection, whatever method made it. Each crate runs these over its own.
//!
//! Tolerances: everything here is f32 with inputs of size one, so sums over at most a few hundred terms differ by
//! rounding below 1e-5; what is said to be equal bit for bit has no tolerance.

use std::collections::BTreeSet;

use tch::{Kind, Tensor};
use tensor_core::{Documents, DropoutKey, ModulePath, Param, Parameters, Pass, Projection, autograd};

use crate::{assert_close, random};

const TOKENS: i64 = 7;

/// Every law of a projection with `input` columns. `make` builds the same one at each call.
pub fn projection_laws(name: &str, input: i64, make: &dyn Fn() -> Box<dyn Projection>) {
    projection_laws_but_slopes(name, input, make);
    gradients_are_slopes(name, input, make);
}

/// As [`projection_laws`], for a method whose backward pass is by design not its forward pass's derivative.
pub fn projection_laws_but_slopes(name: &str, input: i64, make: &dyn Fn() -> Box<dyn Projection>) {
    forward_is_the_weight(name, input, make);
    merging_changes_nothing(name, input, make);
    gradients_reach_exactly_what_trains(name, input, make);
    paths_are_unique_and_ordered(name, &*make());
}

/// Laws of a wrapper at step 0: it changes nothing, and with adapters off it is its base bit for bit.
pub fn wrapping_laws(
    name: &str,
    input: i64,
    base: &dyn Fn() -> Box<dyn Projection>,
    wrapped: &dyn Fn() -> Box<dyn Projection>,
) {
    let documents = Documents::new(&[TOKENS as usize]);
    let x = inputs(input);
    let (base, wrapped) = (base(), wrapped());
    let plain = base.forward(&x, &Pass::evaluate(&documents));
    let off = wrapped.forward(&x, &Pass::evaluate(&documents).without_adapters());
    assert!(
        plain.equal(&off),
        "`{name}`: with adapters off it is not its base bit for bit"
    );
    let on = wrapped.forward(&x, &Pass::evaluate(&documents));
    assert_close(
        &format!("{name}: wrapping changes nothing at step 0"),
        &on,
        &plain,
        1e-5,
        1e-5,
    );
}

fn forward_is_the_weight(name: &str, input: i64, make: &dyn Fn() -> Box<dyn Projection>) {
    let documents = Documents::new(&[TOKENS as usize]);
    let (projection, x) = (make(), inputs(input));
    let y = projection.forward(&x, &Pass::evaluate(&documents));
    assert_close(
        &format!("{name}: forward is x Wᵀ"),
        &y,
        &x.matmul(&projection.weight().tr()),
        1e-5,
        1e-5,
    );
}

fn merging_changes_nothing(name: &str, input: i64, make: &dyn Fn() -> Box<dyn Projection>) {
    let documents = Documents::new(&[TOKENS as usize]);
    let x = inputs(input);
    let before = make().forward(&x, &Pass::evaluate(&documents));
    let after = make().merge().forward(&x, &Pass::evaluate(&documents));
    assert_close(&format!("{name}: merging changes nothing"), &after, &before, 1e-5, 1e-5);
}

fn gradients_reach_exactly_what_trains(name: &str, input: i64, make: &dyn Fn() -> Box<dyn Projection>) {
    let (projection, x, dy) = gone_back(name, input, make);
    projection.visit(&ModulePath::root(), &mut |at, param| {
        let reached = param.value().grad().defined();
        assert_eq!(
            reached,
            param.is_trainable(),
            "`{name}`: {at} trains: {}, gradient: {reached}",
            param.is_trainable()
        );
    });
    assert_close(
        &format!("{name}: dx is dy W"),
        &x.grad(),
        &dy.matmul(&projection.weight()),
        1e-4,
        1e-4,
    );
}

/// The projection after one backward pass, its input and the gradient that came.
fn gone_back(name: &str, input: i64, make: &dyn Fn() -> Box<dyn Projection>) -> (Box<dyn Projection>, Tensor, Tensor) {
    let documents = Documents::new(&[TOKENS as usize]);
    let projection = make();
    let x = inputs(input).set_requires_grad(true);
    let y = projection.forward(&x, &Pass::train(&documents, DropoutKey(1)));
    let dy = random(18, y.size());
    autograd::backward(&[&y], &[&dy]).unwrap_or_else(|error| panic!("`{name}`: {error}"));
    (projection, x, dy)
}

/// Each trainable parameter's gradient against a central difference along a random direction.
fn gradients_are_slopes(name: &str, input: i64, make: &dyn Fn() -> Box<dyn Projection>) {
    let (projection, x, dy) = gone_back(name, input, make);
    let documents = Documents::new(&[TOKENS as usize]);
    let value = || {
        let y = projection
            .forward(&x.detach(), &Pass::evaluate(&documents))
            .to_kind(Kind::Double);
        (y * &dy).sum(Kind::Double).double_value(&[])
    };
    projection.visit(&ModulePath::root(), &mut |at, param| {
        if !param.is_trainable() {
            return;
        }
        tch::no_grad(|| {
            let mut held = param.value().shallow_clone();
            let (before, direction) = (held.copy(), random(19, param.value().size()));
            let mut at_offset = |offset: f64| {
                held.copy_(&(&before + &direction * offset));
                value()
            };
            let mut central = |step: f64| (at_offset(step) - at_offset(-step)) / (2.0 * step);
            // Richardson's combination: what is cubic along the direction (a norm that divides) cancels too.
            let slope = (4.0 * central(5e-3) - central(1e-2)) / 3.0;
            held.copy_(&before);
            let predicted = (param.value().grad() * &direction).sum(Kind::Double).double_value(&[]);
            // A product of two factors is quadratic along a direction, so a central difference is exact but for f32
            // rounding of y: 1e-6 · |y| / step.
            let allowed = 2e-3 * (1.0 + slope.abs());
            assert!(
                (slope - predicted).abs() <= allowed,
                "`{name}`: {at}: slope {slope}, gradient says {predicted}"
            );
        });
    });
}

fn paths_are_unique_and_ordered(name: &str, module: &dyn Projection) {
    let list = || {
        let mut paths = Vec::new();
        module.visit(&ModulePath::from("at"), &mut |at: &ModulePath, _: &Param| {
            paths.push(at.clone());
        });
        paths
    };
    let paths = list();
    assert_eq!(
        paths.iter().collect::<BTreeSet<_>>().len(),
        paths.len(),
        "`{name}`: a path stands twice in {paths:?}"
    );
    assert_eq!(paths, list(), "`{name}`: the order of paths changes");
}

fn inputs(width: i64) -> Tensor {
    random(17, [TOKENS, width])
}

/// All parameters of a module, for tests that compare whole states.
pub fn state(module: &(impl Parameters + ?Sized)) -> Vec<(String, Tensor)> {
    let mut state = Vec::new();
    module.visit(&ModulePath::root(), &mut |at, param| {
        state.push((at.to_string(), param.value().detach().copy()));
    });
    state
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use tensor_core::{Dense, Role};

    #[test]
    fn a_frozen_and_a_trained_matrix_keep_the_laws() {
        let weight = || random(5, [11, 6]);
        projection_laws("frozen", 6, &|| {
            Box::new(Dense::new(Param::frozen(weight(), Role::Base)))
        });
        projection_laws("trained", 6, &|| {
            Box::new(Dense::new(Param::trainable(&weight(), Role::Base)))
        });
    }

    #[test]
    #[should_panic(expected = "forward is x Wᵀ")]
    fn a_matrix_that_lies_about_its_weight_is_found() {
        #[derive(Debug)]
        struct Liar(Dense);
        impl Parameters for Liar {
            fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
                self.0.visit(at, visitor);
            }
        }
        impl Projection for Liar {
            fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
                self.0.forward(x, pass) * 1.001
            }
            fn weight(&self) -> Tensor {
                self.0.weight()
            }
            fn merge(self: Box<Self>) -> Dense {
                self.0
            }
            fn into_dense(self: Box<Self>) -> Result<Dense, tensor_core::Found> {
                Ok(self.0)
            }
        }
        projection_laws("liar", 4, &|| {
            Box::new(Liar(Dense::new(Param::frozen(
                Tensor::ones([3, 4], (Kind::Float, Device::Cpu)),
                Role::Base,
            ))))
        });
    }
}
