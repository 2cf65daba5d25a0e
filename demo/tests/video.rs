//! Reading and writing videos: rotation, variable frame rate, times. Needs the `ffmpeg` program to make its clips, and says
//! so where it is absent.

#![allow(clippy::print_stdout, reason = "a test says what it skips")]

use std::path::{Path, PathBuf};
use std::process::Command;

use demo::video::{Error, VideoReader, VideoWriter264};
use opencv::core::{CV_8UC3, Mat, MatTraitConst as _, Scalar, Size, Vec3b};
use tempfile::TempDir;

/// Runs ffmpeg with these arguments (separated by spaces) and an output file; `None` where there is no ffmpeg.
fn ffmpeg(folder: &TempDir, arguments: &str, name: &str) -> Option<PathBuf> {
    let path = folder.path().join(name);
    let arguments = arguments.replace("FOLDER", &folder.path().to_string_lossy());
    let output = Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments.split(' ')).arg(&path).output();
    let Ok(output) = output else {
        println!("skipped: the program ffmpeg is absent");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(path)
}

/// Times of all frames, and the last picture.
fn read_all(path: &Path) -> (Vec<f64>, Mat) {
    let mut reader = VideoReader::open(path).expect("a video");
    let (mut times_s, mut frame) = (Vec::new(), Mat::default());
    while let Some(time_s) = reader.read(&mut frame).expect("a frame") {
        times_s.push(time_s);
    }
    (times_s, frame)
}

#[test]
fn a_phone_video_is_turned_upright() {
    let folder = tempfile::tempdir().expect("a folder");
    // Red above, blue below, 64 x 96, stored lying on its side as phones do.
    let lying = "-f lavfi -i color=red:s=64x48:d=0.2:r=30 -f lavfi -i color=blue:s=64x48:d=0.2:r=30 \
                 -filter_complex [0][1]vstack,transpose=cclock -pix_fmt yuv420p";
    if ffmpeg(&folder, lying, "lying.mp4").is_none() {
        return;
    }
    for rotation in [90, 180, 270] {
        let tagged = format!("-i FOLDER/lying.mp4 -c copy -metadata:s:v:0 rotate={rotation}");
        let Some(path) = ffmpeg(&folder, &tagged, "phone.mp4") else { return };
        // What FFmpeg itself shows is what every player shows.
        let Some(reference) = ffmpeg(&folder, "-i FOLDER/phone.mp4 -frames:v 1", "reference.png") else { return };
        let reference = opencv::imgcodecs::imread_def(&reference).expect("a picture");
        let (times_s, frame) = read_all(&path);
        assert_eq!(times_s.len(), 6);
        assert_eq!((frame.cols(), frame.rows()), (reference.cols(), reference.rows()), "rotation {rotation}");
        for (row, column) in [(10, 10), (frame.rows() - 10, frame.cols() - 10)] {
            let pixel = |picture: &Mat| *picture.at_2d::<Vec3b>(row, column).expect("a pixel");
            let (found, wanted) = (pixel(&frame), pixel(&reference));
            let near = (0..3).all(|k| found[k].abs_diff(wanted[k]) < 30);
            assert!(near, "rotation {rotation}: {found:?} is not {wanted:?}");
        }
    }
}

#[test]
fn a_variable_frame_rate_keeps_its_times() {
    let folder = tempfile::tempdir().expect("a folder");
    // 30 fps for ten frames, then every third.
    let arguments = "-f lavfi -i testsrc=s=64x48:d=2:r=30 -vf select=lt(n\\,10)+not(mod(n\\,3)) -vsync vfr -pix_fmt yuv420p";
    let Some(path) = ffmpeg(&folder, arguments, "variable.mp4") else { return };
    let (times_s, _) = read_all(&path);
    let expected: Vec<f64> = (0..60).filter(|n| *n < 10 || n % 3 == 0).map(|n| f64::from(n) / 30.0).collect();
    assert_eq!(times_s.len(), expected.len());
    for (found, expected) in times_s.iter().zip(&expected) {
        assert!((found - expected).abs() < 2e-3, "{found} is not {expected}: {times_s:?}");
    }
}

#[test]
fn a_stream_of_unknown_length_is_read_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = "-f lavfi -i testsrc=s=64x48:d=1:r=25 -c:v mpeg4 -f matroska -live 1";
    let Some(path) = ffmpeg(&folder, arguments, "live.mkv") else { return };
    let (times_s, _) = read_all(&path);
    assert_eq!(times_s.len(), 25);
    assert!(times_s.windows(2).all(|pair| pair[1] > pair[0]));
}

#[test]
fn sound_alone_is_no_video() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(path) = ffmpeg(&folder, "-f lavfi -i sine=d=0.5", "sound.wav") else { return };
    assert!(matches!(VideoReader::open(&path), Err(Error::NotAVideo(_))));
}

#[test]
fn what_is_written_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("written.mp4");
    let size = Size::new(320, 240);
    let mut writer = VideoWriter264::create(&path, 29.97, size).expect("a writer");
    for shade in 0..20 {
        let frame = Mat::new_size_with_default(size, CV_8UC3, Scalar::all(f64::from(shade) * 10.0)).expect("a picture");
        writer.write(&frame).expect("a frame");
    }
    writer.finish().expect("a whole file");
    let (times_s, frame) = read_all(&path);
    assert_eq!(times_s.len(), 20);
    assert!((times_s[19] - 19.0 / 29.97).abs() < 1e-3);
    assert!(frame.at_2d::<Vec3b>(100, 100).expect("a pixel")[0] > 170);

    let nowhere = folder.path().join("absent/written.mp4");
    assert!(matches!(VideoWriter264::create(&nowhere, 30.0, size), Err(Error::CannotCreate(_))));
}
