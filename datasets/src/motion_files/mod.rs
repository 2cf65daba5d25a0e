//! Folders of motion files, BVH and CMU's ASF/AMC, as motion capture of Human3.6M's 17 joints.
//!
//! | joint | BVH | ASF |
//! |---|---|---|
//! | Hip | middle of the hips | the same |
//! | hips, knees, ankles | `RightUpLeg`, `RightLeg`, `RightFoot` and their common other names | ends of `rhipjoint`, `rfemur`, `rtibia` |
//! | Spine | of the joints between hips and neck the one nearest to 0.44 of the way | the same |
//! | Thorax | `Neck` (base of the neck) | end of `thorax` |
//! | Head | end of `Head` | end of `head` |
//! | Nose | middle of Thorax and Head, a quarter of their distance forward as the head looks | the same |
//! | shoulders, elbows, wrists | `RightArm`, `RightForeArm`, `RightHand` and their common other names | ends of `rclavicle`, `rhumerus`, `rradius` |
//!
//! Forward is where the rest pose looks: left x up. Files of other axes are turned z up, those of other units made millimetres: the thigh of
//! the rest pose tells. The subject is the folder in a folder of folders, else the name up to its first `_`: CMU's `07_01` is of `07`.

mod asf;
mod bvh;

use std::path::{Path, PathBuf};

use nalgebra::{Rotation3, Vector3};
use pose::{JOINTS, Pose3};

use crate::Error;
use crate::mocap::MocapSet;
use crate::motion::resample;

/// Rate that clips get when nobody asks for another: that of Human3.6M.
pub const FPS: f64 = 50.0;
/// Folders within folders that are looked into.
const DEPTH: usize = 3;
/// A text file of motion longer than this is none: an hour at 120 frames per second has 500 MB.
const LARGEST_BYTES: u64 = 1 << 30;

/// Motion that was read, and what had to be found out for it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The motion, all at one rate.
    pub set: MocapSet,
    /// Unit and axes that were recognised, files that were left out.
    pub notes: Vec<String>,
}

/// A tree of named points, and how it stands when all rotations are 0.
struct Rig {
    /// Lower case, letters and digits alone.
    names: Vec<String>,
    /// Parents come first.
    parents: Vec<Option<usize>>,
    /// Rest pose, in the file's unit and axes.
    rest: Vec<Vector3<f64>>,
    /// Whether the point `head` is the top of the head.
    head_is_top: bool,
}

/// A frame of a rig.
struct RigFrame {
    positions: Vec<Vector3<f64>>,
    /// From rest to now, each point's bone.
    rotations: Vec<Rotation3<f64>>,
}

/// One file's motion.
struct RigMotion {
    rig: Rig,
    frames: Vec<RigFrame>,
    fps: f64,
}

/// Files of an extension in a folder and the folders in it, sorted; the file itself where `path` is one.
///
/// # Errors
/// A folder that cannot be read.
pub(crate) fn files(path: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    fn walk(dir: &Path, extension: &str, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() && depth > 0 {
                walk(&path, extension, depth - 1, found)?;
            } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension)) {
                found.push(path);
            }
        }
        Ok(())
    }
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, extension, DEPTH, &mut found).map_err(|e| Error::content(path, format!("the folder cannot be read: {e}")))?;
    found.sort();
    Ok(found)
}

fn read_text(path: &Path) -> Result<String, Error> {
    let refuse = |e: std::io::Error| Error::content(path, format!("cannot be read: {e}"));
    let bytes = std::fs::metadata(path).map_err(refuse)?.len();
    if bytes > LARGEST_BYTES {
        return Err(Error::content(path, format!("has {bytes} bytes: expected a motion of at most {LARGEST_BYTES}")));
    }
    Ok(String::from_utf8_lossy(&std::fs::read(path).map_err(refuse)?).into_owned())
}

/// Reads a BVH file or a folder of them, at `fps` ([`FPS`] when `None`).
///
/// # Errors
/// No file; a file that is no BVH, lacks a joint or is of an unknown unit; and what [`MocapSet::from_clips`] refuses.
pub fn open_bvh(path: &Path, fps: Option<f64>) -> Result<Opened, Error> {
    let files = files(path, "bvh")?;
    let motions = files.iter().map(|file| Ok((file.clone(), bvh::parse(file, &read_text(file)?)?)));
    assemble(path, fps.unwrap_or(FPS), motions)
}

/// Reads CMU's folders: each `.amc` with the one `.asf` beside it (or that of its subject's name), at `fps` ([`FPS`] when `None`); the
/// files are taken to be at CMU's 120 frames per second.
///
/// # Errors
/// As [`open_bvh`], and a motion without skeleton.
pub fn open_amc(path: &Path, fps: Option<f64>) -> Result<Opened, Error> {
    let dir = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
    let motions = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("amc")) { vec![path.to_owned()] } else { files(dir, "amc")? };
    let skeletons = files(dir, "asf")?;
    let read = motions.iter().map(|file| {
        let beside: Vec<&PathBuf> = skeletons.iter().filter(|asf| asf.parent() == file.parent()).collect();
        let subject = subject_of(dir, file);
        let same_name = beside.iter().find(|asf| asf.file_stem().is_some_and(|stem| stem.to_string_lossy() == subject));
        let Some(asf) = same_name.or(if let [_] = beside[..] { beside.first() } else { None }) else {
            let problem = format!("has {} .asf files beside it and none is called {subject}.asf: expected its skeleton", beside.len());
            return Err(Error::content(file, problem));
        };
        let skeleton = asf::Skeleton::parse(asf, &read_text(asf)?)?;
        Ok((file.clone(), skeleton.motion(file, &read_text(file)?)?))
    });
    assemble(path, fps.unwrap_or(FPS), read)
}

fn subject_of(root: &Path, file: &Path) -> String {
    let below = file.parent().filter(|parent| *parent != root && parent.starts_with(root));
    let folder = below.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    folder.unwrap_or_else(|| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        stem.split('_').next().unwrap_or_default().to_owned()
    })
}

fn assemble(path: &Path, fps: f64, motions: impl Iterator<Item = Result<(PathBuf, RigMotion), Error>>) -> Result<Opened, Error> {
    if !(1.0..=1000.0).contains(&fps) {
        return Err(Error::options(format!("{fps} frames per second: expected 1 to 1000")));
    }
    let (mut clips, mut notes) = (Vec::new(), Vec::new());
    let mut units = std::collections::BTreeMap::<String, usize>::new();
    for motion in motions {
        let (file, motion) = motion?;
        let (poses, recognised) = to_h36m(&file, &motion)?;
        *units.entry(recognised).or_default() += 1;
        let count = ((poses.len().saturating_sub(1)) as f64 * fps / motion.fps).floor() as usize + 1;
        if poses.len() < 2 || count < 2 {
            notes.push(format!("{}: left out, it has {} frame(s)", file.display(), poses.len()));
            continue;
        }
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        clips.push((name, subject_of(path, &file), resample(&poses, motion.fps, 0.0, fps, count)));
    }
    if clips.is_empty() {
        return Err(Error::content(path, "holds no motion: expected at least one file of two frames or more"));
    }
    notes.extend(units.into_iter().map(|(unit, count)| format!("{count} file(s) in {unit}")));
    Ok(Opened { set: MocapSet::from_clips(&path.to_string_lossy(), fps, clips)?, notes })
}

/// Names of each joint in files of many makers; the first that is there is it. Hip, Spine, Nose and Head are made otherwise.
const NAMES: [(usize, &[&str]); 13] = [
    (1, &["rhip", "rightupleg", "rightupperleg", "rightthigh", "rthigh", "righthip", "rhipjoint"]),
    (2, &["rknee", "rightleg", "rightlowerleg", "rightlowleg", "rightshin", "rshin", "rightknee", "rfemur"]),
    (3, &["rfoot", "rightfoot", "rightankle", "rankle", "rtibia"]),
    (4, &["lhip", "leftupleg", "leftupperleg", "leftthigh", "lthigh", "lefthip", "lhipjoint"]),
    (5, &["lknee", "leftleg", "leftlowerleg", "leftlowleg", "leftshin", "lshin", "leftknee", "lfemur"]),
    (6, &["lfoot", "leftfoot", "leftankle", "lankle", "ltibia"]),
    (8, &["thorax", "neck"]),
    (11, &["lshoulder", "leftarm", "leftupperarm", "leftuparm", "lclavicle"]),
    (12, &["lelbow", "leftforearm", "leftlowerarm", "leftlowarm", "leftelbow", "lhumerus"]),
    (13, &["lwrist", "lefthand", "leftwrist", "lradius"]),
    (14, &["rshoulder", "rightarm", "rightupperarm", "rightuparm", "rclavicle"]),
    (15, &["relbow", "rightforearm", "rightlowerarm", "rightlowarm", "rightelbow", "rhumerus"]),
    (16, &["rwrist", "righthand", "rightwrist", "rradius"]),
];
/// Where the Spine is between hips and thorax: as in [`pose::joint_map`].
const SPINE: f64 = 0.44;
/// The Nose's distance before the line from Thorax to Head, in its lengths.
const NOSE: f64 = 0.25;

/// Units by the length of a thigh: mm of one unit of the file, 300 to 550 mm of a thigh.
const UNITS: [(f64, &str); 5] =
    [(1.0, "millimetres"), (10.0, "centimetres"), (1000.0, "metres"), (25.4, "inches"), (25.4 / 0.45, "CMU's units of 0.45 per inch")];

impl Rig {
    fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }
}

/// A name as it is compared: `mixamorig:RightUpLeg` is `rightupleg`.
fn plain_name(name: &str) -> String {
    let name = name.rsplit(':').next().unwrap_or(name);
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// World mm, z up, and what was recognised.
fn to_h36m(file: &Path, motion: &RigMotion) -> Result<(Vec<Pose3>, String), Error> {
    let rig = &motion.rig;
    let mut points = [0; JOINTS];
    for (joint, names) in NAMES {
        points[joint] = names.iter().find_map(|name| rig.find(name)).ok_or_else(|| {
            let problem = format!("has no joint for {}: expected one called {}", pose::skeleton::NAMES[joint], names.join(", "));
            Error::content(file, problem)
        })?;
    }
    let Some(head) = rig.find("head") else { return Err(Error::content(file, "has no joint called head")) };
    let top = if rig.head_is_top { head } else { rig.find("headend").unwrap_or(head) };
    points[10] = top;

    let thigh = ((rig.rest[points[2]] - rig.rest[points[1]]).norm() + (rig.rest[points[5]] - rig.rest[points[4]]).norm()) / 2.0;
    let Some((mm, unit)) = UNITS.into_iter().find(|(mm, _)| (300.0..550.0).contains(&(thigh * mm))) else {
        let problem = format!(
            "has thighs {thigh:.3} long in the rest pose, of no unit that is known: expected 300 to 550 mm, 30 to 55 cm, 0.3 to 0.55 m or 5.3 to 9.7 of CMU's"
        );
        return Err(Error::content(file, problem));
    };

    let rest_hip = (rig.rest[points[1]] + rig.rest[points[4]]) / 2.0;
    let up = rig.rest[top] - rest_hip;
    let z_up = up.z.abs() > up.y.abs();
    let forward = (rig.rest[points[4]] - rig.rest[points[1]]).cross(&up).try_normalize(1e-9);
    let Some(forward) = forward else {
        return Err(Error::content(file, "has a rest pose of no height or width: expected a person who stands"));
    };
    let way = |point: usize| (rig.rest[point] - rest_hip).norm() / (rig.rest[points[8]] - rest_hip).norm().max(f64::MIN_POSITIVE);
    let ancestors = std::iter::successors(rig.parents[points[8]], |&point| rig.parents[point]);
    let spine =
        ancestors.min_by(|&a, &b| (way(a) - SPINE).abs().total_cmp(&(way(b) - SPINE).abs())).filter(|&p| (0.2..0.8).contains(&way(p)));
    let nose = rig.find("nose");

    let pose = |frame: &RigFrame| -> Pose3 {
        let at = |point: usize| frame.positions[point];
        let hip = (at(points[1]) + at(points[4])) / 2.0;
        let (thorax, top) = (at(points[8]), at(points[10]));
        std::array::from_fn(|joint| {
            let place = match joint {
                0 => hip,
                7 => spine.map_or(hip + SPINE * (thorax - hip), at),
                9 => nose.map_or_else(|| (thorax + top) / 2.0 + NOSE * (top - thorax).norm() * (frame.rotations[head] * forward), at),
                _ => at(points[joint]),
            };
            let [x, y, z]: [f64; 3] = (place * mm).into();
            // y up: x, -z, y
            if z_up { [x, y, z].map(|v| v as f32) } else { [x, -z, y].map(|v| v as f32) }
        })
    };
    let axes = if z_up { "z up" } else { "y up" };
    Ok((motion.frames.iter().map(pose).collect(), format!("{unit}, {axes}")))
}
