use std::path::Path;
use std::sync::Arc;

use datasets::{ClipOptions, Error, Mpi3dhp, Mpi3dhpClips, SampleSource};

use crate::people;
use crate::pickles::{Py, write_npz};
use crate::shared;

const PLAIN: ClipOptions = ClipOptions { dim_in: 3, root_relative: true, flip: 0.0, seed: 0 };

fn golden(name: &str) -> Vec<f64> {
    formats::npy::read(format!("{}/../tests/golden/metrics/3dhp_items/{name}.npy", env!("CARGO_MANIFEST_DIR")).as_ref()).unwrap().to_f64()
}

fn close(name: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let worst = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    println!("{name}: largest difference {worst:e}");
    assert!(worst <= tolerance, "{name}: {worst}");
}

#[test]
fn items_are_the_reference_s() {
    let Some(formats) = shared("reference/formats") else { return };
    for numpy in ["numpy1", "numpy2"] {
        let folder = formats.join(numpy).join("motion3d");
        let train = Arc::new(Mpi3dhp::open_train(&folder.join("data_train_3dhp.npz")).unwrap());
        assert_eq!((train.sequences().len(), train.sequences()[15].fps), (16, Some(50.0)));
        let sequence = train.sequences().iter().find(|s| s.name == "S1 Seq2" && s.camera == "5").unwrap();
        let (pixel, point) = (sequence.joints_px(60)[9], sequence.camera_mm(60)[9]);
        assert_eq!((pixel, point), ([893.08573852, 1240.44327521], [1309.42250321, 327.11223459, 5121.56708402]));

        let clips = Mpi3dhpClips::new(train, 27, Some(9), PLAIN).unwrap();
        assert_eq!(clips.len(), 200);
        for (name, index) in [("train3", 3), ("train_last", 199)] {
            let sample = clips.sample(0, index).unwrap();
            close(&format!("{name} input"), &sample.input, &golden(&format!("{name}_input")), 1e-6);
            close(&format!("{name} target"), &sample.label, &golden(&format!("{name}_target")), 1e-6);
        }

        let test = Mpi3dhp::open_test(&folder.join("data_test_3dhp.npz")).unwrap();
        let frames = test.valid_frames();
        assert_eq!(frames.len(), 193);
        for index in [0, 5, 192] {
            let (s, t) = frames[index];
            let sequence = &test.sequences()[s];
            let expected = golden(&format!("test{index}_input"));
            close(&format!("test {index} input"), &sequence.window(t, 27), &expected[..27 * 51], 1e-6);
            // rooted, but the root itself in place
            let pose = sequence.camera_mm(t);
            let rooted: Vec<f32> =
                (0..17).flat_map(|j| (0..3).map(move |c| if j == 14 { pose[j][c] } else { pose[j][c] - pose[14][c] })).collect();
            close(&format!("test {index} target"), &rooted, &golden(&format!("test{index}_gt3d")), 1e-3);
        }
        assert_eq!(test.sequences()[1].image.width_px, 1920);
    }
}

#[test]
fn a_mirrored_sample_is_the_reference_s_mirrored_input() {
    let Some(formats) = shared("reference/formats/numpy2/motion3d") else { return };
    // the second half of each test input is the mirrored window
    let expected = golden("test0_input");
    let mirrored: Vec<f32> = expected[27 * 51..].iter().map(|v| *v as f32).collect();
    let left = [5, 6, 7, 11, 12, 13];
    let right = [2, 3, 4, 8, 9, 10];
    let swap = |j: usize| {
        left.iter()
            .zip(right)
            .find_map(|(&l, r)| {
                if j == l {
                    Some(r)
                } else if j == r {
                    Some(l)
                } else {
                    None
                }
            })
            .unwrap_or(j)
    };
    let test = Mpi3dhp::open_test(&formats.join("data_test_3dhp.npz")).unwrap();
    let window = test.sequences()[0].window(test.valid_frames()[0].1, 27);
    let flipped: Vec<f32> =
        window.as_chunks::<51>().0.iter().flat_map(|f| (0..17).flat_map(|j| [-f[3 * swap(j)], f[3 * swap(j) + 1], 1.0])).collect();
    assert!(flipped.iter().zip(&mirrored).all(|(a, b)| (a - b).abs() < 1e-6));

    let train = Arc::new(Mpi3dhp::open_train(&formats.join("data_train_3dhp.npz")).unwrap());
    let plain = Mpi3dhpClips::new(train.clone(), 9, None, PLAIN).unwrap().sample(0, 4).unwrap();
    let flipped = Mpi3dhpClips::new(train, 9, None, ClipOptions { flip: 1.0, ..PLAIN }).unwrap().sample(0, 4).unwrap();
    for (a, b) in flipped.label.as_chunks::<51>().0.iter().zip(plain.label.as_chunks::<51>().0) {
        assert!((0..17).all(|j| a[3 * j] == -b[3 * swap(j)] && a[3 * j + 1] == b[3 * swap(j) + 1]));
    }
}

fn open(path: &Path, set: &Py, test: bool) -> Result<Mpi3dhp, Error> {
    write_npz(path, &[("data", set)]);
    if test { Mpi3dhp::open_test(path) } else { Mpi3dhp::open_train(path) }
}

#[test]
fn what_is_wrong_with_a_set_is_said_with_file_and_field() {
    type Spoil = fn(&mut Py);
    fn each(set: &mut Py, field: &str, spoil: fn(&mut Py)) {
        ["0", "8"].iter().for_each(|camera| spoil(set.at(&["S1 Seq1", "0", camera, field])));
    }
    fn swap(array: &mut Py) {
        people::reorder(array, &[0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14, 15, 16]);
    }
    let cases: [(Spoil, &str); 9] = [
        (|set| set.at(&["S1 Seq1", "0", "8"]).remove("data_3d"), "'data/S1 Seq1/8/data_3d' is missing"),
        (|set| people::reorder(set.at(&["S1 Seq1", "0", "0", "data_2d"]), &[0; 16]), "'data/S1 Seq1/0/data_2d' has 16 joints"),
        (|set| people::reorder(set.at(&["S1 Seq1", "0", "0", "data_3d"]), &[0; 28]), "'data/S1 Seq1/0/data_3d' has 28 joints: expected 17"),
        (|set| set.at(&["S1 Seq1", "0", "8", "data_3d"]).array().1[51] = f32::NAN, "'data/S1 Seq1/8/data_3d' is NaN at frame 1, joint 0"),
        (|set| each(set, "data_3d", |array| people::scale(array, 0.001)), "'data_3d' has thighs 0.4"),
        (
            |set| each(set, "data_2d", |array| people::scale(array, 0.0005)),
            "'data/S1 Seq1/0/data_2d' has no coordinate above 2: expected pixels",
        ),
        (|set| each(set, "data_2d", swap), "'data_2d' has left and right swapped against 'data_3d'"),
        (
            |set| {
                each(set, "data_2d", swap);
                each(set, "data_3d", swap);
            },
            "'data_3d' has left and right swapped, or left-handed axes",
        ),
        (|set| *set = people::mpi_inf_3dhp(true), "is this the test file?"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data_train_3dhp.npz");
    assert!(open(&path, &people::mpi_inf_3dhp(false), false).is_ok());
    for (spoil, expected) in cases {
        let mut set = people::mpi_inf_3dhp(false);
        spoil(&mut set);
        let message = open(&path, &set, false).unwrap_err().to_string();
        assert!(
            message.contains(expected) && message.contains("data_train_3dhp.npz") && !message.contains('\n'),
            "{message} lacks {expected}"
        );
    }
    let mut set = people::mpi_inf_3dhp(true);
    set.at(&["TS5"]).remove("valid");
    assert!(open(&path, &set, true).unwrap_err().to_string().contains("'data/TS5/valid' is missing"));

    write_npz(&path, &[("data", &people::mpi_inf_3dhp(false))]);
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 3, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = Mpi3dhp::open_train(&path).unwrap_err().to_string();
        assert!(message.contains("data_train_3dhp.npz") && !message.contains('\n'), "{length}: {message}");
    }
}
