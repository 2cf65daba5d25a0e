use std::path::Path;

use datasets::{ClipFolder, ClipOptions, SampleSource};
use pose::normalise::{flip_input, flip_output};

use crate::shared;

const PLAIN: ClipOptions = ClipOptions { dim_in: 3, root_relative: false, flip: 0.0, seed: 0 };

#[test]
fn both_generations_of_numpy_are_read() {
    let Some(formats) = shared("reference/formats") else { return };
    for (folder, clips, frames) in
        [("H36M-243/train", 6, 243), ("H36M-243/test", 6, 243), ("H36M-27/train", 8, 27), ("H36M-27/test", 50, 27)]
    {
        let [one, two] =
            ["numpy1", "numpy2"].map(|numpy| ClipFolder::open(&formats.join(numpy).join("motion3d").join(folder), PLAIN).unwrap());
        assert_eq!((one.len(), one.frames(), two.frames()), (clips, frames, frames), "{folder}");
        for index in 0..clips {
            let sample = one.sample(0, index).unwrap();
            assert_eq!(sample.input.len(), frames * 51);
            assert!(sample.input.chunks_exact(3).all(|k| (0.0..=1.0).contains(&k[2])), "confidences");
            assert_eq!(two.clip(index).unwrap().frames, frames);
        }
    }
}

#[test]
fn samples_are_rooted_and_mirrored_as_the_references_do() {
    let Some(formats) = shared("reference/formats/numpy2/motion3d/H36M-27/train") else { return };
    let open = |options| ClipFolder::open(&formats, options).unwrap();
    let plain = open(PLAIN).sample(0, 0).unwrap();
    let rooted = open(ClipOptions { root_relative: true, ..PLAIN }).sample(0, 0).unwrap();
    for (frame, raw) in rooted.label.as_chunks::<51>().0.iter().zip(plain.label.as_chunks::<51>().0) {
        assert_eq!(frame[..3], [0.0; 3]);
        assert!((0..51).all(|i| frame[i] == raw[i] - raw[i % 3]));
    }
    let flipped = open(ClipOptions { flip: 1.0, ..PLAIN }).sample(0, 0).unwrap();
    assert_eq!((flipped.input, flipped.label), (flip_input(&plain.input, 3), flip_output(&plain.label)));
    let two = open(ClipOptions { dim_in: 2, ..PLAIN }).sample(0, 0).unwrap();
    assert!(two.input.chunks_exact(2).zip(plain.input.chunks_exact(3)).all(|(a, b)| a == &b[..2]));

    let training = open(ClipOptions::training(3));
    let mirrored = (0..64).filter(|&epoch| training.sample(epoch, 0).unwrap().input != plain.input).count();
    assert!((20..44).contains(&mirrored), "about every other: {mirrored}");
    assert_eq!(training.sample(5, 0).unwrap(), training.sample(5, 0).unwrap());
}

#[test]
fn wrong_folders_are_named() {
    let message = |dir: &Path| ClipFolder::open(dir, PLAIN).unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    assert!(message(&dir.path().join("absent")).contains("the clip folder cannot be read"));
    assert!(message(dir.path()).contains("holds no .pkl file"));
    let file = dir.path().join("00000000.pkl");
    for bytes in [&b""[..], b"text, not a pickle", b"\x80\x04}."] {
        std::fs::write(&file, bytes).unwrap();
        let message = message(dir.path());
        assert!(message.contains("00000000.pkl") && !message.contains('\n'), "{message}");
    }
    assert!(ClipFolder::open(dir.path(), ClipOptions { dim_in: 5, ..PLAIN }).is_err());
}

#[test]
fn first_and_last_share_the_clips_among_them() {
    let Some(formats) = shared("reference/formats/numpy2/motion3d") else { return };
    let open = || ClipFolder::open(&formats.join("H36M-27/test"), PLAIN).unwrap();
    let all = open().files().to_vec();
    for share in [0.05, 0.1, 0.3, 0.5, 0.9] {
        let parts = [open().first(1.0 - share).unwrap(), open().last(share).unwrap()];
        assert_eq!(parts.each_ref().map(|part| part.files().to_vec()).concat(), all, "{share}");
    }
    assert!(open().last(0.001).unwrap_err().to_string().contains("of which a share of 0.001 is none"));
}
