use tch::{Device, Kind, Tensor};

use crate::{Error, ScanTensors, selective_scan, shim};

/// Loads libtorch's CUDA half at run time: `Ok(true)` when it is now there, `Ok(false)` when this libtorch has none.
///
/// It is looked for in `$LIBTORCH_CUDA_DIR`, else beside the loaded `libtorch_cpu.so`. Call it before anything asks about
/// CUDA: the first `tch::Cuda::is_available()` without it remembers "no" for good.
///
/// # Errors
/// The library is there but cannot be loaded; the loader's words say which part is missing.
pub fn load_cuda_backend() -> Result<bool, Error> {
    // SAFETY: no arguments; loading runs the library's constructors, which is what is asked for.
    match unsafe { shim::poselift_torch_load_cuda_backend() } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::last()),
    }
}

/// Runs a scan of one frame with so many states on a CUDA device: whether its kernels can be compiled and launched there.
///
/// # Errors
/// No driver, no NVRTC, or kernels that the device refuses; one sentence.
pub fn try_cuda_kernels(device: Device, states: usize) -> Result<(), Error> {
    let ones = |shape: &[i64]| {
        Tensor::f_ones(shape, (Kind::Float, device))
            .map_err(|error| Error::Torch(error.to_string().lines().next().unwrap_or_default().to_owned()))
    };
    let n = states as i64; // a network's, far from large
    let (per_channel, per_state, a) = (ones(&[1, 1, 8])?, ones(&[1, 1, n])?, ones(&[8, n])?);
    let inputs = ScanTensors {
        u: &per_channel,
        delta: &per_channel,
        a: &a,
        b: &per_state,
        c: &per_state,
        d: None,
        z: None,
        delta_bias: None,
        initial_state: None,
        delta_softplus: false,
    };
    selective_scan(&inputs).map(drop)
}
