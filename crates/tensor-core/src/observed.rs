//! A projection that shows what goes into it: how calibration sees a layer's inputs, and their gradients, without the
//! layer knowing.

use std::fmt;

use tch::Tensor;

use crate::{Dense, Found, ModulePath, Param, Parameters, Pass, Projection};

/// What is told of each input `[t, in]`; gives what goes on, which holds the same numbers: the input itself, or a node that
/// hears of its gradient.
pub type OnInput = Box<dyn Fn(&Tensor) -> Tensor + Send>;

/// The same function as what it wraps, bit for bit, and a listener to its inputs.
///
/// It is no change of the slot: what it holds is plain if what it wraps is.
pub struct Observed {
    inner: Box<dyn Projection>,
    on_input: OnInput,
}

impl Observed {
    /// Tells `on_input` of every input of `inner`.
    pub fn new(inner: Box<dyn Projection>, on_input: OnInput) -> Self {
        Self { inner, on_input }
    }
}

impl Projection for Observed {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.inner.forward(&(self.on_input)(x), pass)
    }

    fn weight(&self) -> Tensor {
        self.inner.weight()
    }

    fn merge(self: Box<Self>) -> Dense {
        self.inner.merge()
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        self.inner.into_dense()
    }

    fn bias_scale(&self, pass: &Pass) -> Option<Tensor> {
        self.inner.bias_scale(pass)
    }
}

impl Parameters for Observed {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.inner.visit(at, visitor);
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tch::{Device, Kind};

    use super::*;
    use crate::{Documents, Linear, Role, project};

    #[test]
    fn every_input_is_seen_and_nothing_changes() {
        let dense = |scale: f64| {
            let weight = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([4, 3]) * scale;
            Dense::new(Param::frozen(weight, Role::Base))
        };
        let seen: Arc<Mutex<Vec<Tensor>>> = Arc::default();
        let observed = |scale| {
            let seen = seen.clone();
            let on_input = Box::new(move |x: &Tensor| {
                seen.lock().unwrap().push(x.shallow_clone());
                x.shallow_clone()
            });
            Observed::new(Box::new(dense(scale)), on_input)
        };
        let documents = Documents::new(&[2]);
        let pass = Pass::evaluate(&documents);
        let x = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        // Also where several projections of one input are computed together.
        let slots = [1.0, 2.0].map(|scale| Linear::new(observed(scale), None));
        let plain = [1.0, 2.0].map(|scale| Linear::new(dense(scale), None));
        let found = project(&x, [&slots[0], &slots[1]], &pass);
        assert_eq!(found, project(&x, [&plain[0], &plain[1]], &pass));
        let seen = seen.lock().unwrap();
        assert!(seen.len() == 2 && seen.iter().all(|input| input.data_ptr() == x.data_ptr()));
        let inner: Box<dyn Projection> = Box::new(observed(3.0));
        assert_eq!(inner.into_dense().expect("plain inside").weight(), dense(3.0).weight());
    }
}
