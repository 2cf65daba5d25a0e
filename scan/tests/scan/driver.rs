//! The whole path to a device, driver.rs, launch.rs and cache.rs, with a stand-in for NVIDIA's driver (tests/cuda/driver.cpp) whose kernels
//! are those of the emulator. A test here starts this program again, with the stand-in where the loader looks for `libcuda.so.1`, and
//! lets it run a test of [`inside`] alone. Kernels are compiled by NVRTC; without it these tests say so and do nothing.
#![allow(clippy::print_stdout, reason = "what was skipped")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use scan::cuda::{ElementType, Program, compile_cached, is_available};

use crate::stand_in::{self, passes};

/// The process that runs a test of [`inside`].
fn child(inside: &str, programs: &[(ElementType, usize)]) -> Command {
    let mut command = stand_in::child(&format!("driver::inside::{inside}"), programs);
    command.env("POSELIFT_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Whether there is a compiler; says so where there is none.
fn ready() -> bool {
    let ready = is_available();
    if !ready {
        println!("skipped: NVRTC is absent (scripts/native.sh nvrtc)");
    }
    ready
}

const F32: ElementType = ElementType::F32;

#[test]
fn scans_and_gradients_come_back_from_the_device() {
    if ready() {
        let types = [F32, ElementType::F16, ElementType::BF16].map(|of| (of, 16));
        passes(&mut child("every_shape_and_type", &[&types[..], &[(F32, 1), (F32, 5), (F32, 64)]].concat()));
    }
}

#[test]
fn work_goes_to_its_stream_in_its_context_on_its_device() {
    if ready() {
        passes(child("streams_contexts_and_devices", &[(F32, 16)]).env("STAND_IN_DEVICES", "90,80,90"));
    }
}

#[test]
fn threads_share_a_device() {
    if ready() {
        passes(&mut child("two_threads", &[(F32, 16), (ElementType::F16, 16)]));
    }
}

#[test]
fn a_device_that_was_reset_gets_its_kernels_again() {
    if ready() {
        passes(&mut child("a_reset", &[(F32, 16)]));
    }
}

#[test]
fn what_ran_once_can_be_captured_into_a_graph() {
    if ready() {
        passes(&mut child("capture", &[(F32, 16)]));
    }
}

#[test]
fn what_the_driver_refuses_is_said_in_words() {
    if ready() {
        passes(child("failures", &[(F32, 16)]).env("STAND_IN_MEMORY", "1000000"));
    }
}

#[test]
fn a_driver_older_than_the_compiler_is_named() {
    if ready() {
        passes(child("an_older_driver", &[(F32, 16)]).env("STAND_IN_VERSION", "12040").env("STAND_IN_IMAGES", "200"));
    }
}

#[test]
fn no_driver_an_old_one_and_no_device_are_errors_with_words() {
    let says = |command: &mut Command, words: &str| passes(command.env("EXPECTED_WORDS", words));
    says(child("no_device", &[]).env("LD_LIBRARY_PATH", stand_in::folder(true)), "the CUDA driver is too old; install 580 or newer");
    says(child("no_device", &[]).env("STAND_IN_INIT", "100"), "the driver failed at starting: no CUDA-capable device is detected");
    says(child("no_device", &[]).env("STAND_IN_INIT", "999"), "the driver failed at starting: status 999");
    if !["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/nvidia/lib64"].iter().any(|at| Path::new(at).join("libcuda.so.1").exists())
    {
        says(child("no_device", &[]).env_remove("LD_LIBRARY_PATH"), "there is no CUDA driver here; install NVIDIA's (libcuda.so.1");
    }
}

#[test]
fn a_spoilt_cache_costs_only_time() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("deep");
    let run = || passes(child("one_scan", &[(F32, 16)]).env("POSELIFT_CACHE", &cache));
    let files = || cache.read_dir().expect("made").map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>();
    run();
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    let good = fs::read(file).expect("the kernels");
    // The compiler's words say how long it took.
    let image = |bytes: &[u8]| bytes[bytes.windows(4).position(|bytes| bytes == b"\x7fELF").expect("an image")..].to_vec();
    let is_good = || image(&fs::read(file).expect("the kernels")) == image(&good);
    // Cut, changed, empty.
    let changed = good.iter().enumerate().map(|(i, &byte)| if i == good.len() / 2 { !byte } else { byte }).collect();
    for spoilt in [good[..good.len() / 2].to_vec(), changed, Vec::new()] {
        fs::write(file, spoilt).expect("written");
        run();
        assert!(is_good() && files().len() == 1);
    }
    // Whole, but of another architecture: the driver refuses it.
    let other = tempfile::tempdir().expect("a folder");
    compile_cached(Program::new(F32, 16).expect("a program"), 80, other.path()).expect("compiled");
    fs::copy(other.path().read_dir().expect("a folder").next().expect("a file").expect("a file").path(), file).expect("copied");
    assert!(!is_good());
    run();
    assert!(is_good());
}

#[test]
fn no_cache_costs_only_time() {
    if !ready() {
        return;
    }
    passes(child("one_scan", &[(F32, 16)]).env_remove("POSELIFT_CACHE").env_remove("XDG_CACHE_HOME").env_remove("HOME"));
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).expect("read-only");
    passes(child("one_scan", &[(F32, 16)]).env("POSELIFT_CACHE", folder.path()));
    // A file where the folder should be: nobody can write there, not even root.
    let file = folder.path().with_extension("file");
    fs::write(&file, "").expect("written");
    passes(child("one_scan", &[(F32, 16)]).env("POSELIFT_CACHE", file.join("below")));
    fs::remove_file(file).expect("removed");
    let home = tempfile::tempdir().expect("a folder");
    passes(child("one_scan", &[(F32, 16)]).env_remove("POSELIFT_CACHE").env_remove("XDG_CACHE_HOME").env("HOME", home.path()));
    assert!(home.path().join(".cache/poselift").is_dir());
}

/// What runs with the stand-in. Without it, as when somebody asks for ignored tests, nothing does.
mod inside {
    use std::ffi::{CString, c_char, c_int, c_void};
    use std::ptr::null_mut;

    use libloading::{Library, Symbol};
    use scan::cuda::{self, Device, ElementType, InputAddresses, OutputAddresses, Program, Stream, workspace_bytes};
    use scan::{Dims, Error};

    use super::F32;
    use crate::case::{Parts, relative_error};
    use crate::on_device::{OnDevice, default_stream, listed, rounded};

    type Handle = *mut c_void;

    /// The stand-in, by the functions that tests and engines call of it.
    struct StandIn(Library);

    impl StandIn {
        /// `None` where this process was not started for that.
        fn find() -> Option<Self> {
            std::env::var_os("STAND_IN_EMULATORS")?;
            // SAFETY: the library that the product loads too.
            Some(Self(unsafe { Library::new("libcuda.so.1") }.expect("the stand-in")))
        }

        fn function<T>(&self, name: &str) -> Symbol<'_, T> {
            // SAFETY: each caller names the type that the function has in tests/cuda/driver.cpp.
            unsafe { self.0.get(name.as_bytes()) }.unwrap_or_else(|error| panic!("{name}: {error}"))
        }

        fn calls(&self, name: &str) -> u64 {
            let name = CString::new(name).expect("no zero byte");
            // SAFETY: a string that ends in 0.
            unsafe { self.function::<unsafe extern "C" fn(*const c_char) -> u64>("stand_in_calls")(name.as_ptr()) }
        }

        fn all_calls(&self) -> u64 {
            // SAFETY: no arguments.
            unsafe { self.function::<unsafe extern "C" fn() -> u64>("stand_in_all_calls")() }
        }

        fn fail(&self, name: &str, after: u32, status: c_int) {
            let name = CString::new(name).expect("no zero byte");
            // SAFETY: a string that ends in 0, and numbers.
            unsafe { self.function::<unsafe extern "C" fn(*const c_char, u32, c_int)>("stand_in_fail")(name.as_ptr(), after, status) }
        }

        /// Calls a function that takes room for a handle first, as most do.
        fn make(&self, name: &str, flags: u32) -> Handle {
            let mut handle = null_mut();
            // SAFETY: cuStreamCreate has this type.
            assert_eq!(unsafe { self.function::<unsafe extern "C" fn(*mut Handle, u32) -> c_int>(name)(&mut handle, flags) }, 0, "{name}");
            handle
        }

        fn stream(&self) -> Handle {
            self.make("cuStreamCreate", 1) // one that does not wait for the default stream
        }

        fn with(&self, name: &str, handle: Handle) -> c_int {
            // SAFETY: the functions that are called like this take a handle.
            unsafe { self.function::<unsafe extern "C" fn(Handle) -> c_int>(name)(handle) }
        }

        fn current(&self) -> Handle {
            let mut context = null_mut();
            // SAFETY: room for a handle.
            assert_eq!(unsafe { self.function::<unsafe extern "C" fn(*mut Handle) -> c_int>("cuCtxGetCurrent")(&mut context) }, 0);
            context
        }

        fn new_context(&self, device: c_int) -> Handle {
            let mut context = null_mut();
            // SAFETY: room for a handle, and numbers.
            let status = unsafe {
                self.function::<unsafe extern "C" fn(*mut Handle, u32, c_int) -> c_int>("cuCtxCreate_v2")(&mut context, 0, device)
            };
            assert_eq!(status, 0);
            context
        }
    }

    fn dims(sequences: usize, frames: usize, channels: usize, states: usize) -> Dims {
        Dims { sequences, frames, channels, states }
    }

    fn program(of: ElementType, states: usize) -> Program {
        Program::new(of, states).expect("a program")
    }

    /// Runs both passes and compares everything with the oracle.
    fn check_on(device: &Device, dims: Dims, parts: Parts, of: ElementType, stream: Stream, keeps: bool) {
        let case = rounded(dims, parts, of, 21);
        let truth = case.by_oracle(0.0);
        let scan = OnDevice::new(device, &case.narrow(), of, stream, keeps).expect("a scan on the device");
        scan.forward().expect("forward");
        scan.backward().expect("backward");
        device.synchronize().expect("all work done");
        let tolerance = match of {
            ElementType::F32 => 1e-4,
            ElementType::F16 => 1e-3,
            ElementType::BF16 => 8e-3,
        };
        for (found, truth) in scan.results().expect("results").iter().zip(listed(&truth)) {
            let error = relative_error(found, truth);
            assert!(error <= tolerance, "{dims:?} {of:?}: {error:e}");
        }
    }

    fn check(device: &Device, dims: Dims, of: ElementType) {
        check_on(device, dims, Parts::ALL, of, default_stream(of, dims.states).expect("a stream"), true);
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn every_shape_and_type() {
        let Some(stand_in) = StandIn::find() else { return };
        let device = Device::open(0).expect("the device");
        assert_eq!((device.name().expect("a name"), device.architecture()), ("stand-in 0".to_owned(), Ok(90)));
        for of in [F32, ElementType::F16, ElementType::BF16] {
            for (sequences, frames, channels) in [(2, 0, 8), (3, 1, 33), (2, 27, 40), (1, 243, 5), (0, 3, 2), (3, 2, 0)] {
                check(&device, dims(sequences, frames, channels, 16), of);
            }
        }
        for (dims, number) in [
            (dims(1, 1000, 3, 16), 63),
            (dims(2, 21, 7, 1), 3),
            (dims(2, 40, 5, 5), 21),
            (dims(1, 27, 17, 64), 63),
            (dims(4, 0, 8, 16), 63),
        ] {
            for keeps in [false, true] {
                let stream = default_stream(F32, dims.states).expect("a stream");
                check_on(&device, dims, Parts::numbered(number), F32, stream, keeps);
            }
        }
        // Enough sequences for the wide forms: 132 multiprocessors with four blocks each.
        check(&device, dims(530, 2, 3, 16), F32);
        assert_eq!((stand_in.calls("cuModuleLoadData"), stand_in.calls("cuMemFree_v2")), (6, stand_in.calls("cuMemAlloc_v2")));
        assert_eq!(device.seconds(|| Ok(())).expect("a time"), 1e-3);
        assert_eq!(Device::open(1).err(), Some(Error::Cuda("there is no device 1; the driver has 1".to_owned())));
        assert_eq!(Device::open(usize::MAX).err(), Some(Error::Cuda(format!("there is no device {}; the driver has 1", c_int::MAX))));
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn streams_contexts_and_devices() {
        let Some(stand_in) = StandIn::find() else { return };
        let shape = dims(2, 9, 33, 16);
        // A thread without a context, as those of libtorch's autograd: work goes to device 0, as for the CUDA runtime.
        let _ = default_stream(F32, 16).expect("a stream");
        assert!(stand_in.current().is_null(), "a thread is left as it was found");

        let first = Device::open(0).expect("a device");
        let (context, stream) = (stand_in.current(), stand_in.stream());
        // SAFETY: a stream that is never destroyed.
        check_on(&first, shape, Parts::ALL, F32, unsafe { Stream::current(program(F32, 16), stream) }.expect("a stream"), true);
        let loads = stand_in.calls("cuModuleLoadData");
        assert_eq!(loads, 1);

        // A second context is current, and the stream is of the first.
        let second = stand_in.new_context(1);
        assert_eq!(stand_in.current(), second);
        // SAFETY: as above.
        let of_first = unsafe { Stream::current(program(F32, 16), stream) }.expect("a stream");
        assert_eq!((stand_in.calls("cuModuleLoadData"), stand_in.current()), (loads, second));
        assert_eq!(stand_in.with("cuCtxPushCurrent_v2", context), 0);
        let scan = OnDevice::new(&first, &rounded(shape, Parts::ALL, F32, 3).narrow(), F32, of_first, false).expect("a scan");
        let mut popped: Handle = null_mut();
        assert_eq!(stand_in.with("cuCtxPopCurrent_v2", (&raw mut popped).cast()), 0);
        scan.forward().expect("forward, from another context");
        scan.backward().expect("backward, from another context");
        assert_eq!((stand_in.current(), stand_in.with("cuStreamSynchronize", stream)), (second, 0));
        let truth = rounded(shape, Parts::ALL, F32, 3).by_oracle(0.0);
        for (found, truth) in scan.results().expect("results").iter().zip(listed(&truth)) {
            assert!(relative_error(found, truth) <= 1e-4);
        }

        // The default stream of the second context has kernels of its own, of the architecture of its device.
        let _ = default_stream(F32, 16).expect("a stream");
        assert_eq!(stand_in.calls("cuModuleLoadData"), loads + 1);

        // The third device by its number, whatever is current; each device's primary context once.
        let third = Device::open(2).expect("a device");
        let (of_third, own_stream) = (stand_in.current(), stand_in.stream());
        for stream in [null_mut(), own_stream] {
            // SAFETY: as above.
            check_on(&third, shape, Parts::ALL, F32, unsafe { Stream::of_device(program(F32, 16), 2, stream) }.expect("a stream"), true);
        }
        assert_eq!(stand_in.with("cuCtxSetCurrent", context), 0);
        // SAFETY: as above.
        let _ = unsafe { Stream::of_device(program(F32, 16), 2, own_stream) }.expect("a stream");
        assert_eq!((stand_in.current(), stand_in.calls("cuModuleLoadData")), (context, loads + 2));
        assert_eq!(stand_in.calls("cuDevicePrimaryCtxRetain"), 2);
        assert_ne!(of_third, context);

        // Memory of one device is of no use to another.
        let strangers =
            OnDevice::new(&first, &rounded(shape, Parts::ALL, F32, 3).narrow(), F32, default_stream(F32, 16).expect("a stream"), true);
        assert_eq!(stand_in.with("cuCtxSetCurrent", of_third), 0);
        let own = default_stream(F32, 16).expect("a stream");
        let strangers = strangers.expect("a scan").on(own);
        strangers.forward().expect("asked for");
        let error = third.synchronize().expect_err("memory of device 0 on device 2").to_string();
        assert!(error.contains("illegal memory access"), "{error}");
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn two_threads() {
        let Some(stand_in) = StandIn::find() else { return };
        std::thread::scope(|scope| {
            for of in [F32, ElementType::F16, F32, ElementType::F16] {
                scope.spawn(move || {
                    let device = Device::open(0).expect("the device");
                    for frames in [5, 18, 1] {
                        check(&device, dims(2, frames, 9, 16), of);
                    }
                });
            }
        });
        assert_eq!((stand_in.calls("cuModuleLoadData"), stand_in.calls("cuDevicePrimaryCtxRetain")), (2, 1));
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn a_reset() {
        let Some(stand_in) = StandIn::find() else { return };
        let device = Device::open(0).expect("the device");
        check(&device, dims(1, 3, 4, 16), F32);
        // SAFETY: takes a number.
        assert_eq!(unsafe { stand_in.function::<unsafe extern "C" fn(c_int) -> c_int>("cuDevicePrimaryCtxReset_v2")(0) }, 0);
        check(&device, dims(1, 3, 4, 16), F32);
        assert_eq!(stand_in.calls("cuModuleLoadData"), 2);
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn capture() {
        let Some(stand_in) = StandIn::find() else { return };
        let device = Device::open(0).expect("the device");
        let stream = stand_in.stream();
        let (shape, seed) = (dims(2, 18, 33, 16), 5);
        let begin = || {
            // SAFETY: a stream and a number.
            let status = unsafe { stand_in.function::<unsafe extern "C" fn(Handle, c_int) -> c_int>("cuStreamBeginCapture_v2")(stream, 0) };
            assert_eq!(status, 0);
        };
        let end = || {
            let mut graph = null_mut();
            // SAFETY: a stream and room for a handle.
            let status = unsafe {
                stand_in.function::<unsafe extern "C" fn(Handle, *mut Handle) -> c_int>("cuStreamEndCapture")(stream, &mut graph)
            };
            (status, graph)
        };
        // What was never run cannot be captured: its kernels would have to be loaded.
        begin();
        // SAFETY: a stream that is never destroyed.
        let error = unsafe { Stream::current(program(F32, 16), stream) }.err().expect("nothing is loaded yet").to_string();
        assert!(error.contains("operation not permitted when stream is capturing"), "{error}");
        assert_ne!(end().0, 0);

        let case = rounded(shape, Parts::ALL, F32, seed);
        // SAFETY: as above.
        let of_stream = || unsafe { Stream::current(program(F32, 16), stream) }.expect("a stream");
        let scan = OnDevice::new(&device, &case.narrow(), F32, of_stream(), true).expect("a scan");
        scan.forward().expect("a first run");
        begin();
        let before = stand_in.all_calls();
        let allowed = ["cuCtxGetCurrent", "cuCtxGetId", "cuStreamGetCtx", "cuLaunchKernel"];
        let counts = |names: &[&str]| names.iter().map(|name| stand_in.calls(name)).sum::<u64>();
        let allowed_before = counts(&allowed);
        let again = scan.on(of_stream());
        again.forward().expect("captured");
        again.backward().expect("captured");
        assert_eq!(stand_in.all_calls() - before, counts(&allowed) - allowed_before, "only these are called after a first run");
        let (status, graph) = end();
        assert_eq!(status, 0);

        // Nothing has run yet; the graph runs it, as often as one likes.
        for _ in 0..2 {
            // SAFETY: two handles.
            let status = unsafe { stand_in.function::<unsafe extern "C" fn(Handle, Handle) -> c_int>("cuGraphLaunch")(graph, stream) };
            assert_eq!((status, stand_in.with("cuStreamSynchronize", stream)), (0, 0));
            for (found, truth) in again.results().expect("results").iter().zip(listed(&case.by_oracle(0.0))) {
                assert!(relative_error(found, truth) <= 1e-4);
            }
        }
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn failures() {
        let Some(stand_in) = StandIn::find() else { return };
        let device = Device::open(0).expect("the device");
        let words = |error: Option<Error>| error.expect("an error").to_string();
        let refused = |function: &str, times: u32, status: c_int| {
            for after in 0..times {
                stand_in.fail(function, after, status);
            }
            words(default_stream(F32, 16).err())
        };
        assert!(refused("cuModuleGetFunction", 1, 500).contains("the driver failed at scan_forward_wide: named symbol not found"));
        assert!(refused("cuFuncSetAttribute", 1, 1).contains("the driver failed at sharing out memory: invalid argument"));
        assert!(refused("cuDeviceGetAttribute", 1, 1).contains("the driver failed at asking for an attribute: invalid argument"));
        assert!(refused("cuCtxGetCurrent", 1, 3).contains("the driver failed at asking for the context: initialization error"));
        // A module that is refused is compiled again, once.
        stand_in.fail("cuModuleLoadData", 0, 200);
        let _ = default_stream(F32, 16).expect("the second one is taken");

        let shape = dims(2, 5, 33, 16);
        let case = rounded(shape, Parts::ALL, F32, 1).narrow();
        let scan = OnDevice::new(&device, &case, F32, default_stream(F32, 16).expect("a stream"), true).expect("a scan");
        stand_in.fail("cuLaunchKernel", 0, 701);
        assert!(words(scan.forward().err()).contains("scan_forward_narrow: too many resources requested for launch"));
        for (launch, kernel) in ["scan_backward_narrow", "scan_sum_few", "scan_sum_few", "scan_sum_many"].into_iter().enumerate() {
            stand_in.fail("cuLaunchKernel", launch as u32, 701);
            let error = words(scan.backward().err());
            assert!(error.contains(kernel), "{error}");
        }
        let full = words(device.buffer(2_000_000).err());
        assert!(full.contains("the driver failed at allocating: out of memory"), "{full}");
        assert!(workspace_bytes(dims(usize::MAX, 2, 2, 16), true).is_err());
        let buffer = device.buffer(8).expect("room");
        assert!(words(buffer.download(&mut [0f32; 3]).err()).contains("8 bytes was to be read into 12"));
        assert!(words(buffer.copy_from(&device.buffer(4).expect("room")).err()).contains("4 bytes was to be copied into one of 8"));

        // Memory of the host where the device's should be: asked for, and found out when it runs.
        let host = vec![0f32; 2 * 5 * 33];
        let y = device.buffer(host.len() * 4).expect("room");
        let inputs = InputAddresses {
            u: host.as_ptr() as u64,
            delta: host.as_ptr() as u64,
            a: y.address(),
            b: y.address(),
            c: y.address(),
            ..InputAddresses::default()
        };
        let outputs = OutputAddresses { y: y.address(), ..OutputAddresses::default() };
        // SAFETY: the stand-in looks at addresses before it uses them.
        unsafe { cuda::forward(&default_stream(F32, 16).expect("a stream"), shape, &inputs, &outputs) }.expect("asked for");
        assert!(words(device.synchronize().err()).contains("the work before: an illegal memory access"));
        assert!(words(scan.forward().err()).contains("an illegal memory access"), "the context is of no more use");
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn an_older_driver() {
        let Some(stand_in) = StandIn::find() else { return };
        let _device = Device::open(0).expect("the device");
        let error = default_stream(F32, 16).err().expect("an error").to_string();
        let words = "the driver failed at loading the kernels: device kernel image is invalid; the driver is of CUDA 12.4, the compiler of 13.0: \
                     install a newer driver, or set POSELIFT_NVRTC to libnvrtc of 12.4";
        assert!(error.contains(words), "{error}");
        assert_eq!(stand_in.calls("cuModuleLoadData"), 2, "once from the cache, once compiled again");
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn no_device() {
        let Ok(expected) = std::env::var("EXPECTED_WORDS") else { return };
        for error in [Device::open(0).err(), default_stream(F32, 16).err()] {
            let error = error.expect("no device").to_string();
            assert!(error.contains(&expected) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    #[ignore = "started by a test of this file"]
    fn one_scan() {
        let Some(_) = StandIn::find() else { return };
        check(&Device::open(0).expect("the device"), dims(1, 3, 4, 16), F32);
    }
}
