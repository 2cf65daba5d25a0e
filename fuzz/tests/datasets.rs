//! The readers of `datasets`: motion files and the field's sets.
#![allow(missing_docs)]

#[allow(dead_code)]
#[path = "../../datasets/tests/datasets/people.rs"]
mod people;
#[allow(dead_code)]
#[path = "../../datasets/tests/datasets/pickles.rs"]
mod pickles;

use std::path::Path;

use datasets::{MocapSet, MotionBert, Mpi3dhp, NoiseRecipe, VideoPose3d, motion_bert::Half, motion_files};
use formats::motion::{self, MotionClip};
use fuzz::{Bench, target};
use pickles::Py;

fn walk() -> Vec<pose::Pose3> {
    datasets::synthetic::walks("walk", 1, 8, 3).unwrap().poses(0).to_vec()
}

fn written(name: &str, write: impl FnOnce(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write(&path);
    std::fs::read(path).unwrap()
}

fn bvh() -> Vec<u8> {
    let poses = walk();
    let times_s: Vec<f64> = (0..poses.len()).map(|t| t as f64 * 0.02).collect();
    written("a.bvh", |path| motion::bvh::write(path, &MotionClip::new(&poses, &times_s).unwrap(), motion::bvh::Unit::Centimetres).unwrap())
}

target!(bvh_file, vec![bvh()], |bench: &Bench, input: &[u8]| motion_files::open_bvh(&bench.file("a.bvh", input), None));

const ASF: &str = ":version 1.10\n:name walker\n:units\n  mass 1.0\n  length 0.45\n  angle deg\n:root\n   order TX TY TZ RX RY RZ\n   axis XYZ\n   \
                   position 0 0 0\n   orientation 0 0 0\n:bonedata\n";

/// CMU's bones that 17 joints need.
fn asf() -> Vec<u8> {
    let bones = [
        ("lhipjoint", "root", "0.6 -0.7 0.2", 2.4),
        ("lfemur", "lhipjoint", "0.3 -0.9 0", 7.2),
        ("ltibia", "lfemur", "0.3 -0.9 0", 7.5),
        ("lfoot", "ltibia", "0.1 -0.4 0.9", 2.2),
        ("rhipjoint", "root", "-0.6 -0.7 0.2", 2.4),
        ("rfemur", "rhipjoint", "-0.3 -0.9 0", 7.2),
        ("rtibia", "rfemur", "-0.3 -0.9 0", 7.5),
        ("rfoot", "rtibia", "-0.1 -0.4 0.9", 2.2),
        ("lowerback", "root", "0 1 0", 2.1),
        ("upperback", "lowerback", "0 1 0", 2.1),
        ("thorax", "upperback", "0 1 0", 2.1),
        ("lowerneck", "thorax", "0 1 0", 1.6),
        ("upperneck", "lowerneck", "0 1 0", 1.6),
        ("head", "upperneck", "0 1 0", 1.6),
        ("lclavicle", "thorax", "0.9 0.3 0", 3.6),
        ("lhumerus", "lclavicle", "1 0 0", 5.0),
        ("lradius", "lhumerus", "1 0 0", 3.3),
        ("lwrist", "lradius", "1 0 0", 1.7),
        ("rclavicle", "thorax", "-0.9 0.3 0", 3.6),
        ("rhumerus", "rclavicle", "-1 0 0", 5.0),
        ("rradius", "rhumerus", "-1 0 0", 3.3),
        ("rwrist", "rradius", "-1 0 0", 1.7),
    ];
    let mut text = ASF.to_owned();
    for (i, (name, _, direction, length)) in bones.iter().enumerate() {
        text += &format!(
            "  begin\n     id {}\n     name {name}\n     direction {direction}\n     length {length}\n     axis 0 0 20 XYZ\n    dof rx ry rz\n    \
             limits (-160.0 20.0)\n  end\n",
            i + 1
        );
    }
    text += ":hierarchy\n  begin\n";
    for (name, parent, ..) in bones {
        text += &format!("    {parent} {name}\n");
    }
    (text + "  end\n").into_bytes()
}

fn amc() -> Vec<u8> {
    let mut text = "#!OML:ASF\n:FULLY-SPECIFIED\n:DEGREES\n".to_owned();
    for t in 1..=12 {
        text += &format!("{t}\nroot 0 17.5 {t} 0 5 0\nlfemur {t} 0 20\nrfemur -{t} 0 -20\nlhumerus 10 {t} -3\nrtibia 5 0 0\n");
    }
    text.into_bytes()
}

target!(asf_file, vec![asf()], |bench: &Bench, input: &[u8]| {
    bench.file("01.asf", input);
    motion_files::open_amc(&bench.file("01_01.amc", &amc()), None)
});

target!(amc_file, vec![amc()], |bench: &Bench, input: &[u8]| {
    bench.file("01.asf", &asf());
    motion_files::open_amc(&bench.file("01_01.amc", input), None)
});

target!(
    mocap_file,
    vec![written("a.npz", |path| datasets::synthetic::walks("walk", 2, 8, 3).unwrap().save(path).unwrap())],
    |bench: &Bench, input: &[u8]| { MocapSet::open(&bench.file("a.npz", input)) }
);

target!(
    noise_recipe,
    vec![std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs/detector-noise.toml")).unwrap()],
    |bench: &Bench, input: &[u8]| { NoiseRecipe::open(&bench.file("a.toml", input)) }
);

fn motion_bert() -> Vec<u8> {
    Py::dict([("train", people::motion_bert_half(false)), ("test", people::motion_bert_half(true))]).pickle()
}

target!(motion_bert_file, vec![motion_bert()], |bench: &Bench, input: &[u8]| {
    let path = bench.file("a.pkl", input);
    let _ = MotionBert::open(&path, Half::Train);
    MotionBert::open(&path, Half::Test)
});

/// An object array's file, around a damaged pickle.
fn object_npz(bench: &Bench, file: &str, members: &[(&str, &[u8])]) -> std::path::PathBuf {
    use std::io::Write as _;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, pickle) in members {
        let header = "{'descr': '|O', 'fortran_order': False, 'shape': (), }\n";
        zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        let head = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), pickle].concat();
        zip.write_all(&head).unwrap();
    }
    bench.file(file, &zip.finish().unwrap().into_inner())
}

target!(mpi_inf_3dhp_file, [false, true].map(|test| people::mpi_inf_3dhp(test).pickle()).to_vec(), |bench: &Bench, input: &[u8]| {
    let path = object_npz(bench, "a.npz", &[("data", input)]);
    let _ = Mpi3dhp::open_test(&path);
    Mpi3dhp::open_train(&path)
});

target!(
    video_pose_3d_files,
    {
        let (positions_2d, metadata, positions_3d) = people::video_pose_3d();
        vec![positions_2d.pickle(), metadata.pickle(), positions_3d.pickle()]
    },
    |bench: &Bench, input: &[u8]| {
        let (positions_2d, metadata, positions_3d) = people::video_pose_3d();
        let right = [positions_2d.pickle(), metadata.pickle(), positions_3d.pickle()];
        for spoilt in 0..3 {
            let part = |i: usize| if i == spoilt { input } else { &right[i] };
            let path_2d = object_npz(bench, "2d.npz", &[("positions_2d", part(0)), ("metadata", part(1))]);
            let path_3d = object_npz(bench, "3d.npz", &[("positions_3d", part(2))]);
            drop(VideoPose3d::open(&path_2d, &path_3d));
        }
    }
);
