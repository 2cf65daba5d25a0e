//! Joint angles over time as a picture: flexion of knees, hips, elbows and shoulders, left and right, defined in [`pose::angle`].

use super::{MotionClip, write_file};
use crate::{
    chart::{self, Content, Curve, Panel},
    error::Error,
};
use pose::angle::{SideAngles, joint_angles};
use std::{io::Write, path::Path};

/// A panel's title and which angle it shows.
type Shown = (&'static str, fn(&SideAngles) -> f32);

const PANELS: [Shown; 4] = [
    ("Knee flexion, degrees", |side| side.knee_flexion_deg),
    ("Hip flexion, degrees", |side| side.hip_flexion_deg),
    ("Elbow flexion, degrees", |side| side.elbow_flexion_deg),
    ("Shoulder flexion, degrees", |side| side.shoulder_flexion_deg),
];

/// Writes the picture as SVG. Aside, then renamed.
///
/// # Errors
/// Every refusal of the operating system.
pub fn write(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    let angles: Vec<_> = clip.poses_mm().iter().map(joint_angles).collect();
    let panel = |(title, of_side): Shown| {
        let curve = |name: &str, values: Vec<f32>| Curve { name: name.to_owned(), points: interrupted(clip.times_s(), &values) };
        let curves = vec![
            curve("left", angles.iter().map(|angles| of_side(&angles.left)).collect()),
            curve("right", angles.iter().map(|angles| of_side(&angles.right)).collect()),
        ];
        Panel { title: title.to_owned(), content: Content::Curves { x_label: "seconds".to_owned(), curves } }
    };
    let picture = chart::svg(&PANELS.map(panel));
    write_file(path, |out| out.write_all(picture.as_bytes()))
}

/// The curve, without a line across the picture where an angle passes 180 degrees and goes on at -180, or across a pause.
fn interrupted(times_s: &[f64], values_deg: &[f32]) -> Vec<[f64; 2]> {
    const PAUSE_S: f64 = 1.0;
    let mut points: Vec<[f64; 2]> = Vec::with_capacity(times_s.len());
    for (&time_s, &value_deg) in times_s.iter().zip(values_deg) {
        let value_deg = f64::from(value_deg);
        if let Some(&[last_s, last_deg]) = points.last()
            && ((value_deg - last_deg).abs() > 180.0 || time_s - last_s > PAUSE_S)
        {
            points.push([time_s, f64::NAN]);
        }
        points.push([time_s, value_deg]);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::Pose3;

    #[test]
    fn four_panels_with_both_sides() {
        let mut pose: Pose3 = std::array::from_fn(|j| [10.0 * j as f32, 20.0 * (j % 3) as f32, 50.0 * j as f32]);
        let poses: Vec<Pose3> = (0..50)
            .map(|t| {
                pose[3][1] = 10.0 * t as f32;
                pose
            })
            .collect();
        let times_s: Vec<f64> = (0..50).map(|t| f64::from(t) / 25.0).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.angles.svg");
        write(&path, &MotionClip::new(&poses, &times_s).unwrap()).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        for name in ["Knee", "Hip", "Elbow", "Shoulder"] {
            assert!(text.contains(&format!("{name} flexion, degrees")));
        }
        assert!(text.matches("<polyline").count() >= 12 && !text.contains("NaN"));
    }

    #[test]
    fn no_line_crosses_the_picture() {
        let points = interrupted(&[0.0, 0.1, 0.2, 5.0], &[179.0, -179.0, -170.0, -160.0]);
        let gaps: Vec<bool> = points.iter().map(|p| p[1].is_nan()).collect();
        assert_eq!(gaps, [false, true, false, false, true, false]);
    }
}
