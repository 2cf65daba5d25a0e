//! What a live model remembers of one stream, wherever it lies.

use std::sync::Arc;

use super::resident::Slot;
use crate::Error;

/// What a live model remembers of one stream. A new one remembers nothing; [`StepEngine::advance`](super::StepEngine::advance) moves it on
/// by a frame.
///
/// Where it lies is the engine's business: in the program's memory, or in that of a GPU, in a slot that goes back to the engine when the
/// state is dropped. A clone is a snapshot, from which the stream can go on another time; it costs nothing until one of them moves on.
/// [`StepEngine::read_state`](super::StepEngine::read_state) gives it in numbers, and numbers become a state by `from`.
#[derive(Clone, Debug, Default)]
pub struct StepState {
    pub(super) place: Place,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Place {
    /// Zeros, which need no place.
    #[default]
    Fresh,
    /// In the program's memory.
    Host(Vec<f32>),
    /// In an engine's memory; shared as long as it does not change.
    Slot(Arc<Slot>),
}

impl StepState {
    /// Remembers nothing again.
    pub fn clear(&mut self) {
        match &mut self.place {
            Place::Host(numbers) => numbers.fill(0.0), // the memory will be needed again
            place => *place = Place::Fresh,
        }
    }

    /// Its numbers, `len` of them where it remembers nothing.
    pub(super) fn read(&self, len: usize) -> Result<Vec<f32>, Error> {
        match &self.place {
            Place::Fresh => Ok(vec![0.0; len]),
            Place::Host(numbers) => Ok(numbers.clone()),
            Place::Slot(slot) => slot.read(),
        }
    }

    /// Its numbers, brought into the program's memory.
    pub(super) fn on_host(&mut self, len: usize) -> Result<&mut Vec<f32>, Error> {
        if !matches!(self.place, Place::Host(_)) {
            self.place = Place::Host(self.read(len)?);
        }
        match &mut self.place {
            Place::Host(numbers) => Ok(numbers),
            Place::Fresh | Place::Slot(_) => unreachable!("it was just brought there"),
        }
    }
}

impl From<Vec<f32>> for StepState {
    /// Numbers that [`StepEngine::read_state`](super::StepEngine::read_state) gave, of an engine for the same model.
    fn from(numbers: Vec<f32>) -> Self {
        Self { place: Place::Host(numbers) }
    }
}
