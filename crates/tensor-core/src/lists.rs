//! Operators of libtorch over many tensors at once: one launch for all of them where a device counts launches.

use std::ffi::c_void;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result, shim};

/// Numbers of an `AdamW` step that its parameters share.
#[derive(Clone, Copy, Debug)]
pub struct AdamWOptions {
    /// η, already scheduled.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// λ.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// What gradients are multiplied by on their way in.
    pub gradient_scale: f64,
    /// Which step this is, from 1.
    pub step: u64,
}

/// Moves parameters, each `[value, gradient, first moment, second moment]` of one shape, f32, all on one device; gradients
/// stay as they are.
///
/// Errors: tensors that libtorch's fused step does not take.
pub fn fused_adamw(params: &[[&Tensor; 4]], options: &AdamWOptions) -> Result<()> {
    let Some([first, ..]) = params.first() else {
        return Ok(());
    };
    for param in params {
        for tensor in param {
            // libtorch's own step trusts all of this on the CPU.
            let fits = tensor.defined()
                && tensor.kind() == Kind::Float
                && tensor.size() == param[0].size()
                && tensor.device() == first.device()
                && (tensor.device() != Device::Cpu || tensor.is_contiguous());
            if !fits {
                return Err(Error::Torch(format!(
                    "an AdamW step wants f32 tensors of one shape on one device, found {tensor:?} beside {:?}",
                    param[0]
                )));
            }
        }
    }
    let mut tensors: Vec<*mut c_void> = (0..4)
        .flat_map(|which| params.iter().map(move |param| raw(param[which])))
        .collect();
    let numbers = [
        options.learning_rate,
        options.beta1,
        options.beta2,
        options.weight_decay,
        options.eps,
    ];
    // SAFETY: the pointers are live tensors for the length of the call, four for each parameter; five options.
    #[allow(unsafe_code)]
    unsafe {
        shim::check(shim::shim_fused_adamw(
            tensors.as_mut_ptr(),
            params.len(),
            numbers.as_ptr(),
            options.gradient_scale,
            options.step as i64,
        ))
    }
    .map_err(Error::Torch)
}

/// The sum of squares of f32 tensors on one device, in f64 over their norms: the device is waited for once.
pub fn square_sum(tensors: &[&Tensor]) -> Result<f64> {
    if tensors.is_empty() {
        return Ok(0.0);
    }
    let mut pointers: Vec<*mut c_void> = tensors.iter().map(|tensor| raw(tensor)).collect();
    let mut sum = 0.0;
    // SAFETY: the pointers are live tensors for the length of the call, and `sum` is written before it ends.
    #[allow(unsafe_code)]
    unsafe {
        shim::check(shim::shim_square_sum(
            pointers.as_mut_ptr(),
            pointers.len(),
            &raw mut sum,
        ))
    }
    .map_err(Error::Torch)?;
    Ok(sum)
}

/// `a · b` of bf16 or f16 matrices in f32, without rounding the sums to their dtype: `[m, n]` of `[m, k]` and `[k, n]`.
///
/// Errors: a device whose libtorch has no such product; CUDA devices have it.
pub fn product_in_f32(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the pointers are live tensors for the length of the call; the result is ours where there is no error.
    #[allow(unsafe_code)]
    unsafe {
        shim::check(shim::shim_product_in_f32(raw(a), raw(b), &raw mut out)).map_err(Error::Torch)?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

fn raw(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_length_and_moves_nowhere() {
        assert!(square_sum(&[]).unwrap().abs() < f64::MIN_POSITIVE);
        let options = AdamWOptions {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            eps: 1e-8,
            gradient_scale: 1.0,
            step: 1,
        };
        fused_adamw(&[], &options).unwrap();
    }

    #[test]
    fn tensors_that_do_not_belong_together_do_not_move() {
        let options = AdamWOptions {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            eps: 1e-8,
            gradient_scale: 1.0,
            step: 1,
        };
        let zeros = |n: i64, kind| Tensor::zeros([n], (kind, Device::Cpu));
        let value = zeros(1000, Kind::Float);
        for wrong in [
            zeros(1, Kind::Float),
            zeros(1000, Kind::BFloat16),
            zeros(2000, Kind::Float).slice(0, None, None, 2),
            Tensor::new(),
        ] {
            for place in 1..4 {
                let others = [0; 4].map(|_| zeros(1000, Kind::Float));
                let mut param = others.each_ref();
                (param[0], param[place]) = (&value, &wrong);
                assert!(fused_adamw(&[param], &options).is_err(), "{place}: {wrong:?}");
            }
        }
        assert_eq!(value, zeros(1000, Kind::Float));
    }

    #[test]
    fn squares_of_many_are_summed() {
        let of = |n: i64| Tensor::arange(n, (Kind::Float, Device::Cpu));
        let (a, b) = (of(4), of(3).view([3, 1]));
        assert!((square_sum(&[&a, &b]).unwrap() - 19.0).abs() < 1e-5);
    }
}
