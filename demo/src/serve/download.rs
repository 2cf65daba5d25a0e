//! A person's results in every format, made when they are asked for.

use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use runtime::LiftedClip;
use serde::Serialize;

use super::clip::Person;
use crate::run::MotionFile;

/// A file that the page offers.
#[derive(Debug, Serialize)]
pub struct Offer {
    /// The format's name, as `--format` has it.
    format: String,
    /// Name of the file.
    file: String,
    /// What it is for, in some words.
    what: String,
    /// Where the page finds it.
    url: String,
}

/// Why a file cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`formats::Error`].
    #[error(transparent)]
    Motion(#[from] formats::Error),
    /// See [`runtime::Error`].
    #[error(transparent)]
    Results(#[from] runtime::Error),
    /// The system's.
    #[error("cannot make the file: {0}")]
    System(#[from] std::io::Error),
    /// No format of ours.
    #[error("there is no format \"{0}\"")]
    Unknown(String),
}

/// Everything that can be had of a person.
pub fn offers(person: &Person) -> Vec<Offer> {
    let own = [("json", "everything, for programs"), ("npz", "everything, for NumPy")];
    let own = own.into_iter().map(|(format, what)| (format.to_owned(), what.to_owned()));
    let motion = MotionFile::value_variants().iter().filter_map(|file| {
        let value = file.to_possible_value()?;
        Some((value.get_name().to_owned(), value.get_help().map(ToString::to_string).unwrap_or_default()))
    });
    let offer = |(format, what): (String, String)| {
        let file = file_name(person, &format);
        Offer { url: format!("/api/people/{}/files/{format}", person.id), file, what, format }
    };
    own.chain(motion).map(offer).collect()
}

/// `CLIP.3d.json` gives `CLIP.3d.bvh`.
fn file_name(person: &Person, format: &str) -> String {
    let motion = motion_file(format);
    let suffix = motion.map_or(format, |file| file.suffix());
    let name = person.path.file_name().unwrap_or_default().to_string_lossy();
    format!("{}.{suffix}", name.strip_suffix(".json").unwrap_or(&name))
}

fn motion_file(format: &str) -> Option<MotionFile> {
    MotionFile::from_str(format, false).ok()
}

/// The file's name and its bytes.
///
/// # Errors
/// See [`Error`].
pub fn make(person: &Person, format: &str) -> Result<(String, Vec<u8>), Error> {
    let name = file_name(person, format);
    let bytes = match (format, motion_file(format)) {
        ("json", _) => std::fs::read(&person.path)?,
        ("npz", _) => npz(&person.path)?,
        (_, Some(file)) => {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join(format!("motion.{}", file.suffix()));
            file.write(&path, &person.motion()?)?;
            std::fs::read(path)?
        }
        _ => return Err(Error::Unknown(format.to_owned())),
    };
    Ok((name, bytes))
}

/// The one beside the JSON, which may hold more; else one that is made of it.
fn npz(json: &Path) -> Result<Vec<u8>, Error> {
    let beside: PathBuf = json.with_extension("npz");
    if beside.is_file() {
        return Ok(std::fs::read(beside)?);
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("motion.npz");
    LiftedClip::read_json(json)?.write_npz(&path)?;
    Ok(std::fs::read(path)?)
}
