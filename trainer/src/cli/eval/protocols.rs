//! Figures by a protocol of the field, as text or JSON.

use std::{io::Write, process::ExitCode};

use anyhow::{Context as _, Result};
use datasets::protocol::{H36mReport, Report3dhp};
use pose::{normalise::Normalisation, skeleton};
use serde::Serialize;
use trainer::protocol::{Feeding, Figures, Joints, PUBLISHED_3DHP, PUBLISHED_H36M, Protocol, Published, measure};

use super::{Args, JointsChoice, Subject};

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    model: String,
    protocol: Protocol,
    data: String,
    frames_of_a_clip: usize,
    feeding: Feeding,
    figures: Figures,
    measures: &'static str,
    comparable_with: &'static str,
    not_comparable_with: &'static str,
    published: &'static [Published],
    notes: &'a [String],
}

pub fn run(args: &Args, subject: &Subject, protocol: Protocol) -> Result<ExitCode> {
    let Subject { opened, normalisation, fps } = subject;
    let joints = match args.joints {
        Some(JointsChoice::H36m) => Joints::H36m,
        Some(JointsChoice::Mpi3dhp) => Joints::Mpi3dhp,
        None if opened.metadata.is_some() => Joints::H36m,
        None => Joints::Mpi3dhp,
    };
    let feeding = Feeding {
        normalisation: *normalisation,
        fps: *fps,
        flip: !args.no_flip && protocol != Protocol::Report,
        root_relative: !args.absolute_root,
        joints,
    };
    let notes = notes(protocol, &feeding);
    let figures = measure(protocol, &opened.lifter, &feeding, &args.data)?;
    let output = Output {
        model: args.model.display().to_string(),
        protocol,
        data: args.data.display().to_string(),
        frames_of_a_clip: opened.checkpoint.config.window().unwrap_or_default(), // `measure` refuses models without windows
        feeding,
        figures,
        measures: protocol.measures(),
        comparable_with: protocol.comparable_with(),
        not_comparable_with: protocol.not_with(),
        published: published(protocol),
        notes: &notes,
    };
    let text = if args.json { serde_json::to_string_pretty(&output)? } else { text(&output) };
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}

const fn published(protocol: Protocol) -> &'static [Published] {
    match protocol {
        Protocol::H36m => &PUBLISHED_H36M,
        Protocol::Mpi3dhp => &PUBLISHED_3DHP,
        Protocol::H36mPlain | Protocol::Report => &[],
    }
}

/// What makes a figure differ from the published ones although the protocol is the same.
fn notes(protocol: Protocol, feeding: &Feeding) -> Vec<String> {
    let mut notes = Vec::new();
    if !feeding.flip && matches!(protocol, Protocol::H36m | Protocol::Mpi3dhp) {
        notes.push("without flip averaging: the published figures have it".into());
    }
    if feeding.normalisation == Normalisation::PersonBox && protocol != Protocol::H36mPlain {
        notes.push("the model is fed with the box around the person and its answer turned into units of the frame".into());
    }
    let fed_fps = datasets::motion_bert::FPS;
    if protocol == Protocol::H36m && f64::from(feeding.fps) != fed_fps {
        notes.push(format!("the model is meant for {} frames per second and the protocol shows it {fed_fps}", feeding.fps));
    }
    if protocol == Protocol::Mpi3dhp && feeding.joints == Joints::H36m {
        notes.push("the joints are put in Human3.6M's order for the model: a figure across data sets if it was trained on another".into());
    }
    notes
}

fn text(output: &Output<'_>) -> String {
    let Output { model, data, protocol, frames_of_a_clip, feeding, .. } = output;
    let flip = if feeding.flip { "flip averaging" } else { "no flip averaging" };
    let mut text =
        format!("{model} on {data}\nprotocol {}: {}\nclips of {frames_of_a_clip} frames, {flip}\n\n", protocol.name(), output.measures);
    text += &match &output.figures {
        Figures::H36m(report) => h36m(report),
        Figures::Plain(figures) => plain(figures),
        Figures::Mpi3dhp(report) => mpi_inf_3dhp(report),
        Figures::Report { clips, image_space_error_px } => {
            format!("{image_space_error_px:.2} px of a 1000-px frame, mean over {clips} clips (not MPJPE, not mm)\n")
        }
    };
    text += &format!("\ncompare with: {}\nnever with:   {}\n", output.comparable_with, output.not_comparable_with);
    if !output.published.is_empty() {
        text += "\npublished, mm:\n";
        for Published { model, frames, mpjpe_mm } in output.published {
            let frames = frames.map_or(String::new(), |frames| format!("{frames} frames"));
            text += &format!("  {model:<26} {frames:>10} {mpjpe_mm:>7.1}\n");
        }
    }
    output.notes.iter().for_each(|note| text += &format!("\nnote: {note}"));
    text
}

fn h36m(report: &H36mReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: f64, unit: &str| text += &format!("{name:<36} {value:>10.2} {unit}\n");
    line("MPJPE (protocol 1)", report.mpjpe_mm, "mm");
    line("P-MPJPE (protocol 2)", report.p_mpjpe_mm, "mm");
    line("N-MPJPE (not published)", report.n_mpjpe_mm, "mm");
    line("MPJVE (not published)", report.mpjve_mm_per_frame, "mm per frame of 1/50 s");
    line("acceleration error", report.acceleration_mm_per_frame2, "mm per frame squared");
    line(
        "acceleration as the references print",
        report.acceleration_as_printed_mm_per_frame2,
        "(\"mm/s^2\" there; last two frames of a clip count as 0)",
    );
    text +=
        &format!("{} of {} frames; {} of {} clips left out\n", report.frames, report.frames_in_set, report.clips_left_out, report.clips);
    text += &format!("\n{:<20} {:>9} {:>10} {:>10}\n", "action", "frames", "MPJPE", "P-MPJPE");
    for action in &report.actions {
        text += &format!("{:<20} {:>9} {:>10.2} {:>10.2}\n", action.action, action.frames, action.mpjpe_mm, action.p_mpjpe_mm);
    }
    text += &format!("\n{:<20} {:>9}\n", "joint", "MPJPE");
    for (name, value) in skeleton::NAMES.iter().zip(report.joint_mpjpe_mm) {
        text += &format!("{name:<20} {value:>9.2}\n");
    }
    text
}

fn plain(figures: &datasets::Figures) -> String {
    let mut text = String::new();
    for (name, value, unit) in [
        ("MPJPE at the true root depth", figures.mpjpe_root_depth_mm, "mm"),
        ("MPJPE with the default height", figures.mpjpe_default_height_mm, "mm"),
        ("P-MPJPE", figures.p_mpjpe_mm, "mm"),
        ("N-MPJPE", figures.n_mpjpe_mm, "mm"),
        ("MPJVE", figures.mpjve_mm, "mm per frame of 1/50 s"),
    ] {
        text += &format!("{name:<36} {value:>10.2} {unit}\n");
    }
    text + &format!("{} frames\n", figures.frames)
}

fn mpi_inf_3dhp(report: &Report3dhp) -> String {
    let mut text = format!("{:<12} {:>8} {:>10} {:>9} {:>9}\n", "sequence", "frames", "MPJPE mm", "PCK %", "AUC %");
    let mut line = |name: &str, frames: usize, mpjpe: f64, pck: f64, auc: f64| {
        text += &format!("{name:<12} {frames:>8} {mpjpe:>10.2} {pck:>9.2} {auc:>9.2}\n");
    };
    report.sequences.iter().for_each(|s| line(&s.name, s.frames, s.mpjpe_mm, s.pck_percent, s.auc_percent));
    line("all", report.frames, report.mpjpe_mm, report.pck_percent, report.auc_percent);
    text + &format!("P-MPJPE {:.2} mm (not published)\n", report.p_mpjpe_mm)
}
