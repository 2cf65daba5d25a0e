//! The scan through libtorch's autograd on a GPU: outputs and gradients against f64 on the CPU, in f32 and bf16, and its time against the
//! same recurrence out of libtorch's operations. For tests/gpu; exits with 1 where something is off.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::process::ExitCode;
use std::time::Instant;

use poselift_scan_torch::{ScanTensors, load_cuda_backend, selective_scan};
use tch::{Cuda, Device, Kind, Tensor};

/// u, delta, A, B, C, D, z, delta_bias, initial_state
type Leaves = [Tensor; 9];

fn random([s, l, d, n]: [i64; 4]) -> Leaves {
    let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
    [
        normal(&[s, l, d]),
        normal(&[s, l, d]),
        -(Tensor::rand([d, n], (Kind::Double, Device::Cpu)) * 2.0 + 0.1),
        normal(&[s, l, n]),
        normal(&[s, l, n]),
        normal(&[d]),
        normal(&[s, l, d]),
        normal(&[d]),
        normal(&[s, d, n]),
    ]
}

/// Activations in `kind`, parameters and states in f32 at most.
fn on(leaves: &Leaves, device: Device, kind: Kind) -> Leaves {
    let parameters = if kind == Kind::Double { Kind::Double } else { Kind::Float };
    std::array::from_fn(|i| {
        let kind = if matches!(i, 0 | 1 | 3 | 4 | 6) { kind } else { parameters };
        leaves[i].to_device(device).to_kind(kind).detach().set_requires_grad(true)
    })
}

fn scan(x: &Leaves) -> (Tensor, Tensor) {
    let [u, delta, a, b, c, d, z, delta_bias, initial_state] = x;
    let inputs = ScanTensors {
        u,
        delta,
        a,
        b,
        c,
        d: Some(d),
        z: Some(z),
        delta_bias: Some(delta_bias),
        initial_state: Some(initial_state),
        delta_softplus: true,
    };
    selective_scan(&inputs).expect("a valid scan")
}

/// The recurrence out of libtorch's own operations.
fn by_steps(x: &Leaves) -> Tensor {
    let [u, delta, a, b, c, d, z, delta_bias, initial_state] = x;
    let delta = (delta + delta_bias).softplus();
    let mut h = initial_state.shallow_clone();
    let rows: Vec<Tensor> = (0..u.size()[1])
        .map(|t| {
            let at = |x: &Tensor| x.select(1, t);
            let (delta_t, u_t) = (at(&delta).unsqueeze(-1), at(u).unsqueeze(-1));
            h = (&delta_t * a).exp() * &h + delta_t * u_t * at(b).unsqueeze(1);
            ((&h * at(c).unsqueeze(1)).sum_dim_intlist(-1, false, None) + d * at(u)) * at(z).silu()
        })
        .collect();
    Tensor::stack(&rows, 1)
}

/// y, last state, and the gradients of a sum that uses both.
fn results(x: &Leaves) -> Vec<Tensor> {
    let (y, last) = scan(x);
    let loss = (y.to_kind(Kind::Float) * 0.37).sin().sum(Kind::Float) + last.to_kind(Kind::Float).cos().sum(Kind::Float);
    loss.backward();
    let back = |t: Tensor| t.detach().to_device(Device::Cpu).to_kind(Kind::Double);
    [y, last].into_iter().chain(x.iter().map(Tensor::grad)).map(back).collect()
}

fn milliseconds(mut run: impl FnMut()) -> f64 {
    for _ in 0..3 {
        run();
    }
    let mut times: Vec<f64> = (0..20)
        .map(|_| {
            Cuda::synchronize(0);
            let start = Instant::now();
            run();
            Cuda::synchronize(0);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> ExitCode {
    match load_cuda_backend() {
        Ok(true) if Cuda::is_available() => {}
        Ok(_) => {
            println!("FAIL: no CUDA device, or a libtorch without CUDA");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            println!("FAIL: {error}");
            return ExitCode::FAILURE;
        }
    }
    tch::manual_seed(7);
    let (gpu, mut good) = (Device::Cuda(0), true);
    // The first thing that libtorch's thread for gradients ever does: it has no context of CUDA's then.
    let first = on(&random([1, 1, 1, 4]), gpu, Kind::Float);
    scan(&first).0.backward();
    let there = first.iter().all(|leaf| leaf.grad().defined());
    good &= there;
    println!("gradients out of a thread that never called CUDA: {}", if there { "ok" } else { "MISSING" });
    const NAMES: [&str; 11] = ["y", "last_state", "u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"];
    for shape in [[1, 1, 3, 1], [3, 27, 40, 16], [17, 243, 256, 16], [5, 100, 33, 64]] {
        let leaves = random(shape);
        for (kind, tolerance) in [(Kind::Float, 2e-4), (Kind::BFloat16, 3e-2), (Kind::Half, 4e-3)] {
            // The truth is of the numbers as they were rounded.
            let rounded: Leaves = on(&leaves, Device::Cpu, kind).map(|x| x.detach().to_kind(Kind::Double));
            let truth = results(&on(&rounded, Device::Cpu, Kind::Double));
            let found = results(&on(&rounded, gpu, kind));
            let errors: Vec<f64> = found
                .iter()
                .zip(&truth)
                .map(|(found, truth)| ((found - truth).abs().max() / truth.abs().max().clamp_min(1e-3)).double_value(&[]))
                .collect();
            let (worst, at) = errors.iter().copied().zip(NAMES).fold((0.0, ""), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a });
            let ok = worst <= tolerance;
            good &= ok;
            println!(
                "(S, L, D, N) = {shape:?} {kind:?}: largest relative error {worst:.1e} ({at}) {}",
                if ok { "ok" } else { "TOO LARGE" }
            );
        }
    }
    for sequences in [17, 1088] {
        let x = on(&random([sequences, 243, 256, 16]), gpu, Kind::Float);
        let forward = milliseconds(|| drop(tch::no_grad(|| scan(&x))));
        let both = milliseconds(|| scan(&x).0.sum(Kind::Float).backward());
        let steps = if sequences == 17 { milliseconds(|| drop(tch::no_grad(|| by_steps(&x)))) } else { f64::NAN };
        println!(
            "S = {sequences}: forward {forward:.3} ms, forward and backward {both:.3} ms; by libtorch's operations, forward {steps:.1} ms"
        );
    }
    println!("{}", if good { "PASS: outputs and gradients are right in every type" } else { "FAIL: see above" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
