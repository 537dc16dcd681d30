//! Whether other processes compete for this one's cores, and how its waiting threads then wait.
//!
//! Between two loops libgomp's threads spin for some milliseconds before they sleep: fast while each has a core of its
//! own. Where another process runs on one of the cores, the loop's last thread waits for its turn there while the others
//! spin where it could run. libgomp spins for a few microseconds only, if its threads are more than the cores. So while
//! this process is interrupted often, it holds a team of threads that sleep and make them so.
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
/// Interruptions a second from which on the cores are shared: one competitor on one core makes about a hundred.
const MANY: f64 = 30.0;
/// Looks without so many until the team is let go.
const CALM: u32 = 20;

/// When to look again, in milliseconds since the first look.
static NEXT: AtomicU64 = AtomicU64::new(0);
static CROWD: Mutex<Crowd> = Mutex::new(Crowd {
    last: None,
    calm: 0,
    team: None,
});

struct Crowd {
    /// When was looked last, and how often the process had been interrupted then.
    last: Option<(u64, i64)>,
    /// Looks since it was interrupted often.
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
    crowd.looked(now, interruptions());
}

impl Crowd {
    fn looked(&mut self, now: u64, interruptions: i64) {
        let Some((then, before)) = self.last.replace((now, interruptions)) else {
            return;
        };
        let a_second = (interruptions - before) as f64 * 1e3 / (now - then).max(1) as f64;
        self.calm = if a_second >= MANY {
            0
        } else {
            self.calm.saturating_add(1)
        };
        if self.calm == 0 && self.team.is_none() {
            self.team = Team::new();
        } else if self.calm >= CALM {
            self.team = None;
        }
    }
}

/// How often this process was taken off a core that it wanted to keep.
fn interruptions() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: memory for the answer, which zeros are one of.
    #[allow(unsafe_code)]
    unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init().ru_nivcsw
    }
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
    fn a_team_is_held_while_the_process_is_interrupted_often() {
        let mut crowd = Crowd {
            last: None,
            calm: 0,
            team: None,
        };
        let (mut now, mut count) = (0, 1000);
        let mut pass = |crowd: &mut Crowd, interruptions: i64| {
            (now, count) = (now + EVERY, count + interruptions);
            crowd.looked(now, count);
            crowd.team.is_some()
        };
        assert!(!pass(&mut crowd, 500), "nothing to compare with");
        assert!(!pass(&mut crowd, 2), "20 a second");
        assert!(pass(&mut crowd, 3), "30 a second");
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
    fn a_process_with_more_threads_than_cores_is_interrupted() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let (before, start) = (interruptions(), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..2 * cores {
                scope.spawn(|| while start.elapsed().as_millis() < 300 {});
            }
        });
        let a_second = (interruptions() - before) as f64 / start.elapsed().as_secs_f64();
        assert!(a_second >= MANY, "{a_second} interruptions a second");
    }
}
