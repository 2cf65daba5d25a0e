//! Fuzzing on the stable toolchain: valid files, damaged by [bolero](https://docs.rs/bolero) in ways that files are damaged and attacked.
//!
//! Each test of this package is a target: `cargo test -p fuzz` gives a second to each, `fuzz/run.sh SECONDS` as long as you like. Random
//! bytes die at the first check of a parser, so a target starts from small valid files (`Damage` says what becomes of them). What
//! counts as a failure: a panic, a crash, more than [`SLOWEST`] for one input, more than [`MOST_MEMORY`] bytes at a time.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bolero::TypeGenerator;

/// Inputs are small: whoever takes longer is caught in something, even on a busy machine.
pub const SLOWEST: Duration = Duration::from_secs(20);
/// Inputs are small: whoever wants more believes a size that a file claims.
pub const MOST_MEMORY: usize = 512 << 20;

/// Gives no more than [`MOST_MEMORY`], so that an allocation by a claimed size ends the process here and not the machine.
struct Bounded;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

// SAFETY: every call is passed to the system's allocator as it came, or answered by null, which means that there is no memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size() > MOST_MEMORY {
            ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are the system's demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; all memory comes from there.
        unsafe { System.dealloc(at, layout) }
    }
}

/// A damaged file in the making: one of the target's seeds, another to take pieces from, and what is done.
#[derive(Clone, Debug, TypeGenerator)]
pub struct Plan {
    seed: u8,
    other: u8,
    damages: Vec<Damage>,
}

/// One thing that is done to a file. Places are taken modulo its length.
#[derive(Clone, Debug, TypeGenerator)]
enum Damage {
    Byte {
        at: u32,
        value: u8,
    },
    /// One of [`NUMBERS`] in 1, 2, 4 or 8 bytes.
    Number {
        at: u32,
        which: u8,
        width: u8,
        big_endian: bool,
    },
    /// One of [`WORDS`] in place of a run of digits.
    Word {
        digits: u16,
        which: u8,
    },
    Remove {
        at: u32,
        length: u8,
    },
    Repeat {
        at: u32,
        length: u8,
        times: u8,
    },
    Insert {
        at: u32,
        bytes: Vec<u8>,
    },
    /// A piece of the other seed.
    Splice {
        at: u32,
        from: u32,
        length: u16,
    },
    CutOff {
        at: u32,
    },
}

/// Sizes, counts and offsets that parsers stumble over.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x00ff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 33,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// The same in texts.
const WORDS: [&str; 18] = [
    "0",
    "-1",
    "1e308",
    "1e999",
    "-1e39",
    "nan",
    "NaN",
    "inf",
    "null",
    "\"\"",
    "[]",
    "{}",
    "true",
    "4294967296",
    "18446744073709551615",
    "-9223372036854775808",
    "99999999999999999999999999",
    "1e-320",
];

impl Plan {
    /// The file.
    pub fn apply(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let pick = |index: u8| seeds.get(usize::from(index) % seeds.len().max(1)).map(Vec::as_slice).unwrap_or_default();
        let (mut file, other) = (pick(self.seed).to_vec(), pick(self.other));
        self.damages.iter().for_each(|damage| damage.apply(&mut file, other));
        file
    }
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>, other: &[u8]) {
        let place = |at: u32, length: usize| at as usize % length.max(1);
        let piece = |at: u32, length: usize, of: &[u8]| -> Vec<u8> {
            let start = place(at, of.len()).min(of.len());
            of[start..(start + length).min(of.len())].to_vec()
        };
        let len = file.len();
        match self {
            Self::Byte { at, value } => {
                if let Some(byte) = file.get_mut(place(*at, len)) {
                    *byte = *value;
                }
            }
            Self::Number { at, which, width, big_endian } => {
                let number = NUMBERS[usize::from(*which) % NUMBERS.len()];
                let width = 1 << (width % 4);
                let bytes = if *big_endian { number.to_be_bytes()[8 - width..].to_vec() } else { number.to_le_bytes()[..width].to_vec() };
                let at = place(*at, len);
                file.iter_mut().skip(at).zip(bytes).for_each(|(byte, value)| *byte = value);
            }
            Self::Word { digits, which } => {
                let starts: Vec<usize> =
                    (0..len).filter(|&i| file[i].is_ascii_digit() && (i == 0 || !file[i - 1].is_ascii_digit())).collect();
                let Some(&start) = starts.get(usize::from(*digits) % starts.len().max(1)) else { return };
                let run = file[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                file.splice(start..start + run, WORDS[usize::from(*which) % WORDS.len()].bytes());
            }
            Self::Remove { at, length } => {
                let start = place(*at, len).min(len);
                file.drain(start..(start + usize::from(*length)).min(len));
            }
            Self::Repeat { at, length, times } => {
                let repeated = piece(*at, usize::from(*length), file).repeat(usize::from(*times));
                let start = place(*at, len).min(len);
                file.splice(start..start, repeated);
            }
            Self::Insert { at, bytes } => {
                let start = place(*at, len).min(len);
                file.splice(start..start, bytes.iter().copied());
            }
            Self::Splice { at, from, length } => {
                let start = place(*at, len).min(len);
                file.splice(start..start, piece(*from, usize::from(*length), other));
            }
            Self::CutOff { at } => file.truncate(place(*at, len)),
        }
    }
}

/// One target's place to put files, and its watch.
pub struct Bench {
    folder: tempfile::TempDir,
    /// Where the input is kept before it is tried, so that one that ends the process is not lost (`FUZZ_KEEP`).
    keep: Option<PathBuf>,
}

impl Bench {
    /// For the target of this name.
    #[allow(clippy::expect_used, reason = "a test without a folder to work in has failed")]
    pub fn new(name: &str) -> Self {
        let keep = std::env::var_os("FUZZ_KEEP").map(|folder| PathBuf::from(folder).join(format!("{name}.last")));
        Self { folder: tempfile::tempdir().expect("a folder for the files"), keep }
    }

    /// The path of a file of this name; it need not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of a file of this name with this content.
    #[allow(clippy::expect_used, reason = "a test that cannot write its file has failed")]
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file for the parser");
        path
    }

    /// Tries one input.
    pub fn run(&self, input: &[u8], parse: impl FnOnce(&[u8])) {
        if let Some(keep) = &self.keep {
            let _ = std::fs::write(keep, input);
        }
        let start = Instant::now();
        parse(input);
        let took = start.elapsed();
        assert!(took < SLOWEST, "{} bytes took {took:?}", input.len());
    }
}

/// A target: damaged seeds, each given to `parse` with a [`Bench`].
#[macro_export]
macro_rules! target {
    ($name:ident, $seeds:expr, $parse:expr) => {
        #[test]
        fn $name() {
            let seeds: Vec<Vec<u8>> = $seeds;
            let bench = $crate::Bench::new(stringify!($name));
            let parse = $parse;
            let try_one = |input: &[u8]| {
                bench.run(input, |input| {
                    let _ = parse(&bench, input);
                });
            };
            // what is not damaged is read, or there is nothing to damage
            seeds.iter().for_each(|seed| try_one(seed));
            bolero::check!()
                .with_test_time(std::time::Duration::from_secs(1))
                .with_iterations(100_000_000)
                .with_type::<$crate::Plan>()
                .for_each(|plan: &$crate::Plan| try_one(&plan.apply(&seeds)));
        }
    };
}
