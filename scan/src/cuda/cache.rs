//! Compiled kernels on disk, by content and architecture: a first compilation takes seconds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::nvrtc::{self, Compiled, compile};
use super::{Program, SOURCE};
use crate::Error;

/// `$POSELIFT_CACHE`, else `poselift` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`); `None` where there is none.
pub fn default_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("POSELIFT_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("poselift")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/poselift")))
}

/// [`compile`], or what an earlier call left in `folder`. A folder that cannot be written costs only the time.
///
/// # Errors
/// Those of [`compile`].
pub fn compile_cached(program: Program, architecture: u32, folder: &Path) -> Result<Compiled, Error> {
    let path = folder.join(name(program, architecture)?);
    if let Some(compiled) = read(&path) {
        return Ok(compiled);
    }
    let compiled = compile(program, architecture)?;
    let _ = write(&path, &compiled);
    Ok(compiled)
}

/// The file's name: what the kernels were made of, and for what.
fn name(program: Program, architecture: u32) -> Result<String, Error> {
    let (major, minor) = nvrtc::version()?;
    let options = nvrtc::options(program, architecture).join(" ");
    let content = [SOURCE, &options, &format!("nvrtc {major}.{minor}")].join("\0");
    Ok(format!("selective_scan-{:016x}-sm_{architecture}.bin", fnv_1a(content.as_bytes())))
}

/// The hash FNV-1a: the same in every version of this program, which std's does not promise.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What a file of the cache starts with.
const MAGIC: &[u8; 8] = b"plcubin1";

/// A file is [`MAGIC`], the log's length (u32, little endian), the log, the image.
fn write(path: &Path, compiled: &Compiled) -> io::Result<()> {
    let length = u32::try_from(compiled.log.len()).map_err(io::Error::other)?;
    let bytes = [&MAGIC[..], &length.to_le_bytes(), compiled.log.as_bytes(), &compiled.image].concat();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Aside, then renamed: another process never sees half a file.
    let aside = path.with_extension(format!("{}.partial", std::process::id()));
    fs::write(&aside, bytes)?;
    fs::rename(&aside, path)
}

/// `None` where there is no such file, or not one that [`write`] wrote.
fn read(path: &Path) -> Option<Compiled> {
    let bytes = fs::read(path).ok()?;
    let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let (log, image) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    // Every cubin is an ELF file.
    image.starts_with(b"\x7fELF").then(|| Compiled { image: image.to_vec(), log: String::from_utf8_lossy(log).into_owned() })
}

/// Removes what a driver refused, so that the next call compiles.
pub(super) fn forget(program: Program, architecture: u32, folder: &Path) {
    if let Ok(name) = name(program, architecture) {
        let _ = fs::remove_file(folder.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/kernels.bin");
        assert_eq!(read(&path), None);
        let compiled = Compiled { image: b"\x7fELF and more".to_vec(), log: "Used 64 registers".to_owned() };
        write(&path, &compiled).expect("written");
        assert_eq!(read(&path), Some(compiled));
        assert_eq!(path.parent().expect("deep").read_dir().expect("a folder").count(), 1, "nothing is left aside");
        for spoilt in [&b""[..], b"plcubin1", b"plcubin1\xff\xff\xff\xff", b"plcubin1\0\0\0\0no elf", b"other   \0\0\0\0\x7fELF"] {
            fs::write(&path, spoilt).expect("written");
            assert_eq!(read(&path), None);
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
