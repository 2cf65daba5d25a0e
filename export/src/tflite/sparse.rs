//! Sparse constants (TACO's format, as TFLite stores it: `SparsityParameters` of the schema).
//!
//! The tensor, possibly cut into blocks, is traversed level by level: level `l` walks dimension `traversal_order[l]`. A
//! dense level visits every index; a sparse one (compressed rows) visits those that `array_indices` lists between two
//! entries of `array_segments`. Every leaf takes the next stored value.

use super::Error;
use super::flatbuffer::Table;

enum Level {
    Dense { size: usize },
    Sparse { segments: Vec<usize>, indices: Vec<usize> },
}

/// Where the index of a level goes: dimension of the dense tensor, and the factor before adding.
struct Axis {
    dimension: usize,
    stride: usize,
}

/// Spreads `stored` over a dense tensor of `shape`, whose product is `elements` (checked by the caller); the rest is 0.
pub fn densify(sparsity: Table<'_>, shape: &[usize], elements: usize, stored: &[f32]) -> Result<Vec<f32>, Error> {
    let levels = sparsity.tables(2)?;
    if levels.len() > 2 * shape.len() {
        return Err(bad("a sparse tensor has more levels than dimensions and blocks"));
    }
    let levels = levels.iter().map(parse_level).collect::<Result<Vec<_>, _>>()?;
    let axes = parse_axes(&sparsity, shape.len(), &levels)?;
    if elements == 0 {
        return Ok(Vec::new());
    }
    let mut dense = Dense { shape, stored, levels: &levels, axes: &axes, values: vec![0.0; elements] };
    dense.fill(0, 0, &mut vec![0; shape.len()])?;
    Ok(dense.values)
}

fn parse_level(table: &Table<'_>) -> Result<Level, Error> {
    match table.u8(0, 0)? {
        0 => Ok(Level::Dense { size: non_negative(table.i32(1, 0)?)? }),
        1 => Ok(Level::Sparse { segments: index_vector(table, 2)?, indices: index_vector(table, 4)? }),
        other => Err(Error::Unsupported(format!("sparse dimensions of format {other}"))),
    }
}

/// The union `SparseIndexVector`: its type in `slot`, its table in the next; 32, 16 or 8 bits an index.
fn index_vector(table: &Table<'_>, slot: usize) -> Result<Vec<usize>, Error> {
    let vector = table.table(slot + 1)?.ok_or_else(|| bad("a sparse dimension has no index vector"))?;
    match table.u8(slot, 0)? {
        1 => vector.i32s(0)?.map(non_negative).collect(),
        2 => {
            let (chunks, _) = vector.vector(0, 2)?.unwrap_or_default().as_chunks::<2>();
            Ok(chunks.iter().map(|bytes| usize::from(u16::from_le_bytes(*bytes))).collect())
        }
        3 => Ok(vector.vector(0, 1)?.unwrap_or_default().iter().map(|&byte| usize::from(byte)).collect()),
        other => Err(Error::Unsupported(format!("sparse indices of type {other}"))),
    }
}

fn parse_axes(sparsity: &Table<'_>, rank: usize, levels: &[Level]) -> Result<Vec<Axis>, Error> {
    let order = sparsity.i32s(0)?;
    let block_map = sparsity.i32s(1)?;
    if order.len() != levels.len() || levels.len() != rank + block_map.len() || block_map.len() > rank {
        return Err(bad("the sparse levels do not match the tensor's dimensions"));
    }
    let order = order.map(non_negative).collect::<Result<Vec<_>, _>>()?;
    let block_map = block_map.map(non_negative).collect::<Result<Vec<_>, _>>()?;
    // Every level once: each dimension, then each block, exactly one time.
    let mut seen = vec![false; levels.len()];
    for &level in &order {
        if seen.get(level) != Some(&false) {
            return Err(bad("the sparse traversal order is no permutation"));
        }
        seen[level] = true;
    }
    // A dimension cut into blocks counts blocks: its index is worth the block's size.
    let mut block_size = vec![1; rank];
    let mut is_cut = vec![false; rank];
    for (level, &place) in levels.iter().zip(&order) {
        if let Some(block) = place.checked_sub(rank) {
            let dimension = *block_map.get(block).filter(|&&d| d < rank).ok_or_else(|| bad("a sparse block is astray"))?;
            let Level::Dense { size: size @ 1.. } = level else {
                return Err(bad("a block of a sparse tensor is not dense"));
            };
            if std::mem::replace(&mut is_cut[dimension], true) {
                return Err(bad("a sparse dimension is cut into blocks twice"));
            }
            block_size[dimension] = *size;
        }
    }
    Ok(order
        .iter()
        .map(|&place| match place.checked_sub(rank) {
            Some(block) => Axis { dimension: block_map[block], stride: 1 },
            None => Axis { dimension: place, stride: block_size[place] },
        })
        .collect())
}

struct Dense<'s> {
    shape: &'s [usize],
    stored: &'s [f32],
    levels: &'s [Level],
    axes: &'s [Axis],
    values: Vec<f32>,
}

impl Dense<'_> {
    /// Fills the part below position `parent` of the levels before `depth`, at the given coordinate. Its depth is at
    /// most twice TFLite's highest rank, and each coordinate is checked before descending: the work is bounded by the
    /// dense size times the depth.
    fn fill(&mut self, depth: usize, parent: usize, coordinate: &mut [usize]) -> Result<(), Error> {
        let Some(level) = self.levels.get(depth) else {
            let value = *self.stored.get(parent).ok_or_else(|| bad("a sparse tensor has too few values"))?;
            let flat = coordinate.iter().zip(self.shape).fold(0, |flat, (&index, &size)| flat * size + index);
            self.values[flat] = value;
            return Ok(());
        };
        match level {
            Level::Dense { size } => {
                for index in 0..*size {
                    self.descend(depth, index, parent * size + index, coordinate)?;
                }
            }
            Level::Sparse { segments, indices } => {
                let segment = segments.get(parent).zip(segments.get(parent + 1));
                let (&start, &end) = segment.ok_or_else(|| bad("a sparse segment is missing"))?;
                let indices = indices.get(start..end).ok_or_else(|| bad("a sparse segment leaves its index vector"))?;
                for (offset, &index) in indices.iter().enumerate() {
                    // Rising indices: no coordinate twice, so a small file cannot ask for endless work.
                    if offset > 0 && index <= indices[offset - 1] {
                        return Err(bad("sparse indices do not rise"));
                    }
                    self.descend(depth, index, start + offset, coordinate)?;
                }
            }
        }
        Ok(())
    }

    fn descend(&mut self, depth: usize, index: usize, position: usize, coordinate: &mut [usize]) -> Result<(), Error> {
        let Axis { dimension, stride } = self.axes[depth];
        let before = coordinate[dimension];
        let here = index.checked_mul(stride).and_then(|step| before.checked_add(step));
        coordinate[dimension] =
            here.filter(|&here| here < self.shape[dimension]).ok_or_else(|| bad("a sparse index lies outside the tensor"))?;
        self.fill(depth + 1, position, coordinate)?;
        coordinate[dimension] = before;
        Ok(())
    }
}

fn non_negative(value: i32) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| bad("a sparse size or index is negative"))
}

fn bad(what: &str) -> Error {
    Error::Inconsistent(what.to_owned())
}
