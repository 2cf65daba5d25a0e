//! The parsers of `formats`.
#![allow(missing_docs)]

use std::{
    io::{Read as _, Write as _},
    path::Path,
};

use formats::{
    Data, StateDict, Tensor,
    keypoints::{self, DetectorClip, LONGEST_STREAM_ID, PersonChoice},
    npy, npz, pickle, pth,
};
use fuzz::{Bench, target};
use pose::{ImageSize, Keypoint, KeypointClip, joint_map::Source};

fn fixtures(extension: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../formats/tests/fixtures"));
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// What lies in archives, member by member: damage to an archive's bytes mostly ends at a check sum, this does not.
fn members(archives: &[Vec<u8>], extension: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for archive in archives {
        let Ok(mut archive) = zip::ZipArchive::new(std::io::Cursor::new(archive)) else { continue };
        for i in 0..archive.len() {
            let mut member = archive.by_index(i).unwrap();
            if member.name().ends_with(extension) {
                let mut bytes = Vec::new();
                member.read_to_end(&mut bytes).unwrap();
                found.push(bytes);
            }
        }
    }
    found
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

target!(pickle_bytes, fixtures("pkl"), |_: &Bench, input: &[u8]| {
    let _ = pickle::read_at(input, &["train", "joint3d_image"]);
    pickle::read(input).map(|value| StateDict::from_checkpoint(&value).is_ok())
});

target!(pth_file, fixtures("pth"), |bench: &Bench, input: &[u8]| pth::read(&bench.file("a.pth", input)));

target!(pth_pickle, members(&fixtures("pth"), "data.pkl"), |bench: &Bench, input: &[u8]| {
    let numbers = [0u8; 256];
    let file = archive(&[
        ("archive/data.pkl", input),
        ("archive/data/0", &numbers[..]),
        ("archive/data/1", &numbers[..]),
        ("archive/version", &b"3\n"[..]),
    ]);
    pth::read(&bench.file("a.pth", &file)).map(|value| StateDict::from_checkpoint(&value).is_ok())
});

target!(npy_file, fixtures("npy"), |bench: &Bench, input: &[u8]| {
    let path = bench.file("a.npy", input);
    let _ = npy::read(&path);
    npy::read_value(&path)
});

target!(npz_file, fixtures("npz"), |bench: &Bench, input: &[u8]| {
    let path = bench.file("a.npz", input);
    let _ = (npz::names(&path), npz::read_values(&path), npz::get_value(&path, "a"));
    npz::read(&path)
});

const IMAGE: ImageSize = ImageSize { width_px: 640, height_px: 480 };

fn clip() -> KeypointClip {
    let frame = |t: usize| std::array::from_fn(|j| Keypoint::new(300.0 + (j * t) as f32, 200.0 + j as f32, if j == t { 0.0 } else { 0.9 }));
    KeypointClip::from_fps((0..4).map(frame).collect(), 25.0, IMAGE).unwrap()
}

fn written(name: &str, write: impl FnOnce(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write(&path);
    std::fs::read(path).unwrap()
}

fn keypoint_json() -> Vec<Vec<u8>> {
    let ours = written("a.json", |path| keypoints::write_json(path, &clip()).unwrap());
    let other = br#"{"skeleton":"coco17","fps":30,"width":640,"height":480,"frames":[[[1,2,0.5],null,[3,4]],null]}"#.to_vec();
    vec![ours, other]
}

target!(keypoint_json_file, keypoint_json(), |bench: &Bench, input: &[u8]| keypoints::read(&bench.file("a.json", input)));

target!(keypoint_npz_file, vec![written("a.npz", |path| keypoints::write_npz(path, &clip()).unwrap())], |bench: &Bench, input: &[u8]| {
    keypoints::read(&bench.file("a.npz", input))
});

// each member by itself, in an archive whose check sums are right
target!(
    keypoint_npz_members,
    members(&[written("a.npz", |path| keypoints::write_npz(path, &clip()).unwrap())], ".npy"),
    |bench: &Bench, input: &[u8]| {
        let size = written("size.npy", |path| npy::write(path, &Tensor::new([2], Data::I64(vec![640, 480])).unwrap()).unwrap());
        let of = |name: &str| keypoints::read(&bench.file("a.npz", &archive(&[(name, input), ("image_size.npy", &size[..])])));
        let _ = (of("keypoints.npy"), of("times_s.npy"));
        of("keypoints_px.npy")
    }
);

fn detector() -> DetectorClip {
    DetectorClip { image: IMAGE, fps: 25.0, person: PersonChoice::default() }
}

target!(
    alphapose_file,
    vec![
        {
            let joints: Vec<String> = (0..17).map(|j| format!("{},{},0.9", 100 + 9 * j, 200 + 7 * j)).collect();
            let entry =
                |frame: usize| format!(r#"{{"image_id":"{frame}.jpg","category_id":1,"keypoints":[{}],"score":2.5}}"#, joints.join(","));
            format!("[{},{},{}]", entry(0), entry(1), entry(1)).into_bytes()
        },
        br#"[{"image_id":7,"keypoints":[]}]"#.to_vec()
    ],
    |bench: &Bench, input: &[u8]| keypoints::read_alphapose(&bench.file("alphapose-results.json", input), &detector())
);

target!(
    openpose_file,
    vec![
        {
            let joints: Vec<String> = (0..25).map(|j| format!("{},{},0.9", 100 + 9 * j, 200 + 7 * j)).collect();
            format!(r#"{{"version":1.3,"people":[{{"person_id":[-1],"pose_keypoints_2d":[{}]}}]}}"#, joints.join(",")).into_bytes()
        },
        br#"{"people":[]}"#.to_vec()
    ],
    |bench: &Bench, input: &[u8]| {
        let file = bench.file("walk_000000000001_keypoints.json", input);
        keypoints::read_openpose(file.parent().unwrap(), &detector())
    }
);

target!(
    stream_line,
    vec![
        {
            let joints: Vec<String> = (0..17).map(|j| format!("[{},{}.5,0.9]", 100 + 9 * j, 200 + 7 * j)).collect();
            format!(r#"{{"time_s":1.25,"keypoints":[{}],"id":"left"}}"#, joints.join(",")).into_bytes()
        },
        br#"{"time_s":2,"keypoints":null,"id":7}"#.to_vec(),
        br#"{"end":true,"id":"left"}"#.to_vec(),
        vec![b'['; 100_000]
    ],
    |_: &Bench, input: &[u8]| {
        for source in [Source::H36m17, Source::BlazePose33, Source::Coco17] {
            let (id, event) = keypoints::parse_line(input, source);
            assert!(id.is_none_or(|id| id.to_string().len() <= LONGEST_STREAM_ID));
            if let Err(error) = event {
                let message = error.to_string();
                assert!(!message.contains('\n') && message.len() < 500, "{message}");
            }
        }
    }
);
