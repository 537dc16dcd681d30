//! Tensors as rows of numbers.
//!
//! Shapes: t tokens, h heads (1 where there are none), d numbers of a row. Rows of one token follow each other; tokens
//! lie at any distance, so that a part of a fused projection's output is read where it is.

use tch::{Device, Kind, Tensor};
use tensor_core::blob;
use tensor_core::vector::Scalar;

/// Whether the fused kernels take this tensor; what they do not take goes to the plain reference.
pub(crate) fn is_fused(x: &Tensor) -> bool {
    x.device() == Device::Cpu && matches!(x.kind(), Kind::Float | Kind::BFloat16)
}

/// The dtype that `reference` functions compute in.
pub(crate) fn math_kind(x: &Tensor) -> Kind {
    if x.kind() == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}

/// `x` if its rows can be read where they are, else a contiguous copy.
pub(crate) fn in_rows(x: &Tensor) -> Tensor {
    if x.is_contiguous() || token_stride(x).is_some() {
        x.shallow_clone()
    } else {
        x.contiguous()
    }
}

/// The distance between tokens of `[t, d]` or `[t, h, d]`; none if a token's numbers are scattered.
fn token_stride(x: &Tensor) -> Option<usize> {
    let (size, stride) = (x.size(), x.stride());
    let dense = match (size.as_slice(), stride.as_slice()) {
        ([_, _], [_, 1]) => true,
        ([_, _, d], [_, heads, 1]) => heads == d,
        _ => false,
    };
    (dense && stride[0] >= 0).then(|| stride[0] as usize)
}

/// The numbers of a tensor that this crate has just made: no other handle shares it.
pub(crate) fn fresh<T: Scalar>(tensor: &mut Tensor) -> &mut [T] {
    blob::slice_mut(tensor)
}

/// Rows to read: row i is head `i % h` of token `i / h`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    data: &'a [T],
    heads: usize,
    width: usize,
    stride: usize,
}

impl<'a, T: Scalar> Rows<'a, T> {
    /// The rows of a tensor that [`in_rows`] gave.
    #[allow(unsafe_code)]
    pub(crate) fn of(x: &'a Tensor) -> Self {
        assert_eq!(x.kind(), T::KIND, "rows need their own dtype");
        assert!(x.device() == Device::Cpu, "rows need a CPU tensor");
        let size = x.size();
        let width = size.last().map_or(1, |&d| d as usize);
        let (tokens, heads, stride) = if x.is_contiguous() {
            (x.numel() / width.max(1), 1, width)
        } else {
            let stride = token_stride(x).expect("rows need a tensor that `in_rows` gave");
            let heads = if size.len() == 3 { size[1] as usize } else { 1 };
            (size[0] as usize, heads, stride)
        };
        let len = if tokens == 0 {
            0
        } else {
            (tokens - 1) * stride + heads * width
        };
        // SAFETY: sizes and strides of a live CPU tensor; the last number read is its last one.
        let data = if len == 0 {
            &[]
        } else {
            unsafe { std::slice::from_raw_parts(x.data_ptr().cast::<T>().cast_const(), len) }
        };
        Self {
            data,
            heads,
            width,
            stride,
        }
    }

    /// `[t, h·d]` seen as `[t, heads, d]` from column `begin` on.
    pub(crate) fn columns(self, begin: usize, heads: usize, width: usize) -> Self {
        assert!(begin + heads * width <= self.heads * self.width, "columns of a row");
        let data = self.data.get(begin..).unwrap_or(&[]);
        Self {
            data,
            heads,
            width,
            stride: self.stride,
        }
    }

    /// The same rows, a token's `heads` rows of `width` numbers told apart from its neighbours'.
    pub(crate) fn heads_of(self, heads: usize, width: usize) -> Self {
        assert_eq!(self.width, width, "heads of one width");
        if self.heads == heads {
            return self;
        }
        assert_eq!(self.heads, 1, "rows without heads so far");
        Self {
            data: self.data,
            heads,
            width,
            stride: self.stride * heads,
        }
    }

    #[inline(always)]
    pub(crate) fn row(self, i: usize) -> &'a [T] {
        let begin = if self.heads == 1 {
            i * self.stride
        } else {
            i / self.heads * self.stride + i % self.heads * self.width
        };
        &self.data[begin..begin + self.width]
    }

    /// All heads of one token.
    #[inline(always)]
    pub(crate) fn token(self, t: usize) -> &'a [T] {
        &self.data[t * self.stride..][..self.heads * self.width]
    }

    /// Every number, where the rows lie one after the other.
    pub(crate) fn all(self) -> &'a [T] {
        assert_eq!(self.stride, self.heads * self.width, "rows without gaps");
        self.data
    }

    pub(crate) fn width(self) -> usize {
        self.width
    }
}

/// How many rows of `width` numbers make work enough for one thread.
pub(crate) fn grain(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_fused_row_is_read_in_place() {
        let qkv = Tensor::arange(2 * 12, (Kind::Float, Device::Cpu)).view([2, 12]);
        let keys = qkv.narrow(1, 4, 6).view([2, 3, 2]);
        let same = in_rows(&keys);
        assert_eq!(same.data_ptr(), keys.data_ptr());
        let rows = Rows::<f32>::of(&same);
        assert_eq!(rows.row(0), [4.0, 5.0]);
        assert_eq!(rows.row(4), [18.0, 19.0]);
        assert_eq!(rows.token(1), [16.0, 17.0, 18.0, 19.0, 20.0, 21.0]);
    }

    #[test]
    fn scattered_rows_are_copied() {
        let x = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).tr();
        let copy = in_rows(&x);
        assert_eq!(Rows::<f32>::of(&copy).row(1), [1.0, 4.0]);
        let expanded = Tensor::from_slice(&[1.0f32]).expand([2, 3], false);
        assert_eq!(Rows::<f32>::of(&in_rows(&expanded)).row(1), [1.0; 3]);
    }
}
