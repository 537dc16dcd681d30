//! Weights in the order in which the machine's matrix units read them, for both directions.
//!
//! Deviation: none in value beyond the order of summation; packing is a copy, so it pays for frozen weights only.

use std::ffi::c_void;

use tch::{Device, Kind, Tensor};

use crate::shim;

/// Rows that the packed order is tuned for; other row counts run from the same packing.
const ROWS: i64 = 1024;

/// A weight `[out, in]` packed for `x Wᵀ` and for `y W`.
#[derive(Debug)]
pub struct PackedWeight {
    forward: Tensor,
    transposed: Tensor,
}

impl PackedWeight {
    /// Packs a bf16 CPU weight on a machine with matrix units; none where nothing would be gained.
    pub fn pack(weight: &Tensor) -> Option<Self> {
        if weight.device() != Device::Cpu || weight.kind() != Kind::BFloat16 || !crate::device::has_matrix_units() {
            return None;
        }
        let forward = pack(weight)?;
        let transposed = pack(&weight.tr().contiguous())?;
        Some(Self { forward, transposed })
    }

    /// `x Wᵀ`: `[t, in]` to `[t, out]`.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        linear(x, &self.forward, None)
    }

    /// `y W + onto`: `[t, out]` to `[t, in]`.
    pub fn apply_transposed(&self, y: &Tensor, onto: Option<Tensor>) -> Tensor {
        linear(y, &self.transposed, onto.as_ref())
    }

    /// A second handle.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            forward: self.forward.shallow_clone(),
            transposed: self.transposed.shallow_clone(),
        }
    }
}

fn pack(weight: &Tensor) -> Option<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: a live tensor in, an owned tensor out.
    #[allow(unsafe_code)]
    unsafe {
        shim::check(shim::shim_pack_weight(raw(weight), ROWS, &raw mut out)).ok()?;
        Some(Tensor::from_ptr(out.cast()))
    }
}

fn linear(x: &Tensor, packed: &Tensor, onto: Option<&Tensor>) -> Tensor {
    let x = x.contiguous();
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors in, an owned tensor out.
    #[allow(unsafe_code)]
    unsafe {
        let done = match onto {
            None => shim::shim_linear_packed(raw(&x), raw(packed), &raw mut out),
            Some(onto) => shim::shim_linear_packed_add(raw(&x), raw(packed), raw(onto), &raw mut out),
        };
        shim::check(done).unwrap_or_else(|error| panic!("{error}"));
        Tensor::from_ptr(out.cast())
    }
}

fn raw(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_products_equal_plain_ones() {
        tch::manual_seed(3);
        let options = (Kind::BFloat16, Device::Cpu);
        let weight = Tensor::randn([37, 53], options);
        let Some(packed) = PackedWeight::pack(&weight) else {
            return;
        };
        for rows in [1, 7, 130] {
            let (x, y) = (Tensor::randn([rows, 53], options), Tensor::randn([rows, 37], options));
            let onto = Tensor::randn([rows, 53], options);
            let far = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]);
            // One bf16 rounding of values around 20: 2^-3.
            assert!(far(packed.apply(&x), x.matmul(&weight.tr())) <= 0.126);
            assert!(far(packed.apply_transposed(&y, None), y.matmul(&weight)) <= 0.126);
            assert!(
                far(
                    packed.apply_transposed(&y, Some(onto.shallow_clone())),
                    y.matmul(&weight) + onto
                ) <= 0.126
            );
        }
    }
}
