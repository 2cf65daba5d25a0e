//! `examples/c/live.c`, built with the system's compiler and run: its poses are those of the library in Rust. And the functions, called as C
//! may call them.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    ffi::{CStr, CString},
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    ptr,
    sync::Arc,
};

use pose::{ImageSize, Keypoint, KeypointClip};
use poselift::{
    POSELIFT_MOST_WAITING, poselift_close, poselift_default_options, poselift_finish, poselift_last_error, poselift_model_close,
    poselift_model_open, poselift_open, poselift_options, poselift_poll, poselift_pose, poselift_push,
};
use runtime::{Backend, EngineOptions, LiftStream, Lifter, StreamOptions};

const IMAGE: ImageSize = ImageSize { width_px: 1000, height_px: 1000 };
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/clip-xs.onnx");

/// Four seconds of real motion (motion capture, seen by a camera four metres away), or of a person who sways where that is not there.
fn clip() -> KeypointClip {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mocap/tiny_test.npz");
    let frames = match formats::npz::read(&file) {
        Ok(arrays) => {
            println!("real motion: {}", file.display());
            arrays["poses"].to_f32().chunks(51).take(200).map(seen).collect()
        }
        Err(_) => {
            println!("skipped: ../shared is absent, so the motion is made up");
            (0..200).map(|t| seen(&swaying(t))).collect()
        }
    };
    KeypointClip::from_fps(frames, 50.0, IMAGE).unwrap()
}

/// World coordinates of 17 joints in metres or millimetres, z up, from the front.
fn seen(joints: &[f32]) -> [Keypoint; 17] {
    let height = joints.chunks(3).map(|p| p[2]).fold(f32::MIN, f32::max) - joints.chunks(3).map(|p| p[2]).fold(f32::MAX, f32::min);
    let scale = 1.7 / height.max(1e-3);
    std::array::from_fn(|j| {
        let [x, y, z] = std::array::from_fn(|k| (joints[3 * j + k] - joints[k]) * scale);
        let depth = 4.0 + y;
        Keypoint::new(500.0 + 900.0 * x / depth, 500.0 - 900.0 * z / depth, 0.9)
    })
}

fn swaying(t: usize) -> Vec<f32> {
    const AT: [[f32; 2]; 17] = [
        [0.0, 0.9],
        [-0.13, 0.9],
        [-0.14, 0.48],
        [-0.15, 0.06],
        [0.13, 0.9],
        [0.14, 0.48],
        [0.15, 0.06],
        [0.0, 1.15],
        [0.0, 1.4],
        [0.0, 1.5],
        [0.0, 1.62],
        [0.17, 1.38],
        [0.22, 1.1],
        [0.24, 0.86],
        [-0.17, 1.38],
        [-0.22, 1.1],
        [-0.24, 0.86],
    ];
    let s = 0.1 * (t as f32 * 0.12).sin();
    AT.iter().flat_map(|[x, z]| [x + s * z, s * z * x, *z]).collect()
}

/// The folder with `libposelift.so`, which cargo built for this test.
fn library_folder() -> Option<PathBuf> {
    let executable = std::env::current_exe().unwrap();
    let name = format!("{}poselift{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    executable.ancestors().skip(1).take(2).find(|folder| folder.join(&name).is_file()).map(Path::to_owned)
}

fn can_open(backend: Backend) -> bool {
    match runtime::init_onnxruntime(None) {
        Err(error) if backend == Backend::Ort => {
            println!("skipped: no ONNX Runtime is set up ({error})");
            false
        }
        _ => true,
    }
}

/// Time, delay and the world's joints of each pose.
fn expected(clip: &KeypointClip, backend: Backend) -> Vec<Vec<f64>> {
    let options = EngineOptions { backend, threads: 1, ..Default::default() };
    let lifter = Arc::new(Lifter::open(MODEL, &options).unwrap());
    let mut stream = LiftStream::new(lifter, IMAGE, StreamOptions { look_ahead: Some(2), ..Default::default() }).unwrap();
    let mut poses = Vec::new();
    for (frame, time_s) in clip.frames.iter().zip(&clip.times_s) {
        poses.extend(stream.push(*time_s, Some(frame)).unwrap());
    }
    poses.extend(stream.finish().unwrap());
    poses
        .iter()
        .map(|pose| [pose.time_s, pose.delay_s].into_iter().chain(pose.world_mm.as_flattened().iter().map(|&v| v.into())).collect())
        .collect()
}

#[test]
fn the_c_example_lifts_what_rust_lifts() {
    let clip = clip();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("live");
    let library = library_folder().expect("cargo builds the library for this test");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(root.join("runtime/capi/include"))
        .arg(root.join("examples/c/live.c"))
        .arg("-o")
        .arg(&program)
        .arg(format!("-L{}", library.display()))
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .args(["-lposelift", "-lm"])
        .output();
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(error) => {
            println!("skipped: there is no C compiler (cc: {error})");
            return;
        }
    };
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let mut input = String::new();
    for (frame, time_s) in clip.frames.iter().zip(&clip.times_s) {
        write!(input, "{time_s}").unwrap();
        frame.iter().for_each(|k| write!(input, " {} {} {}", k.x_px, k.y_px, k.confidence).unwrap());
        input.push('\n');
    }
    for backend in [Backend::Tract, Backend::Ort] {
        if !can_open(backend) {
            continue;
        }
        let mut child = Command::new(&program)
            .args([MODEL, &backend.to_string(), "1000", "1000"])
            .current_dir(&root)
            // cargo's own would find a library of an earlier build first
            .env("LD_LIBRARY_PATH", &library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, text) = (child.stdin.take().unwrap(), input.clone());
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let found: Vec<Vec<f64>> = lines.lines().map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect()).collect();
        let expected = expected(&clip, backend);
        assert_eq!(found.len(), clip.frames.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-2), "{backend}");
        }
    }
}

fn last_error() -> String {
    // SAFETY: never null, ends in zero, and no other call of this thread comes between.
    unsafe { CStr::from_ptr(poselift_last_error()) }.to_str().unwrap().to_owned()
}

#[test]
fn wrong_calls_are_errors_and_never_crashes() {
    const TRACT: i32 = 1;
    let path = |text: &str| CString::new(text).unwrap();
    // SAFETY: pointers are null, or to what the functions ask for, for as long as they run; handles are closed once.
    unsafe {
        assert!(poselift_model_open(ptr::null(), TRACT, 1).is_null() && last_error().contains("expected a path, found null"));
        assert!(poselift_model_open(c"\xff\xfe".as_ptr(), TRACT, 1).is_null() && last_error().contains("expected a path in UTF-8"));
        let (absent, shipped) = (path("absent.onnx"), path(MODEL));
        assert!(poselift_model_open(absent.as_ptr(), TRACT, 1).is_null() && last_error().contains("cannot read the model"));
        assert!(poselift_model_open(shipped.as_ptr(), 7, 1).is_null() && last_error().contains("found 7"));

        let model = poselift_model_open(shipped.as_ptr(), TRACT, 1);
        assert!(!model.is_null(), "{}", last_error());
        let mut options = poselift_default_options();
        assert!(poselift_open(model, &options).is_null() && last_error().contains("1 x 1 pixel"), "{}", last_error());
        (options.image_width_px, options.image_height_px) = (1000, 1000);
        assert!(poselift_open(ptr::null(), &options).is_null() && poselift_open(model, ptr::null()).is_null());
        assert!(last_error().contains("found null"));
        let spoils: [fn(&mut poselift_options); 5] =
            [|o| o.hop = 0, |o| o.look_ahead = i32::MAX, |o| o.look_ahead = -2, |o| o.hold_s = f64::NAN, |o| o.horizontal_fov_deg = 500.0];
        for spoil in spoils {
            let mut wrong = options;
            spoil(&mut wrong);
            assert!(poselift_open(model, &wrong).is_null() && !last_error().is_empty());
        }
        options.hop = 20;
        let stream = poselift_open(model, &options);
        assert!(!stream.is_null(), "{}", last_error());
        poselift_model_close(model); // the stream holds on to it

        let joints: Vec<f32> = swaying(0).chunks(3).flat_map(|p| [500.0 + 200.0 * p[0], 900.0 - 400.0 * p[2], 0.9]).collect();
        let nan = [f32::NAN; 51];
        assert_eq!(poselift_push(ptr::null_mut(), 0.0, joints.as_ptr()), -1);
        assert!(last_error().contains("expected a stream, found null"));
        assert_eq!(poselift_push(stream, f64::NAN, joints.as_ptr()), -1);
        assert_eq!(poselift_push(stream, 0.0, nan.as_ptr()), -1);
        assert_eq!(poselift_poll(stream, ptr::null_mut()), -1);
        assert!(last_error().contains("room for a pose"));

        // Nobody polls: the stream takes no more at some point, and holds what it has.
        let (mut taken, mut waiting) = (0, 0);
        for t in 0..4000 {
            match poselift_push(stream, f64::from(t) * 0.02, joints.as_ptr()) {
                -1 => break,
                now => (taken, waiting) = (t + 1, now),
            }
        }
        assert!(waiting >= POSELIFT_MOST_WAITING as i32 && taken < 1200, "{taken} frames, {waiting} poses");
        assert!(last_error().contains("poll them before the next frame"));
        let mut pose = std::mem::zeroed::<poselift_pose>();
        let mut polled = 0;
        while poselift_poll(stream, &mut pose) == 1 {
            assert!((pose.time_s - f64::from(polled) * 0.02).abs() < 1e-9 && pose.world_mm.as_flattened().iter().all(|v| v.is_finite()));
            polled += 1;
        }
        assert_eq!(polled, waiting);
        assert!(poselift_finish(stream) >= 0 && poselift_push(stream, 1e4, ptr::null()) >= 0);
        poselift_close(stream);
        poselift_close(ptr::null_mut());
        poselift_model_close(ptr::null_mut());
    }
}
