//! Loops over libtorch's own threads.
//!
//! Kernels run on the pool that libtorch uses between them: a second pool (rayon's) on the same cores would wait for
//! the first one's spinning workers.

use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result, shim};
use gemm::unit::{self, Unit};

#[cfg(target_os = "linux")]
mod crowd;
mod shared;
#[cfg(target_os = "linux")]
#[cfg(test)]
mod side_by_side;

pub use shared::Shared;

/// Runs `body` over `0..n` in ranges of at least `grain`, on all of libtorch's threads.
///
/// The ranges are fixed by `n`, `grain` and the number of threads, so results are the same in every run.
///
/// # Panics
/// With the first panic of `body`.
pub fn for_each_range(n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
    struct Env<'a> {
        body: &'a (dyn Fn(Range<usize>) + Sync),
        unit: Option<Unit>,
        panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    }
    #[allow(unsafe_code)]
    unsafe extern "C" fn run(env: *mut c_void, begin: i64, end: i64) {
        // SAFETY: `env` outlives the loop, which ends before `for_each_range` returns.
        let env = unsafe { &*env.cast::<Env>() };
        let part = || (env.body)(begin as usize..end as usize);
        let on_unit = || match env.unit {
            Some(unit) => unit.run(part),
            None => part(),
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(on_unit)) {
            env.panic
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .get_or_insert(panic);
        }
    }
    if n == 0 {
        return;
    }
    #[cfg(target_os = "linux")]
    crowd::look();
    let env = Env {
        body: &body,
        unit: unit::held(),
        panic: Mutex::new(None),
    };
    // SAFETY: `env` lives until the call returns, and all of its ranges have then run.
    #[allow(unsafe_code)]
    let done = unsafe {
        shim::check(shim::shim_parallel_for(
            0,
            n as i64,
            grain.max(1) as i64,
            std::ptr::from_ref(&env).cast_mut().cast(),
            run,
        ))
    };
    if let Some(panic) = env
        .panic
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        resume_unwind(panic);
    }
    done.unwrap_or_else(|error| panic!("{error}"));
}

/// Hands out `items` in parts of at least `grain`, on all of libtorch's threads.
///
/// # Panics
/// As [`for_each_range`].
pub fn for_each_chunk<T: Send>(items: &mut [T], grain: usize, body: impl Fn(&mut [T]) + Sync) {
    let len = items.len();
    let shared = Shared::new(items);
    for_each_range(len, grain, |range| {
        // SAFETY: ranges do not overlap.
        #[allow(unsafe_code)]
        body(unsafe { shared.part(range) });
    });
}

/// Runs `work` on every one of `n` tasks, the first ones first, each thread taking the next when it is done.
///
/// What a task computes must not depend on which thread runs it. `work` gets an iterator over the thread's tasks, so
/// that it can set up what they share.
pub fn balance(n: usize, work: impl Fn(&mut dyn Iterator<Item = usize>) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = num_threads().min(n);
    for_each_range(threads, 1, |_| {
        let mut tasks = std::iter::from_fn(|| {
            let task = next.fetch_add(1, Ordering::Relaxed);
            (task < n).then_some(task)
        });
        work(&mut tasks);
    });
}

/// `0..n` cut for [`balance`]: `most` at a time as long as there is plenty, then less and less down to `least`, so that
/// all threads end at about the same time; every thread gets one. Pieces begin at multiples of `unit`.
pub fn pieces(n: usize, most: usize, least: usize, unit: usize) -> Vec<Range<usize>> {
    let threads = num_threads();
    let least = least.min(n.div_ceil(threads));
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < n {
        let len = ((n - start) / (2 * threads))
            .max(least)
            .min(most)
            .next_multiple_of(unit);
        let end = n.min(start + len);
        pieces.push(start..end);
        start = end;
    }
    pieces
}

/// How many threads libtorch computes with.
pub fn num_threads() -> usize {
    tch::get_num_threads().max(1) as usize
}

/// Sets how many threads libtorch computes with. Call it before the first operation.
pub fn set_num_threads(threads: usize) -> Result<()> {
    // SAFETY: a plain call.
    #[allow(unsafe_code)]
    unsafe { shim::check(shim::shim_set_num_threads(threads.max(1) as i32)) }.map_err(Error::Torch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn loops_keep_to_the_unit_of_the_thread_that_starts_them() {
        unit::on_each(|unit| {
            for_each_range(64, 1, |_| assert_eq!(Unit::best(), unit));
            balance(64, |_| assert_eq!(Unit::best(), unit));
        });
        for_each_range(64, 1, |_| assert_eq!(Unit::best(), Unit::available()[0]));
    }

    #[test]
    fn every_index_is_met_once() {
        let sum = AtomicU64::new(0);
        for_each_range(1001, 10, |range| {
            sum.fetch_add(range.map(|i| i as u64).sum(), Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 1000 * 1001 / 2);
    }

    #[test]
    fn every_item_is_handed_out_once() {
        let mut items = vec![1u32; 1001];
        for_each_chunk(&mut items, 10, |part| part.iter_mut().for_each(|item| *item += 1));
        assert_eq!(items, [2; 1001]);
    }

    #[test]
    fn every_task_is_taken_once() {
        let mut taken = vec![0u8; 1001];
        let shared = Shared::new(&mut taken);
        // SAFETY: each task is met once.
        #[allow(unsafe_code)]
        balance(1001, |tasks| {
            for task in tasks {
                unsafe { shared.part(task..task + 1)[0] += 1 };
            }
        });
        assert_eq!(taken, [1; 1001]);
    }

    #[test]
    fn pieces_cover_everything_and_shrink() {
        for (n, most, least, unit) in [
            (0, 8, 8, 8),
            (1, 8, 8, 8),
            (2048, 280, 32, 8),
            (1000, 7, 1, 1),
            (333, 100, 32, 32),
        ] {
            let pieces = pieces(n, most, least, unit);
            assert_eq!(pieces.iter().map(ExactSizeIterator::len).sum::<usize>(), n);
            assert!(
                pieces
                    .windows(2)
                    .all(|two| two[0].end == two[1].start && two[0].len() >= two[1].len())
            );
            assert!(
                pieces
                    .iter()
                    .all(|piece| piece.start % unit == 0 && piece.len() <= most.next_multiple_of(unit))
            );
        }
    }

    #[test]
    fn a_panic_comes_back_to_the_caller() {
        let caught = catch_unwind(|| for_each_range(4, 1, |range| assert!(!range.contains(&2), "two")));
        assert!(caught.is_err());
    }
}
