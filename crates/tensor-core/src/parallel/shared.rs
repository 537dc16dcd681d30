//! Memory that threads write in disjoint parts.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// A slice that threads write in parts that do not overlap.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a, T> {
    data: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts handed out do not overlap (the promise of `part`).
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares a slice.
    pub fn new(data: &'a mut [T]) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            owner: PhantomData,
        }
    }

    /// A part of it.
    ///
    /// # Safety
    /// No two parts that are in use overlap.
    ///
    /// # Panics
    /// If the part does not lie inside the slice.
    #[inline(always)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part beyond the end"
        );
        // SAFETY: within the memory borrowed for 'a; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}
