//! The user's own detectors, from the file to keypoints in a frame: the graphs in `data/` (made by `data/make_detectors.py`) find coloured
//! discs in their input, whose places in the frame are known.

use std::path::{Path, PathBuf};

use demo::blazepose;
use demo::detect::{BoxPx, Detected, Detector, Error, Expected, Options, open};
use opencv::core::{CV_8UC3, Mat, Point, Scalar, Size};
use opencv::imgproc;
use pose::joint_map::Source;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("detect-{name}.onnx"))
}

fn detector(name: &str) -> Box<dyn Detector> {
    open(&file(name), &Options { threads: 1, ..Options::default() }).expect("a detector")
}

fn refusal(name: &str, joints: Option<Source>) -> String {
    match open(&file(name), &Options { joints, threads: 1, ..Options::default() }) {
        Ok(detector) => panic!("{name} was taken for {}", detector.name()),
        Err(error) => error.to_string(),
    }
}

/// Top-down kinds need BlazePose's detector, to find people.
fn has_blazepose() -> bool {
    let there = blazepose::Networks::open(&blazepose::NetworksOptions { quality: blazepose::Quality::Lite, ..Default::default() });
    if let Err(error) = &there {
        eprintln!("skipped: {error}");
    }
    there.is_ok()
}

/// R, G, B of a person's keypoint, as in `make_detectors.py`.
fn colour(person: usize, joint: usize) -> Scalar {
    let levels = [25.0, 95.0, 165.0, 235.0];
    let all: Vec<[f64; 3]> = (0..64)
        .map(|i| [levels[i / 16], levels[i / 4 % 4], levels[i % 4]])
        .filter(|[red, green, blue]| !(red == green && green == blue))
        .collect();
    let [red, green, blue] = all[17 * person + joint];
    Scalar::new(blue, green, red, 0.0)
}

/// Where a person's keypoints are painted: spread over their box.
fn place(person: &BoxPx, joint: usize) -> [i32; 2] {
    let (column, row) = (joint % 3, joint / 3);
    let x = person.left + person.width * (0.08 + 0.42 * column as f32 + 0.03 * (row % 2) as f32);
    let y = person.top + person.height * (0.05 + 0.18 * row as f32 + 0.02 * column as f32);
    [x.round() as i32, y.round() as i32]
}

fn paint(frame: &mut Mat, index: usize, person: &BoxPx, radius: i32, joints: usize) {
    for joint in 0..joints {
        let [x, y] = place(person, joint);
        imgproc::circle(frame, Point::new(x, y), radius, colour(index, joint), -1, imgproc::LINE_8, 0).expect("a disc");
    }
}

fn black(width: i32, height: i32) -> Mat {
    Mat::new_size_with_default(Size::new(width, height), CV_8UC3, Scalar::all(0.0)).expect("a frame")
}

fn assert_near(found: &Detected, person: &BoxPx, tolerance_px: f32, what: &str) {
    for (joint, keypoint) in found.keypoints.iter().enumerate() {
        let [x, y] = place(person, joint).map(|v| v as f32);
        let near = (keypoint.x_px - x).abs() <= tolerance_px && (keypoint.y_px - y).abs() <= tolerance_px;
        assert!(near, "{what}, keypoint {joint}: {keypoint:?} is not at ({x}, {y}) to {tolerance_px} px");
        assert!(keypoint.confidence > 0.5, "{what}, keypoint {joint}: {keypoint:?}");
    }
}

const FRAMES: [(i32, i32); 4] = [(640, 480), (641, 479), (333, 641), (1281, 719)];

/// Two people side by side in a frame of any size.
fn two_people(width: i32, height: i32) -> [BoxPx; 2] {
    let [w, h] = [width as f32, height as f32];
    [
        BoxPx { left: 0.1 * w, top: 0.2 * h, width: 0.35 * w, height: 0.7 * h },
        BoxPx { left: 0.55 * w, top: 0.05 * h, width: 0.4 * w, height: 0.8 * h },
    ]
}

#[test]
fn whole_picture_kinds_see_everyone_where_they_are() {
    for (name, side, people) in
        [("yolo", 320.0, 2), ("yolo26", 320.0, 2), ("rtmo", 320.0, 2), ("movenet-multi", 256.0, 2), ("yolo-half", 320.0, 1)]
    {
        let mut detector = detector(name);
        assert_eq!(detector.joints(), Source::Coco17);
        assert_eq!(detector.name(), format!("detect-{name}"));
        for (width, height) in FRAMES {
            let what = format!("{name}, {width} x {height}");
            let boxes = two_people(width, height);
            let mut frame = black(width, height);
            let (side_y, side_x) = if name == "yolo-half" { (192.0, 320.0) } else { (side, side) };
            let px_of_input = (width as f32 / side_x).max(height as f32 / side_y);
            let radius = (4.0 * px_of_input).round() as i32;
            (0..people).for_each(|i| paint(&mut frame, i, &boxes[i], radius, 17));
            let found = detector.detect(&frame, 0.0, &[], 8).expect("people");
            assert_eq!(found.len(), people, "{what}: {found:?}");
            for person in &boxes[..people] {
                // half a pixel of the input for the maximum, and as much for the resizing
                let nearest =
                    found.iter().min_by(|a, b| (a.box_px.left - person.left).abs().total_cmp(&(b.box_px.left - person.left).abs()));
                assert_near(nearest.expect("a person"), person, px_of_input.max(1.0), &what);
            }
            // only the most prominent one
            assert_eq!(detector.detect(&frame, 1.0, &[], 1).expect("people").len(), 1);
            assert_eq!(detector.detect(&black(width, height), 2.0, &[], 8).expect("nobody"), []);
        }
    }
}

#[test]
fn top_down_kinds_look_where_the_tracker_says() {
    if !has_blazepose() {
        return;
    }
    for (name, joints) in [("simcc17", 17), ("simcc26", 26), ("heatmaps", 17), ("vitpose", 17)] {
        let mut detector = detector(name);
        assert_eq!(detector.joints().joints(), joints);
        for (width, height) in FRAMES {
            let what = format!("{name}, {width} x {height}");
            let person = two_people(width, height)[0];
            let mut frame = black(width, height);
            let px_of_crop = 1.25 * person.height.max(person.width / 0.75) / 256.0;
            paint(&mut frame, 0, &person, (4.0 * px_of_crop).round().max(1.0) as i32, joints.min(17));
            let radius = (4.0 * px_of_crop).round().max(1.0) as i32;
            if joints > 17 {
                paint_rest(&mut frame, &person, radius, joints);
            }
            let expected = Expected { id: 42, box_px: person };
            let mut found = detector.detect(&frame, 0.0, &[expected], 8).expect("people");
            // BlazePose's detector may see somebody in a part of the discs.
            found.retain(|person| person.found_for.is_some());
            assert_eq!(found.len(), 1, "{what}: {found:?}");
            assert_eq!(found[0].found_for, Some(42));
            let body = Detected { keypoints: found[0].keypoints[..17].to_vec(), ..found[0].clone() };
            assert_near(&body, &person, px_of_crop.max(1.0), &what);
            // the box stays on the person from frame to frame
            let again = Expected { id: 42, box_px: found[0].box_px };
            let mut found = detector.detect(&frame, 0.04, &[again], 8).expect("people");
            found.retain(|person| person.found_for.is_some());
            let body = Detected { keypoints: found[0].keypoints[..17].to_vec(), ..found[0].clone() };
            assert_near(&body, &person, px_of_crop.max(1.0), &format!("{what}, again"));
            // nobody where someone is expected
            assert_eq!(detector.detect(&black(width, height), 0.08, &[again], 8).expect("nobody"), []);
        }
    }
}

/// Halpe's keypoints after COCO's, in a row below.
fn paint_rest(frame: &mut Mat, person: &BoxPx, radius: i32, joints: usize) {
    for joint in 17..joints {
        let x = person.left + person.width * (0.05 + 0.1 * (joint - 17) as f32);
        let y = person.top + 1.08 * person.height;
        imgproc::circle(frame, Point::new(x.round() as i32, y.round() as i32), radius, colour(0, joint), -1, imgproc::LINE_8, 0)
            .expect("a disc");
    }
}

#[test]
fn many_people_in_one_call_do_not_mix() {
    if !has_blazepose() {
        return;
    }
    let mut detector = detector("simcc17");
    let people: Vec<BoxPx> =
        (0..11).map(|i| BoxPx { left: 20.0 + 240.0 * i as f32, top: 30.0 + 9.0 * i as f32, width: 90.0, height: 240.0 }).collect();
    let mut frame = black(2700, 480);
    people.iter().for_each(|person| paint(&mut frame, 0, person, 4, 17));
    let expected: Vec<Expected> = people.iter().zip(1..).map(|(&box_px, id)| Expected { id, box_px }).collect();
    let mut found = detector.detect(&frame, 0.0, &expected, 20).expect("people");
    found.retain(|person| person.found_for.is_some());
    assert_eq!(found.len(), 11);
    for person in found {
        let id = person.found_for.expect("somebody known") as usize;
        assert_near(&person, &people[id - 1], 1.5, &format!("person {id}"));
    }
    // no more than asked for
    assert_eq!(detector.detect(&frame, 0.04, &expected, 3).expect("people").len(), 3);
}

#[test]
fn movenet_finds_one_person_and_stays_with_them() {
    let mut detector = detector("movenet");
    for (width, height) in FRAMES {
        let person = two_people(width, height)[0];
        let mut frame = black(width, height);
        let px_of_input = width.max(height) as f32 / 192.0;
        paint(&mut frame, 0, &person, (3.0 * px_of_input).round() as i32, 17);
        let found = detector.detect(&frame, 0.0, &[], 8).expect("people");
        assert_eq!(found.len(), 1, "{width} x {height}");
        assert_near(&found[0], &person, px_of_input.max(1.0), "at first");
        let found = detector.detect(&frame, 0.1, &[Expected { id: 3, box_px: found[0].box_px }], 8).expect("people");
        assert_eq!(found[0].found_for, Some(3));
        assert_near(&found[0], &person, px_of_input.max(1.0), "again");
    }
}

#[test]
fn what_is_no_detector_is_refused_in_one_sentence() {
    let error = refusal("classifier", None);
    assert!(error.contains("input f32 [1, 3, 64, 64]"), "what was found: {error}");
    assert!(error.contains("[1, 1000]") && error.contains("RTMPose") && error.contains("MoveNet"), "{error}");
    assert!(refusal("nan", None).contains("not finite"), "{}", refusal("nan", None));
    let error = refusal("five-joints", None);
    assert!(error.contains("5 keypoints") && error.contains("coco17 (17)"), "{error}");
    let error = refusal("yolo", Some(Source::Halpe26));
    assert!(error.contains("17 keypoints") && error.contains("halpe26 has 26"), "{error}");
    let h36m = open(&file("yolo"), &Options { joints: Some(Source::H36m17), ..Options::default() });
    assert_eq!(h36m.expect("a detector").joints(), Source::H36m17);

    let absent = open(Path::new("absent.onnx"), &Options::default()).err().expect("an error").to_string();
    assert!(absent.contains("absent.onnx") && absent.contains("No such file"), "{absent}");
    let folder = tempfile::tempdir().expect("a folder");
    assert!(matches!(open(folder.path(), &Options::default()), Err(Error::Unreadable { .. })));
    let damaged = folder.path().join("damaged.onnx");
    let whole = std::fs::read(file("yolo")).expect("a file");
    for bytes in [&whole[..whole.len() / 2], b"not a model", b""] {
        std::fs::write(&damaged, bytes).expect("a file");
        let error = open(&damaged, &Options::default()).err().expect("an error").to_string();
        assert!(error.contains("damaged.onnx") && error.lines().count() == 1, "{error}");
    }
    for error in ["classifier", "nan", "five-joints"].map(|name| refusal(name, None)) {
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_frame_that_is_none_is_refused() {
    let mut detector = detector("yolo");
    let grey = Mat::new_size_with_default(Size::new(64, 64), opencv::core::CV_8UC1, Scalar::all(0.0)).expect("a frame");
    for frame in [Mat::default(), grey] {
        let error = detector.detect(&frame, 0.0, &[], 1).expect_err("no frame").to_string();
        assert!(error.contains("8-bit BGR"), "{error}");
    }
    // as narrow as can be
    for (width, height) in [(1, 1), (1, 2000), (2000, 1)] {
        assert_eq!(detector.detect(&black(width, height), 0.0, &[], 1).expect("nobody"), []);
    }
}

/// Real people, found by BlazePose's detector for a network that looks at one at a time. This one sees somebody wherever it looks.
#[test]
fn people_are_found_for_top_down_kinds() {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.native/clips/demo.mp4");
    if !has_blazepose() || !clip.exists() {
        eprintln!("skipped: {} or BlazePose is absent (scripts/clip.sh, scripts/blazepose.sh)", clip.display());
        return;
    }
    // In the sample clip (1768 x 994) a man walks on a roof, and from 3 s on a woman on the grass; not in every frame both are found.
    let mut reader = demo::video::VideoReader::open(&clip).expect("the sample clip");
    let (mut frame, mut detector) = (Mat::default(), detector("constant"));
    let (time_s, found) = loop {
        let time_s = reader.skip().expect("a frame").expect("both are found in some frame");
        if time_s < 3.5 || (time_s * 30.0).round() % 5.0 != 0.0 {
            continue;
        }
        reader.retrieve(&mut frame).expect("a picture");
        let found = detector.detect(&frame, time_s, &[], 6).expect("people");
        assert!((1..=2).contains(&found.len()), "{time_s} s: {found:?}");
        if found.len() == 2 {
            break (time_s, found);
        }
    };
    let height = |person: &Detected| person.box_px.top + person.box_px.height / 2.0;
    let [above, below] = &found.iter().collect::<Vec<_>>()[..] else { panic!("two people") };
    assert!((height(above) - height(below)).abs() > 250.0, "one on the roof, one on the grass: {found:?}");
    assert!(found.iter().all(|person| person.found_for.is_none()));
    // Those who are known are not sought again, and nobody is sought in every frame.
    let expected: Vec<Expected> = found.iter().zip(1..).map(|(person, id)| Expected { id, box_px: person.box_px }).collect();
    let again = detector.detect(&frame, time_s + 0.03, &expected, 6).expect("people");
    assert_eq!(again.iter().filter(|person| person.found_for.is_some()).count(), 2);
    let one = detector.detect(&frame, time_s + 0.06, &expected[..1], 6).expect("people");
    assert_eq!(one.len(), 1, "the other one is sought half a second after the last search");
    assert_eq!(detector.detect(&frame, time_s + 0.7, &expected[..1], 6).expect("people").len(), 2);
}
