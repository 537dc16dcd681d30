//! Whether other processes compete for this one's cores, and how its waiting threads then wait.
//!
//! Between two loops libgomp's threads spin for some milliseconds before they sleep: fast while each has a core of its
//! own. Where another process runs on one of the cores, the loop's last thread waits for its turn there while the others
//! spin where it could run. libgomp spins for a few microseconds only, if its threads are more than the cores. So while
//! this process's threads wait for cores, it holds a team of threads that sleep and make them so.
//!
//! Source: libgomp, `config/linux/wait.h`: `gomp_managed_threads` against `gomp_available_cpus`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crate::shim;

/// Milliseconds between two looks.
const EVERY: u64 = 100;
/// Seconds that all threads together wait for a core, in a second, from which on the cores are shared: one competitor on
/// one core makes about 0.5.
const MUCH: f64 = 0.05;
/// Looks without so much until the team is let go.
const CALM: u32 = 20;

/// When to look again, in milliseconds since the first look.
static NEXT: AtomicU64 = AtomicU64::new(0);
static CROWD: Mutex<Crowd> = Mutex::new(Crowd {
    last: None,
    calm: 0,
    team: None,
});

struct Crowd {
    /// When was looked last, and how long threads had waited by then, in nanoseconds.
    last: Option<(u64, u64)>,
    /// Looks since they waited much.
    calm: u32,
    team: Option<Team>,
}

/// Looks around, if it is time to: a loop is about to begin.
pub(super) fn look() {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let now = FIRST.get_or_init(Instant::now).elapsed().as_millis() as u64;
    if now < NEXT.load(Ordering::Relaxed) || super::num_threads() == 1 {
        return;
    }
    // Whoever looks at the same time does it for both.
    let Ok(mut crowd) = CROWD.try_lock() else { return };
    NEXT.store(now + EVERY, Ordering::Relaxed);
    if let Some(waited) = waited() {
        crowd.looked(now, waited);
    }
}

/// From now on nothing looks, and threads spin whoever else there is: to measure what that costs.
#[cfg(test)]
pub(super) fn never_look() {
    NEXT.store(u64::MAX, Ordering::Relaxed);
}

impl Crowd {
    fn looked(&mut self, now: u64, waited: u64) {
        let Some((then, before)) = self.last.replace((now, waited)) else {
            return;
        };
        // A thread that ended takes its waiting with it.
        let share = waited.saturating_sub(before) as f64 / 1e6 / (now - then).max(1) as f64;
        self.calm = if share >= MUCH { 0 } else { self.calm.saturating_add(1) };
        if self.calm == 0 && self.team.is_none() {
            self.team = Team::new();
        } else if self.calm >= CALM {
            self.team = None;
        }
    }
}

/// How long this process's threads have been ready to run without a core, in nanoseconds; none where the system does not
/// tell.
fn waited() -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let each = tasks.flatten().filter_map(|task| {
        // Nanoseconds on a core, nanoseconds waiting for one, turns.
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    each.reduce(u64::saturating_add)
}

/// A thread whose own team of threads sleeps until this is dropped.
struct Team {
    thread: Option<JoinHandle<()>>,
    end: Option<Sender<()>>,
}

impl Team {
    /// None where the system gives no thread: then waiting stays as it is.
    fn new() -> Option<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (end, ended): (Sender<()>, Receiver<()>) = channel();
        let hold = move || {
            // SAFETY: a plain call.
            #[allow(unsafe_code)]
            unsafe {
                shim::shim_make_team(cores as i32 + 1);
            }
            // An error is the end too.
            let _ = ended.recv();
        };
        let thread = Builder::new().name("crowd".into()).spawn(hold).ok()?;
        Some(Self {
            thread: Some(thread),
            end: Some(end),
        })
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_is_held_while_threads_wait_for_cores() {
        let mut crowd = Crowd {
            last: None,
            calm: 0,
            team: None,
        };
        let (mut now, mut waited) = (0, 1_000_000_000);
        let mut pass = |crowd: &mut Crowd, milliseconds: u64| {
            (now, waited) = (now + EVERY, waited + milliseconds * 1_000_000);
            crowd.looked(now, waited);
            crowd.team.is_some()
        };
        assert!(!pass(&mut crowd, 500), "nothing to compare with");
        assert!(!pass(&mut crowd, 4), "4 % of a core");
        assert!(pass(&mut crowd, 5), "5 % of a core");
        for _ in 1..CALM {
            assert!(pass(&mut crowd, 0));
        }
        assert!(pass(&mut crowd, 50), "calm is counted anew");
        for _ in 1..CALM {
            assert!(pass(&mut crowd, 0));
        }
        assert!(!pass(&mut crowd, 0));
    }

    #[test]
    fn threads_that_are_more_than_the_cores_wait() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let start = Instant::now();
        let waits = std::thread::scope(|scope| {
            let before = waited().expect("Linux tells how long threads wait");
            for _ in 0..2 * cores {
                scope.spawn(|| while start.elapsed().as_millis() < 400 {});
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
            waited().unwrap().saturating_sub(before)
        });
        // As many threads as there are cores wait all the time.
        assert!(waits as f64 / 1e9 / 0.3 >= MUCH, "{waits} ns");
    }
}
