use std::path::Path;

use datasets::{ClipSampler, Error, SampleSource, SamplerOptions, VideoPose3d};

use crate::people::{self, FRAMES};
use crate::pickles::{Py, write_npz};
use crate::shared;

#[test]
fn both_numpys_are_read_to_the_values_of_numpy() {
    let Some(formats) = shared("reference/formats") else { return };
    for numpy in ["numpy1", "numpy2"] {
        let folder = formats.join(numpy).join("videopose3d");
        let path_3d = folder.join("data_3d_h36m.npz");
        for file in ["data_2d_h36m_cpn_ft_h36m_dbb.npz", "data_2d_h36m_gt.npz"] {
            let set = VideoPose3d::open(&folder.join(file), &path_3d).unwrap();
            let takes: Vec<_> = set.recordings().iter().map(|r| (r.subject.as_str(), r.action.as_str(), r.world_mm.len())).collect();
            assert_eq!(takes, [("S1", "Directions 1", 60), ("S1", "Walking", 45), ("S9", "Directions 1", 60), ("S9", "Walking", 45)]);
        }
        let set = VideoPose3d::open(&folder.join("data_2d_h36m_cpn_ft_h36m_dbb.npz"), &path_3d).unwrap();
        let walking = &set.recordings()[3];
        let (hip, shoulder) = (walking.world_mm[10][0], walking.world_mm[10][14]); // joints 0 and 25 of the file
        let expected = [[45.1876, 10.81306, 906.8385], [-83.79881, -32.59038, 1096.6388]];
        assert!([hip, shoulder].iter().zip(expected).all(|(a, b)| (0..3).all(|c| (a[c] - b[c]).abs() < 1e-3)), "{hip:?} {shoulder:?}");
        assert_eq!(walking.cameras[2].joints_px[43][16], [1177.2834, 1177.6603]);
        assert_eq!((walking.cameras[0].image.height_px, walking.cameras[1].image.height_px), (1002, 1000));
        // one camera's stream is a frame shorter
        assert_eq!([0, 1, 2, 3].map(|camera| walking.frames(camera)), [45, 45, 44, 45]);

        let mock = folder.join("data_2d_h36m_cpn_ft_h36m_dbb_mock.npz");
        let message = VideoPose3d::open(&mock, &path_3d).unwrap_err().to_string();
        assert!(message.contains("'positions_2d' is a tensor of shape [4, 50, 17, 2]: expected a dictionary of subjects"), "{message}");
    }
}

fn open(dir: &Path, (positions_2d, metadata, positions_3d): &(Py, Py, Py)) -> Result<VideoPose3d, Error> {
    let (path_2d, path_3d) = (dir.join("data_2d.npz"), dir.join("data_3d.npz"));
    write_npz(&path_2d, &[("positions_2d", positions_2d), ("metadata", metadata)]);
    write_npz(&path_3d, &[("positions_3d", positions_3d)]);
    VideoPose3d::open(&path_2d, &path_3d)
}

#[test]
fn its_motion_can_be_seen_by_random_cameras() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path(), &people::video_pose_3d()).unwrap();
    let recording = &set.recordings()[0];
    assert_eq!([0, 2].map(|camera| recording.frames(camera)), [FRAMES, FRAMES - 1]);
    let mocap = set.mocap(&["S1"]).unwrap();
    assert_eq!((mocap.fps(), mocap.frames()), (50.0, FRAMES));
    let sample = ClipSampler::new(mocap.into(), SamplerOptions::new(9, 0)).unwrap().sample(0, 0).unwrap();
    assert_eq!(sample.label.len(), 9 * 51);
    assert!(set.mocap(&["S9"]).unwrap_err().to_string().contains("has no take of S9"));
}

#[test]
fn what_is_wrong_with_a_set_is_said_with_file_and_field() {
    type Spoil = fn(&mut (Py, Py, Py));
    const TAKE: [&str; 2] = ["S1", "Walking"];
    let cases: [(Spoil, &str); 12] = [
        (|set| *set.1.at(&["layout_name"]) = Py::text("coco"), "data_2d.npz: 'metadata/layout_name' is 'coco': expected 'h36m'"),
        (|set| *set.1.at(&["num_joints"]) = Py::Int(16), "'metadata/num_joints' is 16: expected 17"),
        (
            |set| {
                let Py::List(sides) = set.1.at(&["keypoints_symmetry"]) else { unreachable!() };
                sides.swap(0, 1);
            },
            "(left and right are swapped): expected the left joints [4, 5, 6, 11, 12, 13]",
        ),
        (
            |set| people::reorder(set.0.at(&["S1", "Walking", "1"]), &[0; 16]),
            "data_2d.npz: 'positions_2d/S1/Walking/55011271' has 16 joints",
        ),
        (|set| set.0.at(&["S1", "Walking", "0"]).array().1[35] = f32::NAN, "'positions_2d/S1/Walking/54138969' is NaN at frame 1, joint 0"),
        (
            |set| people::scale(set.0.at(&["S1", "Walking", "3"]), 0.001),
            "'positions_2d/S1/Walking/60457274' has no coordinate above 2: expected pixels",
        ),
        (|set| *set.0.at(&TAKE) = Py::List(vec![]), "'positions_2d/S1/Walking' has 0 cameras: expected 4"),
        (
            |set| people::reorder(set.2.at(&TAKE), &[0; 16]),
            "data_3d.npz: 'positions_3d/S1/Walking' has shape [60, 16, 3]: expected (frames, 32, 3)",
        ),
        (
            |set| set.2.at(&TAKE).array().1[7] = f32::INFINITY,
            "'positions_3d/S1/Walking' is inf at frame 0, joint 2: expected finite metres",
        ),
        (|set| people::scale(set.2.at(&TAKE), 1000.0), "so it seems to be in millimetres: expected metres, divide by 1000"),
        (
            |set| people::reorder(set.2.at(&TAKE), &[0, 6, 7, 8, 1, 2, 3, 12, 13, 14, 15, 25, 26, 27, 17, 18, 19]),
            "data_3d.npz: 'positions_3d' has left and right swapped",
        ),
        (|set| set.0 = Py::dict([("S5", Py::dict([("Eating", set.0.at(&TAKE).clone())]))]), "has no subject and action in common with"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (spoil, expected) in cases {
        let mut set = people::video_pose_3d();
        spoil(&mut set);
        let message = open(dir.path(), &set).unwrap_err().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message} lacks {expected}");
    }
    assert!(open(dir.path(), &people::video_pose_3d()).is_ok());
    let path_3d = dir.path().join("data_3d.npz");
    let bytes = std::fs::read(&path_3d).unwrap();
    for length in [0, 50, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path_3d, &bytes[..length]).unwrap();
        let message = VideoPose3d::open(&dir.path().join("data_2d.npz"), &path_3d).unwrap_err().to_string();
        assert!(message.contains("data_3d.npz") && !message.contains('\n'), "{length}: {message}");
    }
}
