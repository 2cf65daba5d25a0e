//! States of streams that stay in the engine's memory, on its device: what travels for a frame is its keypoints and its pose.
//!
//! A step is three runs: rows of the streams are gathered from the slab, the model runs on them, the rows that come out are scattered into
//! the slab again ([`super::slots`]). The model's inputs and outputs are therefore always the same few places, whoever steps and however
//! large the slab becomes, so that its run can be a CUDA graph; and what it reads is never what it writes, so that a run that is repeated,
//! as the library does before it captures one, changes nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, btree_map::Entry},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ort::{session::Session, value::TensorRef};
use pose::JOINTS;

use super::{
    Device,
    bound::{Block, Bound, CudaGraph, Memory},
    ort::Runner,
    slots,
    state::{Place, StepState},
};
use crate::{Error, error::one_line};

/// The slot that is zero and stays so: those who remember nothing read it, and rows that are nobody's.
const ZEROS: usize = 0;
/// The slot that rows write that are nobody's.
const NOBODYS: usize = 1;
/// Slots of streams begin here.
const FIRST: usize = 2;
/// Slots at first; there are twice as many each time that they do not suffice.
const FIRST_CAPACITY: usize = 16;
/// States that are brought into the slab at once: bounds the memory for it.
const MOST_WRITTEN: usize = 64;
/// Numbers of one slab: kernels of the library count them in 32 bits.
const MOST_NUMBERS: usize = i32::MAX as usize;

/// One state of the graph.
#[derive(Debug)]
pub(super) struct Row {
    pub input: String,
    pub output: String,
    /// Without the batch.
    pub shape: Vec<usize>,
    /// Where it lies in the numbers of a stream.
    pub range: Range<usize>,
}

/// What a step graph looks like from here.
#[derive(Debug)]
pub(super) struct Layout {
    pub keypoints: String,
    pub poses: String,
    pub channels: usize,
    /// Streams per call, where the file fixes it.
    pub batch: Option<usize>,
    pub rows: Vec<Row>,
}

/// States of streams, and the model that moves them on. One step at a time: there is one device.
pub(super) struct Resident {
    path: PathBuf,
    device: Device,
    layout: Layout,
    model: Arc<Runner>,
    cuda_graph: bool,
    slots: Mutex<Slots>,
    work: Mutex<Work>,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("device", &self.device).field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// Which slots are somebody's.
#[derive(Debug)]
struct Slots {
    /// The lowest is taken first.
    free: BinaryHeap<Reverse<usize>>,
    /// Those from here on were never anybody's.
    end: usize,
    /// As many as there may be.
    most: usize,
}

/// A stream's place in the slab; it goes back when this is dropped.
pub(super) struct Slot {
    index: usize,
    resident: Arc<Resident>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.index)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.resident.slots().free.push(Reverse(self.index));
    }
}

impl Slot {
    /// Its numbers.
    pub fn read(&self) -> Result<Vec<f32>, Error> {
        self.resident.read(self.index)
    }
}

/// Everything that a step works with. Bindings go first, then what they are bound to, then the sessions.
#[derive(Debug)]
struct Work {
    plans: BTreeMap<usize, Plan>,
    buffers: Option<Buffers>,
    slab: Slab,
    /// CUDA graphs that were numbered so far.
    graphs: i32,
    gather: Session,
    scatter: Session,
}

/// For each state (slots, n).
#[derive(Debug)]
struct Slab {
    capacity: usize,
    states: Vec<Block<f32>>,
}

/// The bindings for so many rows.
#[derive(Debug)]
struct Plan {
    model: Bound,
    graph: Option<CudaGraph>,
    /// Those to the slab: made anew when it grows.
    around: Option<(Bound, Bound)>,
}

/// Inputs and outputs of the model, and the ends of their copies; for up to so many rows.
#[derive(Debug)]
struct Buffers {
    rows: usize,
    keypoints: Block<f32>,
    poses: Block<f32>,
    /// Each (rows, n): what the model reads, and what it writes.
    before: Vec<Block<f32>>,
    after: Vec<Block<f32>>,
    keypoints_host: Block<f32>,
    poses_host: Block<f32>,
    from: Block<i64>,
    to: Block<i64>,
}

/// A stream of a step: which slot its row comes from, where it goes, and the place that it gets for that.
struct Stream {
    from: usize,
    to: usize,
    new: Option<Slot>,
}

impl Row {
    fn len(&self) -> usize {
        self.range.len()
    }

    /// Shape of `rows` rows in pieces, as they are scattered.
    fn pieces(&self, rows: usize) -> [usize; 2] {
        let piece = slots::piece(self.len());
        [rows * self.len() / piece, piece]
    }
}

impl Resident {
    /// `gather` and `scatter` are those of [`super::slots`], on the model's device.
    pub fn new(
        path: &Path,
        device: Device,
        layout: Layout,
        model: Arc<Runner>,
        cuda_graph: bool,
        [gather, scatter]: [Session; 2],
    ) -> Result<Arc<Self>, Error> {
        let slab = Slab { capacity: 0, states: Vec::new() };
        let work = Work { plans: BTreeMap::new(), buffers: None, slab, graphs: 0, gather, scatter };
        let longest = layout.rows.iter().map(Row::len).max().unwrap_or(1);
        let slots = Slots { free: BinaryHeap::new(), end: FIRST, most: MOST_NUMBERS / longest.max(1) };
        let resident = Self { path: path.to_owned(), device, layout, model, cuda_graph, slots: Mutex::new(slots), work: Mutex::new(work) };
        resident.model.with(|model| {
            let mut work = resident.work();
            resident.hold_rows(model, &mut work, resident.rows(1))?;
            resident.hold_slots(&mut work, FIRST)
        })?;
        Ok(Arc::new(resident))
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // Nothing of a step that panicked is read before it is written again, but slots, which hold what they held.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots that are somebody's now.
    #[cfg(test)]
    pub fn slots_in_use(&self) -> usize {
        let slots = self.slots();
        slots.end - FIRST - slots.free.len()
    }

    /// Slots that were ever somebody's.
    #[cfg(test)]
    pub fn slots_ever(&self) -> usize {
        self.slots().end - FIRST
    }

    #[cfg(test)]
    pub fn limit_slots(&self, most: usize) {
        self.slots().most = FIRST + most;
    }

    fn failed(&self, error: &ort::Error) -> Error {
        tracing::debug!("{}", error.message());
        Error::Run { path: self.path.clone(), reason: one_line(error.message()) }
    }

    /// Numbers of one stream.
    fn state_len(&self) -> usize {
        self.layout.rows.last().map_or(0, |row| row.range.end)
    }

    /// Rows that run for so many streams: powers of two and what lies halfway, so that few bindings, and CUDA graphs, serve every number.
    fn rows(&self, streams: usize) -> usize {
        self.layout.batch.unwrap_or_else(|| {
            let power = streams.next_power_of_two();
            let halfway = power / 4 * 3;
            if streams <= halfway { halfway } else { power }
        })
    }

    fn take_slot(self: &Arc<Self>) -> Slot {
        let mut slots = self.slots();
        let index = slots.free.pop().map(|Reverse(index)| index).unwrap_or_else(|| {
            slots.end += 1;
            slots.end - 1
        });
        Slot { index, resident: self.clone() }
    }

    /// One frame of each of these streams; `input` (B, 17, C) and the states have been checked. Returns the poses (B, 17, 3). No state has
    /// changed where it fails, unless the device fails while it writes them: then those of these streams begin anew.
    pub fn advance(self: &Arc<Self>, input: &[f32], states: &mut [&mut StepState]) -> Result<Vec<f32>, Error> {
        // Before anything of this engine is held: the other one may be doing the same with states of this one.
        for state in states.iter_mut() {
            if matches!(&state.place, Place::Slot(slot) if !Arc::ptr_eq(&slot.resident, self)) {
                state.on_host(self.state_len())?;
            }
        }
        // All of it on the thread of the CUDA graphs, if there is one: whoever waits for that thread holds nothing.
        self.model.with(|model| self.advance_alone(model, &mut self.work(), input, states))
    }

    fn advance_alone(
        self: &Arc<Self>,
        model: &mut Session,
        work: &mut Work,
        input: &[f32],
        states: &mut [&mut StepState],
    ) -> Result<Vec<f32>, Error> {
        let failed = |error: ort::Error| self.failed(&error);
        let rows = self.rows(states.len());
        let mut streams = Vec::with_capacity(states.len());
        let mut to_write = Vec::new();
        for state in states.iter_mut() {
            streams.push(self.seat(state, |numbers, slot| to_write.push((numbers, slot)))?);
        }
        let end = streams.iter().map(|stream| stream.to + 1).max().unwrap_or(FIRST);
        self.hold_slots(work, end)?;
        self.hold_rows(model, work, rows)?;
        for some in to_write.chunks(MOST_WRITTEN) {
            let some: Vec<(&[f32], usize)> = some.iter().map(|(numbers, slot)| (numbers.as_slice(), *slot)).collect();
            self.write(work, &some).map_err(failed)?;
        }
        self.run_model(model, work, input, &streams, rows).map_err(failed)?;
        let scattered = self.scatter(work, &streams, rows);
        for (state, stream) in states.iter_mut().zip(streams) {
            match stream.new {
                Some(slot) if scattered.is_ok() => state.place = Place::Slot(Arc::new(slot)),
                None if scattered.is_err() => state.place = Place::Fresh,
                _ => {}
            }
        }
        scattered.map_err(failed)?;
        let buffers = work.buffers.as_ref().ok_or_else(|| failed(no_buffers()))?;
        Ok(buffers.poses_host.numbers()[..states.len() * JOINTS * 3].to_vec())
    }

    /// Where a stream's row comes from and goes. `write` is told of numbers that must be brought into a slot first.
    fn seat(self: &Arc<Self>, state: &mut StepState, mut write: impl FnMut(Vec<f32>, usize)) -> Result<Stream, Error> {
        let anew = |from: Option<usize>| {
            let slot = self.take_slot();
            Stream { from: from.unwrap_or(slot.index), to: slot.index, new: Some(slot) }
        };
        let numbers = match &mut state.place {
            Place::Fresh => return Ok(anew(Some(ZEROS))),
            Place::Slot(slot) => {
                let index = slot.index;
                // A slot that somebody else has a share of keeps what it holds.
                return Ok(match Arc::get_mut(slot) {
                    Some(_) => Stream { from: index, to: index, new: None },
                    None => anew(Some(index)),
                });
            }
            Place::Host(numbers) => numbers.clone(),
        };
        if numbers.len() != self.state_len() {
            let expected = format!("{} numbers of state for each stream", self.state_len());
            return Err(Error::Shape { expected, found: format!("{} numbers", numbers.len()) });
        }
        let stream = anew(None);
        write(numbers, stream.to);
        Ok(stream)
    }

    /// There are slots up to `end`.
    fn hold_slots(&self, work: &mut Work, end: usize) -> Result<(), Error> {
        if end <= work.slab.capacity {
            return Ok(());
        }
        let most = self.slots().most;
        let capacity = end.next_power_of_two().max(FIRST_CAPACITY).min(most);
        if capacity < end {
            let reason = format!("its memory has room for the states of {} streams, and no more", most.saturating_sub(FIRST));
            return Err(Error::Run { path: self.path.clone(), reason });
        }
        self.grow(work, capacity).map_err(|error| {
            let reason = format!("there is no memory for the states of {capacity} streams ({})", one_line(error.message()));
            Error::Run { path: self.path.clone(), reason }
        })
    }

    /// Another slab with what this one holds.
    fn grow(&self, work: &mut Work, capacity: usize) -> ort::Result<()> {
        let new = |row: &Row| Block::new(&work.gather, self.device, Memory::Device, capacity * row.len());
        let larger = Slab { capacity, states: self.layout.rows.iter().map(new).collect::<ort::Result<_>>()? };
        let held = work.slab.capacity;
        if held > 0 {
            let all: Vec<usize> = (0..held).collect();
            self.copy_out(work, &all, &larger.states)?;
        }
        for plan in work.plans.values_mut() {
            plan.around = None;
        }
        work.slab = larger;
        if held == 0 {
            let zeros = vec![0.0; self.state_len()];
            self.write(work, &[(&zeros, ZEROS), (&zeros, NOBODYS)])?;
        }
        Ok(())
    }

    /// There are buffers for so many rows.
    fn hold_rows(&self, model: &mut Session, work: &mut Work, rows: usize) -> Result<(), Error> {
        if work.buffers.as_ref().is_some_and(|buffers| buffers.rows >= rows) {
            return Ok(());
        }
        let graphs: Vec<CudaGraph> = std::mem::take(&mut work.plans).into_values().filter_map(|plan| plan.graph).collect();
        graphs.iter().for_each(|graph| graph.release(model));
        work.buffers = None; // first, so that both need not fit
        let made = self.buffers(&work.gather, rows).map_err(|error| {
            let reason = format!("there is no memory for {rows} streams in one call ({})", one_line(error.message()));
            Error::Run { path: self.path.clone(), reason }
        })?;
        work.buffers = Some(made);
        Ok(())
    }

    fn buffers(&self, session: &Session, rows: usize) -> ort::Result<Buffers> {
        use Memory::{Device, Host};
        let (input, output) = (rows * JOINTS * self.layout.channels, rows * JOINTS * 3);
        let state = |row: &Row| Block::new(session, self.device, Device, rows * row.len());
        let states = || self.layout.rows.iter().map(state).collect::<ort::Result<Vec<_>>>();
        Ok(Buffers {
            rows,
            keypoints: Block::new(session, self.device, Device, input)?,
            poses: Block::new(session, self.device, Device, output)?,
            before: states()?,
            after: states()?,
            keypoints_host: Block::new(session, self.device, Host, input)?,
            poses_host: Block::new(session, self.device, Host, output)?,
            from: Block::new(session, self.device, Host, rows)?,
            to: Block::new(session, self.device, Host, rows)?,
        })
    }

    /// The rows of these slots, to the beginning of `blocks`, one for each state.
    fn copy_out(&self, work: &mut Work, slots: &[usize], blocks: &[Block<f32>]) -> ort::Result<()> {
        let Work { buffers: Some(buffers), slab, gather, .. } = work else { return Err(no_buffers()) };
        let from: Vec<i64> = slots.iter().map(|&slot| slot as i64).collect();
        let mut bound = Bound::new(gather)?;
        // SAFETY: everything that is bound outlives the binding, which ends here; nobody else uses `blocks`.
        unsafe {
            bound.input("from", &*TensorRef::from_array_view(([from.len()], from.as_slice()))?)?;
            bound.input("keypoints", &*buffers.keypoints.view(0, &[1, 1, JOINTS, self.layout.channels])?)?;
            for (index, (row, block)) in self.layout.rows.iter().zip(blocks).enumerate() {
                let [slab_name, rows_name, _] = slots::names(index);
                bound.input(&slab_name, &*slab.states[index].view(0, &[slab.capacity, row.len()])?)?;
                bound.output(&rows_name, &*block.view(0, &[slots.len(), row.len()])?)?;
            }
        }
        bound.wait_for_inputs()?;
        bound.run(gather, None)
    }

    /// Numbers of streams into their slots.
    fn write(&self, work: &mut Work, streams: &[(&[f32], usize)]) -> ort::Result<()> {
        let Work { buffers: Some(buffers), slab, scatter, .. } = work else { return Err(no_buffers()) };
        let to: Vec<i64> = streams.iter().map(|&(_, slot)| slot as i64).collect();
        // (streams, n) for each state
        let by_state: Vec<Vec<f32>> = self
            .layout
            .rows
            .iter()
            .map(|row| streams.iter().flat_map(|(numbers, _)| &numbers[row.range.clone()]).copied().collect())
            .collect();
        let mut bound = Bound::new(scatter)?;
        // SAFETY: everything that is bound outlives the binding, which ends here; slabs are written in place, as `slots` says.
        unsafe {
            bound.input("to", &*TensorRef::from_array_view(([to.len(), 1], to.as_slice()))?)?;
            bound.input("poses", &*buffers.poses.view(0, &[1, 1, JOINTS, 3])?)?;
            for (index, (row, numbers)) in self.layout.rows.iter().zip(&by_state).enumerate() {
                let [slab_name, rows_name, next_slab_name] = slots::names(index);
                let all = slab.states[index].view(0, &row.pieces(slab.capacity))?;
                bound.input(&slab_name, &*all)?;
                bound.output(&next_slab_name, &*all)?;
                bound.input(&rows_name, &*TensorRef::from_array_view((row.pieces(to.len()), numbers.as_slice()))?)?;
            }
        }
        bound.wait_for_inputs()?;
        bound.run(scatter, None)
    }

    /// The numbers in a slot.
    fn read(&self, slot: usize) -> Result<Vec<f32>, Error> {
        self.model.with(|_| self.read_alone(&mut self.work(), slot)).map_err(|error| self.failed(&error))
    }

    fn read_alone(&self, work: &mut Work, slot: usize) -> ort::Result<Vec<f32>> {
        let new = |row: &Row| Block::new(&work.gather, self.device, Memory::Host, row.len());
        let blocks = self.layout.rows.iter().map(new).collect::<ort::Result<Vec<_>>>()?;
        self.copy_out(work, &[slot], &blocks)?;
        Ok(blocks.iter().flat_map(|block| block.numbers()).copied().collect())
    }

    /// Gathers the streams' rows and runs the model on them; the slab stays as it is.
    fn run_model(&self, model: &mut Session, work: &mut Work, input: &[f32], streams: &[Stream], rows: usize) -> ort::Result<()> {
        let Work { plans, buffers: Some(buffers), slab, graphs, gather, scatter } = work else { return Err(no_buffers()) };
        let plan = match plans.entry(rows) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                *graphs += 1;
                let graph = self.cuda_graph.then(|| CudaGraph::new(*graphs)).transpose()?;
                place.insert(Plan { model: self.bind_model(model, buffers, rows)?, graph, around: None })
            }
        };
        let (bound, _) = match &mut plan.around {
            Some(around) => around,
            none => none.insert((self.bind_gather(gather, slab, buffers, rows)?, self.bind_scatter(scatter, slab, buffers, rows)?)),
        };
        let keypoints = buffers.keypoints_host.numbers_mut();
        keypoints[..input.len()].copy_from_slice(input);
        keypoints[input.len()..rows * JOINTS * self.layout.channels].fill(0.0);
        fill(buffers.from.numbers_mut(), rows, ZEROS, streams.iter().map(|stream| stream.from));
        // SAFETY: buffers outlive the plans, which are bound to them.
        unsafe {
            bound.input("from", &*buffers.from.view(0, &[rows])?)?;
            bound.input("keypoints", &*buffers.keypoints_host.view(0, &[rows, 1, JOINTS, self.layout.channels])?)?;
        }
        bound.wait_for_inputs()?;
        bound.run(gather, None)?;
        plan.model.run(model, plan.graph.as_ref())
    }

    /// Scatters what came out of the model into the slab, and brings the poses to the host.
    fn scatter(&self, work: &mut Work, streams: &[Stream], rows: usize) -> ort::Result<()> {
        let Work { plans, buffers: Some(buffers), scatter, .. } = work else { return Err(no_buffers()) };
        let Some((_, bound)) = plans.get_mut(&rows).and_then(|plan| plan.around.as_mut()) else { return Err(no_buffers()) };
        fill(buffers.to.numbers_mut(), rows, NOBODYS, streams.iter().map(|stream| stream.to));
        // SAFETY: as in `run_model`.
        unsafe { bound.input("to", &*buffers.to.view(0, &[rows, 1])?)? };
        bound.wait_for_inputs()?;
        bound.run(scatter, None)
    }

    fn bind_model(&self, session: &Session, buffers: &Buffers, rows: usize) -> ort::Result<Bound> {
        let mut bound = Bound::new(session)?;
        // SAFETY: buffers outlive the plans, and what the model writes nobody uses meanwhile.
        unsafe {
            bound.input(&self.layout.keypoints, &*buffers.keypoints.view(0, &[rows, 1, JOINTS, self.layout.channels])?)?;
            bound.output(&self.layout.poses, &*buffers.poses.view(0, &[rows, 1, JOINTS, 3])?)?;
            for (index, row) in self.layout.rows.iter().enumerate() {
                let shape = [&[rows], row.shape.as_slice()].concat();
                bound.input(&row.input, &*buffers.before[index].view(0, &shape)?)?;
                bound.output(&row.output, &*buffers.after[index].view(0, &shape)?)?;
            }
        }
        Ok(bound)
    }

    /// All but `from` and `keypoints`, which are bound for each call.
    fn bind_gather(&self, session: &Session, slab: &Slab, buffers: &Buffers, rows: usize) -> ort::Result<Bound> {
        let mut bound = Bound::new(session)?;
        // SAFETY: slab and buffers outlive the binding; what it writes nobody uses meanwhile.
        unsafe {
            bound.output("keypoints_there", &*buffers.keypoints.view(0, &[rows, 1, JOINTS, self.layout.channels])?)?;
            for (index, row) in self.layout.rows.iter().enumerate() {
                let [slab_name, rows_name, _] = slots::names(index);
                bound.input(&slab_name, &*slab.states[index].view(0, &[slab.capacity, row.len()])?)?;
                bound.output(&rows_name, &*buffers.before[index].view(0, &[rows, row.len()])?)?;
            }
        }
        Ok(bound)
    }

    /// All but `to`.
    fn bind_scatter(&self, session: &Session, slab: &Slab, buffers: &Buffers, rows: usize) -> ort::Result<Bound> {
        let mut bound = Bound::new(session)?;
        // SAFETY: as in `bind_gather`; slabs are written in place, as `slots` says.
        unsafe {
            bound.input("poses", &*buffers.poses.view(0, &[rows, 1, JOINTS, 3])?)?;
            bound.output("poses_there", &*buffers.poses_host.view(0, &[rows, 1, JOINTS, 3])?)?;
            for (index, row) in self.layout.rows.iter().enumerate() {
                let [slab_name, rows_name, next_slab_name] = slots::names(index);
                let all = slab.states[index].view(0, &row.pieces(slab.capacity))?;
                bound.input(&slab_name, &*all)?;
                bound.output(&next_slab_name, &*all)?;
                bound.input(&rows_name, &*buffers.after[index].view(0, &row.pieces(rows))?)?;
            }
        }
        Ok(bound)
    }
}

/// The slots of the streams, and for the rows after them that of nobody.
fn fill(numbers: &mut [i64], rows: usize, nobodys: usize, streams: impl Iterator<Item = usize>) {
    let all = streams.chain(std::iter::repeat(nobodys));
    numbers[..rows].iter_mut().zip(all).for_each(|(number, slot)| *number = slot as i64);
}

fn no_buffers() -> ort::Error {
    ort::Error::new("its buffers could not be made; open the model again")
}
