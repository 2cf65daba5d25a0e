//! `trainer look-ahead`.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use datasets::{
    CausalFeeding, EvaluationOptions, EvaluationSet, Figures, MocapSet, SinceStart, Windowing, errors_since_start, evaluate_windows_live,
};
use network::Overrides;
use pose::normalise::Normalisation;
use serde::{Deserialize, Serialize};
use trainer::{
    canvas::write_file,
    chart::{Curve, curves},
    checkpoint,
    evaluate::{evaluate_lifter, evaluate_live},
    model::Lifter,
    weights::values,
};

use super::{DeviceChoice, set_threads};

/// Bounds of the times since a stream began, seconds.
const SINCE_S: [f64; 10] = [0.04, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 4.0];

#[derive(clap::Args)]
pub struct Args {
    /// Checkpoints: of the live family with each of its own look-aheads, of windows by the frame that lies so far from the window's end.
    #[arg(required_unless_present = "rows")]
    models: Vec<PathBuf>,
    /// look_ahead.json of an earlier run on the same data: its rows are taken over. May be repeated.
    #[arg(long, value_name = "FILE")]
    rows: Vec<PathBuf>,
    /// Folder with mocap_test.npz (or that of --split).
    #[arg(long)]
    data: PathBuf,
    /// Which of its files: train, val or test.
    #[arg(long, default_value = "test")]
    split: String,
    /// Look-aheads in frames of the model, of models of windows.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,4,8,16")]
    look_aheads: Vec<usize>,
    /// Folder for look_ahead.md, look_ahead.json and look_ahead.png.
    #[arg(long)]
    out: PathBuf,
    /// Threads to compute with; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceChoice,
    /// Print the JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// One model's figures, keypoints with a detector's noise, both cameras.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    model: String,
    parameters: u64,
    /// Frames a second.
    fps: f32,
    look_aheads: Vec<At>,
    /// With all of the clip seen, in overlapping windows; a live model has no more than its look-aheads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole_clip: Option<Figures>,
    /// Of live models, with their least look-ahead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    since_start: Vec<SinceStart>,
}

#[derive(Clone, Serialize, Deserialize)]
struct At {
    /// Frames.
    look_ahead: usize,
    /// What it costs, milliseconds.
    delay_ms: f64,
    #[serde(flatten)]
    figures: Figures,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    set_threads(args.threads)?;
    ensure!(["train", "val", "test"].contains(&args.split.as_str()), "--split {}: expected train, val or test", args.split);
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}: the folder cannot be made", args.out.display()))?;
    let mocap = MocapSet::open(&args.data.join(format!("mocap_{}.npz", args.split)))?;
    let set = EvaluationSet::new(&mocap, &EvaluationOptions { noisy: vec![true], ..EvaluationOptions::default() })?;
    let mut rows = args.rows.iter().map(|path| earlier(path)).collect::<Result<Vec<_>>>()?.concat();
    for model in &args.models {
        rows.push(measure(model, &set, args)?);
    }

    let json = serde_json::to_string_pretty(&rows)?;
    let text = table(&rows, &args.split, set.frames());
    write_file(&args.out.join("look_ahead.json"), json.as_bytes())?;
    write_file(&args.out.join("look_ahead.md"), text.as_bytes())?;
    picture(&rows, &args.out.join("look_ahead.png"))?;
    writeln!(std::io::stdout(), "{}", if args.json { json } else { text }).context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}

/// What an earlier run wrote.
fn earlier(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}: expected the look_ahead.json of an earlier run", path.display()))
}

fn measure(path: &Path, set: &EvaluationSet, args: &Args) -> Result<Row> {
    let opened = checkpoint::open(path, &Overrides::default(), args.device.open()?)?;
    let (lifter, config) = (&opened.lifter, &opened.checkpoint.config);
    let (name, normalisation, fps) = match &opened.metadata {
        Some(metadata) => (metadata.name.clone(), metadata.normalisation, metadata.fps),
        None => (path.display().to_string(), Normalisation::Frame, 50.0),
    };
    tracing::info!("{name}: measured on {} frames", set.frames());
    let with_noise = |report: &datasets::Report| report.mean(true).context("the set has no clips");
    let at = |look_ahead: usize, figures: Figures| At { look_ahead, delay_ms: 1e3 * look_ahead as f64 / f64::from(fps), figures };
    let (look_aheads, whole_clip, since_start) = match config.live() {
        None => {
            let windowing = Windowing {
                dim_in: config.dim_in(),
                normalisation,
                fps: Some(f64::from(fps)),
                ..Windowing::new(config.window().unwrap_or(1)) // not of the live family, so it has one
            };
            let fitting: Vec<usize> = args.look_aheads.iter().copied().filter(|&k| k < windowing.n_frames).collect();
            let predict = |input: &[f32], windows: usize| answer(lifter, input, [windows, windowing.n_frames], windowing.dim_in);
            let reports = evaluate_windows_live(set, &windowing, &fitting, predict)?;
            let rows = fitting.iter().zip(&reports).map(|(&k, report)| Ok(at(k, with_noise(report)?))).collect::<Result<_>>()?;
            (rows, Some(with_noise(&evaluate_lifter(lifter, set, &windowing)?)?), Vec::new())
        }
        Some(live) => {
            let feeding = CausalFeeding { dim_in: live.dim_in, normalisation, fps: f64::from(fps), flip: false };
            let reports = evaluate_live(lifter, live, set, &feeding)?;
            let rows = live.look_aheads.iter().zip(&reports).map(|(&k, report)| Ok(at(k, with_noise(report)?))).collect::<Result<_>>()?;
            let predict = |input: &[f32], frames: usize| answer(lifter, input, [1, frames], live.dim_in);
            (rows, None, errors_since_start(set, &feeding, live.look_aheads[0], &SINCE_S, predict)?)
        }
    };
    Ok(Row { model: name, parameters: network::parameter_count(config), fps, look_aheads, whole_clip, since_start })
}

/// (B, T, 17, dim_in) -> (B, T, 17, 3).
fn answer(lifter: &Lifter, input: &[f32], [batch, frames]: [usize; 2], dim_in: usize) -> Result<Vec<f32>, tch::TchError> {
    let x = lifter.tensor(input, [batch, frames, pose::JOINTS, dim_in]);
    Ok(values(&lifter.predict(&x, false).to_device(tch::Device::Cpu).to_kind(tch::Kind::Float)))
}

fn table(rows: &[Row], split: &str, frames: usize) -> String {
    let mut text = format!(
        "# The error against look-ahead\n\nmocap_{split} through both cameras with a detector's noise, {frames} frames, each lifted as in a stream: holes filled and \
         boxes made from what was seen by then. mm, root-relative, no flip averaging: P-MPJPE / MPJPE at the true root depth (oracle scale) / error of \
         the motion from frame to frame (MPJVE). A model of windows gives the frame that lies so far from its window's end; the whole clip is seen \
         in overlapping windows.\n\n"
    );
    let mut columns: Vec<usize> = rows.iter().flat_map(|row| row.look_aheads.iter().map(|at| at.look_ahead)).collect();
    columns.sort_unstable();
    columns.dedup();
    let cell = |figures: Option<&Figures>| {
        figures.map_or("-".to_owned(), |f| format!("{:.1} / {:.1} / {:.1}", f.p_mpjpe_mm, f.mpjpe_root_depth_mm, f.mpjve_mm))
    };
    // Writing to a string does not fail.
    let heads: Vec<String> = columns.iter().map(|k| format!("{k} frames")).collect();
    let _ = writeln!(text, "| model | parameters | {} | whole clip |\n|---|---|{}---|", heads.join(" | "), "---|".repeat(columns.len()));
    for row in rows {
        let at = |k: &usize| cell(row.look_aheads.iter().find(|at| at.look_ahead == *k).map(|at| &at.figures));
        let cells: Vec<String> = columns.iter().map(at).collect();
        let _ = writeln!(
            text,
            "| {} | {:.2} M | {} | {} |",
            row.model,
            row.parameters as f64 / 1e6,
            cells.join(" | "),
            cell(row.whole_clip.as_ref())
        );
    }
    if rows.iter().any(|row| !row.since_start.is_empty()) {
        let heads: Vec<String> = SINCE_S.iter().map(|end_s| format!("to {end_s} s")).collect();
        let _ = writeln!(
            text,
            "\n# The error by time since a stream began\n\nMPJPE at the true root depth, mm, of the least look-ahead; the clips cut into streams of {} s.\n\n| model | {} |\n|---|{}",
            SINCE_S[SINCE_S.len() - 1],
            heads.join(" | "),
            "---|".repeat(SINCE_S.len())
        );
        for row in rows.iter().filter(|row| !row.since_start.is_empty()) {
            let at = |end_s: &f64| row.since_start.iter().find(|since| (since.to_s - end_s).abs() < 1e-9);
            let cell = |end_s| at(end_s).map_or("-".to_owned(), |since| format!("{:.1}", since.mpjpe_root_depth_mm));
            let cells: Vec<String> = SINCE_S.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} |", row.model, cells.join(" | "));
        }
    }
    text
}

fn picture(rows: &[Row], path: &Path) -> Result<()> {
    let against = |of: fn(&Figures) -> f64| -> Vec<Curve> {
        let curve = |row: &Row| Curve {
            name: row.model.clone(),
            points: row.look_aheads.iter().map(|at| [at.look_ahead as f64, of(&at.figures)]).collect(),
        };
        rows.iter().map(curve).collect()
    };
    let mut panels = vec![
        ("P-MPJPE, mm, against look-ahead in frames".to_owned(), against(|f| f.p_mpjpe_mm)),
        ("MPJPE at the true root depth, mm, against look-ahead in frames".to_owned(), against(|f| f.mpjpe_root_depth_mm)),
        ("error of the motion from frame to frame, mm, against look-ahead in frames".to_owned(), against(|f| f.mpjve_mm)),
    ];
    let since: Vec<Curve> = rows
        .iter()
        .filter(|row| !row.since_start.is_empty())
        .map(|row| Curve {
            name: row.model.clone(),
            points: row.since_start.iter().map(|s| [(s.from_s + s.to_s) / 2.0, s.mpjpe_root_depth_mm]).collect(),
        })
        .collect();
    if !since.is_empty() {
        panels.push(("MPJPE at the true root depth, mm, against seconds since the stream began".to_owned(), since));
    }
    curves(&panels, "").save(path)
}
