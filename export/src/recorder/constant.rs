//! Values known while recording: weights and what is computed of them alone.

/// A constant, row-major, with the name that it has in the file: a weight's own, then what was made of it after slashes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub label: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Constant {
    #[track_caller]
    pub fn new(label: &str, shape: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "constant {label}: {shape:?} against {} values", values.len());
        Self { label: label.to_owned(), shape: shape.to_vec(), values }
    }

    /// `layers.0.norm1.weight`, and what is made of it, stands at `layers.0.norm1`.
    pub fn place(&self) -> &str {
        let weight = self.label.split('/').next().unwrap_or_default();
        weight.rsplit_once('.').map_or("", |(place, _)| place)
    }

    /// Each value alone, computed in f64.
    pub fn map(&self, suffix: &str, f: impl Fn(f64) -> f64) -> Self {
        let values = self.values.iter().map(|&x| f(f64::from(x)) as f32).collect();
        Self { label: format!("{}/{suffix}", self.label), shape: self.shape.clone(), values }
    }

    /// Axes in another order.
    pub fn transpose(&self, order: &[usize]) -> Self {
        let shape: Vec<usize> = order.iter().map(|&axis| self.shape[axis]).collect();
        let strides = strides(&self.shape);
        let strides: Vec<usize> = order.iter().map(|&axis| strides[axis]).collect();
        let values = (0..self.values.len()).map(|flat| self.values[offset(flat, &shape, &strides)]).collect();
        Self { label: format!("{}/transposed", self.label), shape, values }
    }

    /// The same numbers with axes of size 1 put in front.
    pub fn with_rank(&self, rank: usize) -> Self {
        let mut shape = vec![1; rank.saturating_sub(self.shape.len())];
        shape.extend(&self.shape);
        Self { shape, ..self.clone() }
    }

    /// Rows `start..start + count` of the first axis.
    pub fn rows(&self, start: usize, count: usize) -> Self {
        let row: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = count;
        let values = self.values[start * row..(start + count) * row].to_vec();
        Self { label: format!("{}/rows_{start}", self.label), shape, values }
    }

    /// Columns `start..start + count` of a matrix.
    pub fn columns(&self, start: usize, count: usize) -> Self {
        let values = self.values.chunks_exact(self.shape[1]).flat_map(|row| &row[start..start + count]).copied().collect();
        Self { label: format!("{}/columns_{start}", self.label), shape: vec![self.shape[0], count], values }
    }

    /// Both, broadcast to `shape`, computed in f64.
    pub fn zip(&self, other: &Self, shape: &[usize], suffix: &str, f: impl Fn(f64, f64) -> f64) -> Self {
        let (a, b) = (self.broadcast_strides(shape), other.broadcast_strides(shape));
        let values = (0..shape.iter().product())
            .map(|flat| f(f64::from(self.values[offset(flat, shape, &a)]), f64::from(other.values[offset(flat, shape, &b)])) as f32)
            .collect();
        Self { label: format!("{}/{suffix}", self.label), shape: shape.to_vec(), values }
    }

    /// Strides over `shape` that stand still along axes of size 1.
    fn broadcast_strides(&self, shape: &[usize]) -> Vec<usize> {
        let wide = self.with_rank(shape.len());
        strides(&wide.shape).into_iter().zip(&wide.shape).map(|(stride, &size)| if size == 1 { 0 } else { stride }).collect()
    }
}

/// Elements between neighbours along each axis.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Where element `flat` of a row-major `shape` lies under other strides.
fn offset(mut flat: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut offset = 0;
    for (&size, &stride) in shape.iter().zip(strides).rev() {
        offset += flat % size * stride;
        flat /= size;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_broadcasts() {
        let a = Constant::new("a.w", &[2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(a.transpose(&[1, 0]).values, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let b = Constant::new("b", &[3], vec![10.0, 20.0, 30.0]);
        assert_eq!(a.zip(&b, &[2, 3], "add", |x, y| x + y).values, [10.0, 21.0, 32.0, 13.0, 24.0, 35.0]);
        assert_eq!(a.rows(1, 1).values, [3.0, 4.0, 5.0]);
        assert_eq!(a.columns(1, 2).values, [1.0, 2.0, 4.0, 5.0]);
        assert_eq!((a.place(), a.transpose(&[1, 0]).place(), b.place()), ("a", "a", ""));
    }
}
