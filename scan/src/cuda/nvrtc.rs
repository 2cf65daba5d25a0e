//! NVRTC, NVIDIA's compiler as a library: loaded when it is first needed, and needing no GPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use super::{Program, SOURCE};
use crate::Error;

/// Kernels for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// What the driver loads (a cubin).
    pub image: Vec<u8>,
    /// What the compiler said: registers, shared memory and spills of each kernel, one line or two for each.
    pub log: String,
}

/// `nvrtcProgram`
type Handle = *mut c_void;

/// The functions that are needed of it (nvrtc.h).
struct Nvrtc {
    /// (major, minor)
    version: (c_int, c_int),
    create: unsafe extern "C" fn(*mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    image_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    image: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    words: unsafe extern "C" fn(c_int) -> *const c_char,
}

/// Whether NVRTC can be loaded on this machine.
pub fn is_available() -> bool {
    nvrtc().is_ok()
}

/// The version of NVRTC that compiles here, for the cache.
pub(super) fn version() -> Result<(c_int, c_int), Error> {
    nvrtc().map(|nvrtc| nvrtc.version)
}

fn nvrtc() -> Result<&'static Nvrtc, Error> {
    static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
    NVRTC.get_or_init(find).as_ref().map_err(|message| Error::Cuda(message.clone()))
}

/// The library of `.native`, as `scripts/native.sh nvrtc` puts it there.
const NATIVE: &str = ".native/nvrtc/lib/libnvrtc.so.13";

/// Where it may be: `$POSELIFT_NVRTC`; `.native` above the executable, then above the working folder; wherever the loader looks, or
/// already in the process, as with PyTorch.
fn candidates() -> Vec<PathBuf> {
    if let Some(given) = std::env::var_os("POSELIFT_NVRTC") {
        return vec![given.into()];
    }
    let folders = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let native =
        folders.iter().flatten().flat_map(|folder| folder.ancestors()).map(|folder| folder.join(NATIVE)).filter(|path| path.exists());
    native.chain(["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"].map(PathBuf::from)).collect()
}

fn find() -> Result<Nvrtc, String> {
    let mut refusals = Vec::new();
    for path in candidates() {
        match load(&path) {
            Ok(nvrtc) => return Ok(nvrtc),
            Err(error) => refusals.push(loader_words(&error)),
        }
    }
    Err(format!(
        "NVRTC, which compiles the kernels, cannot be loaded; run scripts/native.sh nvrtc, or set POSELIFT_NVRTC to libnvrtc.so.13 ({})",
        refusals.join("; ")
    ))
}

/// What the loader itself says, which names the file.
pub(super) fn loader_words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn load(path: &Path) -> Result<Nvrtc, libloading::Error> {
    // NVRTC opens its builtins by their bare name: they must be in the process already where the loader does not look.
    let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).and_then(|folder| folder.read_dir().ok());
    for entry in beside.into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so") {
            // SAFETY: NVIDIA's library; what it does when it is loaded is what is asked for. Never unloaded.
            std::mem::forget(unsafe { Library::new(entry.path()) }?);
        }
    }
    // SAFETY: as above; the types are those of nvrtc.h, and the library stays loaded, so the functions stay good.
    unsafe {
        let library = Library::new(path)?;
        let mut version = (0, 0);
        (*library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion\0")?)(&mut version.0, &mut version.1);
        let nvrtc = Nvrtc {
            version,
            create: *library.get(b"nvrtcCreateProgram\0")?,
            destroy: *library.get(b"nvrtcDestroyProgram\0")?,
            compile: *library.get(b"nvrtcCompileProgram\0")?,
            log_size: *library.get(b"nvrtcGetProgramLogSize\0")?,
            log: *library.get(b"nvrtcGetProgramLog\0")?,
            image_size: *library.get(b"nvrtcGetCUBINSize\0")?,
            image: *library.get(b"nvrtcGetCUBIN\0")?,
            words: *library.get(b"nvrtcGetErrorString\0")?,
        };
        std::mem::forget(library);
        Ok(nvrtc)
    }
}

/// A program of NVRTC's, destroyed when it goes out of scope.
struct Source<'a> {
    nvrtc: &'a Nvrtc,
    handle: Handle,
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and nobody uses it from here on.
        unsafe { (self.nvrtc.destroy)(&mut self.handle) };
    }
}

type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;

impl Source<'_> {
    fn check(&self, doing: &str, status: c_int) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it returns a constant string.
        let words = unsafe { CStr::from_ptr((self.nvrtc.words)(status)) };
        Err(Error::Cuda(format!("NVRTC failed at {doing}: {}", words.to_string_lossy())))
    }

    /// What `read` writes, as long as `size` says.
    fn bytes(&self, doing: &str, size: Size, read: Read) -> Result<Vec<u8>, Error> {
        let mut length = 0;
        // SAFETY: a live handle and room for one number.
        self.check(doing, unsafe { size(self.handle, &mut length) })?;
        let mut bytes = vec![0u8; length];
        // SAFETY: as many bytes as it said it would write.
        self.check(doing, unsafe { read(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

/// Compiles the kernels of `program` for devices of `architecture` (90 for compute capability 9.0).
///
/// # Errors
/// NVRTC is not there, does not know the architecture, or refuses the source.
pub fn compile(program: Program, architecture: u32) -> Result<Compiled, Error> {
    let nvrtc = nvrtc()?;
    let word = |text: &str| CString::new(text).map_err(|_| Error::Cuda("the source has a zero byte".to_owned()));
    let source = word(SOURCE)?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: two strings that end in 0, no headers.
    let status =
        unsafe { (nvrtc.create)(&mut handle, source.as_ptr(), c"selective_scan.cu".as_ptr(), 0, std::ptr::null(), std::ptr::null()) };
    let program_of = Source { nvrtc, handle };
    program_of.check("the source", status)?;
    let options: Vec<CString> = options(program, architecture).iter().map(|option| word(option)).collect::<Result<_, _>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    // SAFETY: a live handle and as many strings as it is told.
    let status = unsafe { (nvrtc.compile)(handle, pointers.len() as c_int, pointers.as_ptr()) };
    let log = program_of.bytes("its log", nvrtc.log_size, nvrtc.log)?;
    let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
    program_of.check("compiling", status).map_err(|error| {
        let (major, minor) = nvrtc.version;
        Error::Cuda(format!(
            "{error} (version {major}.{minor}, for sm_{architecture}): {}",
            log.lines().next().unwrap_or("no more is known")
        ))
    })?;
    let image = program_of.bytes("the result", nvrtc.image_size, nvrtc.image)?;
    Ok(Compiled { image, log })
}

/// Everything beside the source that the result depends on.
pub(super) fn options(program: Program, architecture: u32) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture=sm_{architecture}"), "--std=c++17".to_owned(), "--ptxas-options=-v".to_owned()];
    options.extend(program.definitions());
    options
}
