//! `trainer`: trains and evaluates lifters.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    trainer::keep_pages();
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
