use std::path::Path;
use std::sync::Arc;

use datasets::motion_bert::Half;
use datasets::split::ClipFrames;
use datasets::{ClipFolder, ClipOptions, Error, MotionBert, MotionBertClips, SampleSource};
use serde_json::Value as Json;

use crate::people::{self, FRAMES};
use crate::pickles::Py;
use crate::shared;

const PLAIN: ClipOptions = ClipOptions { dim_in: 3, root_relative: false, flip: 0.0, seed: 0 };

pub fn golden_json(name: &str) -> Json {
    let path = format!("{}/../tests/golden/metrics/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_variant_of_both_numpys_is_read_to_the_values_of_numpy() {
    let Some(formats) = shared("reference/formats") else { return };
    for numpy in ["numpy1", "numpy2"] {
        for file in ["h36m_sh_conf_cam_source_final.pkl", "h36m_proto2.pkl", "h36m_variant_arrays.pkl"] {
            let path = formats.join(numpy).join("motion3d").join(file);
            let train = MotionBert::open(&path, Half::Train).unwrap();
            let lengths: Vec<usize> = train.videos().iter().map(|v| v.frames.len()).collect();
            assert_eq!((train.frames(), lengths), (1063, vec![300, 243, 100, 420]));
            assert!(train.truth().is_none());

            let test = MotionBert::open(&path, Half::Test).unwrap();
            assert_eq!(test.frames(), 1400);
            let video = &test.videos()[1];
            assert_eq!((video.name.as_str(), video.take()), ("s_09_act_05_subact_02_ca_02", "s_09_act_05_subact_02"));
            assert_eq!((video.frames.clone(), video.camera.as_str(), video.image.height_px), (260..510, "55011271", 1000));
            assert_eq!(test.videos()[4].action.as_deref(), Some("Walking"));
            // values as numpy prints them
            let k = test.keypoints(7)[3];
            assert_eq!((k.x_px, k.y_px, k.confidence), (445.7912, 676.5886, 0.74498874));
            assert_eq!(test.label_px(700)[11], [627.95668137, 387.47767169, -12.83378146]);
            let truth = test.truth().unwrap();
            assert!((truth.factor_mm_per_px[1399] - 4.162971211403562).abs() < 1e-15);
            let expected = [1579.67677139, 2021.2844369, -4.14921881];
            assert!((0..3).all(|c| (truth.joints_mm[1399][16][c] - expected[c]).abs() < 1e-8));
        }
    }
}

#[test]
fn clips_are_the_reference_s_to_the_last_bit() {
    let Some(formats) = shared("reference/formats/numpy2/motion3d") else { return };
    let expected = golden_json("h36m_eval/expected.json");
    for (half, stride) in [(Half::Train, 9), (Half::Test, 27)] {
        let set = Arc::new(MotionBert::open(&formats.join("h36m_sh_conf_cam_source_final.pkl"), half).unwrap());
        let clips = MotionBertClips::new(set, 27, Some(stride), PLAIN).unwrap();
        let ends: Vec<[u64; 2]> = clips
            .clips()
            .iter()
            .map(|clip| match &clip.frames {
                ClipFrames::Run(range) => [range.start as u64, range.end as u64 - 1],
                ClipFrames::Resampled(_) => panic!("no video is shorter than 27 frames"),
            })
            .collect();
        let golden: Vec<[u64; 2]> = serde_json::from_value(expected["split_n27"][half.name()].clone()).unwrap();
        assert_eq!(ends, golden);

        // the folder that the reference wrote; its training half has a stride of its own
        let folder = ClipFolder::open(&formats.join("H36M-27").join(half.name()), PLAIN).unwrap();
        let mut found = 0;
        for index in 0..folder.len() {
            let reference = folder.sample(0, index).unwrap();
            let same = |i: &usize| clips.sample(0, *i).unwrap() == reference;
            found += usize::from(if half == Half::Test { same(&index) } else { (0..clips.len()).any(|i| same(&i)) });
        }
        println!("{} of {} {} clips are the reference's", found, folder.len(), half.name());
        assert_eq!(found, folder.len());
    }
}

#[test]
fn short_videos_are_resampled_but_the_last() {
    let Some(formats) = shared("reference/formats/numpy2/motion3d") else { return };
    let path = formats.join("h36m_sh_conf_cam_source_final.pkl");
    let train = Arc::new(MotionBert::open(&path, Half::Train).unwrap());
    let clips = MotionBertClips::new(train, 243, None, PLAIN).unwrap();
    let folder = ClipFolder::open(&formats.join("H36M-243/train"), PLAIN).unwrap();
    assert_eq!(clips.len(), folder.len());
    let mut same = 0;
    for index in 0..clips.len() {
        match &clips.clips()[index].frames {
            ClipFrames::Run(_) => same += usize::from(clips.sample(0, index).unwrap() == folder.sample(0, index).unwrap()),
            ClipFrames::Resampled(frames) => {
                assert_eq!((clips.clips()[index].video, frames.len()), (2, 243));
                assert!(frames.is_sorted() && frames.iter().all(|t| (543..643).contains(t)));
            }
        }
    }
    assert_eq!(same, clips.len() - 1);
    let other_seed = MotionBertClips::new(Arc::new(clips.set().clone()), 243, None, ClipOptions { seed: 1, ..PLAIN }).unwrap();
    assert_ne!(clips.clips(), other_seed.clips());
}

#[test]
fn samples_follow_the_options() {
    let dir = tempfile::tempdir().unwrap();
    let set = Arc::new(open(&dir.path().join("set.pkl"), &people::motion_bert(), Half::Train).unwrap());
    let clips = |options| MotionBertClips::new(set.clone(), 20, Some(20), options).unwrap();
    let (plain, rooted) = (clips(PLAIN).sample(0, 1).unwrap(), clips(ClipOptions { root_relative: true, ..PLAIN }).sample(0, 1).unwrap());
    assert_eq!((clips(PLAIN).len(), plain.input.len(), plain.label.len()), (6, 20 * 51, 20 * 51));
    assert!(
        rooted.label.as_chunks::<51>().0.iter().zip(plain.label.as_chunks::<51>().0).all(|(a, b)| (0..51).all(|i| a[i] == b[i] - b[i % 3]))
    );
    let two = clips(ClipOptions { dim_in: 2, ..PLAIN }).sample(0, 1).unwrap();
    assert_eq!((two.input.len(), two.input[..2] == plain.input[..2]), (20 * 34, true));
    let flipped = clips(ClipOptions { flip: 1.0, ..PLAIN }).sample(0, 1).unwrap();
    assert_eq!(flipped.label, pose::normalise::flip_output(&plain.label));
    assert!(MotionBertClips::new(set.clone(), 0, None, PLAIN).is_err());
    let message = MotionBertClips::new(set.clone(), 61, None, PLAIN).map(|clips| clips.len());
    assert_eq!(message.unwrap(), 1, "the first video is resampled, the last left out");
}

pub fn open(path: &Path, set: &Py, half: Half) -> Result<MotionBert, Error> {
    std::fs::write(path, set.pickle()).unwrap();
    MotionBert::open(path, half)
}

#[test]
fn what_is_wrong_with_a_set_is_said_with_file_and_field() {
    type Spoil = fn(&mut Py);
    let sixteen: Vec<usize> = (0..17).filter(|&j| j != 9).collect();
    let cases: [(Spoil, &str); 18] = [
        (|set| set.remove("test"), "'test/source' is missing: expected MotionBERT's Human3.6M pickle"),
        (|set| set.at(&["test"]).remove("joint_2d"), "'test/joint_2d' is missing"),
        (|set| set.at(&["test"]).remove("2.5d_factor"), "'test/2.5d_factor' is missing"),
        (|set| *set.at(&["test", "joint3d_image"]) = Py::text("x"), "'test/joint3d_image' is a string: expected an array of numbers"),
        (
            |set| set.at(&["test", "joint_2d"]).array().1[5 * 34 + 4] = f32::NAN,
            "'test/joint_2d' is NaN at frame 5, joint 2: expected finite pixels",
        ),
        (|set| set.at(&["test", "confidence"]).array().1[17] = f32::INFINITY, "'test/confidence' is inf at frame 1, joint 0"),
        (|set| set.at(&["test", "joints_2.5d_image"]).array().1[3] = f32::NAN, "'test/joints_2.5d_image' is NaN at frame 0, joint 1"),
        (|set| set.at(&["test", "2.5d_factor"]).array().1[9] = 0.0, "'test/2.5d_factor' is 0 at frame 9: expected mm per pixel above 0"),
        (|set| people::scale(set.at(&["test", "2.5d_factor"]), 0.001), "'test/2.5d_factor' is 0.00"),
        (|set| people::scale(set.at(&["test", "joints_2.5d_image"]), 0.001), "'test/joints_2.5d_image' has thighs 0.4"),
        (|set| people::scale(set.at(&["test", "joint3d_image"]), 0.002), "'test/joint3d_image' has thighs 0.1"),
        (|set| people::scale(set.at(&["test", "joint_2d"]), 0.002), "'test/joint_2d' shows people a few pixels high: expected pixels"),
        (
            |set| people::swap_sides(set.at(&["test", "joint_2d"])),
            "'test/joint_2d' has left and right swapped against 'test/joint3d_image'",
        ),
        (
            |set| ["joint_2d", "joint3d_image", "joints_2.5d_image"].iter().for_each(|field| people::swap_sides(set.at(&["test", field]))),
            "'test/joint3d_image' has left and right swapped, or left-handed axes: knees bend backwards",
        ),
        (|set| *set.at(&["test", "camera_name", "60"]) = Py::text("1"), "'test/camera_name' changes at frame 61, within a video"),
        (|set| *set.at(&["test", "source", "119"]) = Py::text("s_09_act_05_subact_02_ca_01"), "'test/source' comes back to"),
        (
            |set| *set.at(&["test", "camera_name"]) = Py::texts(std::iter::repeat_n("999", 2 * FRAMES)),
            "'test/camera_name' is '999' in video 's_09_act_05_subact_02_ca_01'",
        ),
        (
            |set| {
                let (shape, values) = set.at(&["test", "confidence"]).array();
                shape[0] -= 1;
                values.truncate(119 * 17);
            },
            "'test/confidence' has 119 frames and the other fields 120",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.pkl");
    let message = |set: &Py| {
        let message = open(&path, set, Half::Test).unwrap_err().to_string();
        assert!(message.contains("set.pkl: ") && !message.contains('\n'), "{message}");
        message
    };
    assert!(open(&path, &people::motion_bert(), Half::Test).is_ok());
    for (spoil, expected) in cases {
        let mut set = people::motion_bert();
        spoil(&mut set);
        let message = message(&set);
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
    let mut set = people::motion_bert();
    people::reorder(set.at(&["test", "joint_2d"]), &sixteen);
    assert!(message(&set).contains("'test/joint_2d' has 16 joints: expected the 17 of Human3.6M"));

    // without confidences the reference takes 1
    let mut set = people::motion_bert();
    set.at(&["test"]).remove("confidence");
    assert_eq!(open(&path, &set, Half::Test).unwrap().keypoints(3)[4].confidence, 1.0);
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.pkl");
    let bytes = people::motion_bert().pickle();
    for length in [0, 1, 2, 20, 1000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = MotionBert::open(&path, Half::Train).unwrap_err().to_string();
        assert!(message.contains("set.pkl") && !message.contains('\n'), "{length}: {message}");
    }
    assert!(MotionBert::open(&dir.path().join("absent.pkl"), Half::Train).unwrap_err().to_string().contains("absent.pkl: cannot be read"));
    assert!(MotionBert::open(dir.path(), Half::Train).unwrap_err().to_string().contains("is no file"));
}
