use std::ffi::c_int;

use tch::Device;

use crate::{Error, shim};

/// Switches autocast back to what it was, also when the closure panics.
struct Guard {
    cuda: c_int,
    was_enabled: c_int,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: plain integers; pairs with the enter below. A failure here could only be reported by a panic in a drop.
        unsafe { shim::poselift_torch_autocast_exit(self.cuda, self.was_enabled) };
    }
}

/// Runs `f` with bf16 autocast on the device: matrix products in bf16, sums and norms in f32.
///
/// (`tch::autocast` switches CUDA alone and leaves its type at f16.) Run the backward pass outside.
///
/// # Errors
/// libtorch refused, e.g. a device without autocast.
pub fn autocast_bf16<T>(device: Device, f: impl FnOnce() -> T) -> Result<T, Error> {
    let cuda = c_int::from(device.is_cuda());
    let mut was_enabled = 0;
    // SAFETY: `was_enabled` outlives the call.
    if unsafe { shim::poselift_torch_autocast_enter(cuda, &raw mut was_enabled) } != 0 {
        return Err(Error::last());
    }
    let _guard = Guard { cuda, was_enabled };
    Ok(f())
}
