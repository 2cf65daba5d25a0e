//! Views of a buffer: element (i, j, ...) stands at `offset + i * strides[0] + j * strides[1] + ...`.

use crate::error::{Result, refuse};
use crate::tensor::element_count;
use std::borrow::Cow;

/// Strides of a row-major array, in elements.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

/// Strides of a column-major (Fortran) array, in elements.
pub(crate) fn column_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1].saturating_mul(shape[axis - 1].max(1));
    }
    strides
}

/// The bytes of a view's elements in row-major order; borrowed where they already lie so.
/// `offset` and `strides` count elements of `size` bytes. The caller has bounded the number of elements.
///
/// # Errors
/// If an element lies outside of `buffer`.
pub(crate) fn gather<'b>(buffer: &'b [u8], size: usize, offset: usize, shape: &[usize], strides: &[usize]) -> Result<Cow<'b, [u8]>> {
    if shape.len() != strides.len() {
        refuse!("a tensor has {} axes and {} strides", shape.len(), strides.len());
    }
    let Some(count) = element_count(shape) else { refuse!("a tensor of shape {shape:?} is too large") };
    if count == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    let last = shape.iter().zip(strides).try_fold(offset, |at, (axis, stride)| at.checked_add((axis - 1).checked_mul(*stride)?));
    let end_byte = last.and_then(|last| last.checked_add(1)?.checked_mul(size));
    if end_byte.is_none_or(|end| end > buffer.len()) {
        refuse!(
            "a tensor of shape {shape:?} and strides {strides:?} at element {offset} lies outside of its {} bytes of data",
            buffer.len()
        );
    }
    let row_major = row_major(shape);
    if shape.iter().enumerate().all(|(axis, &n)| n == 1 || strides[axis] == row_major[axis]) {
        return Ok(Cow::Borrowed(&buffer[offset * size..(offset + count) * size]));
    }
    let (Some(&inner), Some(&inner_stride)) = (shape.last(), strides.last()) else { refuse!("a scalar has no strides") };
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len() - 1];
    for _ in 0..count / inner {
        let row = offset + index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
        for i in 0..inner {
            let at = (row + i * inner_stride) * size;
            out.extend_from_slice(&buffer[at..at + size]);
        }
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_view_is_gathered_in_row_major_order() {
        let buffer: Vec<u8> = (0..12).collect(); // (3, 4)
        assert_eq!(*gather(&buffer, 1, 0, &[4, 3], &[1, 4]).unwrap(), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        assert_eq!(*gather(&buffer, 2, 1, &[2], &[2]).unwrap(), [2, 3, 6, 7]);
        assert_eq!(*gather(&buffer, 1, 5, &[], &[]).unwrap(), [5]);
        assert_eq!(*gather(&buffer, 1, 3, &[2, 2], &[0, 0]).unwrap(), [3, 3, 3, 3]);
    }

    #[test]
    fn a_view_outside_of_its_buffer_is_refused() {
        let buffer = [0u8; 12];
        for (offset, shape, strides) in [
            (0, vec![13], vec![1]),
            (12, vec![1], vec![1]),
            (0, vec![4, 4], vec![4, 1]),
            (usize::MAX, vec![2], vec![1]),
            (0, vec![2], vec![usize::MAX]),
            (0, vec![usize::MAX, 3], vec![0, 0]),
            (0, vec![2], vec![]),
        ] {
            assert!(gather(&buffer, 1, offset, &shape, &strides).is_err(), "{offset} {shape:?} {strides:?}");
        }
        assert!(gather(&buffer, 8, 1, &[1], &[1]).is_err());
        assert!(gather(&buffer, 8, usize::MAX, &[0, usize::MAX], &[1, 1]).unwrap().is_empty());
    }
}
