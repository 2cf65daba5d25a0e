//! Calibrated cameras: the TOML of Pose2Sim and Anipose.

use std::path::{Path, PathBuf};

use nalgebra::{Matrix3, Rotation3, Vector3};
use pose::ImageSize;
use pose::camera::{Extrinsics, Intrinsics, Lens};
use serde::Deserialize;
use toml::{Table, Value};

use crate::Error;

/// Farthest camera from the world's origin, mm.
const FARTHEST_MM: f64 = 1e6;

/// A camera with its place in the world.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibratedCamera {
    /// Name, which its keypoint file has too.
    pub name: String,
    /// Size of its pictures.
    pub image: ImageSize,
    /// Its lens without distortion.
    pub intrinsics: Intrinsics,
    /// OpenCV's k1, k2, p1, p2, k3.
    pub distortion: [f64; 5],
    /// Where it stands.
    pub extrinsics: Extrinsics,
}

/// All cameras of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The file.
    pub path: PathBuf,
    /// In the order of the file.
    pub cameras: Vec<CalibratedCamera>,
    /// `fps` of the section `metadata`: for keypoint files that do not say their rate.
    pub fps: Option<f64>,
}

/// A section of the file.
#[derive(Deserialize)]
struct Section {
    name: Option<String>,
    size: [f64; 2],
    matrix: [[f64; 3]; 3],
    #[serde(default)]
    distortions: Vec<f64>,
    rotation: Value,
    translation: [f64; 3],
    #[serde(default)]
    fisheye: bool,
}

impl Calibration {
    /// Reads a calibration: a section for each camera with `name`, `size` (width and height, px), `matrix` (3 x 3, px), `distortions` (up to
    /// five, OpenCV's), `rotation` (Rodrigues' vector or 3 x 3) and `translation` of `p_camera = rotation * p_world + translation`, in metres
    /// unless `metadata.unit` is `"mm"`.
    ///
    /// # Errors
    /// A file that cannot be read, a section with other keys, no camera, a fisheye lens, a matrix that is none of a camera.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let refuse = |problem: String| Error::content(problem).in_file(path);
        let text = std::fs::read_to_string(path).map_err(|e| refuse(format!("the calibration cannot be read: {e}")))?;
        let table: Table = text.parse().map_err(|e: toml::de::Error| refuse(format!("is no TOML: {}", e.message())))?;
        let metadata = table.get("metadata").and_then(Value::as_table);
        let said = |key: &str| metadata.and_then(|metadata| metadata.get(key));
        let unit_mm = match said("unit").map(|unit| (unit, unit.as_str())) {
            None | Some((_, Some("m"))) => 1000.0,
            Some((_, Some("mm"))) => 1.0,
            Some((other, _)) => return Err(refuse(format!("'metadata.unit' is {other}: expected \"m\" or \"mm\""))),
        };
        let fps = said("fps").map(|fps| fps.as_float().or_else(|| fps.as_integer().map(|fps| fps as f64)).unwrap_or(f64::NAN));
        if let Some(fps) = fps.filter(|fps| !(1.0..=1000.0).contains(fps)) {
            return Err(refuse(format!("'metadata.fps' is {fps}: expected 1 to 1000 frames per second")));
        }
        let sections = table.into_iter().filter(|(key, value)| key != "metadata" && value.is_table());
        let cameras: Vec<CalibratedCamera> = sections
            .map(|(key, value)| {
                let section: Section =
                    value.try_into().map_err(|e: toml::de::Error| refuse(format!("camera '{key}': {}", e.message().trim())))?;
                camera(&key, &section, unit_mm).map_err(|problem| refuse(format!("camera '{key}': {problem}")))
            })
            .collect::<Result<_, _>>()?;
        if cameras.is_empty() {
            return Err(refuse("has no camera: expected a section for each, with 'size', 'matrix', 'rotation' and 'translation'".into()));
        }
        if let Some(twin) = (1..cameras.len()).find(|&i| cameras[..i].iter().any(|c| c.name == cameras[i].name)) {
            return Err(refuse(format!("has two cameras called '{}': give each a name of its own", cameras[twin].name)));
        }
        Ok(Self { path: path.to_owned(), cameras, fps })
    }

    /// [`Self::read`] of several cameras, to triangulate with.
    ///
    /// # Errors
    /// As [`Self::read`], and fewer than two cameras.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let calibration = Self::read(path)?;
        if calibration.cameras.len() < 2 {
            let problem = format!("has {} cameras: expected at least 2, a section for each", calibration.cameras.len());
            return Err(Error::content(problem).in_file(path));
        }
        Ok(calibration)
    }
}

fn camera(key: &str, section: &Section, unit_mm: f64) -> Result<CalibratedCamera, String> {
    if section.fisheye {
        return Err("'fisheye' is true: expected a lens of OpenCV's plain model, undistort the pictures first".into());
    }
    let side = |v: f64, name: &str| {
        let pixels = v.round();
        if (1.0..=65536.0).contains(&pixels) { Ok(pixels as u32) } else { Err(format!("'size' has a {name} of {v}: expected pixels")) }
    };
    let image = ImageSize { width_px: side(section.size[0], "width")?, height_px: side(section.size[1], "height")? };
    let [[fx, _, cx], [_, fy, cy], last] = section.matrix;
    let near = |v: f64, expected: f64| (v - expected).abs() < 1e-6;
    if !(near(last[0], 0.0) && near(last[1], 0.0) && near(last[2], 1.0)) {
        return Err(format!("'matrix' ends with {last:?}: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels"));
    }
    let intrinsics = Intrinsics { focal_px: [fx as f32, fy as f32], centre_px: [cx as f32, cy as f32] };
    intrinsics.validate().map_err(|e| format!("'matrix': {e}"))?;
    let larger = f64::from(image.width_px.max(image.height_px));
    if !(0.1 * larger..50.0 * larger).contains(&fx) {
        return Err(format!("'matrix' has a focal length of {fx} for pictures of {larger} px: expected pixels"));
    }
    if section.distortions.len() > 5 || section.distortions.iter().any(|k| !k.is_finite()) {
        return Err(format!("'distortions' is {:?}: expected at most five finite numbers, k1, k2, p1, p2, k3", section.distortions));
    }
    let mut distortion = [0.0; 5];
    distortion[..section.distortions.len()].copy_from_slice(&section.distortions);

    let camera_from_world = rotation(&section.rotation)?;
    let translation_mm = Vector3::from(section.translation) * unit_mm;
    if !translation_mm.iter().all(|v| v.abs() <= FARTHEST_MM) {
        return Err(format!(
            "'translation' is {:?}: expected finite metres, or millimetres where metadata.unit says \"mm\"",
            section.translation
        ));
    }
    let world_from_camera = camera_from_world.transpose();
    let position_mm = -(world_from_camera * translation_mm);
    let extrinsics = Extrinsics {
        rotation: std::array::from_fn(|row| std::array::from_fn(|column| world_from_camera[(row, column)] as f32)),
        translation_mm: position_mm.cast::<f32>().into(),
    };
    let name = section.name.clone().unwrap_or_else(|| key.to_owned());
    Ok(CalibratedCamera { name, image, intrinsics, distortion, extrinsics })
}

/// Rodrigues' vector (axis times angle, radians) or a matrix.
fn rotation(value: &Value) -> Result<Matrix3<f64>, String> {
    if let Ok(vector) = value.clone().try_into::<[f64; 3]>()
        && vector.iter().all(|v| v.is_finite())
    {
        return Ok(Rotation3::new(Vector3::from(vector)).into_inner());
    }
    let Ok(rows) = value.clone().try_into::<[[f64; 3]; 3]>() else {
        return Err(format!("'rotation' is {value}: expected three numbers (Rodrigues) or three rows of three"));
    };
    let matrix = Matrix3::from_fn(|row, column| rows[row][column]);
    let is_rotation = (matrix * matrix.transpose() - Matrix3::identity()).amax() < 1e-3 && matrix.determinant() > 0.0;
    if is_rotation { Ok(matrix) } else { Err(format!("'rotation' is {value}: its rows are no rotation")) }
}

impl CalibratedCamera {
    /// What does not depend on where the camera stands.
    pub fn lens(&self) -> Lens {
        Lens { image: self.image, intrinsics: self.intrinsics, distortion: self.distortion }
    }

    /// See [`Lens::undistorted`].
    pub fn undistorted(&self, pixel: [f32; 2]) -> [f32; 2] {
        self.lens().undistorted(pixel)
    }

    /// See [`Lens::distorted`].
    pub fn distorted(&self, pixel: [f32; 2]) -> [f32; 2] {
        self.lens().distorted(pixel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERAS: &str = r#"
[cam_01]
name = "left"
size = [1088.0, 1920.0]
matrix = [[1681.2, 0.0, 540.0], [0.0, 1681.2, 960.0], [0.0, 0.0, 1.0]]
distortions = [-0.05, 0.02, 0.001, -0.001]
rotation = [1.2, 0.7, -0.6]
translation = [-0.6, -0.4, 4.0]
fisheye = false

[cam_02]
size = [1088, 1920]
matrix = [[1680, 0, 540], [0, 1680, 960], [0, 0, 1]]
rotation = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
translation = [0.0, 1.0, 4.0]

[metadata]
adjusted = false
error = 0.0
fps = 60
"#;

    fn open(text: &str) -> Result<Calibration, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Calib.toml");
        std::fs::write(&path, text).unwrap();
        Calibration::open(&path)
    }

    #[test]
    fn a_calibration_is_read() {
        let calibration = open(CAMERAS).unwrap();
        let [left, second] = &calibration.cameras[..] else { panic!("two cameras") };
        assert_eq!((left.name.as_str(), second.name.as_str(), calibration.fps), ("left", "cam_02", Some(60.0)));
        assert_eq!((left.image.width_px, left.image.height_px), (1088, 1920));
        // p_camera = R p_world + t for the second one: (1, 2, 3) -> (1, -3, 2) + (0, 1, 4)
        let p = second.extrinsics.to_camera([1000.0, 2000.0, 3000.0]);
        for (found, expected) in p.into_iter().zip([1000.0, -2000.0, 6000.0]) {
            assert!((found - expected).abs() < 0.01, "{p:?}");
        }
        let in_mm = open(&CAMERAS.replace("fps = 60", "unit = \"mm\"").replace("[0.0, 1.0, 4.0]", "[0.0, 1000.0, 4000.0]")).unwrap();
        assert_eq!(in_mm.cameras[1].extrinsics, second.extrinsics);
    }

    #[test]
    fn distortion_is_undone() {
        let calibration = open(CAMERAS).unwrap();
        let left = &calibration.cameras[0];
        for pixel in [[540.0, 960.0], [30.0, 40.0], [1000.0, 1900.0], [540.0, 100.0]] {
            let back = left.undistorted(left.distorted(pixel));
            assert!((back[0] - pixel[0]).abs() < 0.01 && (back[1] - pixel[1]).abs() < 0.01, "{pixel:?} {back:?}");
        }
        assert!((left.distorted([30.0, 40.0])[0] - 30.0).abs() > 1.0, "the lens bends");
        assert_eq!(calibration.cameras[1].undistorted([3.0, 4.0]), [3.0, 4.0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let only_one = CAMERAS.split("[cam_02]").next().unwrap().to_owned();
        for (text, expected) in [
            ("[cam".to_owned(), "is no TOML"),
            (only_one, "has 1 cameras: expected at least 2"),
            (CAMERAS.replace("fisheye = false", "fisheye = true"), "camera 'cam_01': 'fisheye' is true"),
            (CAMERAS.replace("translation = [-0.6, -0.4, 4.0]\n", ""), "camera 'cam_01': missing field `translation`"),
            (CAMERAS.replace("[1.2, 0.7, -0.6]", "[1.2, 0.7]"), "'rotation' is"),
            (CAMERAS.replace("[[1, 0, 0], [0", "[[2, 0, 0], [0"), "no rotation"),
            (CAMERAS.replace("1681.2, 0.0, 540.0", "1.2, 0.0, 540.0"), "focal length of 1.2"),
            (CAMERAS.replace("1681.2, 0.0, 540.0", "-5.0, 0.0, 540.0"), "focal length"),
            (CAMERAS.replace("-0.6, -0.4, 4.0", "nan, -0.4, 4.0"), "'translation' is"),
            (CAMERAS.replace("fps = 60", "unit = \"inch\""), "'metadata.unit' is \"inch\""),
            (CAMERAS.replace("fps = 60", "fps = 0"), "'metadata.fps' is 0"),
            (CAMERAS.replace("[1088, 1920]", "[0, 1920]"), "width of 0"),
            (CAMERAS.replace("size = [1088, 1920]", "name = \"left\"\nsize = [1088, 1920]"), "two cameras called 'left'"),
        ] {
            let message = open(&text).unwrap_err().to_string();
            assert!(message.contains("Calib.toml: ") && message.contains(expected) && !message.contains('\n'), "{message}: {expected}");
        }
    }
}
