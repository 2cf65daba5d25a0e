//! A camera's lens from the file of a calibration: `--intrinsics FILE`.
//!
//! | file | from | what is read |
//! |---|---|---|
//! | `.json` | ours | `{"focal_px": [fx, fy], "principal_px": [cx, cy], "image_size_px": [width, height], "distortion": [k1, k2, p1, p2, k3]}`; distortion may be left out |
//! | `.yml`, `.yaml` | OpenCV, ROS | `image_width`, `image_height`, `camera_matrix`, `distortion_coefficients`, each matrix with its `data` |
//! | `.toml` | Pose2Sim, Anipose, FreeMoCap | see [`crate::calibration`]; of several cameras the one that is called as the video is |
//!
//! Only plain lenses: one of more than five distortion coefficients, or a fisheye, is refused.

use crate::{calibration::Calibration, error::Error};
use pose::{
    ImageSize,
    camera::{Intrinsics, Lens},
};
use serde::Deserialize;
use std::{fs, path::Path};

/// No calibration is larger.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the lens of a camera. `video`: the name of the video, which tells the cameras of one file apart.
///
/// # Errors
/// A file that cannot be read or is larger than 1 MiB, another extension, content that is none of the forms above, numbers that are no lens, a
/// file of several cameras none of which is called as the video is.
pub fn read(path: &Path, video: &Path) -> Result<Lens, Error> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let lens = match extension.as_deref() {
        Some("json") => text(path)?.parse_json(),
        Some("yml" | "yaml") => text(path)?.parse_yaml(),
        Some("toml") => {
            text(path)?; // its size
            one_of(&Calibration::read(path)?, video)
        }
        _ => Err(Error::content("expected the calibration of a camera as .json, .yml, .yaml or .toml, found another extension")),
    };
    let checked = lens.and_then(|lens| lens.validate().map(|()| lens).map_err(|error| Error::content(error.to_string())));
    checked.map_err(|error| error.in_file(path))
}

struct Text(String);

fn text(path: &Path) -> Result<Text, Error> {
    let io = |cause| Error::io("read", path, cause);
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > MAX_BYTES {
        return Err(Error::content(format!("is {bytes} bytes large: expected the calibration of a camera, 1 MiB at most")).in_file(path));
    }
    fs::read_to_string(path).map(Text).map_err(io)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ours {
    focal_px: [f32; 2],
    principal_px: [f32; 2],
    image_size_px: [f64; 2],
    #[serde(default)]
    distortion: Vec<f64>,
}

/// OpenCV's `FileStorage` and ROS's `camera_info`.
#[derive(Deserialize)]
struct OpenCv {
    image_width: f64,
    image_height: f64,
    camera_matrix: Matrix,
    distortion_coefficients: Option<Matrix>,
    distortion_model: Option<String>,
}

#[derive(Deserialize)]
struct Matrix {
    data: Vec<f64>,
}

impl Text {
    fn parse_json(&self) -> Result<Lens, Error> {
        let ours: Ours = serde_json::from_str(&self.0).map_err(|error| {
            Error::content(format!(
                "expected {{\"focal_px\": [fx, fy], \"principal_px\": [cx, cy], \"image_size_px\": [width, height], \"distortion\": [..]}}, found: {error}"
            ))
        })?;
        let intrinsics = Intrinsics { focal_px: ours.focal_px, centre_px: ours.principal_px };
        Ok(Lens { image: size(ours.image_size_px)?, intrinsics, distortion: distortion(&ours.distortion)? })
    }

    fn parse_yaml(&self) -> Result<Lens, Error> {
        // OpenCV writes a directive of its own ("%YAML:1.0") and its own tag
        let directives = |line: &&str| !line.starts_with('%');
        let plain: String =
            self.0.lines().filter(directives).flat_map(|line| [line, "\n"]).collect::<String>().replace("!!opencv-matrix", "");
        let file: OpenCv = serde_yaml_ng::from_str(&plain).map_err(|error| {
            Error::content(format!(
                "expected image_width, image_height, camera_matrix and distortion_coefficients as OpenCV writes them: {error}"
            ))
        })?;
        if let Some(model) = file.distortion_model.filter(|model| model != "plumb_bob") {
            return Err(Error::content(format!("the distortion model is '{model}': expected 'plumb_bob', OpenCV's plain one")));
        }
        let [fx, _, cx, _, fy, cy, _, _, _] = file.camera_matrix.data[..] else {
            let found = file.camera_matrix.data.len();
            return Err(Error::content(format!("'camera_matrix' has {found} numbers: expected 9, [fx, 0, cx, 0, fy, cy, 0, 0, 1]")));
        };
        let intrinsics = Intrinsics { focal_px: [fx as f32, fy as f32], centre_px: [cx as f32, cy as f32] };
        let coefficients = file.distortion_coefficients.map(|matrix| matrix.data).unwrap_or_default();
        Ok(Lens { image: size([file.image_width, file.image_height])?, intrinsics, distortion: distortion(&coefficients)? })
    }
}

fn size([width, height]: [f64; 2]) -> Result<ImageSize, Error> {
    let pixels = |v: f64| (1.0..=65536.0).contains(&v).then_some(v.round() as u32);
    match (pixels(width), pixels(height)) {
        (Some(width_px), Some(height_px)) => Ok(ImageSize { width_px, height_px }),
        _ => Err(Error::content(format!("the pictures are {width} x {height} large: expected pixels, 1 to 65536"))),
    }
}

fn distortion(coefficients: &[f64]) -> Result<[f64; 5], Error> {
    if coefficients.len() > 5 && coefficients[5..].iter().any(|k| *k != 0.0) {
        return Err(Error::content(format!("the lens has {} distortion coefficients: expected k1, k2, p1, p2, k3", coefficients.len())));
    }
    let mut five = [0.0; 5];
    five.iter_mut().zip(coefficients).for_each(|(to, from)| *to = *from);
    Ok(five)
}

/// The camera of a file of one, or the one that is called as the video is, but for case, zeros before numbers, `_`, `-` and spaces.
fn one_of(calibration: &Calibration, video: &Path) -> Result<Lens, Error> {
    if let [only] = &calibration.cameras[..] {
        return Ok(only.lens());
    }
    let wanted = plain_name(&video.file_stem().unwrap_or_default().to_string_lossy());
    let called = calibration.cameras.iter().find(|camera| plain_name(&camera.name) == wanted);
    called.map(|camera| camera.lens()).ok_or_else(|| {
        let names: Vec<&str> = calibration.cameras.iter().map(|camera| camera.name.as_str()).collect();
        Error::content(format!("has the cameras {}: expected one called as the video, '{wanted}'; rename the video", names.join(", ")))
    })
}

fn plain_name(name: &str) -> String {
    let mut plain = String::new();
    for c in name.to_lowercase().chars().filter(|c| c.is_alphanumeric()) {
        let leading = !plain.ends_with(|before: char| before.is_ascii_digit());
        // "cam_01" and "cam1"
        if !(c == '0' && leading) {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, content: &str, video: &str) -> Result<Lens, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        read(&path, Path::new(video))
    }

    const JSON: &str =
        r#"{"focal_px": [1680.0, 1681.0], "principal_px": [540, 960], "image_size_px": [1088, 1920], "distortion": [-0.05, 0.02]}"#;
    /// As `cv2.FileStorage` writes it.
    const OPENCV: &str = "%YAML:1.0\n---\nimage_width: 1088\nimage_height: 1920\ncamera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   \
        data: [ 1680., 0., 540., 0., 1681., 960., 0., 0., 1. ]\ndistortion_coefficients: !!opencv-matrix\n   rows: 1\n   cols: 5\n   dt: d\n   \
        data: [ -5.0e-02, 2.0e-02, 0., 0., 0. ]\n";
    const TOML: &str = "[cam_01]\nname = \"cam_01\"\nsize = [1088.0, 1920.0]\nmatrix = [[1680.0, 0.0, 540.0], [0.0, 1681.0, 960.0], [0.0, 0.0, 1.0]]\n\
        distortions = [-0.05, 0.02, 0.0, 0.0]\nrotation = [1.2, 0.7, -0.6]\ntranslation = [-0.6, -0.4, 4.0]\n";

    fn expected() -> Lens {
        Lens {
            image: ImageSize { width_px: 1088, height_px: 1920 },
            intrinsics: Intrinsics { focal_px: [1680.0, 1681.0], centre_px: [540.0, 960.0] },
            distortion: [-0.05, 0.02, 0.0, 0.0, 0.0],
        }
    }

    #[test]
    fn all_forms_say_the_same() {
        assert_eq!(read_text("lens.json", JSON, "a.mp4").unwrap(), expected());
        assert_eq!(read_text("lens.yml", OPENCV, "a.mp4").unwrap(), expected());
        let ros = OPENCV.replace("%YAML:1.0\n---\n", "distortion_model: plumb_bob\n").replace(" !!opencv-matrix", "");
        assert_eq!(read_text("lens.yaml", &ros, "a.mp4").unwrap(), expected());
        assert_eq!(read_text("Calib.toml", TOML, "a.mp4").unwrap(), expected());
        let two = format!("{TOML}{}", TOML.replace("cam_01", "cam_02").replace("1680.0", "1500.0"));
        assert_eq!(read_text("Calib.toml", &two, "clips/cam1.mp4").unwrap(), expected());
        assert_eq!(read_text("Calib.toml", &two, "Cam02.mp4").unwrap().intrinsics.focal_px[0], 1500.0);
    }

    #[test]
    fn what_is_wrong_is_one_sentence() {
        let two = format!("{TOML}{}", TOML.replace("cam_01", "cam_02"));
        for (name, content, expected) in [
            ("lens.json", "{".to_owned(), "expected {\"focal_px\""),
            ("lens.json", JSON.replace("[540, 960]", "[540]"), "expected {\"focal_px\""),
            ("lens.json", JSON.replace("focal_px", "focal_mm"), "focal_mm"),
            ("lens.json", JSON.replace("1680.0", "1.68"), "focal length: expected pixels"),
            ("lens.json", JSON.replace("[1088, 1920]", "[0, 1920]"), "the pictures are 0 x 1920 large"),
            ("lens.json", JSON.replace("[-0.05, 0.02]", "[1, 2, 3, 4, 5, 6]"), "6 distortion coefficients"),
            ("lens.yml", "image_width: 3".to_owned(), "expected image_width"),
            ("lens.yml", OPENCV.replace("540., 0., 1681.", "540., 1681."), "'camera_matrix' has 8 numbers"),
            ("lens.yml", format!("{OPENCV}distortion_model: equidistant\n"), "'equidistant'"),
            ("Calib.toml", "[cam".to_owned(), "is no TOML"),
            ("Calib.toml", "fps = 3".to_owned(), "has no camera"),
            ("Calib.toml", two, "has the cameras cam_01, cam_02: expected one called as the video, 'a'"),
            ("lens.xml", String::new(), ".json, .yml, .yaml or .toml"),
        ] {
            let message = read_text(name, &content, "a.mp4").unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains(name) && !message.contains('\n'), "{message}: {expected}");
        }
        assert!(read(Path::new("absent.json"), Path::new("a.mp4")).unwrap_err().to_string().contains("cannot read absent.json"));
        let large = format!("{JSON}{}", " ".repeat(1 << 20));
        assert!(read_text("lens.json", &large, "a.mp4").unwrap_err().to_string().contains("1 MiB"));
    }
}
