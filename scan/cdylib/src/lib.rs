//! `libposelift_ops.so`: the operator `SelectiveScan` of the domain `poselift.ssm` for every program that uses ONNX Runtime
//! (Python, C, C#, Triton), through the one function that such libraries have.
//!
//! ```python
//! options = onnxruntime.SessionOptions()
//! options.register_custom_ops_library("libposelift_ops.so")
//! ```

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use ort::operator::OperatorDomain;
use ort::{AsPointer, sys};

/// The domain, once for the process: ONNX Runtime asks for it to live as long as any session.
struct Domain(OperatorDomain);

// SAFETY: nothing changes it after it was made; ONNX Runtime only reads it.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

static DOMAIN: OnceLock<Result<Domain, String>> = OnceLock::new();

/// Adds our operators to the options of a session. ONNX Runtime calls it by this name.
///
/// Returns null, or a status with words: an ONNX Runtime that is too old, or that refuses the domain.
///
/// # Safety
/// ONNX Runtime calls it with live options and its own `OrtApiBase`.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the name that ONNX Runtime looks for")]
pub unsafe extern "system" fn RegisterCustomOps(options: *mut sys::OrtSessionOptions, base: *const sys::OrtApiBase) -> sys::OrtStatusPtr {
    // SAFETY: the caller's `OrtApiBase`; version 1 is in every ONNX Runtime, and null for what is newer than itself.
    let (api, first) = unsafe { (((*base).GetApi)(sys::ORT_API_VERSION), ((*base).GetApi)(1)) };
    let refuse = |message: &str| {
        let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
        // SAFETY: creating a status is in version 1, and copies the message.
        unsafe { ((*first).CreateStatus)(sys::OrtErrorCode::ORT_FAIL, message.as_ptr()) }
    };
    if api.is_null() {
        let needed = sys::ORT_API_VERSION;
        return refuse(&format!("libposelift_ops was built for ONNX Runtime 1.{needed} or newer, and this one is older; build it with a lower api-NN feature of ort in scan/cdylib/Cargo.toml"));
    }
    let domain = catch_unwind(|| {
        DOMAIN.get_or_init(|| {
            // SAFETY: functions of ONNX Runtime, which stays loaded; a table of function pointers may be copied.
            ort::set_api(unsafe { std::ptr::read(api) });
            poselift_scan_ort::operator_domain().map(Domain).map_err(|error| error.to_string())
        })
    });
    match domain {
        // SAFETY: live options, and a domain that lives as long as the process.
        Ok(Ok(Domain(domain))) => catch_unwind(AssertUnwindSafe(|| unsafe { ((*api).AddCustomOpDomain)(options, domain.ptr().cast_mut()) }))
            .unwrap_or_else(|_| refuse("libposelift_ops panicked; this is a defect of poselift")),
        Ok(Err(message)) => refuse(message),
        Err(_) => refuse("libposelift_ops panicked; this is a defect of poselift"),
    }
}
