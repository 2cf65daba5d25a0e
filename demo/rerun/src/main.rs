//! `demo-rerun`: results of `demo` as a recording for the viewer Rerun.
//!
//! Entities: `world/person/N` (joints), `world/person/N/bones`, `world/person/N/path` (the hip's way), `world/camera` (where it stands, with its
//! picture's size) and `world/camera/person/N` (2D keypoints). The time line `time` has the clip's own seconds. World: z up, metres.
#![allow(clippy::print_stdout)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use pose::camera::{Extrinsics, Intrinsics};
use pose::skeleton::BONES;
use pose::{ImageSize, JOINTS};
use rerun::components::PinholeProjection;
use rerun::{
    Color, LineStrips2D, LineStrips3D, Mat3x3, Pinhole, Points2D, Points3D, RecordingStream, RecordingStreamBuilder, TextDocument,
    Transform3D, ViewCoordinates,
};
use serde::Deserialize;

/// One for each person, again from the first after the last.
const COLOURS: [[u8; 3]; 6] = [[255, 107, 61], [31, 191, 163], [155, 124, 255], [242, 183, 5], [79, 160, 255], [240, 98, 146]];
/// Larger files are no results of `demo`: some 8 hours of one person.
const MOST_BYTES: u64 = 8 << 30;

/// Writes results of `demo` (CLIP.3d.json, a file for each person) as a recording for the viewer Rerun.
#[derive(Debug, Parser)]
#[command(name = "demo-rerun", version)]
struct Args {
    /// Results of one clip, a file for each person
    #[arg(required = true, value_name = "CLIP.3d.json")]
    results: Vec<PathBuf>,
    /// The recording to write
    #[arg(long, value_name = "FILE.rrd")]
    out: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Results {
    format: String,
    person: Option<u64>,
    times_s: Vec<f64>,
    world_mm: Vec<pose::Pose3>,
    keypoints_px: Vec<[[f32; 2]; JOINTS]>,
    image: ImageSize,
    intrinsics: Intrinsics,
    world_from_camera: Extrinsics,
    scale_source: String,
    height_m: f32,
}

fn read(path: &Path) -> Result<Results> {
    let about = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !about.is_file() || about.len() > MOST_BYTES {
        bail!("{} is no file of results, or is larger than {} GiB", path.display(), MOST_BYTES >> 30);
    }
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let results: Results =
        serde_json::from_slice(&text).with_context(|| format!("{} is no result of `demo` (expected CLIP.3d.json)", path.display()))?;
    let frames = results.times_s.len();
    if results.format != "poselift-3d-1" || frames == 0 || results.world_mm.len() != frames || results.keypoints_px.len() != frames {
        bail!("{} is no whole result of `demo`: expected the format poselift-3d-1 and as many poses as times", path.display());
    }
    Ok(results)
}

fn metres(mm: [f32; 3]) -> [f32; 3] {
    mm.map(|v| v / 1000.0)
}

fn write(everyone: &[(u64, Results)], out: &Path) -> Result<()> {
    let recording = RecordingStreamBuilder::new("poselift").save(out).with_context(|| format!("cannot write {}", out.display()))?;
    recording.log_static("world", &ViewCoordinates::RIGHT_HAND_Z_UP())?;
    let (_, first) = &everyone[0];
    camera(&recording, first)?;
    for (index, (id, results)) in everyone.iter().enumerate() {
        person(&recording, *id, results, COLOURS[index % COLOURS.len()])?;
    }
    recording.flush_blocking()?;
    Ok(())
}

fn camera(recording: &RecordingStream, results: &Results) -> Result<()> {
    let [row0, row1, row2] = results.world_from_camera.rotation; // rows; Rerun's matrix is by columns
    let columns = [[row0[0], row1[0], row2[0]], [row0[1], row1[1], row2[1]], [row0[2], row1[2], row2[2]]];
    let place = Transform3D::from_translation_mat3x3(metres(results.world_from_camera.translation_mm), Mat3x3::from(columns));
    recording.log_static("world/camera", &place)?;
    let Intrinsics { focal_px, centre_px } = results.intrinsics;
    let size = [results.image.width_px as f32, results.image.height_px as f32];
    let lens = Pinhole::new(PinholeProjection::from_focal_length_and_principal_point(focal_px, centre_px)).with_resolution(size);
    let lens = lens.with_camera_xyz(rerun::components::ViewCoordinates::RDF);
    recording.log_static("world/camera", &lens.with_image_plane_distance(0.5))?;
    Ok(())
}

fn person(recording: &RecordingStream, id: u64, results: &Results, [red, green, blue]: [u8; 3]) -> Result<()> {
    let colour = Color::from_rgb(red, green, blue);
    let (in_world, in_picture) = (format!("world/person/{id}"), format!("world/camera/person/{id}"));
    let about = format!("person {id}: height {:.2} m, scale from {}", results.height_m, results.scale_source);
    recording.log_static(format!("{in_world}/about"), &TextDocument::new(about))?;
    let way: Vec<[f32; 3]> = results.world_mm.iter().map(|pose| metres(pose[0])).collect();
    recording.log_static(format!("{in_world}/path"), &LineStrips3D::new([way]).with_colors([colour]).with_radii([0.004]))?;
    for ((&time_s, pose), keypoints) in results.times_s.iter().zip(&results.world_mm).zip(&results.keypoints_px) {
        recording.set_duration_secs("time", time_s);
        let joints = pose.map(metres);
        recording.log(in_world.as_str(), &Points3D::new(joints).with_colors([colour]).with_radii([0.025]))?;
        let bones = BONES.map(|(parent, child)| [joints[parent], joints[child]]);
        recording.log(format!("{in_world}/bones"), &LineStrips3D::new(bones).with_colors([colour]).with_radii([0.015]))?;
        recording.log(in_picture.as_str(), &Points2D::new(*keypoints).with_colors([colour]).with_radii([3.0]))?;
        let lines = BONES.map(|(parent, child)| [keypoints[parent], keypoints[child]]);
        recording.log(format!("{in_picture}/bones"), &LineStrips2D::new(lines).with_colors([colour]))?;
    }
    Ok(())
}

fn run(args: &Args) -> Result<()> {
    let mut everyone = Vec::with_capacity(args.results.len());
    let mut taken = HashSet::new();
    for (index, path) in args.results.iter().enumerate() {
        let results = read(path)?;
        let id = results.person.filter(|id| taken.insert(*id)).unwrap_or(index as u64 + 1);
        everyone.push((id, results));
    }
    // aside, then renamed: nobody opens half a recording
    let mut aside = args.out.clone().into_os_string();
    aside.push(".partial");
    let aside = PathBuf::from(aside);
    write(&everyone, &aside).inspect_err(|_| drop(std::fs::remove_file(&aside)))?;
    std::fs::rename(&aside, &args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    println!("{}", args.out.display());
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ERROR {error:#}");
            ExitCode::FAILURE
        }
    }
}
