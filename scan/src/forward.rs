//! The forward kernel: a strip of channels goes through time together, a few frames at once; in these, one block of the strip after the
//! other (as many channels as a vector has lanes) has its states in registers.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::element::Element;
use crate::lanes::{Lanes, each_state, prefetch, sigmoid, softplus};
use crate::scratch::Carve;
use crate::shared::SharedMut;
use crate::{Dims, Inputs};

/// Values of state that a task computes at least (about 20 us of AVX-512): enough to pay for handing it to a thread.
const TASK_VALUES: usize = 1 << 17;

/// Tasks that a call is cut into at least, where it is large enough: how many threads it can keep busy.
const TASKS: usize = 32;

/// Frames whose steps and gates are computed together, ahead of their states: softplus and sigmoid are long chains of
/// operations, which many frames at once hide and a frame at a time would not.
const AHEAD: usize = 16;

/// Channels that go through memory together at most: a task reads and writes pieces of this many neighbours, which the CPU
/// fetches well, wherever in a cache line they start; a narrow column of a long array waits for memory at every frame. What
/// a strip needs of [`AHEAD`] frames still fits next to the processor.
const STRIP_CHANNELS: usize = 128;

/// Up to so many frames a call is mostly reading and writing states: then a task takes all channels of a sequence, so that it goes
/// through memory from front to back, and a strip is one block, so that reading, computing and writing overlap.
const SHORT: usize = 8;

/// A forward call, cut into tasks: some blocks of channels of some sequences each.
pub(crate) struct Call<'a, T> {
    dims: Dims,
    inputs: &'a Inputs<'a, T, f32>,
    y: SharedMut<'a, T>,
    last_state: Option<SharedMut<'a, f32>>,
    /// Blocks of channels.
    blocks: usize,
    /// Blocks in a strip.
    strip: usize,
    /// Blocks in a task: a strip, or all of them.
    abreast: usize,
    /// Sequences in a task.
    group: usize,
}

impl<'a, T: Element> Call<'a, T> {
    /// For arguments that were checked, and vectors of `width` lanes.
    pub(crate) fn new(dims: Dims, inputs: &'a Inputs<'a, T, f32>, y: &'a mut [T], last_state: Option<&'a mut [f32]>, width: usize) -> Self {
        let blocks = dims.channels.div_ceil(width);
        let of_block = [dims.frames, dims.states, width].into_iter().fold(1, usize::saturating_mul).max(1);
        // Narrower where there would be too few tasks, but for tasks too small to be worth one.
        let for_tasks = (blocks.saturating_mul(dims.sequences) / TASKS).max(TASK_VALUES.div_ceil(of_block));
        let widest = if dims.frames <= SHORT { 1 } else { STRIP_CHANNELS / width };
        let strip = for_tasks.min(widest).clamp(1, blocks.max(1));
        let abreast = if dims.frames <= SHORT { blocks.max(1) } else { strip };
        let group = TASK_VALUES.div_ceil(of_block.saturating_mul(abreast)).clamp(1, dims.sequences.max(1));
        Self { dims, inputs, y: SharedMut::new(y), last_state: last_state.map(SharedMut::new), blocks, strip, abreast, group }
    }

    /// Every task may run at the same time as every other.
    pub(crate) fn tasks(&self) -> usize {
        self.blocks.div_ceil(self.abreast) * self.dims.sequences.div_ceil(self.group)
    }

    /// Values of scratch memory that a task needs, with vectors of `width` lanes.
    pub(crate) fn scratch(&self, width: usize) -> usize {
        self.dims.states * ((self.abreast + self.strip) * width + 2 * AHEAD) + 4 * self.strip * AHEAD * width
    }

    /// The channels of a block.
    #[inline(always)]
    fn block(&self, index: usize, width: usize) -> Range<usize> {
        index * width..self.dims.channels.min((index + 1) * width)
    }
}

/// Runs one task in `memory`.
///
/// Here and in everything that it calls: functions inlined by force and no closures, because only what becomes part of a
/// form's own function is compiled for the form's instructions.
#[inline(always)]
pub(crate) fn run<L: Lanes, T: Element>(lanes: L, call: &Call<'_, T>, task: usize, memory: &mut [f32]) {
    let Dims { sequences, states, .. } = call.dims;
    let pieces = call.blocks.div_ceil(call.abreast);
    let from = (task % pieces) * call.abreast;
    let blocks = from..call.blocks.min(from + call.abreast);
    let first = (task / pieces) * call.group;
    let tile = states * L::WIDTH;
    let mut memory = Carve(memory);
    let (a, h) = (memory.take(blocks.len() * tile), memory.take(call.strip * tile));
    for index in blocks.clone() {
        transpose_in(lanes, call.inputs.a, &call.block(index, L::WIDTH), states, &mut a[(index - from) * tile..][..tile]);
    }
    scale(a, LOG2_E);
    let rows = call.strip * AHEAD * L::WIDTH;
    let (delta, delta_u, y, gate) = (memory.take(rows), memory.take(rows), memory.take(rows), memory.take(rows));
    let (b, c) = (memory.take(AHEAD * states), memory.take(AHEAD * states));
    let mut work = Work { a, h, delta, delta_u, y, gate, b, c };
    for sequence in first..sequences.min(first + call.group) {
        for start in (blocks.start..blocks.end).step_by(call.strip) {
            let strip = start..blocks.end.min(start + call.strip);
            work.a = &a[(start - from) * tile..(strip.end - from) * tile];
            one_strip(lanes, call, sequence, &strip, &mut work);
        }
    }
}

/// All frames of some blocks of channels of one sequence.
#[inline(always)]
fn one_strip<L: Lanes, T: Element>(lanes: L, call: &Call<'_, T>, sequence: usize, strip: &Range<usize>, work: &mut Work<'_>) {
    let Dims { channels, states, frames, .. } = call.dims;
    let tile = states * L::WIDTH;
    for (i, index) in (strip.start..strip.end).enumerate() {
        let h = &mut work.h[i * tile..(i + 1) * tile];
        match call.inputs.initial_state {
            Some(initial) => transpose_in(lanes, &initial[sequence * channels * states..], &call.block(index, L::WIDTH), states, h),
            None => h.fill(0.0),
        }
    }
    let (first, end) = (sequence * frames, (sequence + 1) * frames);
    for start in (first..end).step_by(AHEAD) {
        let some = start..end.min(start + AHEAD);
        prepare(lanes, call, &some, strip, work);
        for (i, index) in (strip.start..strip.end).enumerate() {
            if states == 16 {
                let h = &work.h[i * tile..(i + 1) * tile];
                let mut state = Registers([lanes.splat(0.0); 16]);
                for n in 0..16 {
                    state.set(lanes, n, lanes.load(&h[n * L::WIDTH..]));
                }
                advance::<L, T, 16>(lanes, call, &some, i, index, work, &mut state);
                let h = &mut work.h[i * tile..(i + 1) * tile];
                for n in 0..16 {
                    lanes.store(state.get(lanes, n), &mut h[n * L::WIDTH..]);
                }
            } else {
                let h = std::mem::take(&mut work.h);
                advance::<L, T, 0>(lanes, call, &some, i, index, work, &mut Memory(&mut h[i * tile..(i + 1) * tile]));
                work.h = h;
            }
        }
        finish(lanes, call, &some, strip, work);
    }
    let Some(last_state) = &call.last_state else { return };
    for (i, index) in (strip.start..strip.end).enumerate() {
        let block = call.block(index, L::WIDTH);
        let at = sequence * channels + block.start;
        // SAFETY: these channels of this sequence belong to this task alone.
        let last = unsafe { last_state.part(at * states..(at + block.len()) * states) };
        transpose_out(lanes, &work.h[i * tile..(i + 1) * tile], states, last);
    }
}

/// The block's part of a (D) input, 0 where that is absent.
#[inline(always)]
pub(crate) fn per_channel<L: Lanes>(lanes: L, values: Option<&[f32]>, block: &Range<usize>) -> L::F {
    match values {
        Some(values) => lanes.load_up_to(&values[block.start..block.end]),
        None => lanes.splat(0.0),
    }
}

/// Rows of `from` (D, N), those of `block`, into columns of `to` (N, WIDTH); missing columns are 0.
#[inline(always)]
pub(crate) fn transpose_in<L: Lanes>(lanes: L, from: &[f32], block: &Range<usize>, states: usize, to: &mut [f32]) {
    let tiles = if block.len() == L::WIDTH { states - states % L::WIDTH } else { 0 };
    for n in (0..tiles).step_by(L::WIDTH) {
        lanes.transpose(&from[block.start * states + n..], states, &mut to[n * L::WIDTH..], L::WIDTH);
    }
    transpose_in_singly(L::WIDTH, from, block, tiles..states, states, to);
}

/// [`transpose_in`] value by value, of some of the states.
#[inline(always)]
pub(crate) fn transpose_in_singly(width: usize, from: &[f32], block: &Range<usize>, some: Range<usize>, states: usize, to: &mut [f32]) {
    if block.len() < width {
        to[some.start * width..some.end * width].fill(0.0);
    }
    for (lane, channel) in block.clone().enumerate() {
        let row = &from[channel * states..(channel + 1) * states];
        for n in some.start..some.end {
            to[n * width + lane] = row[n];
        }
    }
}

/// Columns of `from` (N, WIDTH) into rows of `to` (block, N).
#[inline(always)]
pub(crate) fn transpose_out<L: Lanes>(lanes: L, from: &[f32], states: usize, to: &mut [f32]) {
    let tiles = if to.len() == L::WIDTH * states { states - states % L::WIDTH } else { 0 };
    for n in (0..tiles).step_by(L::WIDTH) {
        lanes.transpose(&from[n * L::WIDTH..], L::WIDTH, &mut to[n..], states);
    }
    transpose_out_singly(L::WIDTH, from, tiles..states, states, to);
}

/// [`transpose_out`] value by value, of some of the states.
#[inline(always)]
pub(crate) fn transpose_out_singly(width: usize, from: &[f32], some: Range<usize>, states: usize, to: &mut [f32]) {
    if some.is_empty() {
        return;
    }
    for (lane, row) in to.chunks_exact_mut(states).enumerate() {
        for n in some.start..some.end {
            row[n] = from[n * width + lane];
        }
    }
}

/// Each value times `by`.
#[inline(always)]
pub(crate) fn scale(values: &mut [f32], by: f32) {
    for value in values {
        *value *= by;
    }
}

/// What a task works with.
struct Work<'a> {
    /// (strip, N, WIDTH): A, transposed, times log2(e)
    a: &'a [f32],
    /// (strip, N, WIDTH): the states
    h: &'a mut [f32],
    /// (strip, AHEAD, WIDTH): delta with bias and softplus
    delta: &'a mut [f32],
    /// (strip, AHEAD, WIDTH): delta u
    delta_u: &'a mut [f32],
    /// (strip, AHEAD, WIDTH): D u, and then y before the gate
    y: &'a mut [f32],
    /// (strip, AHEAD, WIDTH): silu(z)
    gate: &'a mut [f32],
    /// (AHEAD, N): room for B in f32
    b: &'a mut [f32],
    /// (AHEAD, N): room for C in f32
    c: &'a mut [f32],
}

/// The state of a block: N vectors.
trait State<L: Lanes> {
    fn get(&self, lanes: L, n: usize) -> L::F;
    fn set(&mut self, lanes: L, n: usize, value: L::F);
}

/// A state of fixed size, for the compiler to keep in registers.
struct Registers<F, const N: usize>([F; N]);

impl<L: Lanes, const N: usize> State<L> for Registers<L::F, N> {
    #[inline(always)]
    fn get(&self, _: L, n: usize) -> L::F {
        self.0[n]
    }
    #[inline(always)]
    fn set(&mut self, _: L, n: usize, value: L::F) {
        self.0[n] = value;
    }
}

/// A state of any size: (N, WIDTH).
struct Memory<'a>(&'a mut [f32]);

impl<L: Lanes> State<L> for Memory<'_> {
    #[inline(always)]
    fn get(&self, lanes: L, n: usize) -> L::F {
        lanes.load(&self.0[n * L::WIDTH..(n + 1) * L::WIDTH])
    }
    #[inline(always)]
    fn set(&mut self, lanes: L, n: usize, value: L::F) {
        lanes.store(value, &mut self.0[n * L::WIDTH..(n + 1) * L::WIDTH]);
    }
}

/// Where the values of a frame of a block are in a (strip, AHEAD, WIDTH) buffer.
#[inline(always)]
fn place<L: Lanes>(block: usize, frame: usize) -> Range<usize> {
    let start = (block * AHEAD + frame) * L::WIDTH;
    start..start + L::WIDTH
}

/// What some frames (counted over all sequences) of a strip need beside the state.
#[inline(always)]
fn prepare<L: Lanes, T: Element>(lanes: L, call: &Call<'_, T>, frames: &Range<usize>, strip: &Range<usize>, work: &mut Work<'_>) {
    let (inputs, states) = (call.inputs, call.dims.states);
    let rows = frames.start * states..frames.end * states; // in (S, L, N)
    T::widen(lanes, &inputs.b[rows.start..rows.end], &mut work.b[..rows.len()]);
    T::widen(lanes, &inputs.c[rows.start..rows.end], &mut work.c[..rows.len()]);
    for (i, frame) in (frames.start..frames.end).enumerate() {
        let row = frame * call.dims.channels; // in (S, L, D)
        for (j, index) in (strip.start..strip.end).enumerate() {
            let block = call.block(index, L::WIDTH);
            let (at, to) = (row + block.start..row + block.end, place::<L>(j, i));
            let u = T::load(lanes, &inputs.u[at.start..at.end]);
            let mut delta = T::load(lanes, &inputs.delta[at.start..at.end]);
            if inputs.delta_bias.is_some() {
                delta = lanes.add(delta, per_channel(lanes, inputs.delta_bias, &block));
            }
            if inputs.delta_softplus {
                delta = softplus(lanes, delta);
            }
            lanes.store(delta, &mut work.delta[to.start..to.end]);
            lanes.store(lanes.mul(delta, u), &mut work.delta_u[to.start..to.end]);
            // Where there is no D: 0, also for an infinite u.
            let skip = if inputs.d.is_some() { lanes.mul(per_channel(lanes, inputs.d, &block), u) } else { lanes.splat(0.0) };
            lanes.store(skip, &mut work.y[to.start..to.end]);
            if let Some(z) = inputs.z {
                let z = T::load(lanes, &z[at]);
                lanes.store(lanes.mul(z, sigmoid(lanes, z)), &mut work.gate[to]);
            }
        }
    }
}

/// Some frames' states and outputs before the gate, of block `index`, the strip's `j`th, after [`prepare`]. `FIXED` is N where it is known, else 0.
#[inline(always)]
fn advance<L: Lanes, T: Element, const FIXED: usize>(
    lanes: L,
    call: &Call<'_, T>,
    frames: &Range<usize>,
    j: usize,
    index: usize,
    work: &mut Work<'_>,
    state: &mut impl State<L>,
) {
    let states = if FIXED > 0 { FIXED } else { call.dims.states };
    let inputs = call.inputs;
    let a = &work.a[j * states * L::WIDTH..(j + 1) * states * L::WIDTH];
    for (i, frame) in (frames.start..frames.end).enumerate() {
        if call.dims.frames > SHORT {
            fetch_ahead(call, frame, index * L::WIDTH);
        }
        let (row, room) = (frame * states..(frame + 1) * states, i * states..(i + 1) * states);
        let b = &T::wide(&inputs.b[row.start..row.end], &work.b[room.start..room.end])[..states];
        let c = &T::wide(&inputs.c[row], &work.c[room])[..states];
        let at = place::<L>(j, i);
        let delta = lanes.load(&work.delta[at.start..at.end]);
        let delta_u = lanes.load(&work.delta_u[at.start..at.end]);
        let mut y = lanes.load(&work.y[at.start..at.end]);
        each_state!(n in FIXED or states => {
            let decay = lanes.exp2(lanes.mul(delta, lanes.load(&a[n * L::WIDTH..(n + 1) * L::WIDTH])));
            let h = lanes.mul_add(decay, state.get(lanes, n), lanes.mul(delta_u, lanes.splat(b[n])));
            state.set(lanes, n, h);
            y = lanes.mul_add(h, lanes.splat(c[n]), y);
        });
        lanes.store(y, &mut work.y[at]);
    }
}

/// Asks for what [`prepare`] and [`finish`] will read and write in memory when these frames are done, so that it arrives while they are
/// computed.
#[inline(always)]
fn fetch_ahead<T: Element>(call: &Call<'_, T>, frame: usize, channel: usize) {
    let at = (frame + AHEAD) * call.dims.channels + channel;
    prefetch(call.inputs.u.as_ptr(), at);
    prefetch(call.inputs.delta.as_ptr(), at);
    if let Some(z) = call.inputs.z {
        prefetch(z.as_ptr(), at);
    }
    prefetch(call.y.as_ptr(), at);
}

/// Writes some frames' outputs, after [`advance`].
#[inline(always)]
fn finish<L: Lanes, T: Element>(lanes: L, call: &Call<'_, T>, frames: &Range<usize>, strip: &Range<usize>, work: &Work<'_>) {
    for (i, frame) in (frames.start..frames.end).enumerate() {
        let row = frame * call.dims.channels; // in (S, L, D)
        for (j, index) in (strip.start..strip.end).enumerate() {
            let (block, from) = (call.block(index, L::WIDTH), place::<L>(j, i));
            let mut y = lanes.load(&work.y[from.start..from.end]);
            if call.inputs.z.is_some() {
                y = lanes.mul(y, lanes.load(&work.gate[from]));
            }
            // SAFETY: these channels of this sequence belong to this task alone.
            T::store(lanes, y, unsafe { call.y.part(row + block.start..row + block.end) });
        }
    }
}
