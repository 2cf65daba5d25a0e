//! `trainer report`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use trainer::{
    recipe::{RESOLVED_FILE, Recipe},
    report::{About, REPORT_FILE, write},
};

#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run, one that is interrupted or still going on included.
    run: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.run.is_dir(), "{}: no such folder; name the folder that --out named", args.run.display());
    let recipe = Recipe::read(&args.run.join(RESOLVED_FILE), &[])?;
    write(&args.run, &recipe, &About::default())?;
    writeln!(std::io::stdout(), "{}", args.run.join(REPORT_FILE).display()).context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}
