//! Compiled kernels on disk, by content and architecture: a first compilation takes seconds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

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
const MAGIC: &[u8; 8] = b"plcubin2";

/// A file is [`MAGIC`], the hash of what follows (u64, little endian), the log's length (u32, little endian), the log, the image. The driver
/// would run an image in which a few bytes are wrong.
fn write(path: &Path, compiled: &Compiled) -> io::Result<()> {
    let length = u32::try_from(compiled.log.len()).map_err(io::Error::other)?;
    let content = [&length.to_le_bytes(), compiled.log.as_bytes(), &compiled.image].concat();
    let bytes = [&MAGIC[..], &fnv_1a(&content).to_le_bytes(), &content].concat();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Aside, then renamed: nobody else, be it a thread of this process, ever sees half a file.
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let aside = path.with_extension(format!("{}-{}.partial", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}

/// `None` where there is no such file, or not one that [`write`] wrote.
fn read(path: &Path) -> Option<Compiled> {
    let bytes = fs::read(path).ok()?;
    let (hash, content) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    if fnv_1a(content) != u64::from_le_bytes(*hash) {
        return None;
    }
    let (length, rest) = content.split_first_chunk::<4>()?;
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
        let good = fs::read(&path).expect("read");
        for spoilt in 0..good.len() {
            let mut bytes = good.clone();
            bytes[spoilt] ^= 4;
            fs::write(&path, bytes).expect("written");
            assert_eq!(read(&path), None, "byte {spoilt}");
            fs::write(&path, &good[..spoilt]).expect("written");
            assert_eq!(read(&path), None, "{spoilt} bytes");
        }
        let hashed = |content: &[u8]| [&MAGIC[..], &fnv_1a(content).to_le_bytes(), content].concat();
        for spoilt in [&b""[..], b"\xff\xff\xff\xff", b"\0\0\0\0no elf"] {
            fs::write(&path, hashed(spoilt)).expect("written");
            assert_eq!(read(&path), None);
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
