//! Sizes of axes, some of them known only when the model runs.

use std::rc::Rc;

use crate::onnx::Extent;

/// Size of an axis: a product of a number and of sizes that inputs bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dim {
    factor: usize,
    /// Sorted by name.
    symbols: Vec<Rc<str>>,
}

impl Dim {
    /// A size that is known now.
    #[must_use]
    pub fn fixed(size: usize) -> Self {
        Self { factor: size, symbols: Vec::new() }
    }

    /// A size that an input brings.
    #[must_use]
    pub fn symbol(name: &str) -> Self {
        Self { factor: 1, symbols: vec![name.into()] }
    }

    /// The size, where it is known now.
    #[must_use]
    pub fn size(&self) -> Option<usize> {
        self.symbols.is_empty().then_some(self.factor)
    }

    pub(super) fn factor(&self) -> usize {
        self.factor
    }

    pub(super) fn symbols(&self) -> &[Rc<str>] {
        &self.symbols
    }

    /// Size of two axes merged.
    pub(super) fn times(&self, other: &Self) -> Self {
        let mut symbols = [self.symbols.as_slice(), other.symbols.as_slice()].concat();
        symbols.sort();
        Self { factor: self.factor * other.factor, symbols }
    }

    /// Size of what remains when `size` is split off an axis.
    pub(super) fn divided_by(&self, size: usize) -> Option<Self> {
        (size > 0 && self.factor.is_multiple_of(size)).then(|| Self { factor: self.factor / size, symbols: self.symbols.clone() })
    }

    pub(super) fn extent(&self) -> Extent {
        match (self.factor, self.symbols.as_slice()) {
            (size, []) => Extent::Fixed(size),
            (1, [name]) => Extent::Named(name.to_string()),
            _ => Extent::Unknown,
        }
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Self::fixed(size)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Self::symbol(name)
    }
}

pub(super) fn extents(dims: &[Dim]) -> Vec<Extent> {
    dims.iter().map(Dim::extent).collect()
}

/// The shape, where it is known now.
pub(super) fn sizes(dims: &[Dim]) -> Option<Vec<usize>> {
    dims.iter().map(Dim::size).collect()
}

/// Shape of `a op b`, broadcast as numpy does.
#[track_caller]
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let rank = a.len().max(b.len());
    let one = Dim::fixed(1);
    let at = |dims: &[Dim], axis: usize| (axis + dims.len()).checked_sub(rank).map_or_else(|| one.clone(), |i| dims[i].clone());
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y || y == one => x,
            (x, y) if x == one => y,
            (x, y) => panic!("shapes {a:?} and {b:?} do not broadcast: {x:?} against {y:?}"),
        })
        .collect()
}
