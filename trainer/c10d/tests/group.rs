//! Groups of processes, here of threads: c10d does not mind.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use poselift_c10d::{Backend, Environment, Error, ProcessGroup, Timeouts};
use tch::{Device, Kind, Tensor};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn environment(rank: usize, world_size: usize, master_port: u16) -> Environment {
    Environment {
        rank,
        local_rank: rank,
        local_world_size: world_size,
        world_size,
        master_addr: "127.0.0.1".into(),
        master_port,
        agent_serves: false,
        attempt: 0,
    }
}

const SHORT: Timeouts = Timeouts { join: Duration::from_secs(60), collective: Duration::from_secs(60) };

/// Runs `work` as each of some ranks at the same time.
fn together<R: Send>(world_size: usize, timeouts: Timeouts, work: impl Fn(ProcessGroup) -> R + Sync) -> Vec<R> {
    let port = free_port();
    thread::scope(|scope| {
        let start = |rank| {
            let work = &work;
            scope.spawn(move || work(ProcessGroup::join(&environment(rank, world_size, port), Backend::Gloo, timeouts).unwrap()))
        };
        let threads: Vec<_> = (0..world_size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn sums_and_copies_over_ranks() {
    for world_size in [1, 2, 3] {
        let results = together(world_size, SHORT, |group| {
            let own = Tensor::full([1000, 3], 1.0 + group.rank() as f64, (Kind::Float, Device::Cpu));
            let terms = Tensor::from_slice(&[group.rank() as f64, 1.0]);
            group.all_reduce_sum(&[own.shallow_clone(), terms.shallow_clone()], "a sum").unwrap();
            let copied = Tensor::full([7], group.rank() as i64, (Kind::Int64, Device::Cpu));
            group.broadcast(&[copied.shallow_clone()], world_size - 1, "a copy").unwrap();
            (own.double_value(&[999, 2]), terms.double_value(&[0]), terms.double_value(&[1]), copied.int64_value(&[6]))
        });
        let n = world_size as f64;
        for found in results {
            assert_eq!(found, (n * (n + 1.0) / 2.0, n * (n - 1.0) / 2.0, n, world_size as i64 - 1));
        }
    }
}

#[test]
fn a_rank_that_leaves_fails_the_others_at_once() {
    let started = Instant::now();
    let results = together(3, SHORT, |group| {
        if group.rank() == 1 {
            return None;
        }
        let tensor = Tensor::ones([1 << 16], (Kind::Float, Device::Cpu));
        Some(group.all_reduce_sum(&[tensor], "the sum of gradients"))
    });
    // In a ring of three not everybody is a neighbour of the one who left, but nobody waits for the timeout.
    for error in results.into_iter().flatten().map(Result::unwrap_err) {
        let message = error.to_string();
        assert!(matches!(error, Error::Lost { .. }) && message.contains("during the sum of gradients"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
}

#[test]
fn a_rank_that_hangs_fails_the_others_in_time() {
    let timeouts = Timeouts { collective: Duration::from_secs(2), ..SHORT };
    let results = together(2, timeouts, |group| {
        if group.rank() == 1 {
            thread::sleep(Duration::from_secs(6));
            return None;
        }
        let started = Instant::now();
        let tensor = Tensor::ones([5], (Kind::Float, Device::Cpu));
        Some((group.all_reduce_sum(&[tensor], "a sum").unwrap_err().to_string(), started.elapsed()))
    });
    for (message, waited) in results.into_iter().flatten() {
        assert!(message.contains("imed out") || message.contains("imeout"), "{message}");
        assert!(waited < Duration::from_secs(5), "{waited:?}");
    }
}

#[test]
fn who_comes_alone_is_told_so() {
    let timeouts = Timeouts { join: Duration::from_secs(1), ..SHORT };
    let error = ProcessGroup::join(&environment(0, 2, free_port()), Backend::Gloo, timeouts).unwrap_err().to_string();
    assert!(error.contains("rank 0 of 2 did not meet the others at 127.0.0.1:") && error.contains("within 1 s"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    let error = ProcessGroup::join(&environment(1, 2, free_port()), Backend::Gloo, timeouts).unwrap_err().to_string();
    assert!(error.contains("rank 1 of 2"), "{error}");
}

#[cfg(not(feature = "nccl"))]
#[test]
fn no_nccl_is_said() {
    let error = ProcessGroup::join(&environment(0, 1, free_port()), Backend::Nccl, SHORT).unwrap_err().to_string();
    assert!(error.contains("--features nccl"), "{error}");
}
