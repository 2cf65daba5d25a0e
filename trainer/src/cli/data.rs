//! `trainer data`: what is in a data set, how its poses look, and sets made of others.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;
use datasets::{
    MocapSet,
    inspect::{self, Part, Specimen, Summary},
    mocap::MocapClip,
};
use trainer::chart::{Figure, sheet};

const KINDS: &str = "Kinds that are recognised:\n\
    \n  motion-capture  joint NPZ (poses, offsets, meta_json) or a folder with mocap_train.npz, mocap_val.npz, mocap_test.npz\
    \n  motionbert      h36m_sh_conf_cam_source_final.pkl\
    \n  clip-folder     H36M-243/{train,test}/00000000.pkl\
    \n  videopose3d     data_3d_h36m.npz beside data_2d_*.npz\
    \n  mpi-inf-3dhp    data_train_3dhp.npz, data_test_3dhp.npz\
    \n  bvh             a .bvh file, or folders of them; joints by their usual names, units and up axis by the rest pose\
    \n  asf-amc         CMU's folders: NN.asf with NN_MM.amc; 120 frames per second\
    \n  own-clips       keypoint files with camera_mm, or folders of several cameras' keypoint files with a calibration (docs/formats.md)\
    \n  keypoints       2D keypoints of a clip, JSON or NPZ\n";

#[derive(clap::Args)]
#[command(after_long_help = KINDS)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Opens a set, checks it (units, sides, joints, order of frames) and prints counts, lengths, ranges and bones.
    Inspect(InspectArgs),
    /// Draws poses spread over a set as one PNG: 2D, 3D from the front and from the side.
    Preview(PreviewArgs),
    /// Makes motion capture to train on (joint NPZ) out of BVH, ASF/AMC, VideoPose3D, own clips or another NPZ, whole or split by subject or
    /// take.
    Convert(ConvertArgs),
}

#[derive(clap::Args)]
struct InspectArgs {
    /// File or folder.
    path: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct PreviewArgs {
    /// File or folder.
    path: PathBuf,
    /// The picture, .png.
    #[arg(long)]
    out: PathBuf,
    /// How many poses of each part of the set.
    #[arg(long, default_value_t = 12)]
    poses: usize,
}

#[derive(clap::Args)]
struct ConvertArgs {
    /// File or folder.
    path: PathBuf,
    /// A file .npz for all of it, or a folder that gets mocap_train.npz, mocap_val.npz and mocap_test.npz.
    #[arg(long)]
    out: PathBuf,
    /// Subjects or takes that are converted, by comma, * for any characters; all when absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Subjects or takes of mocap_val.npz, by comma, * for any characters; for CMU such as 17,49.
    #[arg(long, value_delimiter = ',')]
    val: Vec<String>,
    /// Subjects or takes of mocap_test.npz, by comma. All others are for training.
    #[arg(long, value_delimiter = ',')]
    test: Vec<String>,
    /// Frames per second of the result, for BVH, ASF/AMC (50 when absent) and own clips (their own when absent).
    #[arg(long)]
    fps: Option<f64>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let text = match args.command {
        Command::Inspect(args) => {
            let summary = inspect::inspect(&args.path)?;
            if args.json { serde_json::to_string_pretty(&summary)? } else { describe(&summary) }
        }
        Command::Preview(args) => preview(&args)?,
        Command::Convert(args) => convert(&args)?,
    };
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}

fn describe(summary: &Summary) -> String {
    let mut text = format!("{}: {}\n", summary.path.display(), summary.kind.name());
    for part in &summary.parts {
        let fps = part.fps.map_or(String::new(), |fps| format!(", {fps} frames per second"));
        let minutes = part.fps.map_or(String::new(), |fps| format!(" ({:.1} min)", part.frames as f64 / fps / 60.0));
        text += &format!("\n{}: {} sequences, {} frames{minutes}{fps}\n", part.name, part.sequences, part.frames);
        let [least, middle, most] = part.length_frames;
        text += &format!("  frames of a sequence: {least} to {most}, median {middle}\n");
        for (what, names) in [("subjects", &part.subjects), ("cameras", &part.cameras)] {
            if !names.is_empty() {
                text += &format!("  {what}: {} ({})\n", names.len(), shortened(names));
            }
        }
        text += &format!("  over {} frames:\n", part.frames_looked_at);
        for range in &part.ranges {
            let unit = match range.of {
                "confidence" => "",
                of if of.starts_with("3D") => part.unit,
                _ => part.unit_2d,
            };
            text += &format!("    {:<14} {:>10.3} to {:>10.3} {unit}\n", range.of, range.min, range.max);
        }
        if let Some(bodies) = &part.bodies {
            text += &format!("  bones ({}), 5 %, median and 95 %:\n", part.unit);
            for bone in &bodies.bones {
                let [low, middle, high] = bone.length;
                text += &format!("    to {:<11} {low:>9.3} {middle:>9.3} {high:>9.3}\n", bone.to);
            }
            text += &format!(
                "  sides agree by {:.2} of -1 to 1 (people 0.4 to 0.8, swapped below 0); left and right bones differ by {:.1} % at most\n",
                bodies.side_agreement, bodies.asymmetry_percent
            );
        }
        part.remarks.iter().for_each(|remark| text += &format!("  note: {remark}\n"));
    }
    text
}

/// The first names of a list.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown}, ...") } else { shown }
}

/// So many of a part's frames, evenly spread.
fn chosen(part: &Part, count: usize) -> impl Iterator<Item = &Specimen> {
    let all = &part.specimens;
    let count = count.min(all.len());
    (0..count).map(move |k| &all[(2 * k + 1) * all.len() / (2 * count)])
}

fn preview(args: &PreviewArgs) -> Result<String> {
    const LARGEST: usize = 200;
    ensure!((1..=LARGEST).contains(&args.poses), "--poses {}: expected 1 to {LARGEST}", args.poses);
    ensure!(args.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")), "{}: --out names a .png file", args.out.display());
    let summary = inspect::inspect(&args.path)?;
    let figures: Vec<Figure> = summary
        .parts
        .iter()
        .flat_map(|part| {
            chosen(part, args.poses).map(|s| Figure {
                caption: format!("{}: {}", part.name.trim_end_matches(".npz"), s.caption),
                keypoints: s.keypoints,
                pose: s.pose,
                truth: None,
            })
        })
        .collect();
    let columns = if figures.iter().any(|figure| figure.keypoints.is_some() && figure.pose.is_some()) { 3 } else { 4 };
    let frames: usize = summary.parts.iter().map(|part| part.frames).sum();
    let title = format!("{} ({}), {} of {frames} frames", file_name(&summary.path), summary.kind.name(), figures.len());
    sheet(&title, &figures, columns).save(&args.out)?;
    Ok(format!("{}: {} poses", args.out.display(), figures.len()))
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Refuses a pattern that names nobody and nothing.
fn check_names(option: &str, patterns: &[String], set: &MocapSet) -> Result<()> {
    for pattern in patterns {
        if !set.clips().iter().any(|clip| clip.is_named(std::slice::from_ref(pattern))) {
            let known: BTreeSet<String> = set.clips().iter().map(|clip| clip.subject.clone()).collect();
            bail!(
                "{option} {pattern}: no such subject or take; there are the subjects {}",
                shortened(&known.into_iter().collect::<Vec<_>>())
            );
        }
    }
    Ok(())
}

fn convert(args: &ConvertArgs) -> Result<String> {
    let mut set = inspect::motion_of(&args.path, args.fps)?;
    if !args.only.is_empty() {
        check_names("--only", &args.only, &set)?;
        set = Arc::new(set.of_clips(|clip| clip.is_named(&args.only))?);
    }
    let about = |path: &Path, set: &MocapSet| {
        format!("{}: {} clips, {} frames at {} frames per second\n", path.display(), set.clips().len(), set.frames(), set.fps())
    };
    if args.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")) {
        ensure!(
            args.val.is_empty() && args.test.is_empty(),
            "--val and --test: a split is a folder, but --out names the file {}",
            args.out.display()
        );
        set.save(&args.out)?;
        return Ok(about(&args.out, &set));
    }
    for (option, wanted) in [("--val", &args.val), ("--test", &args.test)] {
        ensure!(!wanted.is_empty(), "{option}: name the subjects of mocap_{}.npz, or let --out name one .npz file for all", &option[2..]);
        check_names(option, wanted, &set)?;
    }
    if let Some(both) = set.clips().iter().find(|clip| clip.is_named(&args.val) && clip.is_named(&args.test)) {
        bail!("{} of {} is in --val and in --test: the checkpoint would be chosen on whom it is tested on", both.name, both.subject);
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}: the folder cannot be made", args.out.display()))?;
    let mut text = String::new();
    for (split, is_in) in [
        ("train", &(|clip: &MocapClip| !clip.is_named(&args.val) && !clip.is_named(&args.test)) as &dyn Fn(&MocapClip) -> bool),
        ("val", &|clip| clip.is_named(&args.val)),
        ("test", &|clip| clip.is_named(&args.test)),
    ] {
        let path = args.out.join(format!("mocap_{split}.npz"));
        let part = set.of_clips(is_in).with_context(|| format!("mocap_{split}.npz would be empty"))?;
        part.save(&path)?;
        text += &about(&path, &part);
    }
    Ok(text)
}
