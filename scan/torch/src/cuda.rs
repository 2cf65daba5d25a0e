use crate::{Error, shim};

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
