//! Symmetric positive definite systems whose entries lie near the diagonal: solved in time linear in their size.

/// Entries beside the diagonal: three coordinates of a point, of the next one and of the one after.
const BAND: usize = 8;

/// A symmetric matrix of which only the diagonal and `BAND` entries below it are not zero, and a right-hand side.
#[derive(Clone, Debug)]
pub(crate) struct BandedSystem {
    /// `lower[i][k]`: row `i`, column `i - k`.
    lower: Vec<[f64; BAND + 1]>,
    right: Vec<f64>,
}

impl BandedSystem {
    /// All zero.
    pub(crate) fn new(size: usize) -> Self {
        Self { lower: vec![[0.0; BAND + 1]; size], right: vec![0.0; size] }
    }

    /// Adds the squared residual `weight * (sum_k row_k x_k - target)^2` to what the solution minimises. The indices in `row` lie within
    /// `BAND` of each other.
    pub(crate) fn add_residual(&mut self, row: &[(usize, f64)], target: f64, weight: f64) {
        for &(i, a) in row {
            self.right[i] += weight * a * target;
            for &(j, b) in row.iter().filter(|(j, _)| *j <= i) {
                self.lower[i][i - j] += weight * a * b;
            }
        }
    }

    /// The minimum, by Cholesky's factorisation; `None` where the residuals leave something undetermined.
    pub(crate) fn solve(mut self) -> Option<Vec<f64>> {
        let size = self.right.len();
        for i in 0..size {
            for j in i.saturating_sub(BAND)..=i {
                // L[i][j] from the rows before
                let first = i.saturating_sub(BAND);
                let known: f64 = (first..j).map(|k| self.lower[i][i - k] * self.lower[j][j - k]).sum();
                let rest = self.lower[i][i - j] - known;
                if i == j {
                    if !(rest > 0.0 && rest.is_finite()) {
                        return None;
                    }
                    self.lower[i][0] = rest.sqrt();
                } else {
                    self.lower[i][i - j] = rest / self.lower[j][0];
                }
            }
        }
        let mut x = self.right;
        for i in 0..size {
            let known: f64 = (i.saturating_sub(BAND)..i).map(|j| self.lower[i][i - j] * x[j]).sum();
            x[i] = (x[i] - known) / self.lower[i][0];
        }
        for i in (0..size).rev() {
            let known: f64 = (i + 1..size.min(i + BAND + 1)).map(|j| self.lower[j][j - i] * x[j]).sum();
            x[i] = (x[i] - known) / self.lower[i][0];
        }
        Some(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::{DMatrix, DVector};

    #[test]
    fn it_is_the_dense_solution() {
        const SIZE: usize = 40;
        let mut system = BandedSystem::new(SIZE);
        let (mut dense, mut right) = (DMatrix::<f64>::zeros(SIZE, SIZE), DVector::zeros(SIZE));
        let value = |i: usize| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
        for r in 0..4 * SIZE {
            let first = r % (SIZE - 8);
            let row: Vec<(usize, f64)> = (0..9).step_by(1 + r % 3).map(|k| (first + k, value(9 * r + k))).collect();
            let (target, weight) = (value(r), 1.5 + value(r + 5));
            system.add_residual(&row, target, weight);
            for &(i, a) in &row {
                right[i] += weight * a * target;
                row.iter().for_each(|&(j, b)| dense[(i, j)] += weight * a * b);
            }
        }
        let expected = dense.cholesky().unwrap().solve(&right);
        let found = system.solve().unwrap();
        assert!(found.iter().zip(expected.iter()).all(|(f, e)| (f - e).abs() < 1e-9), "{found:?}");
    }

    #[test]
    fn what_is_undetermined_is_said() {
        let mut system = BandedSystem::new(3);
        system.add_residual(&[(0, 1.0), (1, -1.0)], 0.0, 1.0);
        assert_eq!(system.solve(), None);
    }
}
