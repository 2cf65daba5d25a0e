//! Keypoint files: both kinds, both ways, and what is said about wrong ones.
use formats::{Data, Tensor, Value, keypoints, npz};
use pose::{ImageSize, JOINTS, Keypoint, KeypointClip, joint_map::Source};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value as Json, json};
use std::path::Path;

fn any_clip() -> impl Strategy<Value = KeypointClip> {
    let joint = prop_oneof![
        1 => Just(Keypoint::MISSING),
        4 => (-5000f32..5000.0, -5000f32..5000.0, 0f32..=1.0).prop_map(|(x, y, c)| Keypoint::new(x, y, c)),
    ];
    let frame = vec(joint, JOINTS).prop_map(|joints| <[Keypoint; JOINTS]>::try_from(joints).unwrap());
    (vec((frame, 1e-4f64..0.1), 1..6), 1u32..8000, 1u32..8000).prop_map(|(frames, width_px, height_px)| {
        let mut time_s = -3.5;
        let (frames, times_s) = frames
            .into_iter()
            .map(|(frame, step_s)| {
                time_s += step_s;
                (frame, time_s)
            })
            .unzip();
        KeypointClip { frames, times_s, image: ImageSize { width_px, height_px } }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn clips_come_back(clip in any_clip()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip"); // told apart by content, not by name
        keypoints::write_json(&path, &clip).unwrap();
        prop_assert_eq!(&keypoints::read(&path).unwrap(), &clip);
        keypoints::write_npz(&path, &clip).unwrap();
        prop_assert_eq!(&keypoints::read(&path).unwrap(), &clip);
    }
}

/// The file of the module's documentation.
fn document(joints: usize, skeleton: &str) -> Json {
    let frame = |t: usize| (0..joints).map(|j| json!([10 * j + t, 20.5, 0.9])).collect::<Vec<_>>();
    json!({"format": "poselift-keypoints/1", "skeleton": skeleton, "image": {"width": 640, "height": 480}, "fps": 25, "frames": [frame(0), frame(1), frame(2)]})
}

fn read_json(text: &[u8]) -> Result<KeypointClip, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.json");
    std::fs::write(&path, text).unwrap();
    keypoints::read(&path).map_err(|error| {
        let message = error.to_string();
        assert!(message.contains("clip.json") && !message.contains('\n') && message.len() < 400, "{message}");
        message
    })
}

#[test]
fn a_documented_json_is_read() {
    for source in Source::ALL {
        let clip = read_json(document(source.joints(), source.name()).to_string().as_bytes()).unwrap();
        assert_eq!(clip.frames.len(), 3);
        assert_eq!(clip.image, ImageSize { width_px: 640, height_px: 480 });
        assert!((clip.times_s[2] - 0.08).abs() < 1e-12);
        let raw: Vec<_> = (0..source.joints()).map(|j| Keypoint::new(10.0 * j as f32 + 1.0, 20.5, 0.9)).collect();
        assert_eq!(clip.frames[1], source.to_h36m(&raw).unwrap());
    }
    let mut with_gaps = document(17, "h36m17");
    with_gaps["frames"][0][3] = Json::Null;
    with_gaps["frames"][0][4] = json!([1, 2]);
    with_gaps["frames"][1] = Json::Null;
    with_gaps["times_s"] = json!([0, 0.5, 2]);
    let clip = read_json(with_gaps.to_string().as_bytes()).unwrap();
    assert_eq!(clip.frames[0][3], Keypoint::MISSING);
    assert_eq!(clip.frames[0][4], Keypoint::new(1.0, 2.0, 1.0));
    assert_eq!(clip.frames[1], [Keypoint::MISSING; JOINTS]);
    assert_eq!(clip.times_s, [0.0, 0.5, 2.0]);
}

#[test]
fn a_wrong_json_is_one_sentence() {
    type Spoil = fn(&mut Json);
    let cases: [(Spoil, &str); 27] = [
        (|d| d["format"] = Json::Null, "is no keypoint file: expected \"format\": \"poselift-keypoints/1\""),
        (|d| d["format"] = json!("other"), "found the text 'other'"),
        (|d| d["skeleton"] = Json::Null, "expected 'skeleton' to be h36m17, blazepose33 or coco17, found nothing"),
        (|d| d["skeleton"] = json!("openpose25"), "unknown skeleton 'openpose25': expected one of h36m17, blazepose33, coco17"),
        (|d| d["image"] = Json::Null, "expected 'image' to have a 'width' in whole pixels, found nothing"),
        (|d| d["image"]["height"] = json!(0), "'height' in whole pixels, found 0"),
        (|d| d["image"]["height"] = json!(1.5), "found 1.5"),
        (|d| d["image"]["height"] = json!(5_000_000_000u64), "found 5000000000"),
        (|d| d["fps"] = Json::Null, "expected 'fps' as a number or 'times_s' as a list, found nothing"),
        (|d| d["fps"] = json!(0), "expected 'fps' above 0, found 0"),
        (|d| d["fps"] = json!("25"), "found the text '25'"),
        (|d| d["times_s"] = json!([0, 1]), "times: expected one for each of the 3 frames, found 2"),
        (|d| d["times_s"] = json!([0, 1, 1]), "frame 2: expected a finite time after 1 s, found 1 s"),
        (|d| d["times_s"] = json!([0, null, 1]), "found nothing at frame 1"),
        (|d| d["times_s"] = json!(3), "expected 'times_s' as a list of seconds, found 3"),
        (|d| d["frames"] = json!([]), "has no frames"),
        (|d| d["frames"] = json!({}), "expected 'frames' as a list, found an object"),
        (|d| d["frames"][1] = json!([]), "frame 1: expected 17 joints for h36m17, found 0"),
        (|d| d["frames"][1] = json!("x"), "frame 1: expected a list of 17 joints or null, found the text 'x'"),
        (|d| d["frames"][1].as_array_mut().unwrap().truncate(16), "frame 1: expected 17 joints for h36m17, found 16"),
        (|d| d["frames"][1][4] = json!(7), "frame 1, joint 4: expected [x_px, y_px, confidence] or null, found 7"),
        (|d| d["frames"][1][4] = json!([1, 2, 3, 4]), "found a list of 4"),
        (|d| d["frames"][1][4] = json!([1, null, 1]), "frame 1, joint 4: expected y_px to be a finite number, found nothing"),
        (|d| d["frames"][1][4] = json!([1, "NaN", 1]), "expected y_px to be a finite number, found NaN; mark a missing joint by null"),
        (|d| d["frames"][1][4] = json!([1, 2, 1.5]), "frame 1, keypoint 4"),
        (|d| d["frames"][1][4] = json!([1e300, 2, 1]), "found x inf"),
        (|d| *d = json!({}), "is no keypoint file"),
    ];
    for (spoil, expected) in cases {
        let mut document = document(17, "h36m17");
        spoil(&mut document);
        let message = read_json(document.to_string().as_bytes()).unwrap_err();
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
}

#[test]
fn python_s_nan_is_named_by_frame_and_joint() {
    let text = document(17, "h36m17").to_string();
    for token in ["NaN", "Infinity", "-Infinity"] {
        let spoilt = text.replacen("[51,20.5,0.9]", &format!("[51,{token},0.9]"), 1); // frame 1, joint 5
        let message = read_json(spoilt.as_bytes()).unwrap_err();
        assert!(message.contains(&format!("frame 1, joint 5: expected y_px to be a finite number, found {token};")), "{message}");
    }
    // a NaN within a text is text
    let renamed = text.replacen("\"fps\"", "\"note \\\" NaN\":NaN,\"fps\"", 1);
    assert!(read_json(renamed.as_bytes()).is_ok());
}

#[test]
fn what_is_no_keypoint_file_is_named() {
    assert!(read_json(b"").unwrap_err().contains("is empty"));
    assert!(read_json(b" \n").unwrap_err().contains("is empty"));
    assert!(read_json(b"hello").unwrap_err().contains("is no keypoint file"));
    assert!(read_json(b"[[1,2]]").unwrap_err().contains("is no keypoint file"));
    assert!(read_json(b"{\"format\": ").unwrap_err().contains("is truncated"));
    assert!(read_json(b"{\"format\" 3}").unwrap_err().contains("is no valid JSON (expected `:` at line 1 column 11)"));
    assert!(read_json(&[b"{\"a\":".repeat(100_000), b"1".to_vec()].concat()).unwrap_err().contains("JSON"));
    assert!(read_json(b"PK\x03\x04").unwrap_err().contains("truncated"));
    assert!(keypoints::read(Path::new("/no/such/clip.json")).unwrap_err().to_string().starts_with("cannot read /no/such/clip.json: "));
    let text = document(17, "coco17").to_string();
    for length in 0..text.len() {
        assert!(read_json(&text.as_bytes()[..length]).is_err());
    }
}

fn arrays(joints: usize) -> Vec<(&'static str, Value)> {
    let values = (0..2 * joints * 3).map(|i| if i % 3 == 2 { 0.5 } else { i as f32 }).collect();
    vec![
        ("keypoints", Tensor::f32([2, joints, 3], values).into()),
        ("image_size", Tensor::new([2], Data::I32(vec![640, 480])).unwrap().into()),
        ("fps", Value::Float(10.0)),
        ("skeleton", Value::str("coco17")),
    ]
}

fn read_npz(members: &[(&str, Value)]) -> Result<KeypointClip, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.npz");
    npz::write_values(&path, members).unwrap();
    keypoints::read(&path).map_err(|error| error.to_string())
}

#[test]
fn a_documented_npz_is_read() {
    let clip = read_npz(&arrays(17)).unwrap();
    assert_eq!(clip.times_s, [0.0, 0.1]);
    assert_eq!(clip.frames[1][13], Keypoint::new(78.0, 79.0, 0.5)); // left wrist: COCO's 9 of frame 1
    let without_skeleton = arrays(33).into_iter().filter(|(name, _)| *name != "skeleton").collect::<Vec<_>>();
    assert!(read_npz(&without_skeleton).is_ok());
    let mut positions = arrays(17);
    positions[0].1 = Tensor::new([1, 17, 2], Data::F64(vec![3.0; 34])).unwrap().into();
    positions[2] = ("times_s", Tensor::new([1], Data::F64(vec![4.5])).unwrap().into());
    let clip = read_npz(&positions).unwrap();
    assert_eq!((clip.frames[0][1], clip.times_s[0]), (Keypoint::new(3.0, 3.0, 1.0), 4.5));
}

#[test]
fn a_wrong_npz_is_one_sentence() {
    let tensor = |shape: &[usize], value: f32| -> Value { Tensor::f32(shape, vec![value; shape.iter().product()]).into() };
    let with = |index: usize, name: &'static str, value: Value| {
        let mut members = arrays(17);
        members[index] = (name, value);
        read_npz(&members).unwrap_err()
    };
    let nan = {
        let mut values = vec![0.5; 2 * 17 * 3];
        values[17 * 3 + 4 * 3] = f32::NAN;
        Tensor::f32([2, 17, 3], values).into()
    };
    for (message, expected) in [
        (
            with(0, "keypoint", tensor(&[2, 17, 3], 0.5)),
            "has no array 'keypoints' of shape (frames, joints, 3); it has fps, image_size, keypoint, skeleton",
        ),
        (with(0, "keypoints", tensor(&[2, 17], 0.5)), "expected 'keypoints' of shape (frames, joints, 3), found a tensor of shape [2, 17]"),
        (with(0, "keypoints", tensor(&[2, 16, 3], 0.5)), "expected 17 joints for coco17, found 16"),
        (with(0, "keypoints", tensor(&[0, 17, 3], 0.5)), "has no frames"),
        (with(0, "keypoints", nan), "frame 1, keypoint 4"),
        (with(0, "keypoints", tensor(&[2, 17, 3], 2.0)), "confidence 2"),
        (with(1, "size", Value::Int(1)), "expected an array 'image_size'"),
        (with(1, "image_size", tensor(&[2], 0.5)), "whole pixels, found 0.5 and 0.5"),
        (with(1, "image_size", tensor(&[2], f32::NAN)), "found NaN and NaN"),
        (with(2, "rate", Value::Int(1)), "expected an array 'fps' or 'times_s'"),
        (with(2, "fps", Value::Float(-1.0)), "expected 'fps' above 0, found -1"),
        (with(2, "fps", tensor(&[2], 1.0)), "expected 'fps' to be one number"),
        (with(2, "times_s", tensor(&[3], 1.0)), "times: expected one for each of the 2 frames, found 3"),
        (with(2, "times_s", tensor(&[2], 1.0)), "times must rise"),
        (with(3, "skeleton", Value::str("kinect")), "unknown skeleton 'kinect'"),
        (with(3, "skeleton", Value::Int(3)), "expected 'skeleton' to be a text"),
        (with(3, "other", Value::Int(3)), "has 17 joints, which may be h36m17 or coco17 (or mpi3dhp17): add the array 'skeleton'"),
    ] {
        assert!(message.contains(expected) && message.contains("clip.npz") && !message.contains('\n'), "{message} lacks {expected}");
    }
    let sixteen = arrays(16).into_iter().filter(|(name, _)| *name != "skeleton").collect::<Vec<_>>();
    assert!(read_npz(&sixteen).unwrap_err().contains("expected 17 joints (h36m17, coco17) or 33 (blazepose33), found 16"));
    assert!(read_npz(&[]).unwrap_err().contains("has no array 'keypoints'"));
}

#[test]
fn a_wrong_clip_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.json");
    let clip = KeypointClip { frames: vec![], times_s: vec![], image: ImageSize { width_px: 1, height_px: 1 } };
    let message = keypoints::write_json(&path, &clip).unwrap_err().to_string();
    assert!(message.contains("clip.json: the clip has no frames"), "{message}");
    assert!(keypoints::write_npz(&path, &clip).is_err());
    assert!(!path.exists());
}

#[test]
fn a_line_is_one_frame_of_one_stream() {
    use formats::keypoints::{LineEvent, StreamId, parse_line};
    let parse = |line: &Json| parse_line(line.to_string().as_bytes(), Source::H36m17);
    let frame: Vec<Json> = (0..17).map(|j| if j == 4 { Json::Null } else { json!([j, 2.5]) }).collect();
    let (id, event) = parse(&json!({"time_s": 1.25, "keypoints": frame, "id": "left", "other": [1]}));
    assert_eq!(id, Some(StreamId::Text("left".into())));
    let LineEvent::Frame { time_s, keypoints: Some(keypoints) } = event.unwrap() else { panic!("a frame") };
    assert_eq!((time_s, keypoints[4], keypoints[5]), (1.25, Keypoint::MISSING, Keypoint::new(5.0, 2.5, 1.0)));
    let (id, event) = parse(&json!({"time_s": -3, "keypoints": null, "id": -9}));
    assert_eq!((id, event.unwrap()), (Some(StreamId::Number(-9)), LineEvent::Frame { time_s: -3.0, keypoints: None }));
    let (id, event) = parse(&json!({"end": true}));
    assert_eq!((id, event.unwrap()), (None, LineEvent::End));
    // the stream is known where the rest is no good
    let (id, event) = parse(&json!({"time_s": 1, "keypoints": [], "id": 7}));
    assert_eq!(id, Some(StreamId::Number(7)));
    assert!(event.unwrap_err().to_string().contains("expected 17 joints for h36m17, found 0"));
    let (_, event) = parse(&json!({"time_s": 1, "id": 1.5}));
    assert!(event.unwrap_err().to_string().contains("whole number"));
}

proptest! {
    #[test]
    fn any_bytes_are_a_line_or_a_sentence(bytes in vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,0-9a-z .eN-]{0,200}") {
        for line in [&bytes[..], text.as_bytes()] {
            if let (_, Err(error)) = keypoints::parse_line(line, Source::Coco17) {
                let message = error.to_string();
                prop_assert!(!message.contains('\n') && message.len() < 400, "{}", message);
            }
        }
    }
}
