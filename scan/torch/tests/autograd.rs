//! The autograd function, the optimiser step and autocast, through libtorch itself.

use poselift_scan_torch::{AdamSettings, AdamState, ScanTensors, WeightDecay, autocast_bf16, fused_adam_step, selective_scan};
use tch::{Device, Kind, Tensor};

/// Random inputs of a scan, all of them differentiable leaves.
struct Case {
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    initial_state: Tensor,
}

impl Case {
    fn new(kind: Kind) -> Self {
        let (s, l, d, n) = (2, 5, 3, 4);
        let leaf = |tensor: Tensor| tensor.set_requires_grad(true);
        let normal = |shape: &[i64]| leaf(Tensor::randn(shape, (kind, Device::Cpu)));
        Self {
            u: normal(&[s, l, d]),
            delta: normal(&[s, l, d]),
            a: leaf(-(Tensor::rand([d, n], (kind, Device::Cpu)) * 2.0 + 0.1)),
            b: normal(&[s, l, n]),
            c: normal(&[s, l, n]),
            d: normal(&[d]),
            z: normal(&[s, l, d]),
            delta_bias: normal(&[d]),
            initial_state: normal(&[s, d, n]),
        }
    }

    fn leaves(&self) -> [&Tensor; 9] {
        [&self.u, &self.delta, &self.a, &self.b, &self.c, &self.d, &self.z, &self.delta_bias, &self.initial_state]
    }

    fn scan(&self) -> (Tensor, Tensor) {
        let Self { u, delta, a, b, c, d, z, delta_bias, initial_state } = self;
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

    /// The same out of libtorch's own operations, with its own derivatives.
    fn composed(&self) -> (Tensor, Tensor) {
        let delta = (&self.delta + &self.delta_bias).softplus();
        let mut h = self.initial_state.shallow_clone(); // (S, D, N)
        let mut rows = Vec::new();
        for t in 0..self.u.size()[1] {
            let at = |x: &Tensor| x.select(1, t);
            let (delta_t, u_t) = (at(&delta).unsqueeze(-1), at(&self.u).unsqueeze(-1)); // (S, D, 1)
            h = (&delta_t * &self.a).exp() * h + delta_t * u_t * at(&self.b).unsqueeze(1);
            let y = (&h * at(&self.c).unsqueeze(1)).sum_dim_intlist(-1, false, None) + &self.d * at(&self.u); // (S, D)
            rows.push(y * at(&self.z).silu());
        }
        (Tensor::stack(&rows, 1), h)
    }
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn agrees_with_composed(kind: Kind, tolerance: f64) {
    tch::manual_seed(1);
    let case = Case::new(kind);
    let weight = Tensor::randn([2, 5, 3], (kind, Device::Cpu));
    let gradients = |(y, last): (Tensor, Tensor)| {
        let loss = (&y * &weight).sum(kind) + last.square().sum(kind);
        Tensor::run_backward(&[loss], &case.leaves(), false, false)
    };
    let (ours, theirs) = (case.scan(), case.composed());
    assert!(largest_difference(&ours.0, &theirs.0) < tolerance);
    assert!(largest_difference(&ours.1, &theirs.1) < tolerance);
    for (i, (a, b)) in gradients(ours).iter().zip(&gradients(theirs)).enumerate() {
        let scale = b.abs().max().double_value(&[]).max(1.0);
        assert!(largest_difference(a, b) < tolerance * scale, "gradient of input {i}: {a:?} against {b:?}");
    }
}

#[test]
fn f64_agrees_with_composed_operations() {
    agrees_with_composed(Kind::Double, 1e-12);
}

#[test]
fn f32_agrees_with_composed_operations() {
    agrees_with_composed(Kind::Float, 1e-4);
}

#[test]
fn non_contiguous_inputs_and_bf16_are_taken() {
    tch::manual_seed(2);
    let case = Case::new(Kind::Float);
    let plain = ScanTensors {
        u: &case.u,
        delta: &case.delta,
        a: &case.a,
        b: &case.b,
        c: &case.c,
        d: None,
        z: None,
        delta_bias: None,
        initial_state: None,
        delta_softplus: false,
    };
    let (y, _) = selective_scan(&plain).unwrap();
    let turned = case.u.transpose(0, 2).contiguous().transpose(0, 2);
    assert!(!turned.is_contiguous());
    assert_eq!(largest_difference(&y, &selective_scan(&ScanTensors { u: &turned, ..plain }).unwrap().0), 0.0);

    let half = case.u.to_kind(Kind::BFloat16);
    let (y, _) = selective_scan(&ScanTensors { u: &half, ..plain }).unwrap();
    assert_eq!(y.kind(), Kind::Float);
    let gradient = Tensor::run_backward(&[y.sum(Kind::Float)], &[&case.u], false, false);
    assert_eq!(gradient[0].kind(), Kind::Float);
}

#[test]
fn a_misfit_is_an_error_with_words() {
    let case = Case::new(Kind::Float);
    let plain = ScanTensors {
        u: &case.u,
        delta: &case.delta,
        a: &case.a,
        b: &case.b,
        c: &case.c,
        d: None,
        z: None,
        delta_bias: None,
        initial_state: None,
        delta_softplus: false,
    };
    let wrong = Tensor::zeros([2, 5, 7], (Kind::Float, Device::Cpu));
    let message = |inputs: ScanTensors<'_>| selective_scan(&inputs).unwrap_err().to_string();
    assert_eq!(message(ScanTensors { delta: &wrong, ..plain }), "selective_scan: delta must have shape [2, 5, 3], but has [2, 5, 7]");
    assert!(message(ScanTensors { b: &case.a, ..plain }).contains("B must have shape [2, 5, 4]"));
    assert!(message(ScanTensors { u: &case.a, ..plain }).contains("u must have shape (S, L, D)"));
    let whole = Tensor::zeros([2, 5, 3], (Kind::Int64, Device::Cpu));
    assert!(message(ScanTensors { u: &whole, ..plain }).contains("floating point"));
}

#[test]
fn a_second_derivative_is_refused() {
    let case = Case::new(Kind::Double);
    let (y, _) = case.scan();
    let error = Tensor::f_run_backward(&[y.sum(Kind::Double)], &[&case.u], true, true).unwrap_err().to_string();
    assert!(error.contains("no second derivative"), "{error}");
}

#[test]
fn without_gradients_nothing_is_recorded() {
    let case = Case::new(Kind::Float);
    assert!(case.scan().0.requires_grad());
    assert!(!tch::no_grad(|| case.scan().0.requires_grad()));
}

/// The update rules of Kingma and Ba (2015), of AdamW and of AMSGrad, on one weight, in plain arithmetic.
fn adam_by_hand(start: f64, gradients: &[f64], s: &AdamSettings, amsgrad: bool) -> f64 {
    let (mut w, mut m, mut v, mut largest) = (start, 0.0, 0.0, 0.0f64);
    for (i, &gradient) in gradients.iter().enumerate() {
        let step = (i + 1) as i32;
        let gradient = match s.decay {
            WeightDecay::Decoupled => {
                w -= s.lr * s.weight_decay * w;
                gradient
            }
            WeightDecay::L2 => gradient + s.weight_decay * w,
        };
        m = s.betas.0 * m + (1.0 - s.betas.0) * gradient;
        v = s.betas.1 * v + (1.0 - s.betas.1) * gradient * gradient;
        largest = largest.max(v);
        let second = (if amsgrad { largest } else { v }) / (1.0 - s.betas.1.powi(step));
        w -= s.lr * m / (1.0 - s.betas.0.powi(step)) / (second.sqrt() + s.eps);
    }
    w
}

#[test]
fn optimiser_steps_follow_the_papers() {
    let gradients = [0.5, -2.0, 0.01, 0.0];
    for decay in [WeightDecay::Decoupled, WeightDecay::L2] {
        for amsgrad in [false, true] {
            let settings = AdamSettings { lr: 0.1, weight_decay: 0.3, decay, ..AdamSettings::default() };
            let weight = Tensor::from_slice(&[1.5f64]).set_requires_grad(true);
            let untouched = Tensor::from_slice(&[7.0f64]).set_requires_grad(true);
            let parameters = [weight, untouched];
            let mut state = AdamState::new(&parameters, amsgrad);
            for gradient in gradients {
                let mut weight = parameters[0].shallow_clone();
                weight.zero_grad();
                (&parameters[0] * gradient).sum(Kind::Double).backward();
                fused_adam_step(&parameters, &mut state, &settings).unwrap();
            }
            let found = parameters[0].double_value(&[0]);
            let expected = adam_by_hand(1.5, &gradients, &settings, amsgrad);
            assert!((found - expected).abs() < 1e-6, "{decay:?} amsgrad {amsgrad}: {found} against {expected}");
            assert_eq!(parameters[1].double_value(&[0]), 7.0);
            assert_eq!((state.step[0].double_value(&[]), state.step[1].double_value(&[])), (4.0, 0.0));
        }
    }
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let parameters = [Tensor::zeros([1], (Kind::Float, Device::Cpu))];
    let mut state = AdamState::new(&[], false);
    let message = fused_adam_step(&parameters, &mut state, &AdamSettings::default()).unwrap_err().to_string();
    assert!(message.contains("1 parameters but was given 0 first moments"), "{message}");
}

#[test]
fn autocast_multiplies_in_bf16_and_ends() {
    let ones = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
    assert_eq!(autocast_bf16(Device::Cpu, || ones.matmul(&ones).kind()).unwrap(), Kind::BFloat16);
    assert_eq!(ones.matmul(&ones).kind(), Kind::Float);
    let nested = autocast_bf16(Device::Cpu, || autocast_bf16(Device::Cpu, || ()).map(|()| ones.matmul(&ones).kind()));
    assert_eq!(nested.unwrap().unwrap(), Kind::BFloat16);
}

#[test]
fn a_device_that_is_not_there_is_said_in_one_line() {
    poselift_scan_torch::try_cuda_kernels(Device::Cpu, 16).expect("the same question about the CPU has a good answer");
    if tch::Cuda::is_available() {
        return poselift_scan_torch::try_cuda_kernels(Device::Cuda(0), 16).expect("a GPU's kernels");
    }
    let message = poselift_scan_torch::try_cuda_kernels(Device::Cuda(0), 16).expect_err("no GPU").to_string();
    assert!(!message.is_empty() && message.lines().count() == 1, "{message}");
}
