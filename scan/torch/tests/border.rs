//! What libtorch's half calls of ours for CUDA (src/kernel.rs), without a GPU and without libtorch's CUDA: by the names and with the structs
//! of cpp/shim.cpp, on the stand-in for a driver of scan/tests/cuda.
#![allow(clippy::print_stdout, reason = "what was skipped")]

#[allow(dead_code, reason = "shared with scan's own tests, which use more of it")]
#[path = "../../tests/scan/case.rs"]
mod case;
#[allow(dead_code, reason = "as above")]
#[path = "../../tests/scan/stand_in.rs"]
mod stand_in;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;

use case::{Case, Parts, relative_error};
use poselift_scan_torch as _; // whose functions these are
use scan::Dims;
use scan::cuda::{Buffer, Device, ElementType, is_available};

/// As `struct ScanDims`, and so on, of cpp/shim.cpp.
#[repr(C)]
struct ScanDims([usize; 4]);
#[repr(C)]
struct ScanInputs {
    pointers: [u64; 9],
    delta_softplus: c_int,
}
#[repr(C)]
struct ScanOutputs([u64; 3]);
#[repr(C)]
struct ScanOutputGrads([u64; 2]);
#[repr(C)]
struct ScanInputGrads([u64; 9]);

unsafe extern "C" {
    fn poselift_scan_cuda_forward(
        element: c_int,
        dims: *const ScanDims,
        inputs: *const ScanInputs,
        outputs: *const ScanOutputs,
        device: c_int,
        stream: *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn poselift_scan_cuda_sizes(
        dims: *const ScanDims,
        kept: *mut usize,
        workspace_with_kept: *mut usize,
        workspace: *mut usize,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn poselift_scan_cuda_backward(
        element: c_int,
        dims: *const ScanDims,
        inputs: *const ScanInputs,
        from: *const ScanOutputGrads,
        to: *const ScanInputGrads,
        kept: u64,
        workspace: u64,
        device: c_int,
        stream: *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
}

#[test]
fn the_border_for_cuda_passes_every_pointer_to_its_place() {
    if !is_available() {
        println!("skipped: NVRTC is absent (scripts/native.sh nvrtc)");
        return;
    }
    let mut command = stand_in::child("inside", &[(ElementType::F32, 16)]);
    stand_in::passes(command.env("POSELIFT_CACHE", env!("CARGO_TARGET_TMPDIR")).env("STAND_IN_DEVICES", "80,90"));
}

const MESSAGE: usize = 512;

fn done(call: impl FnOnce(*mut c_char) -> c_int) -> Result<(), String> {
    let mut message = [0 as c_char; MESSAGE];
    match call(message.as_mut_ptr()) {
        0 => Ok(()),
        // SAFETY: the last byte stays 0.
        _ => Err(unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned()),
    }
}

#[test]
#[ignore = "started by the test of this file"]
fn inside() {
    if std::env::var_os("STAND_IN_EMULATORS").is_none() {
        return;
    }
    // Tensors are on the second device, and work is asked for from a thread where the first one is current.
    let device = Device::open(1).expect("the second device");
    let dims = Dims { sequences: 2, frames: 19, channels: 33, states: 16 };
    let Dims { sequences: s, frames: l, channels: d, states: n } = dims;
    let raw_dims = ScanDims([s, l, d, n]);
    let (mut kept_bytes, mut with_kept, mut without) = (0, 0, 0);
    // SAFETY: live structs, room for three numbers, and a buffer of that size.
    done(|message| unsafe { poselift_scan_cuda_sizes(&raw_dims, &mut kept_bytes, &mut with_kept, &mut without, message, MESSAGE) })
        .expect("sizes");
    assert_eq!((kept_bytes, without - with_kept), (s * 2 * d * n * 4, kept_bytes));
    for (number, keeps) in [(63, true), (63, false), (0, true)] {
        let parts = Parts::numbered(number);
        let case = Case::random(dims, parts, 4);
        let truth = case.by_oracle(0.0);
        let case = case.narrow();
        assert_eq!(Device::open(1).map(|_| ()), Ok(()));
        let upload = |values: &Vec<f32>| device.upload(values).expect("room");
        let optional = |values: &Option<Vec<f32>>| values.as_ref().map(upload);
        let inputs = [
            Some(upload(&case.u)),
            Some(upload(&case.delta)),
            Some(upload(&case.a)),
            Some(upload(&case.b)),
            Some(upload(&case.c)),
            optional(&case.d),
            optional(&case.z),
            optional(&case.delta_bias),
            optional(&case.initial_state),
        ];
        let (grad_y, grad_last) = (upload(&case.grad_y), optional(&case.grad_last_state));
        let (y, last) = (device.buffer(s * l * d * 4).expect("room"), device.buffer(s * d * n * 4).expect("room"));
        let kept = keeps.then(|| device.buffer(kept_bytes).expect("room"));
        let workspace = device.buffer(if keeps { with_kept } else { without }).expect("room");
        let lengths = [s * l * d, s * l * d, d * n, s * l * n, s * l * n, d, s * l * d, d, s * d * n];
        let grads: Vec<Option<Buffer>> =
            inputs.iter().zip(lengths).map(|(input, length)| input.as_ref().map(|_| device.buffer(length * 4).expect("room"))).collect();
        let address = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::address);

        let raw_inputs = ScanInputs { pointers: inputs.each_ref().map(address), delta_softplus: case.delta_softplus.into() };
        let outputs = ScanOutputs([y.address(), last.address(), address(&kept)]);
        let from = ScanOutputGrads([grad_y.address(), address(&grad_last)]);
        let to = ScanInputGrads(std::array::from_fn(|i| address(&grads[i])));
        let _other = Device::open(0).expect("the first device");
        // SAFETY: live structs, memory of the second device with as many values as the shapes say, its default stream.
        unsafe {
            done(|message| poselift_scan_cuda_forward(0, &raw_dims, &raw_inputs, &outputs, 1, null_mut(), message, MESSAGE))
                .expect("forward");
            done(|message| {
                let (kept, workspace) = (address(&kept), workspace.address());
                poselift_scan_cuda_backward(0, &raw_dims, &raw_inputs, &from, &to, kept, workspace, 1, null_mut(), message, MESSAGE)
            })
            .expect("backward");
        }
        device.synchronize().expect("all work done");
        let check = |name: &str, buffer: &Buffer, truth: &[f64]| {
            let mut found = vec![0f32; truth.len()];
            buffer.download(&mut found).expect("a copy");
            assert!(relative_error(&found, truth) < 1e-4, "{name}: {:e}", relative_error(&found, truth));
        };
        check("y", &y, &truth.y);
        check("last_state", &last, &truth.last_state);
        let truths = [
            Some(&truth.u),
            Some(&truth.delta),
            Some(&truth.a),
            Some(&truth.b),
            Some(&truth.c),
            truth.d.as_ref(),
            truth.z.as_ref(),
            truth.delta_bias.as_ref(),
            Some(&truth.initial_state),
        ];
        for (i, (grad, truth)) in grads.iter().zip(truths).enumerate() {
            if let (Some(grad), Some(truth)) = (grad, truth) {
                check(&format!("gradient {i}"), grad, truth);
            }
        }
    }
    let nothing = (ScanInputs { pointers: [0; 9], delta_softplus: 0 }, ScanOutputs([0; 3]));
    let refused = |dims: ScanDims, device: c_int| {
        // SAFETY: refused before anything is launched.
        done(|message| unsafe { poselift_scan_cuda_forward(0, &dims, &nothing.0, &nothing.1, device, null_mut(), message, MESSAGE) })
            .expect_err("refused")
    };
    assert!(refused(ScanDims([s, l, d, n]), 2).contains("there is no device 2; the driver has 2"));
    assert!(refused(ScanDims([s, l, d, 200]), 1).contains("1 to 128 states, but A has 200"));
    assert!(refused(ScanDims([s, l, d, n]), 1).contains("u has no address"));
}
