//! A live lifter that takes one frame of each of several streams, with all that it remembers of them outside of it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use pose::{JOINTS, metadata::ModelMetadata};
use rayon::{ThreadPool, ThreadPoolBuilder, iter::ParallelIterator, slice::ParallelSliceMut};

use super::{
    Backend, Binding, Device, EngineOptions, Port, StepState,
    graph::{self, Graph, View, list},
    ort,
    resident::{Layout, Resident, Row},
};
use crate::Error;

/// Before a state's name where it is an output.
const NEXT: &str = "next_";
/// Numbers of one pose.
const POSE: usize = JOINTS * 3;
/// States that a graph may have: two for each layer.
const MOST_STATES: usize = 4096;
/// Numbers of state in one call, 1 GiB: bounds the memory of a call, and of the buffers that are kept.
const MOST_NUMBERS: usize = 1 << 28;

/// A step graph, open in one of the libraries that run it: a live lifter as `export onnx --step` writes it.
///
/// Its inputs are the keypoints (B, 1, 17, C) and any number of states X (B, ..); its outputs are the poses (B, 1, 17, 3) and
/// for each state the one after the frame, `next_X`, of the same shape. B is the number of streams, free or fixed. A state is
/// zero before a stream's first frame; whose it is only the caller knows, so that streams may join and leave between calls.
///
/// ```no_run
/// use runtime::{EngineOptions, StepEngine, StepState};
///
/// let engine = StepEngine::open("live-xs.step.onnx", &EngineOptions::default())?;
/// let (mut anna, mut ben) = (StepState::default(), StepState::default());
/// let keypoints = vec![0.0; 2 * 17 * engine.channels()]; // Anna's frame, then Ben's
/// let poses = engine.advance(&keypoints, &mut [&mut anna, &mut ben])?;
/// assert_eq!(poses.len(), 2 * 17 * 3);
/// # Ok::<(), runtime::Error>(())
/// ```
///
/// On a GPU states stay in its memory ([`Binding`]); on a processor they are the caller's. [`step`](Self::step) is for those who hold them in
/// slices of their own.
///
/// A step is too little work to be shared out among threads, so each call runs on one: an engine may be shared between threads, and
/// as many calls as it has [`lanes`](Self::lanes) run side by side.
#[derive(Debug)]
pub struct StepEngine {
    path: PathBuf,
    /// Of a lane: on one thread.
    options: EngineOptions,
    metadata: Option<ModelMetadata>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    ports: StepPorts,
    /// Size and time of the file when it was opened.
    stamp: Option<(u64, SystemTime)>,
    lanes: usize,
    open: Mutex<OpenLanes>,
    /// Somebody gave a lane back.
    given_back: Condvar,
    /// A thread for each lane, where there are several.
    pool: Option<ThreadPool>,
    /// States that stay on the device, where tensors are bound.
    resident: Option<Arc<Resident>>,
}

/// Lanes that were opened so far: a lane opens when all others are busy for the first time.
#[derive(Debug, Default)]
struct OpenLanes {
    idle: Vec<Lane>,
    /// Busy ones too; at least one.
    count: usize,
    /// As many as there may be.
    most: usize,
}

/// The graph, open for one call at a time, and the gathered inputs, kept from call to call.
#[derive(Debug)]
struct Lane {
    graph: Box<dyn Graph>,
    gathered: Gathered,
}

/// The lane that a call uses; it goes back when this is dropped.
struct Busy<'a> {
    engine: &'a StepEngine,
    lane: Option<Lane>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut open = self.engine.open_lanes();
        open.idle.extend(self.lane.take());
        self.engine.given_back.notify_one();
    }
}

/// More lanes than this wait for memory, not for processors.
const MOST_LANES: usize = 64;

/// Which inputs and outputs of the graph are what.
#[derive(Debug)]
struct StepPorts {
    /// Streams per call, where the file fixes it.
    batch: Option<usize>,
    channels: usize,
    poses_output: usize,
    states: Vec<StatePort>,
    /// Numbers of one stream's state.
    state_len: usize,
}

#[derive(Debug)]
struct StatePort {
    input: usize,
    output: usize,
    /// Without the batch.
    shape: Vec<usize>,
    /// Where it lies in a stream's state.
    range: Range<usize>,
}

#[derive(Debug, Default)]
struct Gathered {
    keypoints: Vec<f32>,
    /// One after the other, each (B, ..).
    states: Vec<f32>,
}

impl StepEngine {
    /// Opens one self-contained ONNX file and checks that it is a step graph.
    ///
    /// # Errors
    /// As [`Engine::open`](super::Engine::open); any graph whose states do not come out as they go in.
    pub fn open(path: impl AsRef<Path>, options: &EngineOptions) -> Result<Self, Error> {
        Self::open_settled(path.as_ref(), &options.settled()?)
    }

    fn open_settled(path: &Path, options: &EngineOptions) -> Result<Self, Error> {
        // before the file is read: one that is replaced meanwhile is told too
        let stamp = stamp(path);
        let of_a_lane = EngineOptions { threads: 1, binding: Binding::Off, ..options.clone() };
        let graph = graph::open(path, &of_a_lane)?;
        let ports = step_ports(graph.inputs(), graph.outputs()).map_err(|(expected, found)| Error::NotAStep {
            path: path.to_owned(),
            expected,
            found,
        })?;
        let resident = match (options.binding, graph.as_ort()) {
            (Binding::On, Some(graph)) => Some(resident(path, options, graph, &ports)?),
            _ => None,
        };
        let lanes = if options.device.is_gpu() || resident.is_some() { 1 } else { options.thread_count().min(MOST_LANES) };
        let no_threads = |error: rayon::ThreadPoolBuildError| Error::Run { path: path.to_owned(), reason: error.to_string() };
        let pool = ThreadPoolBuilder::new().num_threads(lanes).thread_name(|number| format!("lane {number}"));
        let engine = Self {
            path: path.to_owned(),
            stamp,
            options: of_a_lane,
            metadata: graph::read_metadata(path, &*graph)?,
            inputs: graph.inputs().to_vec(),
            outputs: graph.outputs().to_vec(),
            ports,
            lanes,
            open: Mutex::default(),
            given_back: Condvar::new(),
            pool: if lanes > 1 { Some(pool.build().map_err(no_threads)?) } else { None },
            resident,
        };
        engine.check_metadata()?;
        let lane = engine.made_ready(graph)?;
        *engine.open_lanes() = OpenLanes { idle: vec![lane], count: 1, most: lanes };
        Ok(engine)
    }

    /// On where streams' states stay in memory that the engine keeps on its device, else off.
    pub fn binding(&self) -> Binding {
        if self.resident.is_some() { Binding::On } else { Binding::Off }
    }

    /// Calls of [`step`](Self::step) that run side by side; more wait.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// What `work` makes of each of the pieces that `items` are cut into, up to `most` in one, side by side, in their order. A panic of
    /// one goes on in the caller when all are done.
    pub(crate) fn side_by_side<T: Send, R: Send>(
        &self,
        items: &mut [T],
        most: usize,
        work: impl Fn(&mut [T]) -> R + Send + Sync,
    ) -> Vec<R> {
        let piece = items.len().div_ceil(self.lanes).clamp(1, most.max(1));
        match &self.pool {
            Some(pool) if items.len() > piece => pool.install(|| items.par_chunks_mut(piece).map(work).collect()),
            _ => items.chunks_mut(piece).map(work).collect(),
        }
    }

    fn open_lanes(&self) -> MutexGuard<'_, OpenLanes> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane around a graph that was just opened.
    fn made_ready(&self, graph: Box<dyn Graph>) -> Result<Lane, Error> {
        let shapes = self.input_shapes(self.rows(&*graph, 1));
        graph.prepare(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        Ok(Lane { graph, gathered: Gathered::default() })
    }

    /// A lane that nobody uses: an idle one, a new one while there may be more, or the next that is given back.
    fn take_lane(&self) -> Lane {
        let mut open = self.open_lanes();
        loop {
            if let Some(lane) = open.idle.pop() {
                return lane;
            }
            if open.count < open.most {
                open.count += 1;
                drop(open);
                let lane = self.another_lane();
                open = self.open_lanes();
                match lane {
                    Ok(lane) => return lane,
                    Err(error) => {
                        open.count -= 1;
                        open.most = open.count;
                        tracing::warn!("streams are run on {} threads, not on {}: {error}", open.count, self.lanes);
                    }
                }
            } else {
                open = self.given_back.wait(open).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The same graph once more.
    fn another_lane(&self) -> Result<Lane, Error> {
        if stamp(&self.path) != self.stamp {
            let reason = "the file has changed since it was opened".to_owned();
            return Err(Error::Run { path: self.path.clone(), reason });
        }
        self.made_ready(graph::open(&self.path, &self.options)?)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library that runs it.
    pub fn backend(&self) -> Backend {
        self.options.backend
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.options.device
    }

    /// What the file says about itself; `None` for files that this project did not write.
    pub fn metadata(&self) -> Option<&ModelMetadata> {
        self.metadata.as_ref()
    }

    /// All inputs of the graph.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// All outputs of the graph.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Numbers per joint in the input: 2 (x, y) or 3 (x, y, confidence).
    pub fn channels(&self) -> usize {
        self.ports.channels
    }

    /// Numbers that one stream's state takes: all states, in the order of the graph. Zeros before the first frame.
    pub fn state_len(&self) -> usize {
        self.ports.state_len
    }

    /// Streams that one call takes at most.
    pub fn max_batch(&self) -> usize {
        self.ports.batch.unwrap_or_else(|| (MOST_NUMBERS / self.ports.state_len.max(1)).max(1))
    }

    /// One frame of B streams, 1 to [`max_batch`](Self::max_batch): `input` is (B, 17, C) row-major in the model's normalised units; the
    /// result is (B, 17, 3). Streams do not touch each other: what comes out for one does not depend on who else is in the batch, save for
    /// the last bits. A state may come from another engine for the same model, at the cost of the way.
    ///
    /// # Errors
    /// Shapes that do not fit, numbers in `input` that are not finite, a failure of the engine. No state has changed then (but if a GPU
    /// fails while states are written there, those begin anew).
    pub fn advance(&self, input: &[f32], states: &mut [&mut StepState]) -> Result<Vec<f32>, Error> {
        self.check_input(input, states.len())?;
        match &self.resident {
            Some(resident) => resident.advance(input, states),
            None => {
                let numbers = states.iter_mut().map(|state| state.on_host(self.ports.state_len));
                let mut numbers = numbers.collect::<Result<Vec<_>, Error>>()?;
                let mut slices: Vec<&mut [f32]> = numbers.iter_mut().map(|numbers| numbers.as_mut_slice()).collect();
                self.step(input, &mut slices)
            }
        }
    }

    /// The [`state_len`](Self::state_len) numbers of a state, to be kept somewhere else; `StepState::from` makes a state of them again.
    ///
    /// # Errors
    /// A failure of the device that they lie on.
    pub fn read_state(&self, state: &StepState) -> Result<Vec<f32>, Error> {
        state.read(self.ports.state_len)
    }

    /// [`advance`](Self::advance) with states that the caller holds, wherever the engine runs: `input` is (B, 17, C) row-major in the model's
    /// normalised units, `states` one slice of [`state_len`](Self::state_len) numbers per stream, updated in place; the result is
    /// (B, 17, 3). Streams do not touch each other: what comes out for one does not depend on who else is in the batch, save
    /// for the last bits.
    ///
    /// # Errors
    /// Shapes that do not fit, numbers in `input` that are not finite, a failure of the engine. No state has changed then.
    pub fn step(&self, input: &[f32], states: &mut [&mut [f32]]) -> Result<Vec<f32>, Error> {
        self.check_input(input, states.len())?;
        self.check_states(states)?;
        let batch = states.len();
        let mut busy = Busy { engine: self, lane: None };
        let Lane { graph, gathered } = busy.lane.insert(self.take_lane());
        let rows = self.rows(&**graph, batch);
        let shapes = self.input_shapes(rows);
        self.gather(input, states, rows, gathered);
        let Gathered { keypoints, states: gathered_states } = &*gathered;
        let mut views: Vec<View<'_>> = shapes.iter().map(|shape| View { shape, values: keypoints }).collect();
        for state in &self.ports.states {
            views[state.input].values = &gathered_states[state.range.start * rows..state.range.end * rows];
        }
        let mut poses = Vec::new();
        graph.run(&views, &mut |outputs| {
            self.check_outputs(outputs, rows)?;
            self.scatter(outputs, states);
            poses = outputs[self.ports.poses_output].values[..batch * POSE].to_vec();
            Ok(())
        })?;
        Ok(poses)
    }

    /// Rows that run for so many streams: as many, or more in a file of a fixed batch or where there are plans for some batches alone.
    /// Then the last rows are nobody's.
    fn rows(&self, graph: &dyn Graph, batch: usize) -> usize {
        self.ports.batch.unwrap_or_else(|| graph.padded_batch(batch))
    }

    /// Shapes of all inputs for so many streams, in the order of the graph: what is no state is the keypoints.
    fn input_shapes(&self, rows: usize) -> Vec<Vec<usize>> {
        let mut shapes = vec![vec![rows, 1, JOINTS, self.ports.channels]; 1 + self.ports.states.len()];
        for state in &self.ports.states {
            shapes[state.input] = [&[rows], state.shape.as_slice()].concat();
        }
        shapes
    }

    /// Stream by stream to input by input; rows that no stream fills are zero.
    fn gather(&self, input: &[f32], states: &[&mut [f32]], rows: usize, gathered: &mut Gathered) {
        let Gathered { keypoints, states: by_input } = gathered;
        keypoints.clear();
        keypoints.extend_from_slice(input);
        keypoints.resize(rows * JOINTS * self.ports.channels, 0.0);
        by_input.clear();
        by_input.reserve(rows * self.ports.state_len);
        for state in &self.ports.states {
            for stream in states {
                by_input.extend_from_slice(&stream[state.range.clone()]);
            }
            by_input.resize(state.range.end * rows, 0.0);
        }
    }

    /// Output by output to stream by stream.
    fn scatter(&self, outputs: &[View<'_>], states: &mut [&mut [f32]]) {
        for state in &self.ports.states {
            let rows = outputs[state.output].values.chunks_exact(state.range.len());
            for (stream, row) in states.iter_mut().zip(rows) {
                stream[state.range.clone()].copy_from_slice(row);
            }
        }
    }

    /// `input` has a frame for each of so many streams, and every number is finite.
    fn check_input(&self, input: &[f32], batch: usize) -> Result<(), Error> {
        let mismatch = |expected: String, found: String| Err(Error::Shape { expected, found });
        if batch == 0 || batch > self.max_batch() {
            return mismatch(
                format!("(streams, {JOINTS}, {}) of 1 to {} streams", self.ports.channels, self.max_batch()),
                format!("{batch} streams"),
            );
        }
        let numbers = batch * JOINTS * self.ports.channels;
        if input.len() != numbers {
            return mismatch(
                format!("({batch}, {JOINTS}, {}) = {numbers} numbers", self.ports.channels),
                format!("{} numbers", input.len()),
            );
        }
        match input.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let joint = at / self.ports.channels;
                Err(Error::NotFinite { value: input[at], item: joint / JOINTS, frame: 0, joint: joint % JOINTS })
            }
        }
    }

    fn check_states(&self, states: &[&mut [f32]]) -> Result<(), Error> {
        match states.iter().find(|state| state.len() != self.ports.state_len) {
            None => Ok(()),
            Some(state) => Err(Error::Shape {
                expected: format!("{} numbers of state for each stream", self.ports.state_len),
                found: format!("{} numbers", state.len()),
            }),
        }
    }

    /// Every output has the shape that it must have: before any state is written.
    fn check_outputs(&self, outputs: &[View<'_>], rows: usize) -> Result<(), Error> {
        let poses = (self.ports.poses_output, vec![rows, 1, JOINTS, 3]);
        let states = self.ports.states.iter().map(|state| (state.output, [&[rows], state.shape.as_slice()].concat()));
        for (output, expected) in std::iter::once(poses).chain(states) {
            let found = outputs.get(output).map(|view| view.shape);
            if found != Some(&expected) {
                return Err(Error::NotAStep {
                    path: self.path.clone(),
                    expected: format!("the output {} of shape {expected:?}", self.outputs[output].name),
                    found: format!("{:?}", found.unwrap_or_default()),
                });
            }
        }
        Ok(())
    }

    /// The metadata describes this graph, and in a way that this version understands.
    fn check_metadata(&self) -> Result<(), Error> {
        let Some(metadata) = &self.metadata else { return Ok(()) };
        let unusable = |reason: String| Err(Error::Metadata { path: self.path.clone(), reason });
        metadata.validate().or_else(|error| unusable(error.to_string()))?;
        match metadata.dim_in == self.ports.channels {
            true => Ok(()),
            false => unusable(format!("it says {} numbers per joint, but the graph takes {}", metadata.dim_in, self.ports.channels)),
        }
    }
}

/// States on the device of this graph, which moves them on.
fn resident(path: &Path, options: &EngineOptions, graph: &ort::OrtGraph, ports: &StepPorts) -> Result<Arc<Resident>, Error> {
    let keypoints = (0..graph.inputs().len()).find(|&input| ports.states.iter().all(|state| state.input != input)).unwrap_or_default();
    let row = |state: &StatePort| Row {
        input: graph.inputs()[state.input].name.clone(),
        output: graph.outputs()[state.output].name.clone(),
        shape: state.shape.clone(),
        range: state.range.clone(),
    };
    let layout = Layout {
        keypoints: graph.inputs()[keypoints].name.clone(),
        poses: graph.outputs()[ports.poses_output].name.clone(),
        channels: ports.channels,
        batch: ports.batch,
        rows: ports.states.iter().map(row).collect(),
    };
    let lens: Vec<usize> = ports.states.iter().map(|state| state.range.len()).collect();
    let around = ort::around_a_step(path, &EngineOptions { threads: 1, ..options.clone() }, &lens)?;
    Resident::new(path, options.device, layout, graph.runner(), options.cuda_graph, around)
}

/// By which a file that was replaced is told.
fn stamp(path: &Path) -> Option<(u64, SystemTime)> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.len(), about.modified().ok()?))
}

/// What a step graph has, as two halves of a sentence when it is none: what was expected and what was found.
fn step_ports(inputs: &[Port], outputs: &[Port]) -> Result<StepPorts, (String, String)> {
    let refuse = |expected: &str, found: String| Err((expected.to_owned(), found));
    if inputs.len() > MOST_STATES {
        return refuse(&format!("at most {MOST_STATES} states"), format!("{} inputs", inputs.len()));
    }
    let next_of = |input: &Port| outputs.iter().position(|output| output.name.strip_prefix(NEXT) == Some(&input.name));
    let (stateful, others): (Vec<usize>, Vec<usize>) = (0..inputs.len()).partition(|&i| next_of(&inputs[i]).is_some());
    let [keypoints_input] = others[..] else {
        let found = others.iter().map(|&i| inputs[i].clone()).collect::<Vec<_>>();
        return refuse(
            "one input of keypoints, and an output next_X for every other input X",
            format!("{} inputs without one: {}", found.len(), list(&found)),
        );
    };
    let keypoints = &inputs[keypoints_input];
    let (batch, channels) = match keypoints.shape[..] {
        [batch, Some(1), Some(JOINTS), Some(channels @ (2 | 3))] if keypoints.is_f32() => (batch, channels),
        _ => return refuse("keypoints f32 (B, 1, 17, 2 or 3)", keypoints.to_string()),
    };
    if stateful.is_empty() {
        return refuse("states, as inputs X and outputs next_X", format!("none, but {}", list(outputs)));
    }
    if batch == Some(0) {
        return refuse("a batch of at least 1", keypoints.to_string());
    }

    let mut states = Vec::with_capacity(stateful.len());
    let mut state_len = 0usize;
    for input in stateful {
        let port = &inputs[input];
        let Some(output) = next_of(port) else { continue };
        let next = &outputs[output];
        let shape: Option<Vec<usize>> = match &port.shape[..] {
            [rows, rest @ ..] if *rows == batch => rest.iter().copied().collect(),
            _ => None,
        };
        let Some(shape) = shape.filter(|shape| port.is_f32() && !shape.is_empty() && !shape.contains(&0)) else {
            return refuse("states f32 (B, ..) of fixed size but for the same B as the keypoints", port.to_string());
        };
        // The graph may leave dimensions of outputs open: then `step` checks them.
        let agrees = next.shape.len() == port.shape.len() && port.shape.iter().zip(&next.shape).all(|(a, b)| a == b || b.is_none());
        if !(next.is_f32() && agrees) {
            return refuse(&format!("the output {NEXT}{port}, as its input"), next.to_string());
        }
        let numbers = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let end = numbers
            .and_then(|numbers| state_len.checked_add(numbers))
            .filter(|&end| end.checked_mul(batch.unwrap_or(1)).is_some_and(|all| all <= MOST_NUMBERS));
        let Some(end) = end else {
            return refuse(&format!("states of at most {MOST_NUMBERS} numbers"), port.to_string());
        };
        states.push(StatePort { input, output, shape, range: state_len..end });
        state_len = end;
    }

    let others: Vec<usize> = (0..outputs.len()).filter(|&i| states.iter().all(|state| state.output != i)).collect();
    let [poses_output] = others[..] else {
        let found = others.iter().map(|&i| outputs[i].clone()).collect::<Vec<_>>();
        return refuse(
            "one output of poses, and an input X for every output next_X",
            format!("{} outputs without one: {}", found.len(), list(&found)),
        );
    };
    let poses = &outputs[poses_output];
    let is_poses = match poses.shape[..] {
        [_, frames, joints, axes] => {
            [(frames, 1), (joints, JOINTS), (axes, 3)].iter().all(|(found, n)| found.is_none_or(|found| found == *n))
        }
        _ => false,
    };
    if !(poses.is_f32() && is_poses) {
        return refuse("the poses f32 (B, 1, 17, 3)", poses.to_string());
    }
    Ok(StepPorts { batch, channels, poses_output, states, state_len })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE_XS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/live-xs.step.onnx");
    const NUMBERS: usize = JOINTS * 3;

    fn frame(t: usize) -> Vec<f32> {
        (0..NUMBERS).map(|i| 0.4 * ((i + 31 * t) as f32 * 0.7).sin()).collect()
    }

    /// All that CUDA graphs need of us but the graphs: the thread that they belong to, their numbers, buffers that are made anew, and
    /// graphs that are released.
    #[test]
    fn the_road_of_cuda_graphs_says_the_same_on_a_processor() {
        let options = |cuda_graph, binding| EngineOptions { threads: 1, cuda_graph, binding, ..EngineOptions::default() };
        let captured = StepEngine::open_settled(Path::new(LIVE_XS), &options(true, Binding::On)).expect("it opens");
        let plain = StepEngine::open(LIVE_XS, &options(false, Binding::Off)).expect("it opens");
        let (mut a, mut b) = (vec![StepState::default(); 12], vec![StepState::default(); 12]);
        for (t, streams) in [1, 2, 1, 3, 8, 2, 12, 1, 12].into_iter().enumerate() {
            let input: Vec<f32> = (0..streams).flat_map(|stream| frame(t + 100 * stream)).collect();
            let poses = captured.advance(&input, &mut a[..streams].iter_mut().collect::<Vec<_>>()).expect("poses");
            assert_eq!(poses, plain.advance(&input, &mut b[..streams].iter_mut().collect::<Vec<_>>()).expect("poses"), "call {t}");
        }
        // States that the caller holds go the other way, uncaptured.
        let (mut c, mut d) = (captured.read_state(&a[0]).expect("numbers"), plain.read_state(&b[0]).expect("numbers"));
        assert_eq!(captured.step(&frame(9), &mut [&mut c]).expect("poses"), plain.step(&frame(9), &mut [&mut d]).expect("poses"));
        assert_eq!(c, d);
    }

    #[test]
    fn slots_go_back_and_are_taken_again() {
        let options = EngineOptions { threads: 1, binding: Binding::On, ..EngineOptions::default() };
        let engine = StepEngine::open(LIVE_XS, &options).expect("it opens");
        let resident = engine.resident.as_ref().expect("states are kept");
        let mut stays = StepState::default();
        for t in 0..60 {
            let mut passes_by = vec![StepState::default(); t % 5];
            let mut states: Vec<&mut StepState> = passes_by.iter_mut().chain([&mut stays]).collect();
            let input: Vec<f32> = (0..states.len()).flat_map(|stream| frame(t + stream)).collect();
            engine.advance(&input, &mut states).expect("poses");
            let snapshot = stays.clone();
            assert_eq!(resident.slots_in_use(), 1 + t % 5);
            engine.advance(&frame(t), &mut [&mut stays]).expect("poses");
            assert_eq!(resident.slots_in_use(), 2 + t % 5);
            drop(snapshot);
        }
        assert_eq!(resident.slots_in_use(), 1);
        assert!(resident.slots_ever() <= 8, "{}", resident.slots_ever());
        stays.clear();
        assert_eq!(resident.slots_in_use(), 0);
    }

    #[test]
    fn who_finds_no_room_is_told_and_the_others_go_on() {
        let options = EngineOptions { threads: 1, binding: Binding::On, ..EngineOptions::default() };
        let engine = StepEngine::open(LIVE_XS, &options).expect("it opens");
        engine.resident.as_ref().expect("states are kept").limit_slots(20);
        let mut inside = vec![StepState::default(); 20];
        let frames = |streams: usize, t: usize| -> Vec<f32> { (0..streams).flat_map(|stream| frame(t + stream)).collect() };
        engine.advance(&frames(20, 0), &mut inside.iter_mut().collect::<Vec<_>>()).expect("poses");
        let mut late = vec![StepState::default(); 3];
        let error = engine.advance(&frames(3, 0), &mut late.iter_mut().collect::<Vec<_>>()).expect_err("no room");
        assert!(error.to_string().contains("room for the states of 20 streams, and no more"), "{error}");
        engine.advance(&frames(20, 1), &mut inside.iter_mut().collect::<Vec<_>>()).expect("poses of those inside");
        inside.truncate(17);
        engine.advance(&frames(3, 0), &mut late.iter_mut().collect::<Vec<_>>()).expect("poses now that others have left");
    }
}
