//! Large symmetric positive definite systems. The library's factorisation goes column by column, which for thousands of unknowns waits
//! for memory; cut into halves, nearly all of the work is products of matrices.

use nalgebra::{DMatrix, DMatrixView, DMatrixViewMut};

/// Blocks up to this size go to the library.
const BLOCK: usize = 128;

/// The lower factor L of a matrix L L^T.
pub(crate) struct Factors {
    lower: DMatrix<f64>,
}

impl Factors {
    /// Factors a symmetric matrix; `None` when it is not positive definite.
    pub(crate) fn new(mut matrix: DMatrix<f64>) -> Option<Self> {
        factor(matrix.as_view_mut())?;
        Some(Self { lower: matrix })
    }

    /// X of L L^T X = B.
    pub(crate) fn solve(&self, b: &DMatrix<f64>) -> DMatrix<f64> {
        let mut x = b.clone();
        solve_lower(self.lower.as_view(), x.as_view_mut());
        solve_lower_transposed(self.lower.as_view(), x.as_view_mut());
        x
    }
}

/// Puts L into the lower triangle; what is above it is left over and never read.
fn factor(mut a: DMatrixViewMut<'_, f64>) -> Option<()> {
    let n = a.nrows();
    if n <= BLOCK {
        let lower = a.clone_owned().cholesky()?.unpack();
        a.copy_from(&lower);
        return Some(());
    }
    // [A11 .; A21 A22] = [L11 .; L21 L22] [L11^T L21^T; . L22^T]
    let half = n / 2;
    factor(a.view_mut((0, 0), (half, half)))?;
    let mut l21_t = a.view((half, 0), (n - half, half)).transpose(); // A21 = L21 L11^T
    solve_lower(a.view((0, 0), (half, half)), l21_t.as_view_mut());
    let l21 = l21_t.transpose();
    a.view_mut((half, half), (n - half, n - half)).gemm(-1.0, &l21, &l21_t, 1.0);
    a.view_mut((half, 0), (n - half, half)).copy_from(&l21);
    factor(a.view_mut((half, half), (n - half, n - half)))
}

/// B becomes X of L X = B.
fn solve_lower(l: DMatrixView<'_, f64>, mut b: DMatrixViewMut<'_, f64>) {
    let n = l.nrows();
    if n <= BLOCK {
        l.solve_lower_triangular_unchecked_mut(&mut b);
        return;
    }
    let half = n / 2;
    let (mut upper, mut lower) = b.rows_range_pair_mut(..half, half..);
    solve_lower(l.view((0, 0), (half, half)), upper.as_view_mut());
    lower.gemm(-1.0, &l.view((half, 0), (n - half, half)), &upper, 1.0);
    solve_lower(l.view((half, half), (n - half, n - half)), lower.as_view_mut());
}

/// B becomes X of L^T X = B.
fn solve_lower_transposed(l: DMatrixView<'_, f64>, mut b: DMatrixViewMut<'_, f64>) {
    let n = l.nrows();
    if n <= BLOCK {
        l.tr_solve_lower_triangular_unchecked_mut(&mut b);
        return;
    }
    let half = n / 2;
    let (mut upper, mut lower) = b.rows_range_pair_mut(..half, half..);
    solve_lower_transposed(l.view((half, half), (n - half, n - half)), lower.as_view_mut());
    upper.gemm(-1.0, &l.view((half, 0), (n - half, half)).transpose(), &lower, 1.0);
    solve_lower_transposed(l.view((0, 0), (half, half)), upper.as_view_mut());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values without a pattern, the same every time.
    fn noise(rows: usize, columns: usize) -> DMatrix<f64> {
        DMatrix::from_fn(rows, columns, |i, j| ((i * 131 + j * 977) as f64).sin())
    }

    #[test]
    fn agrees_with_the_librarys() {
        for n in [1, 7, BLOCK, BLOCK + 1, 333] {
            let spread = noise(n, n);
            let matrix = &spread * spread.transpose() + DMatrix::identity(n, n) * n as f64;
            let b = noise(n, 5);
            let expected = matrix.clone().cholesky().unwrap().solve(&b);
            let found = Factors::new(matrix).unwrap().solve(&b);
            assert!((found - &expected).abs().max() < 1e-10 * expected.abs().max().max(1.0), "n = {n}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_refused() {
        for n in [3, 300] {
            let mut matrix = DMatrix::identity(n, n);
            matrix[(n - 1, n - 1)] = -1.0;
            assert!(Factors::new(matrix).is_none());
        }
    }
}
