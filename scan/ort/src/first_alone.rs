use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Lets calls in one at a time until one has succeeded; from then on all at once.
#[derive(Debug)]
pub(crate) struct FirstAlone {
    done: AtomicBool,
    line: Mutex<()>,
}

impl FirstAlone {
    pub(crate) const fn new() -> Self {
        Self { done: AtomicBool::new(false), line: Mutex::new(()) }
    }

    pub(crate) fn run<T, E>(&self, call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.done.load(Ordering::Acquire) {
            return call();
        }
        let in_line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if self.done.load(Ordering::Acquire) {
            drop(in_line); // somebody before us in the line did it
            return call();
        }
        let result = call()?;
        self.done.store(true, Ordering::Release);
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nobody_enters_while_a_first_call_runs_and_a_failure_is_not_a_first() {
        const THREADS: usize = 8;
        let (gate, start) = (FirstAlone::new(), Barrier::new(THREADS));
        let (inside, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    // Long enough for all others to come in, if they could.
                    let _ = gate.run(|| {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two first calls at once");
                        thread::sleep(Duration::from_millis(20));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        calls.fetch_add(1, Ordering::SeqCst);
                        Err::<(), ()>(())
                    });
                });
            }
        });
        assert_eq!(calls.into_inner(), THREADS);
        assert!(!gate.done.into_inner());
    }

    #[test]
    fn later_calls_run_side_by_side() {
        let gate = FirstAlone::new();
        let meeting = Barrier::new(3);
        // Waits in line behind the first call, and must then not hold up the others.
        let (first_is_in, second_may_come) = (Barrier::new(2), Duration::from_millis(20));
        thread::scope(|scope| {
            scope.spawn(|| {
                gate.run(|| {
                    first_is_in.wait();
                    thread::sleep(second_may_come);
                    Ok::<(), ()>(())
                })
            });
            first_is_in.wait();
            for _ in 0..3 {
                // Each waits inside for the other two: with one of them kept out, this would never end.
                scope.spawn(|| gate.run(|| Ok::<_, ()>(meeting.wait())));
            }
        });
        assert!(gate.done.into_inner());
    }
}
