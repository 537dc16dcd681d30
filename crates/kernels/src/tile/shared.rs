//! Work and results that threads share.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use tensor_core::parallel;

/// A slice that threads write in parts that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts handed out do not overlap (the promise of `part`).
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares a slice.
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            borrow: PhantomData,
        }
    }

    /// `len` elements from `at` on.
    ///
    /// # Safety
    /// No two parts that are in use overlap.
    #[expect(clippy::mut_from_ref, reason = "parts do not overlap")]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "a part beyond the end");
        // SAFETY: within the slice; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(at), len) }
    }
}

/// Runs `work` on every one of `n` tasks, the first ones first, each thread taking the next when it is done.
///
/// What a task computes must not depend on which thread runs it. `work` gets an iterator over the thread's tasks, so
/// that it can set up what they share.
pub(crate) fn balance(n: usize, work: impl Fn(&mut dyn Iterator<Item = usize>) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = parallel::num_threads().min(n);
    parallel::for_each_range(threads, 1, |_| {
        let mut tasks = std::iter::from_fn(|| {
            let task = next.fetch_add(1, Ordering::Relaxed);
            (task < n).then_some(task)
        });
        work(&mut tasks);
    });
}
