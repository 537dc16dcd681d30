//! The rotation's loop, and the copy of what is not rotated, token by token.

use std::ops::Range;

use tensor_core::gemm::vector::Scalar as _;
use tensor_core::parallel::{self, Shared};

use super::Rotation;
use crate::rows::{Rows, grain};
use tensor_core::vector::{Kernel, LANES, Lanes, Scalar, dispatch};

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forth,
    Back,
}

/// Where tokens go: `width` numbers each, `stride` apart, beginning at column `begin`.
pub(super) struct Target<'a, T> {
    memory: Shared<'a, T>,
    stride: usize,
    begin: usize,
    width: usize,
}

impl<'a, T> Target<'a, T> {
    /// All of a contiguous `[t, heads, width]`.
    pub(super) fn whole(memory: &'a mut [T], heads: usize, width: usize) -> Self {
        Self::columns(memory, heads * width, 0, heads * width)
    }

    /// `width` columns of a contiguous `[t, stride]`.
    pub(super) fn columns(memory: &'a mut [T], stride: usize, begin: usize, width: usize) -> Self {
        Self {
            memory: Shared::new(memory),
            stride,
            begin,
            width,
        }
    }

    /// # Safety
    /// No token is in use twice.
    #[allow(unsafe_code)]
    #[inline(always)]
    unsafe fn token(&self, t: usize) -> &'a mut [T] {
        let begin = t * self.stride + self.begin;
        // SAFETY: tokens do not overlap.
        unsafe { self.memory.part(begin..begin + self.width) }
    }
}

/// Turns every token's heads (`x`: rows of one head) and writes them to `to`.
pub(super) fn turn<T: Scalar>(x: Rows<T>, to: &Target<T>, rotation: &Rotation, direction: Direction) {
    parallel::for_each_range(rotation.num_tokens(), grain(to.width), |tokens| {
        dispatch(Turn {
            x,
            to,
            rotation,
            tokens,
            direction,
        });
    });
}

/// Copies every token's heads to `to`.
pub(super) fn copy<T: Scalar>(x: Rows<T>, to: &Target<T>, num_tokens: usize) {
    parallel::for_each_range(num_tokens, grain(to.width), |tokens| {
        for t in tokens {
            // SAFETY: each token is met once.
            #[allow(unsafe_code)]
            unsafe { to.token(t) }.copy_from_slice(x.token(t));
        }
    });
}

struct Turn<'a, T> {
    x: Rows<'a, T>,
    to: &'a Target<'a, T>,
    rotation: &'a Rotation,
    tokens: Range<usize>,
    direction: Direction,
}

impl<T: Scalar> Kernel for Turn<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.x.width();
        let sign = L::splat(if self.direction == Direction::Forth { 1.0 } else { -1.0 });
        for t in self.tokens {
            let (cos, sin) = self.rotation.of_token(t);
            let half = cos.len();
            // SAFETY: each token is met once.
            #[allow(unsafe_code)]
            let to = unsafe { self.to.token(t) };
            let heads = self.x.token(t).chunks_exact(width).zip(to.chunks_exact_mut(width));
            for (x, y) in heads {
                let ((x1, rest), (y1, y_rest)) = (x.split_at(half), y.split_at_mut(half));
                let ((x2, rest), (y2, y_rest)) = (rest.split_at(half), y_rest.split_at_mut(half));
                for at in (0..half).step_by(LANES) {
                    let (c, s) = (f32::read::<L>(cos, at), f32::read::<L>(sin, at) * sign);
                    let (a, b) = (T::read::<L>(x1, at), T::read::<L>(x2, at));
                    T::write(y1, at, a * c - b * s);
                    T::write(y2, at, b * c + a * s);
                }
                y_rest.copy_from_slice(rest);
            }
        }
    }
}
