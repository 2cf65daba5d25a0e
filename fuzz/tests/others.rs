//! What does not come by `formats` or `datasets`: TFLite files, ONNX files in tract, and what C hands over.
#![allow(missing_docs)]

#[path = "../../runtime/tests/common/mod.rs"]
mod common;

use std::{ffi::CString, path::Path};

use bolero::TypeGenerator;
use fuzz::{Bench, target};
use pose::{joint_map::Source, normalise::Normalisation};
use poselift::{
    poselift_close, poselift_default_options, poselift_finish, poselift_model_close, poselift_model_open, poselift_open, poselift_poll,
    poselift_pose, poselift_push,
};

fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds")).join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

target!(tflite_file, seeds("tflite"), |_: &Bench, input: &[u8]| export::tflite::convert(input));

const TRACT: i32 = 1;

// What tract makes of an ONNX file: whatever it says or panics with comes back as an error.
target!(
    onnx_in_tract,
    vec![common::rooted(-1, 9, 3).bytes(), common::scanning(true).bytes(), common::rooted_plus(3, &[1.0]).bytes()],
    |bench: &Bench, input: &[u8]| {
        let path = CString::new(bench.file("a.onnx", input).to_str().unwrap()).unwrap();
        // SAFETY: the path ends in a zero byte; what comes back is closed once, and may be null.
        unsafe { poselift_model_close(poselift_model_open(path.as_ptr(), TRACT, 1)) }
    }
);

target!(
    c_path,
    vec![b"model.onnx".to_vec(), b"/dev/null".to_vec(), "Modell \u{e4}.onnx".into(), vec![0xff; 300], vec![b'/'; 5000]],
    |_: &Bench, input: &[u8]| {
        let path = CString::new(input.iter().copied().filter(|&byte| byte != 0).collect::<Vec<u8>>()).unwrap();
        // SAFETY: the path ends in a zero byte; what comes back is closed once, and may be null.
        unsafe { poselift_model_close(poselift_model_open(path.as_ptr(), i32::from(!input.len().is_multiple_of(7)), 1)) }
    }
);

/// What C may put into the options and frames of a stream.
#[derive(Debug, TypeGenerator)]
struct Calls {
    image: (u32, u32),
    look_ahead: i32,
    hop: u32,
    hold_s: u64,
    height_m: u32,
    fov_deg: u32,
    /// Time, and what the keypoints are made of.
    frames: Vec<(u64, Option<(u32, u32, u32)>)>,
}

/// Bits as C may have them, or a sensible number of about the same.
fn number(bits: u32, sensible: f32) -> f32 {
    if bits.is_multiple_of(4) { f32::from_bits(bits) } else { sensible * (bits % 16) as f32 / 8.0 }
}

#[test]
fn c_stream() {
    let folder = tempfile::tempdir().unwrap();
    let graph = common::rooted(-1, -1, 3).metadata(&common::metadata(9, Normalisation::PersonBox, 50.0));
    let path = graph.write(folder.path(), "model.onnx");
    let model = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path ends in a zero byte.
    let model = unsafe { poselift_model_open(model.as_ptr(), TRACT, 1) };
    assert!(!model.is_null());
    let at = model as usize; // a pointer is not UnwindSafe
    bolero::check!().with_test_time(std::time::Duration::from_secs(1)).with_iterations(100_000_000).with_type::<Calls>().for_each(
        |calls: &Calls| {
            let mut options = poselift_default_options();
            (options.image_width_px, options.image_height_px) = if calls.hop.is_multiple_of(3) { calls.image } else { (1000, 1000) };
            (options.look_ahead, options.hop) = if calls.hop.is_multiple_of(5) {
                (calls.look_ahead, calls.hop)
            } else {
                (calls.look_ahead.rem_euclid(9), 1 + calls.hop % 9)
            };
            options.hold_s = if calls.hold_s.is_multiple_of(3) { f64::from_bits(calls.hold_s) } else { (calls.hold_s % 16) as f64 };
            options.height_m = number(calls.height_m, 1.7);
            options.horizontal_fov_deg = number(calls.fov_deg, 60.0);
            // SAFETY: pointers are to what the functions ask for and alive while they run; the stream is closed once.
            unsafe {
                let stream = poselift_open(at as *const _, &options);
                for (t, (time, keypoints)) in calls.frames.iter().enumerate() {
                    let time_s = if time % 5 == 0 { f64::from_bits(*time) } else { t as f64 / 50.0 };
                    let joints = keypoints.map(|(x, y, c)| -> [f32; 51] {
                        std::array::from_fn(|i| match i % 3 {
                            0 => number(x ^ i as u32, 500.0),
                            1 => number(y ^ i as u32, 500.0),
                            _ => number(c, 0.5),
                        })
                    });
                    poselift_push(stream, time_s, joints.as_ref().map_or(std::ptr::null(), |joints| joints.as_ptr()));
                }
                poselift_finish(stream);
                let mut pose = std::mem::zeroed::<poselift_pose>();
                while poselift_poll(stream, &mut pose) == 1 {
                    assert!(pose.world_mm.as_flattened().iter().all(|v| v.is_finite()), "{pose:?}");
                }
                poselift_close(stream);
            }
        },
    );
    // SAFETY: opened above, closed once.
    unsafe { poselift_model_close(model) }
}

/// Messages to the server, JSON.
fn texts() -> Vec<Vec<u8>> {
    let joints: Vec<[f32; 3]> = (0..17).map(|j| [100.0 + j as f32, 200.5, 0.9]).collect();
    [
        serde_json::json!({ "id": "anna", "open": {
            "image": { "width": 1280, "height": 720 }, "skeleton": "h36m17", "form": "binary", "look_ahead": 2, "hold_s": 0.5, "height_m": 1.75,
        } }),
        serde_json::json!({ "id": 7, "time_s": 12.25, "keypoints": joints }),
        serde_json::json!({ "id": 7, "time_s": 12.5, "keypoints": null }),
        serde_json::json!({ "id": "anna", "end": true }),
    ]
    .iter()
    .map(|message| message.to_string().into_bytes())
    .collect()
}

target!(server_text, texts(), |_: &Bench, input: &[u8]| {
    std::str::from_utf8(input).map_err(|error| error.to_string()).and_then(|text| runtime::serve::fuzz::text(text, Source::H36m17))
});

/// A frame of 17 joints, one of nobody, an end.
fn records() -> Vec<u8> {
    let head = |kind: u8, flags: u8, joints: u16| {
        let mut head = vec![kind, flags];
        head.extend(joints.to_le_bytes());
        head.extend(3u32.to_le_bytes());
        head.extend(1.5f64.to_le_bytes());
        head
    };
    let joints: Vec<u8> = (0..17 * 3).flat_map(|i| (if i % 3 == 2 { 0.5 } else { 10.0 * i as f32 }).to_le_bytes()).collect();
    [head(1, 0, 17), joints, head(1, 1, 0), head(2, 0, 0)].concat()
}

#[test]
fn the_seeds_of_the_server_are_understood() {
    assert_eq!(runtime::serve::fuzz::binary(&records(), Source::H36m17), Ok(()));
    for text in texts() {
        let text = String::from_utf8(text).unwrap();
        assert_eq!(runtime::serve::fuzz::text(&text, Source::H36m17), Ok(()), "{text}");
    }
    requests().iter().for_each(|request| assert!(runtime::serve::fuzz::request(request)));
}

target!(server_binary, vec![records()], |_: &Bench, input: &[u8]| runtime::serve::fuzz::binary(input, Source::H36m17));

fn requests() -> Vec<Vec<u8>> {
    let input = r#""inputs": [{"name": "keypoints", "shape": [1, 2], "datatype": "FP32","#;
    let plain = format!(r#"{{"id": "a", {input} "data": [[1.5, -2e3]]}}], "outputs": [{{"name": "poses"}}]}}"#);
    let binary = format!(r#"{{{input} "parameters": {{"binary_data_size": 8}}}}], "parameters": {{"binary_data_output": true}}}}"#);
    let length = binary.len() as u8;
    vec![[&[0, 0], plain.as_bytes()].concat(), [&[1, length], binary.as_bytes(), &[0; 8]].concat()]
}

target!(server_request, requests(), |_: &Bench, input: &[u8]| runtime::serve::fuzz::request(input));
