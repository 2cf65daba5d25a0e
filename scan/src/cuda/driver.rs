//! The CUDA driver, loaded when it is first needed: launches on streams of others, and just enough of a device of one's own for checks.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::mem::size_of_val;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;

use super::{Address, Compiled, Kernel, Launcher, Program, cache, compile, compile_cached};
use crate::Error;

/// `CUcontext`, `CUmodule`, `CUfunction`, `CUstream`, `CUevent`
type Handle = *mut c_void;

/// Declares the functions that are needed of the driver (cuda.h), and loads them by their names there.
macro_rules! driver {
    ($($field:ident = $name:literal($($argument:ty),*);)*) => {
        struct Driver {
            $($field: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }
        /// # Safety
        /// The library is the CUDA driver and stays loaded.
        unsafe fn functions(library: &Library) -> Result<Driver, libloading::Error> {
            // SAFETY: the types are those of cuda.h.
            unsafe { Ok(Driver { $($field: *library.get(concat!($name, "\0").as_bytes())?,)* }) }
        }
    };
}

driver! {
    init = "cuInit"(c_uint);
    words = "cuGetErrorString"(c_int, *mut *const c_char);
    device_count = "cuDeviceGetCount"(*mut c_int);
    device = "cuDeviceGet"(*mut c_int, c_int);
    device_name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    version = "cuDriverGetVersion"(*mut c_int);
    primary_context = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    set_context = "cuCtxSetCurrent"(Handle);
    context = "cuCtxGetCurrent"(*mut Handle);
    push_context = "cuCtxPushCurrent_v2"(Handle);
    pop_context = "cuCtxPopCurrent_v2"(*mut Handle);
    context_number = "cuCtxGetId"(Handle, *mut u64);
    context_device = "cuCtxGetDevice"(*mut c_int);
    stream_context = "cuStreamGetCtx"(Handle, *mut Handle);
    synchronize = "cuCtxSynchronize"();
    load_module = "cuModuleLoadData"(*mut Handle, *const c_void);
    function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    set_attribute = "cuFuncSetAttribute"(Handle, c_int, c_int);
    launch = "cuLaunchKernel"(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    allocate = "cuMemAlloc_v2"(*mut Address, usize);
    free = "cuMemFree_v2"(Address);
    to_device = "cuMemcpyHtoD_v2"(Address, *const c_void, usize);
    to_host = "cuMemcpyDtoH_v2"(*mut c_void, Address, usize);
    copy = "cuMemcpyDtoDAsync_v2"(Address, Address, usize, Handle);
    create_event = "cuEventCreate"(*mut Handle, c_uint);
    destroy_event = "cuEventDestroy_v2"(Handle);
    record_event = "cuEventRecord"(Handle, Handle);
    elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
}

/// Attributes of devices (`CUdevice_attribute`).
const MULTIPROCESSORS: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

/// Attribute of functions (`CUfunction_attribute`): per cent of a multiprocessor's fast memory that is to be shared memory.
const SHARED_CARVEOUT: c_int = 9;

fn driver() -> Result<&'static Driver, Error> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    DRIVER.get_or_init(load).as_ref().map_err(|message| Error::Cuda(message.clone()))
}

fn load() -> Result<Driver, String> {
    let absent =
        |error: libloading::Error| format!("there is no CUDA driver here; install NVIDIA's ({})", super::nvrtc::loader_words(&error));
    // SAFETY: the driver's own library; it stays loaded, so its functions stay good.
    let driver = unsafe {
        let library = Library::new("libcuda.so.1").map_err(absent)?;
        let driver = functions(&library)
            .map_err(|error| format!("the CUDA driver is too old; install 580 or newer ({})", super::nvrtc::loader_words(&error)))?;
        std::mem::forget(library);
        driver
    };
    // SAFETY: no flags exist.
    driver.check("starting", unsafe { (driver.init)(0) }).map_err(|error| match error {
        Error::Cuda(message) => message,
        other => other.to_string(),
    })?;
    Ok(driver)
}

impl Driver {
    fn check(&self, doing: &str, status: c_int) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        let mut words: *const c_char = std::ptr::null();
        // SAFETY: it gives a constant string, or leaves null for a status that it does not know.
        unsafe { (self.words)(status, &mut words) };
        let words = if words.is_null() {
            format!("status {status}")
        } else {
            // SAFETY: just given, and constant.
            unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
        };
        Err(Error::Cuda(format!("the driver failed at {doing}: {words}")))
    }

    fn attribute(&self, device: c_int, attribute: c_int) -> Result<u32, Error> {
        let mut value = 0;
        // SAFETY: room for one number.
        self.check("asking for an attribute", unsafe { (self.attribute)(&mut value, attribute, device) })?;
        u32::try_from(value).map_err(|_| Error::Cuda(format!("the device says {value} for attribute {attribute}")))
    }

    /// 90 for compute capability 9.0.
    fn architecture(&self, device: c_int) -> Result<u32, Error> {
        Ok(10 * self.attribute(device, CAPABILITY_MAJOR)? + self.attribute(device, CAPABILITY_MINOR)?)
    }
}

impl Driver {
    fn current_context(&self) -> Result<Handle, Error> {
        let mut context = std::ptr::null_mut();
        // SAFETY: room for a handle.
        self.check("asking for the context", unsafe { (self.context)(&mut context) })?;
        Ok(context)
    }

    /// The context of a device that the CUDA runtime uses, and with it libtorch and ONNX Runtime. Kept alive from the first call on.
    fn primary_context(&self, index: c_int) -> Result<Handle, Error> {
        static RETAINED: Mutex<Option<HashMap<c_int, usize>>> = Mutex::new(None);
        let mut retained = RETAINED.lock().unwrap_or_else(PoisonError::into_inner);
        let retained = retained.get_or_insert_default();
        if let Some(&context) = retained.get(&index) {
            return Ok(context as Handle);
        }
        let (mut count, mut device, mut context) = (0, 0, std::ptr::null_mut());
        // SAFETY: room for a number, a number and a handle.
        unsafe {
            self.check("counting devices", (self.device_count)(&mut count))?;
            if index < 0 || index >= count {
                return Err(Error::Cuda(format!("there is no device {index}; the driver has {count}")));
            }
            self.check("opening the device", (self.device)(&mut device, index))?;
            self.check("making a context", (self.primary_context)(&mut context, device))?;
        }
        retained.insert(index, context as usize);
        Ok(context)
    }

    /// Where work on `stream` belongs: to the stream's own context, else to the calling thread's, else to that of device 0, as for the
    /// CUDA runtime (threads that never called the runtime have none, those of libtorch's autograd among them).
    fn context_of(&self, stream: Handle) -> Result<Handle, Error> {
        let mut context = std::ptr::null_mut();
        if !stream.is_null() {
            // SAFETY: the caller's stream, alive, and room for a handle. A stream that will not say belongs where its caller is.
            let status = unsafe { (self.stream_context)(stream, &mut context) };
            if status == 0 && !context.is_null() {
                return Ok(context);
            }
        }
        context = self.current_context()?;
        if context.is_null() { self.primary_context(0) } else { Ok(context) }
    }

    /// Makes a context current until the guard goes.
    fn enter(&'static self, context: Handle) -> Result<Entered, Error> {
        if self.current_context()? == context {
            return Ok(Entered { driver: None });
        }
        // SAFETY: a live context.
        self.check("entering the context", unsafe { (self.push_context)(context) })?;
        Ok(Entered { driver: Some(self) })
    }
}

/// A context that is current on this thread, and leaves with it.
struct Entered {
    /// `None` where it was current before.
    driver: Option<&'static Driver>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(driver) = self.driver {
            let mut context = std::ptr::null_mut();
            // SAFETY: takes off what `enter` put on. It fails only where the context is gone.
            unsafe { (driver.pop_context)(&mut context) };
        }
    }
}

/// The kernels of a program in a context.
#[derive(Clone, Copy)]
struct Loaded {
    functions: [Handle; Kernel::ALL.len()],
    multiprocessors: usize,
}

// SAFETY: handles of the driver, which every thread may use in their context.
unsafe impl Send for Loaded {}

/// The kernels of `program` in the current context: loaded once for each, and kept as long as the process runs. Later calls ask the
/// driver for a number and nothing else, so that they are allowed while a stream is captured into a graph.
fn loaded(driver: &Driver, program: Program, context: Handle) -> Result<Loaded, Error> {
    static LOADED: Mutex<Option<HashMap<(u64, Program), Loaded>>> = Mutex::new(None);
    // No two contexts of a process have the same number, whereas a new one may lie where one that is gone lay.
    let (mut number, mut device) = (0, 0);
    // SAFETY: a live context and room for a number.
    driver.check("asking for the context's number", unsafe { (driver.context_number)(context, &mut number) })?;
    let mut map = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let map = map.get_or_insert_default();
    if let Some(loaded) = map.get(&(number, program)) {
        return Ok(*loaded);
    }
    // SAFETY: room for a number.
    driver.check("asking for the device", unsafe { (driver.context_device)(&mut device) })?;
    let architecture = driver.architecture(device)?;
    let module = module(driver, program, architecture)?;
    let mut functions = [std::ptr::null_mut(); Kernel::ALL.len()];
    for (function, kernel) in functions.iter_mut().zip(Kernel::ALL) {
        let name = CString::new(kernel.name()).map_err(|error| Error::Cuda(error.to_string()))?;
        // SAFETY: a live module and a string that ends in 0. This is where the driver puts a kernel on the device.
        driver.check(kernel.name(), unsafe { (driver.function)(function, module, name.as_ptr()) })?;
        if matches!(kernel, Kernel::BackwardWide | Kernel::BackwardNarrow) {
            // Four blocks, for which there are registers, need 188 KB.
            // SAFETY: the function just found.
            driver.check("sharing out memory", unsafe { (driver.set_attribute)(*function, SHARED_CARVEOUT, 100) })?;
        }
    }
    let loaded = Loaded { functions, multiprocessors: driver.attribute(device, MULTIPROCESSORS)? as usize };
    map.insert((number, program), loaded);
    Ok(loaded)
}

fn module(driver: &Driver, program: Program, architecture: u32) -> Result<Handle, Error> {
    let load = |compiled: &Compiled| {
        let mut module = std::ptr::null_mut();
        // SAFETY: a cubin, which says its own length.
        let status = unsafe { (driver.load_module)(&mut module, compiled.image.as_ptr().cast()) };
        driver.check("loading the kernels", status).map(|()| module)
    };
    let loaded = match cache::default_folder() {
        None => load(&compile(program, architecture)?),
        Some(folder) => load(&compile_cached(program, architecture, &folder)?).or_else(|_| {
            cache::forget(program, architecture, &folder); // spoilt on disk, perhaps
            load(&compile_cached(program, architecture, &folder)?)
        }),
    };
    loaded.map_err(|error| with_versions(driver, error))
}

/// A driver takes what a compiler of its own version, or of an older one, makes: so a refusal says both.
fn with_versions(driver: &Driver, error: Error) -> Error {
    let mut version = 0;
    // SAFETY: room for a number.
    let known = unsafe { (driver.version)(&mut version) } == 0;
    match (error, super::nvrtc::version()) {
        (Error::Cuda(words), Ok((major, minor))) if known && (major, minor) > (version / 1000, version % 1000 / 10) => {
            let (driver_major, driver_minor) = (version / 1000, version % 1000 / 10);
            Error::Cuda(format!(
                "{words}; the driver is of CUDA {driver_major}.{driver_minor}, the compiler of {major}.{minor}: install a newer driver, or set \
                 POSELIFT_NVRTC to libnvrtc of {driver_major}.{driver_minor}"
            ))
        }
        (error, _) => error,
    }
}

/// A stream for which kernels are ready. Launches go to its context, whichever is current on the thread that asks for them.
pub struct Stream {
    driver: &'static Driver,
    program: Program,
    loaded: Loaded,
    context: Handle,
    stream: Handle,
}

impl Stream {
    /// A stream (`CUstream` or `cudaStream_t`); null is the default stream of the context that is current on the calling thread, or of
    /// device 0 where none is.
    ///
    /// # Safety
    /// The stream lives as long as this.
    ///
    /// # Errors
    /// No driver, no device, no NVRTC, or kernels that cannot be compiled or loaded.
    pub unsafe fn current(program: Program, stream: *mut c_void) -> Result<Self, Error> {
        let driver = driver()?;
        Self::of(driver, program, driver.context_of(stream)?, stream)
    }

    /// A stream of the device with this number, in the context of the CUDA runtime; null is its default stream.
    ///
    /// # Safety
    /// The stream is of that device, and lives as long as this.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub unsafe fn of_device(program: Program, device: i32, stream: *mut c_void) -> Result<Self, Error> {
        let driver = driver()?;
        Self::of(driver, program, driver.primary_context(device)?, stream)
    }

    fn of(driver: &'static Driver, program: Program, context: Handle, stream: Handle) -> Result<Self, Error> {
        let _entered = driver.enter(context)?;
        Ok(Self { driver, program, loaded: loaded(driver, program, context)?, context, stream })
    }
}

impl Launcher for Stream {
    fn program(&self) -> Program {
        self.program
    }

    fn multiprocessors(&self) -> usize {
        self.loaded.multiprocessors
    }

    unsafe fn launch(&self, kernel: Kernel, blocks: u32, threads: u32, argument: *const c_void) -> Result<(), Error> {
        let function = self.loaded.functions[kernel as usize]; // in the order of `ALL`
        let mut arguments = [argument.cast_mut()];
        let _entered = self.driver.enter(self.context)?;
        // SAFETY: the kernel has this one argument, which the driver copies before it returns; the caller vouches for the rest.
        let status = unsafe {
            (self.driver.launch)(function, blocks, 1, 1, threads, 1, 1, 0, self.stream, arguments.as_mut_ptr(), std::ptr::null_mut())
        };
        self.driver.check(kernel.name(), status)
    }
}

/// A device of one's own, where no engine brings one: for checks and measurements.
pub struct Device {
    driver: &'static Driver,
    index: c_int,
}

impl Device {
    /// The device with this number; its primary context becomes current on the calling thread.
    ///
    /// # Errors
    /// No driver, or no such device.
    pub fn open(index: usize) -> Result<Self, Error> {
        let driver = driver()?;
        let number = c_int::try_from(index).unwrap_or(c_int::MAX);
        let context = driver.primary_context(number)?;
        let mut device = 0;
        // SAFETY: room for a number, and a live context.
        unsafe {
            driver.check("opening the device", (driver.device)(&mut device, number))?;
            driver.check("entering the context", (driver.set_context)(context))?;
        }
        Ok(Self { driver, index: device })
    }

    /// What the driver calls it.
    ///
    /// # Errors
    /// The driver's.
    pub fn name(&self) -> Result<String, Error> {
        let mut name = [0u8; 256];
        // SAFETY: as much room as it is told, with a 0 at its end whatever happens.
        self.driver.check("asking for the name", unsafe { (self.driver.device_name)(name.as_mut_ptr().cast(), 255, self.index) })?;
        Ok(CStr::from_bytes_until_nul(&name).map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()))
    }

    /// 90 for compute capability 9.0.
    ///
    /// # Errors
    /// The driver's.
    pub fn architecture(&self) -> Result<u32, Error> {
        self.driver.architecture(self.index)
    }

    /// Room for `bytes` bytes, with rubbish in it.
    ///
    /// # Errors
    /// The device's memory is full.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer, Error> {
        let mut address = 0;
        // SAFETY: room for an address. Nothing can be allocated with no bytes, so there is always one at least.
        self.driver.check("allocating", unsafe { (self.driver.allocate)(&mut address, bytes.max(1)) })?;
        Ok(Buffer { driver: self.driver, address, bytes })
    }

    /// A copy of `values` on the device.
    ///
    /// # Errors
    /// As [`Self::buffer`].
    pub fn upload<T: Copy>(&self, values: &[T]) -> Result<Buffer, Error> {
        let buffer = self.buffer(size_of_val(values))?;
        // SAFETY: both have as many bytes.
        let status = unsafe { (self.driver.to_device)(buffer.address, values.as_ptr().cast(), buffer.bytes) };
        self.driver.check("copying to the device", status)?;
        Ok(buffer)
    }

    /// Waits until the device has done everything.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last call.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: no arguments.
        self.driver.check("the work before", unsafe { (self.driver.synchronize)() })
    }

    /// Seconds that the device takes for what `work` puts on the default stream.
    ///
    /// # Errors
    /// Those of `work`, and the driver's.
    pub fn seconds(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        let driver = self.driver;
        let (mut start, mut end, mut ms) = (std::ptr::null_mut(), std::ptr::null_mut(), 0f32);
        // SAFETY: two events of this context on its default stream.
        unsafe {
            driver.check("making an event", (driver.create_event)(&mut start, 0))?;
            driver.check("making an event", (driver.create_event)(&mut end, 0))?;
            driver.check("recording an event", (driver.record_event)(start, std::ptr::null_mut()))?;
            let result = work();
            driver.check("recording an event", (driver.record_event)(end, std::ptr::null_mut()))?;
            self.synchronize()?;
            driver.check("reading the clock", (driver.elapsed)(&mut ms, start, end))?;
            driver.check("dropping an event", (driver.destroy_event)(start))?;
            driver.check("dropping an event", (driver.destroy_event)(end))?;
            result?;
        }
        Ok(f64::from(ms) * 1e-3)
    }
}

/// Memory of a [`Device`]; freed when it goes out of scope.
pub struct Buffer {
    driver: &'static Driver,
    address: Address,
    bytes: usize,
}

impl Buffer {
    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Copies what it holds; waits for the device.
    ///
    /// # Errors
    /// `to` is not as long, or whatever went wrong on the device before.
    pub fn download<T: Copy>(&self, to: &mut [T]) -> Result<(), Error> {
        if size_of_val(to) != self.bytes {
            return Err(Error::Cuda(format!("a buffer of {} bytes was to be read into {}", self.bytes, size_of_val(to))));
        }
        // SAFETY: both have as many bytes. Callers use types for which every pattern of bits is a value: numbers.
        self.driver.check("copying to the host", unsafe { (self.driver.to_host)(to.as_mut_ptr().cast(), self.address, self.bytes) })
    }

    /// Puts a copy of another buffer of the same size into this one, on the default stream.
    ///
    /// # Errors
    /// The sizes differ, or the driver's.
    pub fn copy_from(&self, other: &Buffer) -> Result<(), Error> {
        if other.bytes != self.bytes {
            return Err(Error::Cuda(format!("a buffer of {} bytes was to be copied into one of {}", other.bytes, self.bytes)));
        }
        // SAFETY: both have as many bytes.
        self.driver.check("copying", unsafe { (self.driver.copy)(self.address, other.address, self.bytes, std::ptr::null_mut()) })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: its own memory; the driver waits for what still uses it.
        unsafe { (self.driver.free)(self.address) };
    }
}
