//! Tensors over memory that something else owns, such as a mapped file: no copy.

use std::ffi::c_void;
use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::{Error, Result, shim};

/// A number type that a tensor can hold.
///
/// tch has a trait of this kind, but says there that `bf16` is of dtype `Half`.
pub trait Number: Copy {
    /// The dtype of its tensors.
    const KIND: Kind;
}

macro_rules! numbers {
    ($($number:ty => $kind:ident),*) => { $(impl Number for $number { const KIND: Kind = Kind::$kind; })* };
}

numbers!(u8 => Uint8, i8 => Int8, i16 => Int16, i32 => Int, i64 => Int64, f32 => Float, f64 => Double, half::f16 => Half, half::bf16 => BFloat16, bool => Bool);

/// A CPU tensor over `bytes` inside `owner`, which lives as long as the tensor does.
///
/// The tensor must not be written if the memory is read-only: give it to [`crate::Param::frozen`].
///
/// # Panics
/// If `bytes` is shorter than `shape` needs, or not aligned for `kind`.
pub fn tensor_over<O: Send + Sync + 'static>(owner: Arc<O>, bytes: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor> {
    #[allow(unsafe_code)]
    unsafe extern "C" fn release<O>(env: *mut c_void) {
        // SAFETY: made by `Arc::into_raw` below, released once.
        drop(unsafe { Arc::from_raw(env.cast::<O>()) });
    }
    let size = kind.elt_size_in_bytes();
    let wanted = shape.iter().product::<i64>() as usize * size;
    assert!(
        bytes.len() >= wanted,
        "a tensor of {wanted} bytes over {} bytes",
        bytes.len()
    );
    assert_eq!(bytes.as_ptr() as usize % size, 0, "unaligned tensor memory");
    let env = Arc::into_raw(owner).cast_mut().cast::<c_void>();
    let mut out = std::ptr::null_mut();
    // SAFETY: the memory lives until libtorch calls `release`; sizes were checked above.
    #[allow(unsafe_code)]
    unsafe {
        let data = bytes.as_ptr().cast_mut().cast();
        shim::check(shim::shim_from_blob(
            data,
            shape.as_ptr(),
            shape.len(),
            scalar_type(kind),
            env,
            release::<O>,
            &raw mut out,
        ))
        .map_err(Error::Torch)?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// The elements of a contiguous CPU tensor as a slice.
///
/// # Panics
/// If the tensor is not on the CPU, not contiguous, or not of type `T`.
#[allow(unsafe_code)]
pub fn slice<T: Number>(tensor: &Tensor) -> &[T] {
    check::<T>(tensor);
    // An empty tensor has no memory to point to.
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: checked contiguous CPU memory of `numel` elements of `T`, kept alive by `tensor`.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>().cast_const(), tensor.numel()) }
}

/// The elements of a contiguous CPU tensor as a mutable slice.
///
/// The caller holds the only handle that is in use: libtorch does not count borrows.
///
/// # Panics
/// As [`slice`].
#[allow(unsafe_code)]
#[expect(
    clippy::mut_from_ref,
    reason = "tch's tensors are handles; a handle does not own its memory"
)]
pub fn slice_mut<T: Number>(tensor: &Tensor) -> &mut [T] {
    check::<T>(tensor);
    // SAFETY: a live tensor. Whoever computed something of its old values must be able to tell.
    unsafe { shim::shim_bump_version(tensor.as_ptr().cast_mut().cast()) };
    if tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: as in `slice`; exclusive use is the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// libtorch's number for a dtype; tch keeps its own table private.
fn scalar_type(kind: Kind) -> i32 {
    match kind {
        Kind::Uint8 => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int => 3,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::Bool => 11,
        Kind::BFloat16 => 15,
        other => panic!("no checkpoint holds tensors of dtype {other:?}"),
    }
}

fn check<T: Number>(tensor: &Tensor) {
    assert!(tensor.device() == tch::Device::Cpu, "a slice needs a CPU tensor");
    assert!(tensor.is_contiguous(), "a slice needs a contiguous tensor");
    assert_eq!(tensor.kind(), T::KIND, "a slice needs its own dtype");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_tensor_is_an_empty_slice() {
        let nothing = Tensor::zeros([3, 0], (Kind::Float, tch::Device::Cpu));
        assert!(slice::<f32>(&nothing).is_empty() && slice_mut::<f32>(&nothing).is_empty());
    }

    #[test]
    fn a_tensor_keeps_its_memory_alive() {
        let memory = Arc::new(vec![1.0f32, 2.0, 3.0, 4.0]);
        // SAFETY: f32 read as bytes.
        #[allow(unsafe_code)]
        let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>(), 16) };
        let tensor = tensor_over(memory.clone(), bytes, &[2, 2], Kind::Float).unwrap();
        assert_eq!(Arc::strong_count(&memory), 2);
        assert_eq!(slice::<f32>(&tensor), [1.0, 2.0, 3.0, 4.0]);
        drop(tensor);
        assert_eq!(Arc::strong_count(&memory), 1);
    }
}
