//! Tensors over memory that something else owns, such as a mapped file, and tensors' memory as slices: no copy.
//!
//! libtorch counts handles and no borrows: any handle may be written through while a slice of another is read. So a slice
//! of a tensor that may have other handles is `unsafe`; [`to_vec`] copies, [`slice_mut`] wants the only handle.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::{Error, Result, shim};

mod sealed {
    pub trait Sealed {}
}

/// A number type that a tensor can hold, and whose every bit pattern is a number.
///
/// tch has a trait of this kind, but says there that `bf16` is of dtype `Half`.
pub trait Number: Copy + sealed::Sealed {
    /// The dtype of its tensors.
    const KIND: Kind;
}

macro_rules! numbers {
    ($($number:ty => $kind:ident),*) => { $(
        impl sealed::Sealed for $number {}
        impl Number for $number { const KIND: Kind = Kind::$kind; }
    )* };
}

numbers!(u8 => Uint8, i8 => Int8, i16 => Int16, i32 => Int, i64 => Int64, f32 => Float, f64 => Double, half::f16 => Half, half::bf16 => BFloat16);

/// A CPU tensor over the `len` bytes at `data` inside `owner`, which lives as long as the tensor does.
///
/// # Safety
/// `owner` keeps these bytes readable and writable at this address until it is dropped, and nobody reads or writes them
/// through a reference while the tensor is written.
///
/// # Panics
/// If there are fewer bytes than `shape` needs, or they are not aligned for `kind`.
#[allow(unsafe_code)]
pub unsafe fn tensor_over<O: Send + Sync + 'static>(
    owner: Arc<O>,
    (data, len): (*mut u8, usize),
    shape: &[i64],
    kind: Kind,
) -> Result<Tensor> {
    unsafe extern "C" fn release<O>(env: *mut c_void) {
        // SAFETY: made by `Arc::into_raw` below, released once.
        drop(unsafe { Arc::from_raw(env.cast::<O>()) });
    }
    let size = kind.elt_size_in_bytes();
    let wanted = num_bytes(shape, size).unwrap_or_else(|| panic!("no tensor has shape {shape:?}"));
    assert!(len >= wanted, "a tensor of {wanted} bytes over {len} bytes");
    assert!(data.addr().is_multiple_of(size), "unaligned tensor memory");
    let env = Arc::into_raw(owner).cast_mut().cast::<c_void>();
    let mut out = std::ptr::null_mut();
    // SAFETY: the memory lives until libtorch calls `release`; sizes were checked above.
    unsafe {
        shim::check(shim::shim_from_blob(
            data.cast(),
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

/// Bytes of a contiguous tensor; none if a side is negative or the product is no size.
pub(crate) fn num_bytes(shape: &[i64], size: usize) -> Option<usize> {
    let bytes = shape
        .iter()
        .try_fold(size, |product, &side| product.checked_mul(usize::try_from(side).ok()?))?;
    isize::try_from(bytes).is_ok().then_some(bytes)
}

/// A copy of the elements of a CPU tensor, in order.
///
/// # Panics
/// If the tensor is not on the CPU, or not of type `T`.
pub fn to_vec<T: Number>(tensor: &Tensor) -> Vec<T> {
    let tensor = tensor.contiguous();
    // SAFETY: the slice ends with this line, in which nothing is written.
    #[allow(unsafe_code)]
    unsafe { slice(&tensor) }.to_vec()
}

/// The elements of a contiguous CPU tensor as a slice.
///
/// # Safety
/// Nothing writes to the tensor's memory, through this handle or any other, while the slice is in use.
///
/// # Panics
/// If the tensor is not on the CPU, not contiguous, or not of type `T`.
#[allow(unsafe_code)]
pub unsafe fn slice<T: Number>(tensor: &Tensor) -> &[T] {
    match data::<T>(tensor) {
        // SAFETY: checked contiguous CPU memory of `numel` elements of `T`, kept alive by `tensor`.
        Some(data) => unsafe { std::slice::from_raw_parts(data, tensor.numel()) },
        None => &[],
    }
}

/// The elements of a contiguous CPU tensor that has no other handle, as a mutable slice.
///
/// # Panics
/// As [`slice`], or if another handle shares the tensor or its memory.
#[allow(unsafe_code)]
pub fn slice_mut<T: Number>(tensor: &mut Tensor) -> &mut [T] {
    // SAFETY: a live tensor.
    let is_sole = unsafe { shim::shim_is_sole_handle(tensor.as_ptr().cast_mut().cast()) } != 0;
    assert!(is_sole, "a mutable slice needs a tensor that no other handle shares");
    // SAFETY: the only handle is borrowed as long as the slice is.
    unsafe { slice_mut_shared(tensor) }
}

/// As [`slice_mut`], of a tensor that may have other handles.
///
/// # Safety
/// Nothing else reads or writes the tensor's memory, through this handle or any other, while the slice is in use.
///
/// # Panics
/// As [`slice`].
#[allow(unsafe_code)]
#[expect(
    clippy::mut_from_ref,
    reason = "tch's tensors are handles; a handle does not own its memory"
)]
pub unsafe fn slice_mut_shared<T: Number>(tensor: &Tensor) -> &mut [T] {
    let data = data::<T>(tensor);
    // SAFETY: a live tensor. Whoever computed something of its old values must be able to tell.
    unsafe { shim::shim_bump_version(tensor.as_ptr().cast_mut().cast()) };
    match data {
        // SAFETY: as in `slice`; exclusive use is the caller's promise.
        Some(data) => unsafe { std::slice::from_raw_parts_mut(data, tensor.numel()) },
        None => &mut [],
    }
}

/// The addresses from the first to behind the last byte of a tensor's elements; empty if it has none.
pub fn span(tensor: &Tensor) -> Range<usize> {
    if tensor.numel() == 0 {
        return 0..0;
    }
    let begin = tensor.data_ptr() as usize;
    let sides = tensor.size().into_iter().zip(tensor.stride());
    let reach: i64 = sides.map(|(size, stride)| (size - 1) * stride).sum();
    begin..begin + (reach as usize + 1) * tensor.kind().elt_size_in_bytes()
}

/// Whether no span of `written` overlaps another one of `written`, or one of `read`.
pub fn are_apart(written: Vec<Range<usize>>, read: Vec<Range<usize>>) -> bool {
    let written = written.into_iter().map(|span| (span, true));
    let all = written.chain(read.into_iter().map(|span| (span, false)));
    let mut all: Vec<_> = all.filter(|(span, _)| !span.is_empty()).collect();
    all.sort_by_key(|(span, _)| span.start);
    let (mut end_of_written, mut end_of_all) = (0, 0);
    all.into_iter().all(|(span, is_written)| {
        let is_apart = span.start >= if is_written { end_of_all } else { end_of_written };
        end_of_all = end_of_all.max(span.end);
        if is_written {
            end_of_written = end_of_written.max(span.end);
        }
        is_apart
    })
}

/// Where the elements lie, checked; none if there are none, for then libtorch has no memory to point to.
fn data<T: Number>(tensor: &Tensor) -> Option<*mut T> {
    assert!(tensor.device() == tch::Device::Cpu, "a slice needs a CPU tensor");
    assert!(tensor.is_contiguous(), "a slice needs a contiguous tensor");
    assert_eq!(tensor.kind(), T::KIND, "a slice needs its own dtype");
    if tensor.numel() == 0 {
        return None;
    }
    let data = tensor.data_ptr().cast::<T>();
    assert!(!data.is_null() && data.is_aligned(), "a slice needs aligned memory");
    Some(data)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_tensor_is_an_empty_slice() {
        let nothing = Tensor::zeros([3, 0], (Kind::Float, tch::Device::Cpu));
        let mut nothing = nothing;
        assert!(to_vec::<f32>(&nothing).is_empty() && slice_mut::<f32>(&mut nothing).is_empty());
    }

    #[test]
    fn a_tensor_keeps_its_memory_alive() {
        let memory = Arc::new([1.0f32, 2.0, 3.0, 4.0].map(|x| std::sync::atomic::AtomicU32::new(x.to_bits())));
        let bytes = (memory.as_ptr().cast_mut().cast::<u8>(), 16);
        // SAFETY: f32 as bytes, in cells that may be written; there is no reference to them.
        #[allow(unsafe_code)]
        let tensor = unsafe { tensor_over(memory.clone(), bytes, &[2, 2], Kind::Float) }.unwrap();
        assert_eq!(Arc::strong_count(&memory), 2);
        assert_eq!(to_vec::<f32>(&tensor), [1.0, 2.0, 3.0, 4.0]);
        drop(tensor);
        assert_eq!(Arc::strong_count(&memory), 1);
    }

    #[test]
    fn memory_that_another_handle_reaches_is_not_lent_for_writing() {
        let mut alone = Tensor::zeros([4], (Kind::Float, tch::Device::Cpu));
        slice_mut::<f32>(&mut alone)[1] = 2.0;
        assert_eq!(to_vec::<f32>(&alone), [0.0, 2.0, 0.0, 0.0]);
        let refused = |mut tensor: Tensor| {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| slice_mut::<f32>(&mut tensor).len()));
            *caught.unwrap_err().downcast::<&str>().unwrap()
        };
        let handle = alone.shallow_clone();
        assert!(refused(alone.shallow_clone()).contains("no other handle"));
        assert!(refused(alone.narrow(0, 1, 2)).contains("no other handle"));
        drop(handle);
        slice_mut::<f32>(&mut alone)[0] = 1.0;
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        let zeros = |kind| Tensor::zeros([4, 3], (kind, tch::Device::Cpu));
        let refused = |tensor: Tensor| {
            let taken = move || {
                let mut tensor = tensor;
                slice_mut::<f32>(&mut tensor).len()
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(taken)).is_err()
        };
        assert!(refused(zeros(Kind::Double)) && refused(zeros(Kind::Bool)) && refused(zeros(Kind::Float).tr()));
        assert!(!refused(zeros(Kind::Float)));
        assert!(std::panic::catch_unwind(|| to_vec::<i64>(&zeros(Kind::Float))).is_err());
        assert_eq!(to_vec::<f32>(&zeros(Kind::Float).tr()).len(), 12);
    }

    #[test]
    fn a_shape_that_is_no_size_is_refused() {
        for (shape, bytes) in [
            (&[2, 3][..], Some(24)),
            (&[], Some(4)),
            (&[0, 9], Some(0)),
            (&[-1], None),
        ] {
            assert_eq!(num_bytes(shape, 4), bytes, "{shape:?}");
        }
        assert_eq!(num_bytes(&[i64::MAX, 2], 4), None);
        assert_eq!(num_bytes(&[1 << 31, 1 << 31], 8), None);
    }

    #[test]
    fn spans_that_overlap_are_found() {
        let x = Tensor::zeros([4, 6], (Kind::Float, tch::Device::Cpu));
        let at = |row: i64, column: i64| span(&x.narrow(0, row, 2).narrow(1, column, 2));
        assert_eq!(at(0, 0).len(), 8 * 4);
        assert_eq!(span(&x).len(), 24 * 4);
        assert!(span(&x.narrow(0, 0, 0)).is_empty());
        assert!(are_apart(vec![at(0, 0), at(2, 0)], vec![]));
        assert!(!are_apart(vec![at(0, 0), at(1, 0)], vec![]));
        assert!(!are_apart(vec![at(0, 0)], vec![at(1, 0)]));
        assert!(!are_apart(vec![at(1, 0)], vec![at(0, 0)]));
        assert!(
            are_apart(vec![at(2, 0)], vec![at(0, 0), at(0, 0)]),
            "what is read may be the same"
        );
    }
}
