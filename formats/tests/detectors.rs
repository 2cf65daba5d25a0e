//! OpenPose folders and AlphaPose files: whom they show, and what is said about wrong ones.
use formats::keypoints::{DetectorClip, PersonChoice, read_alphapose, read_openpose};
use pose::{ImageSize, JOINTS, Keypoint, KeypointClip, joint_map::Source};
use serde_json::{Value as Json, json};
use std::path::Path;

const CLIP: DetectorClip = DetectorClip { fps: 25.0, image: ImageSize { width_px: 1920, height_px: 1080 }, person: PersonChoice::Nearest };

/// A person of `joints` keypoints, `size_px` high, at x.
fn person(joints: usize, x_px: f32, size_px: f32) -> Vec<Keypoint> {
    (0..joints).map(|j| Keypoint::new(x_px + j as f32, 100.0 + size_px * j as f32 / (joints - 1) as f32, 0.5)).collect()
}

fn flat(person: &[Keypoint]) -> Json {
    person.iter().flat_map(|k| [k.x_px, k.y_px, k.confidence]).collect::<Vec<_>>().into()
}

fn openpose(folder: &Path, frame: usize, people: &[Vec<Keypoint>]) {
    let people: Vec<Json> =
        people.iter().map(|p| json!({"person_id": [-1], "pose_keypoints_2d": flat(p), "face_keypoints_2d": []})).collect();
    let text = json!({"version": 1.3, "people": people}).to_string();
    std::fs::write(folder.join(format!("clip_{frame:012}_keypoints.json")), text).unwrap();
}

#[test]
fn an_openpose_folder_is_one_person() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (|t: usize| person(25, 1000.0 + t as f32, 200.0), |t: usize| person(25, 300.0 + t as f32, 300.0));
    openpose(folder.path(), 7, &[small(0), large(0)]);
    openpose(folder.path(), 8, &[]);
    openpose(folder.path(), 10, &[person(25, 1000.0, 500.0), large(3)]); // the other came nearer; frame 9 is absent
    std::fs::write(folder.path().join("readme.txt"), "ignored").unwrap();

    let clip = read_openpose(folder.path(), &CLIP).unwrap();
    let h36m = |person: Vec<Keypoint>| Source::Body25.to_h36m(&person).unwrap();
    assert_eq!(clip.frames, [h36m(large(0)), [Keypoint::MISSING; JOINTS], [Keypoint::MISSING; JOINTS], h36m(large(3))]);
    assert_eq!((clip.times_s[0], clip.image), (0.0, CLIP.image));
    assert!((clip.times_s[3] - 0.12).abs() < 1e-12);

    let largest = read_openpose(folder.path(), &DetectorClip { person: PersonChoice::Largest, ..CLIP }).unwrap();
    assert_eq!(largest.frames[3], h36m(person(25, 1000.0, 500.0)));
}

#[test]
fn a_missing_keypoint_is_zeros_and_heat_maps_may_exceed_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut someone = person(25, 300.0, 300.0);
    someone[4] = Keypoint::new(0.0, 0.0, 0.0);
    someone[3].confidence = 1.02;
    openpose(folder.path(), 0, &[someone]);
    let clip = read_openpose(folder.path(), &CLIP).unwrap();
    assert_eq!((clip.frames[0][16], clip.frames[0][15].confidence), (Keypoint::MISSING, 1.0));
}

#[test]
fn a_wrong_openpose_folder_is_one_sentence() {
    let message = |fill: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let message = read_openpose(folder.path(), &CLIP).unwrap_err().to_string();
        assert!(!message.contains('\n') && message.contains(&*folder.path().to_string_lossy()), "{message}");
        message
    };
    let one = |text: &'static str| move |folder: &Path| std::fs::write(folder.join("a_0_keypoints.json"), text).unwrap();
    assert!(message(&|_| ()).contains("holds no *_keypoints.json"));
    assert!(message(&one("")).contains("a_0_keypoints.json"));
    assert!(message(&one(r#"{"people": [{"pose_keypoints_2d": [1, 2"#)).contains("truncated"));
    assert!(message(&one(r#"{"people": 3}"#)).contains("expected 'people' as a list, found 3"));
    assert!(message(&one(r#"{"people": [{}]}"#)).contains("person 0, 'pose_keypoints_2d': expected a list"));
    assert!(message(&one(r#"{"people": [{"pose_keypoints_2d": [1, 2]}]}"#)).contains("found 2 numbers"));
    assert!(
        message(&one(r#"{"people": [{"pose_keypoints_2d": [1, NaN, 1]}]}"#)).contains("keypoint 0: expected finite numbers, found NaN")
    );
    assert!(message(&|folder| openpose(folder, 0, &[person(18, 1.0, 9.0)])).contains("has 18 keypoints: expected the 25 of BODY_25"));
    assert!(message(&|folder| openpose(folder, 0, &[])).contains("shows nobody in any of its 1 frames"));
    let normalised: Vec<_> = person(25, 0.0, 1.0).iter().map(|k| Keypoint::new(0.3, (k.y_px - 100.0) / 2.0, 0.9)).collect();
    assert!(message(&|folder| openpose(folder, 0, std::slice::from_ref(&normalised))).contains("no coordinate above 1: expected pixels"));
    let far = |folder: &Path| [0, 900_000_000_000].into_iter().for_each(|frame| openpose(folder, frame, &[person(25, 1.0, 9.0)]));
    assert!(message(&far).contains("numbered from 0 to 900000000000"));
    let two = |folder: &Path| {
        openpose(folder, 0, &[person(25, 1.0, 9.0)]);
        std::fs::write(folder.join("other_0_keypoints.json"), r#"{"people": []}"#).unwrap();
    };
    assert!(message(&two).contains("holds the videos"));
    let unnumbered = |folder: &Path| std::fs::write(folder.join("x_keypoints.json"), r#"{"people": []}"#).unwrap();
    assert!(message(&unnumbered).contains("has no frame number"));
}

fn alphapose(json: &Json) -> Result<KeypointClip, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alphapose-results.json");
    std::fs::write(&path, json.to_string()).unwrap();
    read_alphapose(&path, &CLIP).map_err(|error| error.to_string())
}

#[test]
fn an_alphapose_file_is_one_person() {
    let entry = |id: &str, person: &[Keypoint]| json!({"image_id": id, "category_id": 1, "keypoints": flat(person), "score": 2.9});
    for (joints, source) in [(17, Source::Coco17), (26, Source::Halpe26), (133, Source::CocoWholeBody133), (136, Source::Halpe26)] {
        let (small, large) = (person(joints, 1000.0, 200.0), |t: f32| person(joints, 300.0 + t, 300.0));
        let clip =
            alphapose(&json!([entry("2.jpg", &large(2.0)), entry("0.jpg", &small), entry("0.jpg", &large(0.0)), entry("2.jpg", &small)]))
                .unwrap();
        let h36m = |person: &[Keypoint]| source.to_h36m(&person[..source.joints()]).unwrap();
        assert_eq!(clip.frames, [h36m(&large(0.0)), [Keypoint::MISSING; JOINTS], h36m(&large(2.0))], "{joints}");
    }
    let named = [entry("v2_frame_0001.png", &person(17, 5.0, 50.0)), entry("v2_frame_0002.png", &person(17, 5.0, 50.0))];
    assert_eq!(alphapose(&json!(named)).unwrap().frames.len(), 2);
}

#[test]
fn a_wrong_alphapose_file_is_one_sentence() {
    let numbers = flat(&person(17, 5.0, 50.0));
    for (json, expected) in [
        (json!({"0.jpg": {"bodies": []}}), "expected AlphaPose's default format"),
        (json!([]), "lists nobody"),
        (json!([{"keypoints": numbers}]), "entry 0: expected 'image_id' to be the name of a picture, found nothing"),
        (json!([{"image_id": "frame.jpg", "keypoints": numbers}]), "'image_id' is 'frame.jpg': expected a name with the number"),
        (json!([{"image_id": "0.jpg"}]), "entry 0, 'keypoints': expected a list x, y, confidence"),
        (json!([{"image_id": "0.jpg", "keypoints": flat(&person(20, 1.0, 9.0))}]), "has 20 keypoints for a person: expected 17 or 133"),
        (
            json!([{"image_id": "0.jpg", "keypoints": numbers}, {"image_id": "1.jpg", "keypoints": flat(&person(26, 1.0, 9.0))}]),
            "entry 1 has 26 keypoints and those before it 17",
        ),
        (json!([{"image_id": "0.jpg", "keypoints": [1, "x", 2]}]), "keypoint 0: expected finite numbers, found the text 'x'"),
        (json!([{"image_id": "0.jpg", "keypoints": [1, 1e300, 2]}]), "keypoint 0: expected finite numbers"),
    ] {
        let message = alphapose(&json).unwrap_err();
        assert!(
            message.contains(expected) && message.contains("alphapose-results.json") && !message.contains('\n'),
            "{message} lacks {expected}"
        );
    }
}
