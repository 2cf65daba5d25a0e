//! Two lifted clips of the same motion, compared: `demo --compare A B`.
//!
//! Frames are matched by time: for each of A's times within B's span, B is interpolated. Poses are compared root-relative in camera space (the two must
//! have seen the motion from one camera) and, as P-MPJPE does, turned and scaled onto each other; paths and jitter are in camera space too.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use formats::chart::{self, Content, Curve, Panel};
use pose::{JOINTS, Pose3, ROOT, metrics, resample, skeleton};
use runtime::LiftedClip;
use serde::Serialize;

/// Frames that the two must share at least, to say something of their motion.
const LEAST_FRAMES: usize = 3;
/// Across a longer pause of one clip nothing is interpolated.
const LONGEST_STEP_S: f64 = runtime::LONGEST_PAUSE_S;

/// Why two clips cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is absent or no lifted clip; see [`runtime::Error`].
    #[error(transparent)]
    Clip(#[from] runtime::Error),
    /// Fields of a file that do not go together.
    #[error("{}: expected as many poses in camera_mm as times in times_s, at least one, the times rising and all finite, found {found}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// Two clips that do not overlap.
    #[error(
        "expected two clips of the same motion that share {LEAST_FRAMES} frames at least, found {} from {:.2} to {:.2} s and {} from {:.2} to {:.2} s, which share {shared}",
        a.display(), a_s[0], a_s[1], b.display(), b_s[0], b_s[1]
    )]
    Apart {
        /// The first file.
        a: PathBuf,
        /// Its first and last time.
        a_s: [f64; 2],
        /// The second file.
        b: PathBuf,
        /// Its first and last time.
        b_s: [f64; 2],
        /// Frames that they share.
        shared: usize,
    },
    /// The picture's name says another form than SVG.
    #[error("expected the picture's name to end with .svg, found {}", .0.display())]
    Picture(PathBuf),
    /// The picture cannot be written.
    #[error("cannot write the picture {}: {cause}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
}

/// How two clips differ. Millimetres; A is measured against B.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The first file.
    pub a: PathBuf,
    /// The second file.
    pub b: PathBuf,
    /// Frames of A that B has a pose for.
    pub frames: usize,
    /// First and last time that both have.
    pub from_s: f64,
    /// See `from_s`.
    pub to_s: f64,
    /// Mean distance of the joints, root-relative.
    pub mpjpe_mm: f64,
    /// The same after the best scale of each frame.
    pub n_mpjpe_mm: f64,
    /// The same after the best similarity of each frame.
    pub p_mpjpe_mm: f64,
    /// Mean distance of each joint, root-relative, by its name.
    pub joints_mm: Vec<(&'static str, f64)>,
    /// Mean distance of the roots in camera space.
    pub path_mm: f64,
    /// Mean difference of the root's depth, without sign.
    pub depth_mm: f64,
    /// Mean acceleration of A's joints and of B's, m/s^2: what jitters, accelerates.
    pub acceleration_m_s2: [f64; 2],
    /// Mean difference of the bones' lengths over the clip, without sign.
    pub bone_length_mm: f64,
    /// How much the bones' lengths vary over A and over B: mean standard deviation.
    pub bone_variation_mm: [f64; 2],
    /// Angle between the two clips' ups, degrees.
    pub up_deg: f64,
    /// Mean joint error of each frame, for the picture.
    #[serde(skip)]
    curves: Curves,
}

/// What the picture shows over time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Curves {
    times_s: Vec<f64>,
    mpjpe_mm: Vec<f64>,
    p_mpjpe_mm: Vec<f64>,
    /// A minus B, in camera space.
    root_mm: Vec<[f64; 3]>,
}

/// Compares two files.
///
/// # Errors
/// See [`Error`].
pub fn compare(a: &Path, b: &Path) -> Result<Comparison, Error> {
    let (clip_a, clip_b) = (read(a)?, read(b)?);
    let shared: Vec<usize> = (0..clip_a.len()).filter(|&t| covered(&clip_b.times_s, clip_a.times_s[t])).collect();
    if shared.len() < LEAST_FRAMES {
        let span = |clip: &LiftedClip| [clip.times_s[0], clip.times_s[clip.times_s.len() - 1]];
        return Err(Error::Apart { a: a.into(), a_s: span(&clip_a), b: b.into(), b_s: span(&clip_b), shared: shared.len() });
    }
    let times_s: Vec<f64> = shared.iter().map(|&t| clip_a.times_s[t]).collect();
    let pose_a: Vec<Pose3> = shared.iter().map(|&t| clip_a.camera_mm[t]).collect();
    let broken = |error: pose::Error| Error::Broken { path: b.into(), found: error.to_string() };
    let pose_b = resample::poses(&clip_b.camera_mm, &clip_b.times_s, &times_s).map_err(broken)?;

    let (relative_a, relative_b) = (metrics::root_relative(&pose_a), metrics::root_relative(&pose_b));
    let errors: Vec<[f64; JOINTS]> = relative_a.iter().zip(&relative_b).map(|(a, b)| metrics::joint_errors(a, b)).collect();
    let joints_mm = (0..JOINTS).map(|j| (skeleton::NAMES[j], mean(errors.iter().map(|of_frame| of_frame[j])))).collect();
    let root_mm: Vec<[f64; 3]> =
        pose_a.iter().zip(&pose_b).map(|(a, b)| std::array::from_fn(|k| f64::from(a[ROOT][k]) - f64::from(b[ROOT][k]))).collect();
    let lengths_mm = |poses: &[Pose3]| poses.iter().map(skeleton::bone_lengths).collect::<Vec<_>>();
    let (bones_a, bones_b) = (bone_statistics(&lengths_mm(&pose_a)), bone_statistics(&lengths_mm(&pose_b)));
    let up = |clip: &LiftedClip| clip.world_from_camera.rotation[2].map(f64::from);
    let cos = up(&clip_a).iter().zip(up(&clip_b)).map(|(a, b)| a * b).sum::<f64>();
    Ok(Comparison {
        a: a.into(),
        b: b.into(),
        frames: shared.len(),
        from_s: times_s[0],
        to_s: times_s[times_s.len() - 1],
        mpjpe_mm: metrics::mpjpe_mm(&relative_a, &relative_b),
        n_mpjpe_mm: mean(metrics::n_mpjpe_per_frame(&relative_a, &relative_b).into_iter()),
        p_mpjpe_mm: metrics::p_mpjpe_mm(&pose_a, &pose_b),
        joints_mm,
        path_mm: mean(root_mm.iter().map(|d| d.iter().map(|v| v * v).sum::<f64>().sqrt())),
        depth_mm: mean(root_mm.iter().map(|d| d[2].abs())),
        acceleration_m_s2: [acceleration_m_s2(&pose_a, &times_s), acceleration_m_s2(&pose_b, &times_s)],
        bone_length_mm: mean(bones_a.iter().zip(&bones_b).map(|(a, b)| (a.0 - b.0).abs())),
        bone_variation_mm: [mean(bones_a.iter().map(|bone| bone.1)), mean(bones_b.iter().map(|bone| bone.1))],
        up_deg: cos.clamp(-1.0, 1.0).acos().to_degrees(),
        curves: Curves {
            mpjpe_mm: metrics::mpjpe_per_frame(&relative_a, &relative_b),
            p_mpjpe_mm: metrics::p_mpjpe_per_frame(&pose_a, &pose_b),
            root_mm,
            times_s,
        },
    })
}

/// A lifted clip whose poses and times go together.
fn read(path: &Path) -> Result<LiftedClip, Error> {
    let clip = LiftedClip::read_json(path)?;
    let broken = |found: String| Err(Error::Broken { path: path.into(), found });
    if clip.is_empty() || clip.times_s.len() != clip.len() {
        return broken(format!("{} poses and {} times", clip.len(), clip.times_s.len()));
    }
    if let Some(t) = (0..clip.len()).find(|&t| !clip.times_s[t].is_finite() || (t > 0 && clip.times_s[t] <= clip.times_s[t - 1])) {
        return broken(format!("{} s at frame {t}", clip.times_s[t]));
    }
    if let Some(t) = clip.camera_mm.iter().position(|pose| !pose.as_flattened().iter().all(|v| v.is_finite())) {
        return broken(format!("a pose that is not finite at frame {t}"));
    }
    Ok(clip)
}

/// Whether a time lies between two neighbours that are not far apart, or on one.
fn covered(times_s: &[f64], time_s: f64) -> bool {
    let after = times_s.partition_point(|t| *t < time_s);
    match (after.checked_sub(1).map(|before| times_s[before]), times_s.get(after)) {
        (_, Some(&next_s)) if next_s == time_s => true,
        (Some(last_s), Some(&next_s)) => next_s - last_s <= LONGEST_STEP_S,
        _ => false,
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count as f64
}

/// Mean and standard deviation of each bone.
fn bone_statistics(lengths_mm: &[[f32; JOINTS - 1]]) -> Vec<(f64, f64)> {
    let of_bone = |b: usize| {
        let middle = mean(lengths_mm.iter().map(|of_frame| f64::from(of_frame[b])));
        let variance = mean(lengths_mm.iter().map(|of_frame| (f64::from(of_frame[b]) - middle).powi(2)));
        (middle, variance.sqrt())
    };
    (0..JOINTS - 1).map(of_bone).collect()
}

/// Mean length of the joints' accelerations.
fn acceleration_m_s2(poses_mm: &[Pose3], times_s: &[f64]) -> f64 {
    let at = |t: usize| {
        let (before_s, after_s) = (times_s[t] - times_s[t - 1], times_s[t + 1] - times_s[t]);
        let of_joint = |j: usize| {
            let along = |k: usize| {
                let step = |from: usize, by_s: f64| f64::from(poses_mm[from + 1][j][k] - poses_mm[from][j][k]) / by_s;
                2.0 * (step(t, after_s) - step(t - 1, before_s)) / (before_s + after_s)
            };
            (0..3).map(|k| along(k).powi(2)).sum::<f64>().sqrt() / 1000.0
        };
        (0..JOINTS).map(of_joint).sum::<f64>() / JOINTS as f64
    };
    mean((1..times_s.len() - 1).map(at))
}

impl Comparison {
    /// A table for people.
    ///
    /// # Errors
    /// The system's.
    pub fn print(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        writeln!(out, "A {}\nB {}", self.a.display(), self.b.display())?;
        writeln!(out, "{} frames of A, {:.2} to {:.2} s, against B at the same times", self.frames, self.from_s, self.to_s)?;
        let [a, b] = self.acceleration_m_s2;
        let [spread_a, spread_b] = self.bone_variation_mm;
        writeln!(
            out,
            "MPJPE {:8.1} mm   root-relative\nN-MPJPE {:6.1} mm   at the best scale\nP-MPJPE {:6.1} mm   at the best similarity",
            self.mpjpe_mm, self.n_mpjpe_mm, self.p_mpjpe_mm
        )?;
        writeln!(out, "path    {:6.1} mm   between the roots; {:.1} mm in depth", self.path_mm, self.depth_mm)?;
        writeln!(out, "motion  {a:6.1} m/s^2 mean acceleration of A's joints, {b:.1} of B's: jitter accelerates")?;
        writeln!(
            out,
            "bones   {:6.1} mm   between their lengths; they vary by {spread_a:.1} mm in A, {spread_b:.1} mm in B",
            self.bone_length_mm
        )?;
        writeln!(out, "up      {:6.1} degrees between the two", self.up_deg)?;
        writeln!(out, "joints, mm, root-relative:")?;
        for (name, error_mm) in &self.joints_mm {
            writeln!(out, "  {name:<10}{error_mm:8.1}")?;
        }
        Ok(())
    }

    /// Draws the differences over time and for each joint.
    ///
    /// # Errors
    /// [`Error::Picture`] for another name than `*.svg`, [`Error::Write`].
    pub fn draw(&self, path: &Path) -> Result<(), Error> {
        check_picture(path)?;
        let Curves { times_s, mpjpe_mm, p_mpjpe_mm, root_mm } = &self.curves;
        let curve = |name: &str, value: &dyn Fn(usize) -> f64| {
            let mut points = Vec::with_capacity(times_s.len());
            for (t, &time_s) in times_s.iter().enumerate() {
                if t > 0 && time_s - times_s[t - 1] > LONGEST_STEP_S {
                    points.push([time_s, f64::NAN]);
                }
                points.push([time_s, value(t)]);
            }
            Curve { name: name.to_owned(), points }
        };
        let over_time = |title: &str, curves: Vec<Curve>| Panel {
            title: title.to_owned(),
            content: Content::Curves { x_label: "seconds".to_owned(), curves },
        };
        let joints = self.joints_mm.iter().map(|(name, error_mm)| ((*name).to_owned(), *error_mm)).collect();
        let picture = chart::svg(&[
            over_time("Mean error of the joints, mm", vec![curve("MPJPE", &|t| mpjpe_mm[t]), curve("P-MPJPE", &|t| p_mpjpe_mm[t])]),
            over_time(
                "Root of A from that of B, mm",
                vec![curve("right", &|t| root_mm[t][0]), curve("down", &|t| root_mm[t][1]), curve("away", &|t| root_mm[t][2])],
            ),
            Panel { title: "Mean error of each joint, root-relative, mm".to_owned(), content: Content::Bars(joints) },
        ]);
        let written = formats::write_aside(path, |file| {
            file.write_all(picture.as_bytes()).map_err(|cause| formats::Error::Io { action: "write", path: path.to_owned(), cause })
        });
        written.map_err(|error| match error {
            formats::Error::Io { cause, .. } => Error::Write { path: path.to_owned(), cause },
            other => Error::Write { path: path.to_owned(), cause: std::io::Error::other(other.to_string()) },
        })
    }
}

/// Whether a picture could be written under this name, asked before anything is computed.
///
/// # Errors
/// [`Error::Picture`].
pub fn check_picture(path: &Path) -> Result<(), Error> {
    match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        true => Ok(()),
        false => Err(Error::Picture(path.to_owned())),
    }
}
