//! Medians of a stream in bounded memory.

/// Milliseconds, counted in steps of one up to a minute; what is longer counts as a minute.
#[derive(Debug, Clone)]
pub struct Quantiles {
    counts: Vec<u32>,
    count: u64,
}

const LONGEST_MS: usize = 60_000;

impl Default for Quantiles {
    fn default() -> Self {
        Self { counts: vec![0; LONGEST_MS + 1], count: 0 }
    }
}

impl Quantiles {
    /// Takes a value in.
    pub fn add(&mut self, value_ms: f32) {
        // A cast of a float holds its ends and turns NaN into 0.
        let step = (value_ms.round() as usize).min(LONGEST_MS);
        self.counts[step] = self.counts[step].saturating_add(1);
        self.count += 1;
    }

    /// How many were taken in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value that this share of all does not exceed; `None` of nothing.
    pub fn at(&self, share: f64) -> Option<f32> {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let step = self.counts.iter().position(|&count| {
            seen += u64::from(count);
            seen >= wanted
        })?;
        (self.count > 0).then_some(step as f32)
    }

    /// Forgets half of what was taken in, evenly.
    pub fn halve(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.count = self.counts.iter().map(|&count| u64::from(count)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_those_of_what_was_taken_in() {
        let mut quantiles = Quantiles::default();
        assert_eq!(quantiles.at(0.5), None);
        (1..=100).for_each(|value| quantiles.add(value as f32));
        assert_eq!((quantiles.at(0.5), quantiles.at(0.95), quantiles.at(1.0)), (Some(50.0), Some(95.0), Some(100.0)));
        for strange in [f32::NAN, -5.0, 1e9] {
            quantiles.add(strange);
        }
        assert_eq!((quantiles.count(), quantiles.at(1.0)), (103, Some(60_000.0)));
        (0..300).for_each(|_| quantiles.add(7.0));
        quantiles.halve();
        assert_eq!((quantiles.count(), quantiles.at(0.5)), (151, Some(7.0)));
    }
}
