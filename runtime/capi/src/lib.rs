//! `libposelift`: live lifting from C. What each function does stands in `include/poselift.h`, which is made of this file.
//!
//! Nothing unwinds into C: a panic is an error like any other. Handles are opaque; a null handle is an error, never a crash.
#![allow(non_camel_case_types)] // names as C has them

use std::{
    any::Any,
    cell::RefCell,
    collections::VecDeque,
    ffi::{CStr, CString, c_char, c_double, c_float, c_int},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use pose::{ImageSize, JOINTS, Keypoint, Keypoints17, camera::Intrinsics, world::Scale};
use runtime::{Backend, EngineOptions, LiftStream, Lifter, StreamOptions, StreamPose};

/// Joints of a person, in the order of Human3.6M: hip, right hip, knee, foot, left hip, knee, foot, spine, thorax, nose, head, left
/// shoulder, elbow, wrist, right shoulder, elbow, wrist. Left and right are the person's own.
pub const POSELIFT_JOINTS: usize = 17;

/// Poses that wait to be polled, at most; a stream takes no frame beyond that.
pub const POSELIFT_MOST_WAITING: usize = 1024;

/// A model. Streams hold on to it: it may be closed before them.
pub struct poselift_model {
    lifter: Arc<Lifter>,
}

/// One person's stream. Calls for one stream from several threads wait for each other.
pub struct poselift_stream {
    state: Mutex<Stream>,
}

struct Stream {
    stream: LiftStream,
    waiting: VecDeque<StreamPose>,
    /// A panic left it half done: it does nothing any more.
    broken: bool,
}

/// What runs a model.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum poselift_engine {
    /// ONNX Runtime, from the path in ORT_DYLIB_PATH, beside the executable, or where the system finds it.
    POSELIFT_ENGINE_ORT = 0,
    /// tract, which is part of this library.
    POSELIFT_ENGINE_TRACT = 1,
}

/// How a person is lifted. Fill it with `poselift_default_options`, then change what is to be different.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct poselift_options {
    /// Size of the picture that the keypoints come from, pixels.
    pub image_width_px: u32,
    /// See `image_width_px`.
    pub image_height_px: u32,
    /// Frames, at the model's rate, that are waited for after a frame: a later and better pose; 0 = none, -1 = as the model is used
    /// best: 4, or a live model's own.
    pub look_ahead: i32,
    /// Frames, at the model's rate, between two runs of the model.
    pub hop: u32,
    /// Seconds over which a person who is not seen is held.
    pub hold_s: c_double,
    /// The person's height in metres; 0 = not known (1.70 m).
    pub height_m: c_float,
    /// The camera's horizontal field of view in degrees; 0 = not known (60).
    pub horizontal_fov_deg: c_float,
}

/// One frame, lifted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct poselift_pose {
    /// Time of the frame, as it was pushed.
    pub time_s: c_double,
    /// How much later the newest frame is that the pose was made of, seconds.
    pub delay_s: c_double,
    /// 1 where the person was not seen: the pose is held.
    pub held: c_int,
    /// 1 for the first pose of a person.
    pub restarted: c_int,
    /// Stature of the person at the scale of the millimetres, metres.
    pub height_m: c_float,
    /// Of each keypoint that was pushed, 0 to 1; 0 = it was missing.
    pub confidence: [c_float; POSELIFT_JOINTS],
    /// Joints in camera space, millimetres: x right, y down, z away from the camera.
    pub camera_mm: [[c_float; 3]; POSELIFT_JOINTS],
    /// Joints in the world, millimetres: z up, the floor at 0.
    pub world_mm: [[c_float; 3]; POSELIFT_JOINTS],
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// What went wrong in this thread's last call that failed, one sentence of UTF-8; empty where none has. Valid until this thread's next
/// call that fails. Never null.
#[unsafe(no_mangle)]
pub extern "C" fn poselift_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|error| error.as_ptr())
}

/// The library's version, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn poselift_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

/// Opens a lifter: an ONNX file that `export onnx` wrote. `path` is UTF-8. `engine` is one of `poselift_engine`; `threads` of 0 takes as many
/// as there are processors. Returns null on failure.
///
/// # Safety
/// `path` is null or a string that ends in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poselift_model_open(path: *const c_char, engine: c_int, threads: u32) -> *mut poselift_model {
    guarded(ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let path = unsafe { text(path) }?;
        let backend = match engine {
            0 => Backend::Ort,
            1 => Backend::Tract,
            other => return Err(format!("expected an engine of 0 (ort) or 1 (tract), found {other}")),
        };
        let options = EngineOptions { backend, threads: threads as usize, ..EngineOptions::default() };
        let lifter = Lifter::open(path, &options).map_err(|error| error.to_string())?;
        Ok(Box::into_raw(Box::new(poselift_model { lifter: Arc::new(lifter) })))
    })
}

/// Closes a model; null is nothing. Streams of it go on.
///
/// # Safety
/// `model` is null or came from `poselift_model_open` and has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poselift_model_close(model: *mut poselift_model) {
    // SAFETY: the caller's promise.
    unsafe { close(model) }
}

/// How a stream is lifted unless it is said otherwise; the size of the picture must be filled in.
#[unsafe(no_mangle)]
pub extern "C" fn poselift_default_options() -> poselift_options {
    let StreamOptions { look_ahead, hop, hold_s, .. } = StreamOptions::default();
    poselift_options {
        image_width_px: 0,
        image_height_px: 0,
        look_ahead: look_ahead.map_or(-1, |frames| frames as i32),
        hop: hop as u32,
        hold_s,
        height_m: 0.0,
        horizontal_fov_deg: 0.0,
    }
}

/// Opens a stream of one person. Returns null on failure.
///
/// # Safety
/// `model` is null or an open model, `options` null or what it points to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poselift_open(model: *const poselift_model, options: *const poselift_options) -> *mut poselift_stream {
    guarded(ptr::null_mut(), || {
        // SAFETY: the caller's promise; both are only read, now.
        let (Some(model), Some(options)) = (unsafe { model.as_ref() }, unsafe { options.as_ref() }) else {
            return Err("expected a model and options, found null".into());
        };
        let image = ImageSize { width_px: options.image_width_px, height_px: options.image_height_px };
        let unknown = |number: f32| number == 0.0;
        let intrinsics = match options.horizontal_fov_deg {
            fov_deg if unknown(fov_deg) => None,
            fov_deg => Some(Intrinsics::from_horizontal_fov_deg(image, fov_deg).map_err(|error| error.to_string())?),
        };
        let streaming = StreamOptions {
            look_ahead: match options.look_ahead {
                -1 => None,
                frames => Some(usize::try_from(frames).map_err(|_| format!("expected a look-ahead of -1 or more frames, found {frames}"))?),
            },
            hop: options.hop as usize,
            hold_s: options.hold_s,
            scale: if unknown(options.height_m) { Scale::DefaultHeight } else { Scale::Height { height_m: options.height_m } },
            intrinsics,
            ..StreamOptions::default()
        };
        let stream = LiftStream::new(model.lifter.clone(), image, streaming).map_err(|error| error.to_string())?;
        let state = Mutex::new(Stream { stream, waiting: VecDeque::new(), broken: false });
        Ok(Box::into_raw(Box::new(poselift_stream { state })))
    })
}

/// Takes a frame. `keypoints` are 17 times x and y in pixels and a confidence from 0 (missing) to 1, or null where nobody is seen; `time_s` are
/// seconds, rising. Runs the model, in the caller's thread. Returns how many poses wait to be polled, or -1 on failure: a frame that
/// is refused changes nothing, and the stream goes on either way.
///
/// # Safety
/// `stream` is null or open, `keypoints` null or 51 numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poselift_push(stream: *mut poselift_stream, time_s: c_double, keypoints: *const c_float) -> c_int {
    // SAFETY: the caller's promise; it is only read, now, and f32 has no alignment that C's float has not.
    let keypoints = unsafe { keypoints.cast::<[[f32; 3]; JOINTS]>().as_ref() };
    let keypoints: Option<Keypoints17> = keypoints.map(|joints| joints.map(|[x_px, y_px, confidence]| Keypoint { x_px, y_px, confidence }));
    // SAFETY: the caller's promise.
    unsafe {
        with_stream(stream, |stream| {
            if stream.waiting.len() >= POSELIFT_MOST_WAITING {
                return Err(format!("{POSELIFT_MOST_WAITING} poses wait already: poll them before the next frame"));
            }
            let poses = stream.stream.push(time_s, keypoints.as_ref()).map_err(|error| error.to_string())?;
            stream.waiting.extend(poses);
            Ok(count(stream.waiting.len()))
        })
    }
}

/// The end: makes the poses of the frames that still wait for their look-ahead. Returns how many poses wait to be polled, or -1 on failure.
/// Another frame may follow, of another person.
///
/// # Safety
/// `stream` is null or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poselift_finish(stream: *mut poselift_stream) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with_stream(stream, |stream| {
            let poses = stream.stream.finish().map_err(|error| error.to_string())?;
            stream.waiting.extend(poses);
            Ok(count(stream.waiting.len()))
        })
    }
}

/// Gives the oldest pose that waits. Returns 1 with `pose` filled, 0 where none waits, or -1 on failure.
///
/// # Safety
/// `stream` is null or open; `pose` is null or room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poselift_poll(stream: *mut poselift_stream, pose: *mut poselift_pose) -> c_int {
    let poll = |stream: &mut Stream| {
        if pose.is_null() {
            return Err("expected room for a pose, found null".into());
        }
        let Some(StreamPose { time_s, delay_s, held, restarted, confidence, camera_mm, world_mm, height_m, .. }) =
            stream.waiting.pop_front()
        else {
            return Ok(0);
        };
        let (held, restarted) = (c_int::from(held), c_int::from(restarted));
        // SAFETY: not null, and room for one by the caller's promise; what is there is overwritten, not read.
        unsafe { pose.write(poselift_pose { time_s, delay_s, held, restarted, height_m, confidence, camera_mm, world_mm }) };
        Ok(1)
    };
    // SAFETY: the caller's promise.
    unsafe { with_stream(stream, poll) }
}

/// Closes a stream, with all poses that nobody polled; null is nothing.
///
/// # Safety
/// `stream` is null or came from `poselift_open` and has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poselift_close(stream: *mut poselift_stream) {
    // SAFETY: the caller's promise.
    unsafe { close(stream) }
}

/// # Safety
/// `handle` is null or came from `Box::into_raw` and was not given here before.
unsafe fn close<T>(handle: *mut T) {
    guarded((), || {
        if !handle.is_null() {
            // SAFETY: as promised.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    });
}

/// # Safety
/// `stream` is null or open.
unsafe fn with_stream(stream: *const poselift_stream, call: impl FnOnce(&mut Stream) -> Result<c_int, String>) -> c_int {
    guarded(-1, || {
        // SAFETY: as promised; all that changes in it is behind the mutex.
        let Some(stream) = (unsafe { stream.as_ref() }) else { return Err("expected a stream, found null".into()) };
        let mut state = stream.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Err("this stream broke down in an earlier call: close it and open another".into());
        }
        state.broken = true; // unless the call comes back
        let result = call(&mut state);
        state.broken = false;
        result
    })
}

/// What `call` gives, or `failure` with the reason kept for `poselift_last_error`.
fn guarded<T>(failure: T, call: impl FnOnce() -> Result<T, String>) -> T {
    // Whatever a panic leaves half done is not used again: see `Stream::broken`.
    let reason = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return value,
        Ok(Err(reason)) => reason,
        Err(panic) => format!("libposelift has a defect and stopped this call: {}", panic_message(&*panic)),
    };
    let reason = CString::new(reason.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with_borrow_mut(|error| *error = reason);
    failure
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

fn count(waiting: usize) -> c_int {
    c_int::try_from(waiting).unwrap_or(c_int::MAX)
}

/// # Safety
/// `text` is null or ends in a zero byte, and lives as long as the result is used.
unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, String> {
    if text.is_null() {
        return Err("expected a path, found null".into());
    }
    // SAFETY: as promised.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| "expected a path in UTF-8, found other bytes".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_zero_bytes_become_errors() {
        let silent = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let result = guarded(7, || -> Result<i32, String> { panic!("on\0purpose") });
        std::panic::set_hook(silent);
        assert_eq!(result, 7);
        // SAFETY: never null, ends in zero.
        let message = unsafe { CStr::from_ptr(poselift_last_error()) };
        assert_eq!(message.to_str().unwrap(), "libposelift has a defect and stopped this call: on purpose");
    }

    #[test]
    fn what_c_is_told_is_what_rust_has() {
        assert_eq!(POSELIFT_JOINTS, JOINTS);
        assert_eq!(poselift_engine::POSELIFT_ENGINE_TRACT as c_int, 1);
        // SAFETY: never null, ends in zero.
        assert_eq!(unsafe { CStr::from_ptr(poselift_version()) }.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    }
}
