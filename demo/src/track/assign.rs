//! Who goes with whom: the assignment of the largest sum.

use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

/// Weights become whole numbers for the algorithm.
const STEPS: f32 = 1e6;

/// Pairs of a row and a column, each at most once, so that the sum of their scores is the largest. `None` (and a score that
/// is not positive) is no pair.
pub fn best_pairs(scores: &[Vec<Option<f32>>]) -> Vec<(usize, usize)> {
    let (rows, columns) = (scores.len(), scores.first().map_or(0, Vec::len));
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    let score = |row: usize, column: usize| scores[row].get(column).copied().flatten().filter(|score| *score > 0.0);
    // A column of its own lets each row stay alone, for nothing.
    let weights = Matrix::from_fn(rows, columns + rows, |(row, column)| score(row, column).map_or(0, |score| (score * STEPS) as i64));
    let (_, column_of) = kuhn_munkres(&weights);
    column_of.into_iter().enumerate().filter(|&(row, column)| column < columns && score(row, column).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_counts_not_the_best_pair() {
        // Greedily 0-0 (0.9) leaves 1 alone.
        let scores = vec![vec![Some(0.9), Some(0.8)], vec![Some(0.7), None]];
        assert_eq!(best_pairs(&scores), [(0, 1), (1, 0)]);
    }

    #[test]
    fn nobody_is_forced_together() {
        assert_eq!(best_pairs(&[vec![None, Some(0.0)], vec![None, Some(0.2)]]), [(1, 1)]);
        assert_eq!(best_pairs(&[vec![Some(0.5)], vec![Some(0.6)], vec![None]]), [(1, 0)]);
        assert_eq!(best_pairs(&[]), []);
        assert_eq!(best_pairs(&[vec![], vec![]]), []);
    }
}
