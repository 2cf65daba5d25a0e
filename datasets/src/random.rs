//! Random numbers that depend on what is drawn, never on who draws first: every sample has its own generator.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a generator is for. Two purposes never share a stream, even with the same seed and index.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Sample = 1,
    Order = 2,
    Evaluation = 3,
    Synthetic = 4,
    Resample = 5,
}

/// The generator of item `index` of round `round` (an epoch, say) under `seed`: the same on every machine and thread.
pub(crate) fn generator(seed: u64, stream: Stream, round: u64, index: u64) -> ChaCha8Rng {
    let words = [seed, stream as u64, round, index];
    let mut key = [0_u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in `low..=high`; a range of no width is its one value.
pub(crate) fn uniform(rng: &mut impl Rng, [low, high]: [f32; 2]) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// Uniform whole number in `low..=high`.
pub(crate) fn uniform_count(rng: &mut impl Rng, [low, high]: [u32; 2]) -> u32 {
    rng.random_range(low..=high.max(low))
}

/// One draw of N(0, 1).
pub(crate) fn normal(rng: &mut impl Rng) -> f32 {
    rng.sample(rand_distr::StandardNormal)
}
