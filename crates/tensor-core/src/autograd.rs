//! Autograd functions written in Rust: the forward value is computed by plain code, the backward is a closure.
//!
//! The closure is consumed by the backward pass, so whatever it saved is freed as the pass goes. It runs without grad
//! mode. It must not capture the output itself (capture `output.detach()`), or the graph would hold itself.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;

use crate::{Error, Result, shim};

type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>) -> Vec<Option<Tensor>> + Send>;

/// Whether a graph is being recorded and any of these tensors is part of it.
pub fn wants(inputs: &[&Tensor]) -> bool {
    is_recording() && inputs.iter().any(|input| input.requires_grad())
}

/// Whether libtorch records a graph on this thread.
pub fn is_recording() -> bool {
    // SAFETY: a plain query.
    #[allow(unsafe_code)]
    unsafe {
        shim::shim_is_recording() != 0
    }
}

/// Makes `output`, computed without a graph, a function of `inputs` for the backward pass.
///
/// `backward` takes the output's gradient (none if undefined) and returns one gradient an input (none for none).
/// Call it only where [`wants`] says so.
///
/// # Panics
/// If libtorch refuses: the output is a leaf that requires grad, or a view of an input.
pub fn attach(
    inputs: &[&Tensor],
    output: Tensor,
    backward: impl FnOnce(Option<Tensor>) -> Vec<Option<Tensor>> + Send + 'static,
) -> Tensor {
    let mut outputs = attach_many(inputs, vec![output], move |mut gradients| {
        backward(gradients.pop().flatten())
    });
    outputs.pop().expect("one output in, one out")
}

/// As [`attach`], for several outputs of one function.
///
/// # Panics
/// As [`attach`].
pub fn attach_many(
    inputs: &[&Tensor],
    outputs: Vec<Tensor>,
    backward: impl FnOnce(Vec<Option<Tensor>>) -> Vec<Option<Tensor>> + Send + 'static,
) -> Vec<Tensor> {
    let boxed: Backward = Box::new(backward);
    let env = Box::into_raw(Box::new(boxed)).cast::<c_void>();
    let mut ins: Vec<*mut c_void> = inputs.iter().map(|t| t.as_ptr().cast_mut().cast()).collect();
    let mut outs: Vec<*mut c_void> = outputs.iter().map(|t| t.as_ptr().cast_mut().cast()).collect();
    // SAFETY: the pointers are live tensors; the node owns `env` from here and drops it exactly once.
    #[allow(unsafe_code)]
    let attached = unsafe {
        shim::check(shim::shim_attach(
            ins.as_mut_ptr(),
            ins.len(),
            outs.as_mut_ptr(),
            outs.len(),
            env,
            apply,
            drop_env,
        ))
    };
    attached.unwrap_or_else(|error| panic!("{error}"));
    outputs
}

/// Walks the graph back from `roots` with these gradients, adding into the leaves' `grad`.
pub fn backward(roots: &[&Tensor], gradients: &[&Tensor]) -> Result<()> {
    assert_eq!(roots.len(), gradients.len(), "one gradient a root");
    if let Some(root) = roots.iter().find(|root| !root.defined() || !root.requires_grad()) {
        return Err(Error::Torch(format!(
            "no graph leads to a root of the backward pass: {root:?}"
        )));
    }
    let mut roots: Vec<*mut c_void> = roots.iter().map(|t| t.as_ptr().cast_mut().cast()).collect();
    let mut gradients: Vec<*mut c_void> = gradients.iter().map(|t| t.as_ptr().cast_mut().cast()).collect();
    // SAFETY: the pointers are live tensors for the length of the call.
    #[allow(unsafe_code)]
    unsafe {
        shim::check(shim::shim_backward(
            roots.as_mut_ptr(),
            gradients.as_mut_ptr(),
            roots.len(),
        ))
    }
    .map_err(Error::Torch)
}

/// Frees the gradient that a leaf holds: afterwards it has none, as before its first backward pass.
pub fn drop_gradient(leaf: &Tensor) {
    if !leaf.defined() {
        return;
    }
    // SAFETY: the pointer is a live tensor for the length of the call.
    #[allow(unsafe_code)]
    let dropped = unsafe { shim::check(shim::shim_drop_gradient(leaf.as_ptr().cast_mut().cast())) };
    dropped.unwrap_or_else(|error| panic!("{error}"));
}

#[allow(unsafe_code)]
unsafe extern "C" fn apply(
    env: *mut c_void,
    grads: *mut *mut c_void,
    n_in: usize,
    results: *mut *mut c_void,
    n_out: usize,
) -> *mut c_char {
    // SAFETY: `env` comes from `attach_many` and is handed over once; the arrays have the lengths given.
    let (backward, grads, results) = unsafe {
        (
            *Box::from_raw(env.cast::<Backward>()),
            std::slice::from_raw_parts(grads, n_in),
            std::slice::from_raw_parts_mut(results, n_out),
        )
    };
    let gradients = grads
        .iter()
        .map(|&grad| {
            // SAFETY: ownership of each non-null tensor passes to us.
            (!grad.is_null()).then(|| unsafe { Tensor::from_ptr(grad.cast()) })
        })
        .collect();
    // A panic must not cross into C++.
    match catch_unwind(AssertUnwindSafe(|| tch::no_grad(|| backward(gradients)))) {
        Ok(out) if out.len() == n_out => {
            for (slot, tensor) in results.iter_mut().zip(out) {
                if let Some(tensor) = tensor {
                    *slot = tensor.as_ptr().cast_mut().cast();
                    std::mem::forget(tensor);
                }
            }
            std::ptr::null_mut()
        }
        Ok(out) => shim::error_text(&format!(
            "a backward closure gave {} gradients for {n_out} inputs",
            out.len()
        )),
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            shim::error_text(&format!(
                "a backward closure panicked: {}",
                what.unwrap_or("no message")
            ))
        }
    }
}

#[allow(unsafe_code)]
unsafe extern "C" fn drop_env(env: *mut c_void) {
    // SAFETY: the node drops a closure that it never ran, once.
    drop(unsafe { Box::from_raw(env.cast::<Backward>()) });
}

/// The text of an error that libtorch gave, for `Error::Torch`.
pub(crate) fn text(error: &CStr) -> String {
    error.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn a_rust_backward_reaches_the_leaves() {
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0]).set_requires_grad(true);
        let saved = x.detach();
        let y = tch::no_grad(|| &x * &x);
        let y = attach(&[&x], y, move |dy| vec![dy.map(|dy| dy * 2.0 * saved)]);
        let z = y * 3.0;
        backward(&[&z], &[&Tensor::from_slice(&[1.0f32, 10.0, 100.0])]).unwrap();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [6.0, 120.0, 1800.0]);
    }

    #[test]
    fn a_panic_in_a_backward_becomes_an_error() {
        let x = Tensor::ones([2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let y = attach(&[&x], x.detach() * 2.0, |_| panic!("no gradient today"));
        let error = backward(&[&y], &[&y.detach()]).unwrap_err().to_string();
        assert!(error.contains("no gradient today"), "{error}");
    }

    #[test]
    fn a_root_without_a_graph_is_an_error() {
        let ones = Tensor::ones([2], (Kind::Float, tch::Device::Cpu));
        for root in [ones.shallow_clone(), Tensor::new()] {
            let error = backward(&[&root], &[&ones]).unwrap_err().to_string();
            assert!(error.contains("no graph"), "{error}");
        }
        drop_gradient(&Tensor::new());
    }

    #[test]
    fn a_graph_is_used_once() {
        let x = Tensor::ones([2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let y = attach(&[&x], x.detach() * 2.0, |dy| vec![dy.map(|dy| dy * 2.0)]);
        backward(&[&y], &[&y.detach()]).unwrap();
        assert!(backward(&[&y], &[&y.detach()]).is_err());
    }

    #[test]
    fn a_dropped_gradient_is_gone_and_comes_again() {
        let x = Tensor::ones([2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        (&x * 3.0).sum(Kind::Float).backward();
        drop_gradient(&x);
        assert!(!x.grad().defined());
        (&x * 4.0).sum(Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [4.0, 4.0]);
    }

    #[test]
    fn what_a_closure_saved_is_dropped_with_the_graph() {
        let alive = std::sync::Arc::new(());
        let x = Tensor::ones([2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let kept = alive.clone();
        let y = attach(&[&x], x.detach() * 2.0, move |dy| {
            let _ = &kept;
            vec![dy]
        });
        assert_eq!(std::sync::Arc::strong_count(&alive), 2);
        drop(y);
        assert_eq!(std::sync::Arc::strong_count(&alive), 1);
    }
}
