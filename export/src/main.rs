//! `export`: checkpoints and TFLite models into ONNX files.

mod cli;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser;

/// Writes models as ONNX.
#[derive(Debug, Parser)]
#[command(name = "export", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Onnx(cli::onnx::Args),
    Inspect(cli::inspect::Args),
    Tflite(cli::tflite::Args),
    Triton(cli::triton::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .without_time()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let result = match &args.command {
        Command::Onnx(args) => cli::onnx::run(args),
        Command::Inspect(args) => cli::inspect::run(args),
        Command::Tflite(args) => cli::tflite::run(args),
        Command::Triton(args) => cli::triton::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
