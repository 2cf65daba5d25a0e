//! `libposelift_ops.so`: the operator `SelectiveScan` of the domain `poselift.ssm` for every program that uses ONNX Runtime
//! (Python, C, C#, Triton), through the one function that such libraries have.
//!
//! ```python
//! options = onnxruntime.SessionOptions()
//! options.register_custom_ops_library("libposelift_ops.so")
//! ```

use std::ffi::{CStr, CString};
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

/// `CustomOpDomain_Add` of the ONNX Runtime that is here.
static ADD: OnceLock<unsafe extern "system" fn(*mut sys::OrtCustomOpDomain, *const sys::OrtCustomOp) -> sys::OrtStatusPtr> =
    OnceLock::new();

/// Before 1.24, ONNX Runtime reads the type of every input before it asks an operator for the shapes of its outputs, and
/// crashes where an optional input is left out (microsoft/onnxruntime, pull request 26199). Not asking is the way round: it
/// still knows the types, and the shapes once the model runs.
unsafe extern "system" fn add_without_shapes(domain: *mut sys::OrtCustomOpDomain, operator: *const sys::OrtCustomOp) -> sys::OrtStatusPtr {
    // SAFETY: ort passes an operator that it has just put on the heap and not yet shown to anyone.
    unsafe { (&raw mut (*operator.cast_mut()).InferOutputShapeFn).write_volatile(None) };
    match ADD.get() {
        // SAFETY: ONNX Runtime's own function, with what it was called with.
        Some(add) => unsafe { add(domain, operator) },
        None => sys::OrtStatusPtr::default(), // never: it is set before this function is handed out
    }
}

/// The functions of this ONNX Runtime, for ort.
///
/// # Safety
/// Both come from ONNX Runtime.
unsafe fn functions(api: *const sys::OrtApi, base: *const sys::OrtApiBase) -> sys::OrtApi {
    // SAFETY: a table of function pointers may be copied; the version is a constant string such as 1.23.2.
    let (mut functions, version) = unsafe { (std::ptr::read(api), CStr::from_ptr(((*base).GetVersionString)())) };
    let minor = version.to_str().ok().and_then(|version| version.split('.').nth(1)?.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 24) {
        let _ = ADD.set(functions.CustomOpDomain_Add);
        functions.CustomOpDomain_Add = add_without_shapes;
    }
    functions
}

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
        return refuse(&format!(
            "libposelift_ops was built for ONNX Runtime 1.{needed} or newer, and this one is older; build it with a lower api-NN feature of ort in scan/cdylib/Cargo.toml"
        ));
    }
    let domain = catch_unwind(AssertUnwindSafe(|| {
        DOMAIN.get_or_init(|| {
            // SAFETY: the caller's; ONNX Runtime stays loaded as long as its functions are used.
            ort::set_api(unsafe { functions(api, base) });
            poselift_scan_ort::operator_domain().map(Domain).map_err(|error| error.to_string())
        })
    }));
    match domain {
        Ok(Ok(Domain(domain))) => {
            let add = AssertUnwindSafe(|| {
                // SAFETY: live options, and a domain that lives as long as the process.
                unsafe { ((*api).AddCustomOpDomain)(options, domain.ptr().cast_mut()) }
            });
            catch_unwind(add).unwrap_or_else(|_| refuse("libposelift_ops panicked; this is a defect of poselift"))
        }
        Ok(Err(message)) => refuse(message),
        Err(_) => refuse("libposelift_ops panicked; this is a defect of poselift"),
    }
}
