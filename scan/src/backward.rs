//! The backward kernel: one group of sequences at a time, states recomputed in chunks of frames.
//!
//! With g_t the gradient of h_t, y' = C_t . h_t + D u_t and gy_t the gradient of y' (that is, of y behind the gate):
//!
//! ```text
//! g_t     = gy_t C_t + exp(delta_{t+1} A) g_{t+1}
//! dC_t    = sum_d gy_t h_t              dB_t = sum_d g_t delta_t u_t
//! dA      = sum_t g_t delta_t exp(delta_t A) h_{t-1}
//! ddelta_t = sum_n g_t (A exp(delta_t A) h_{t-1} + u_t B_t)
//! du_t    = D gy_t + delta_t sum_n g_t B_t
//! ```
//!
//! Only the states at the start of each chunk are kept. The chunks are then walked backwards: a chunk's states and decays
//! are computed again into a small buffer, and its frames are walked backwards. Sums over channels (dB, dC) stay in lanes
//! until a chunk is done; sums over sequences (dA, dD, ddelta_bias) are kept for each group and added up at the end in the
//! order of the groups, which depend on the shape alone: the result is the same for any number of threads.

use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

use crate::element::Element;
use crate::forward::{per_channel, scale, transpose_in, transpose_in_singly, transpose_out, transpose_out_singly};
use crate::lanes::{Lanes, each_state, prefetch, sigmoid, softplus};
use crate::scratch::{self, Area, Carve};
use crate::shared::SharedMut;
use crate::{Dims, InputGrads, Inputs, OutputGrads};

/// Frames in a chunk at least. The four buffers of a chunk take 4 KiB a frame (16 lanes, 16 states), and what is not in the
/// last chunk is computed twice: on CPUs with 1 MiB of second-level cache everything from 4 to 64 is within a tenth.
const CHUNK: usize = 32;

/// Groups of sequences at most: how many threads a call can use, and how many partial sums there are.
const GROUPS: usize = 64;

/// Values of state that a group has at least (about 40 us of AVX-512): enough to pay for handing it to a thread.
const GROUP_VALUES: usize = 1 << 16;

/// A backward call, cut into tasks: a group of sequences each.
pub(crate) struct Call<'a, T> {
    dims: Dims,
    inputs: &'a Inputs<'a, T, f32>,
    output_grads: &'a OutputGrads<'a, T, f32>,
    grads: Grads<'a, T>,
    layout: Layout,
    /// (blocks, N, WIDTH): A, transposed, times log2(e)
    a: &'a [f32],
    /// (groups, [`Layout::partial`])
    partials: SharedMut<'a, f32>,
}

/// [`InputGrads`], for tasks that write disjoint parts; what is summed over sequences is in the partial sums instead.
struct Grads<'a, T> {
    u: SharedMut<'a, T>,
    delta: SharedMut<'a, T>,
    b: SharedMut<'a, T>,
    c: SharedMut<'a, T>,
    z: Option<SharedMut<'a, T>>,
    initial_state: Option<SharedMut<'a, f32>>,
}

/// How a call is cut up.
#[derive(Clone, Copy)]
struct Layout {
    /// Lanes in a vector.
    width: usize,
    /// Vectors that the channels fill; the last may be filled in part.
    blocks: usize,
    /// Values of a block's state: N vectors.
    tile: usize,
    /// Frames in a chunk.
    chunk: usize,
    /// Chunks in a sequence.
    chunks: usize,
    /// Tasks.
    groups: usize,
}

impl Layout {
    fn new(dims: Dims, width: usize) -> Self {
        // At least the square root of the length, which bounds the memory of a long sequence.
        let chunk = CHUNK.max(dims.frames.isqrt()).min(dims.frames.max(1));
        let values = dims.sequences.saturating_mul(dims.frames).saturating_mul(dims.channels).saturating_mul(dims.states);
        Self {
            width,
            blocks: dims.channels.div_ceil(width),
            tile: dims.states * width,
            chunk,
            chunks: dims.frames.div_ceil(chunk),
            groups: dims.sequences.min(GROUPS).min(values.div_ceil(GROUP_VALUES).max(1)),
        }
    }

    /// Values in a group's partial sums: dA (blocks, N, WIDTH), dD (blocks, WIDTH), ddelta_bias (blocks, WIDTH).
    fn partial(self) -> usize {
        self.blocks * (self.tile + 2 * self.width)
    }

    /// Values of scratch memory that a task needs: see [`Work`].
    fn scratch(self) -> usize {
        let states = self.tile / self.width;
        self.chunks.max(1) * self.blocks * self.tile
            + (4 * self.chunk + 1) * self.tile
            + 6 * self.chunk * self.width
            + (2 * self.chunk + 1) * states
    }

    /// The group's sequences: sizes differ by one at most.
    fn group(self, sequences: usize, group: usize) -> Range<usize> {
        // group * sequences cannot overflow: there is no slice of 2^58 values.
        group * sequences / self.groups..(group + 1) * sequences / self.groups
    }

    /// A block's channels.
    #[inline(always)]
    fn block(self, index: usize, channels: usize) -> Range<usize> {
        index * self.width..channels.min((index + 1) * self.width)
    }
}

/// Runs a backward call on arguments that were checked: `run_tasks` is given the call and how many tasks it has.
pub(crate) fn with_call<T: Element, E>(
    dims: Dims,
    inputs: &Inputs<'_, T, f32>,
    output_grads: &OutputGrads<'_, T, f32>,
    grads: &mut InputGrads<'_, T, f32>,
    width: usize,
    run_tasks: impl FnOnce(&Call<'_, T>, usize) -> Result<(), E>,
) -> Result<(), E> {
    let layout = Layout::new(dims, width);
    let Layout { blocks, tile, groups, .. } = layout;
    scratch::with(Area::Call, blocks * tile + groups * layout.partial(), |memory| {
        let (a, partials) = memory.split_at_mut(blocks * tile);
        for index in 0..blocks {
            let to = &mut a[index * tile..(index + 1) * tile];
            transpose_in_singly(width, inputs.a, &layout.block(index, dims.channels), 0..dims.states, dims.states, to);
        }
        scale(a, LOG2_E);
        let call = Call {
            dims,
            inputs,
            output_grads,
            grads: Grads {
                u: SharedMut::new(grads.u),
                delta: SharedMut::new(grads.delta),
                b: SharedMut::new(grads.b),
                c: SharedMut::new(grads.c),
                z: grads.z.as_deref_mut().map(SharedMut::new),
                initial_state: grads.initial_state.as_deref_mut().map(SharedMut::new),
            },
            layout,
            a,
            partials: SharedMut::new(&mut *partials),
        };
        run_tasks(&call, groups)?;
        add_groups(dims, layout, partials, grads);
        Ok(())
    })
}

/// Adds the groups' partial sums up, in their order, and hands them out.
fn add_groups<T>(dims: Dims, layout: Layout, partials: &mut [f32], grads: &mut InputGrads<'_, T, f32>) {
    let Layout { width, blocks, tile, .. } = layout;
    let (sums, rest) = partials.split_at_mut(layout.partial());
    for other in rest.chunks_exact(layout.partial().max(1)) {
        sums.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
    }
    let (grad_a, per_channel) = sums.split_at(blocks * tile);
    let (grad_d, grad_bias) = per_channel.split_at(blocks * width);
    for index in 0..blocks {
        let block = layout.block(index, dims.channels);
        let to = &mut grads.a[block.start * dims.states..block.end * dims.states];
        transpose_out_singly(width, &grad_a[index * tile..(index + 1) * tile], 0..dims.states, dims.states, to);
    }
    if let Some(to) = grads.d.as_deref_mut() {
        to.copy_from_slice(&grad_d[..dims.channels]);
    }
    if let Some(to) = grads.delta_bias.as_deref_mut() {
        to.copy_from_slice(&grad_bias[..dims.channels]);
    }
}

impl<T> Call<'_, T> {
    /// Values of scratch memory that a task needs.
    pub(crate) fn scratch(&self) -> usize {
        self.layout.scratch()
    }
}

/// Runs one task in `memory`. No closures, see [`crate::forward::run`].
#[inline(always)]
pub(crate) fn run<L: Lanes, T: Element>(lanes: L, call: &Call<'_, T>, group: usize, memory: &mut [f32]) {
    if call.dims.states == 16 {
        run_group::<L, T, 16>(lanes, call, group, memory);
    } else {
        run_group::<L, T, 0>(lanes, call, group, memory);
    }
}

/// A task's memory.
struct Work<'a> {
    /// (chunks - 1, blocks, N, WIDTH): the states before each chunk but the first
    starts: &'a mut [f32],
    /// (blocks, N, WIDTH): the gradient of the state after the frame at hand, as later frames give it
    carry: &'a mut [f32],
    /// The sums over sequences: of A (blocks, N, WIDTH), of D and of delta_bias (blocks, WIDTH)
    grad_a: &'a mut [f32],
    grad_d: &'a mut [f32],
    grad_bias: &'a mut [f32],
    /// (chunk + 1, N, WIDTH): states of the block before the chunk and after each of its frames
    h: &'a mut [f32],
    /// (chunk, N, WIDTH): exp(delta A)
    decay: &'a mut [f32],
    /// (chunk, WIDTH): delta with bias and softplus, and the slope of softplus
    delta: &'a mut [f32],
    delta_slope: &'a mut [f32],
    /// (chunk, WIDTH): delta u
    delta_u: &'a mut [f32],
    /// (chunk, WIDTH): the gradient of y before the gate
    grad_y: &'a mut [f32],
    /// (chunk, WIDTH): the gradient of y times the slope of the gate
    grad_gate: &'a mut [f32],
    /// (chunk, WIDTH): y before the gate
    ungated: &'a mut [f32],
    /// (chunk, N, WIDTH): the gradients of B and C, not yet added over lanes
    grad_b: &'a mut [f32],
    grad_c: &'a mut [f32],
    /// (chunk, N): room for B and C in f32
    b: &'a mut [f32],
    c: &'a mut [f32],
    /// (N)
    sums: &'a mut [f32],
}

/// One group of sequences. `FIXED` is N where it is known, else 0.
#[inline(always)]
fn run_group<L: Lanes, T: Element, const FIXED: usize>(lanes: L, call: &Call<'_, T>, group: usize, memory: &mut [f32]) {
    let Layout { blocks, tile, chunk, chunks, .. } = call.layout;
    let partial = call.layout.partial();
    // SAFETY: every group has its own.
    let mut sums = Carve(unsafe { call.partials.part(group * partial..(group + 1) * partial) });
    sums.0.fill(0.0);
    let mut memory = Carve(memory);
    let row = chunk * L::WIDTH;
    let mut work = Work {
        starts: memory.take(chunks.saturating_sub(1) * blocks * tile),
        carry: memory.take(blocks * tile),
        grad_a: sums.take(blocks * tile),
        grad_d: sums.take(blocks * L::WIDTH),
        grad_bias: sums.take(blocks * L::WIDTH),
        h: memory.take((chunk + 1) * tile),
        decay: memory.take(chunk * tile),
        delta: memory.take(row),
        delta_slope: memory.take(row),
        delta_u: memory.take(row),
        grad_y: memory.take(row),
        grad_gate: memory.take(row),
        ungated: memory.take(row),
        grad_b: memory.take(chunk * tile),
        grad_c: memory.take(chunk * tile),
        b: memory.take(chunk * call.dims.states),
        c: memory.take(chunk * call.dims.states),
        sums: memory.take(call.dims.states),
    };
    for sequence in call.layout.group(call.dims.sequences, group) {
        let task = Task::<L, T, FIXED> { lanes, call, sequence };
        task.begin(&mut work);
        for index in (0..chunks).rev() {
            task.chunk(&mut work, index);
        }
        for index in 0..blocks {
            task.end(&work, index);
        }
    }
}

/// One sequence of a call.
struct Task<'a, L, T, const FIXED: usize> {
    lanes: L,
    call: &'a Call<'a, T>,
    sequence: usize,
}

impl<L: Lanes, T: Element, const FIXED: usize> Task<'_, L, T, FIXED> {
    #[inline(always)]
    fn states(&self) -> usize {
        if FIXED > 0 { FIXED } else { self.call.dims.states }
    }

    /// Values of a block's state: a constant where N is.
    #[inline(always)]
    fn tile(&self) -> usize {
        self.states() * L::WIDTH
    }

    /// A block's channels.
    #[inline(always)]
    fn block(&self, index: usize) -> Range<usize> {
        self.call.layout.block(index, self.call.dims.channels)
    }

    /// Where the frame's channels of a block are, in (S, L, D).
    #[inline(always)]
    fn channels_at(&self, t: usize, block: &Range<usize>) -> Range<usize> {
        let row = (self.sequence * self.call.dims.frames + t) * self.call.dims.channels;
        row + block.start..row + block.end
    }

    /// Where the frame's states are, in (S, L, N).
    #[inline(always)]
    fn states_at(&self, t: usize) -> Range<usize> {
        let frame = self.sequence * self.call.dims.frames + t;
        frame * self.states()..(frame + 1) * self.states()
    }

    /// Where a block's state is, in (S, D, N).
    #[inline(always)]
    fn state_at(&self, block: &Range<usize>) -> Range<usize> {
        let row = self.sequence * self.call.dims.channels;
        (row + block.start) * self.states()..(row + block.end) * self.states()
    }

    /// Something of shape (S, D, N), 0 where it is absent: the block's part, as (N, WIDTH).
    #[inline(always)]
    fn state_in(&self, from: Option<&[f32]>, block: &Range<usize>, to: &mut [f32]) {
        match from {
            Some(from) => transpose_in(self.lanes, &from[self.state_at(block)], &(0..block.len()), self.states(), to),
            None => to.fill(0.0),
        }
    }

    /// Keeps the states before each chunk but the first, and takes the last state's gradient over.
    #[inline(always)]
    fn begin(&self, work: &mut Work<'_>) {
        let Layout { blocks, chunk, chunks, .. } = self.call.layout;
        for number in 0..chunks.saturating_sub(1) {
            let time = number * chunk..(number + 1) * chunk;
            self.widen(work, &time);
            for index in 0..blocks {
                self.prepare_steps(work, &time, &self.block(index));
                self.start_of(work, number, index);
                self.skip_through(work, &time, index);
                work.starts[(number * blocks + index) * self.tile()..][..self.tile()].copy_from_slice(&work.h[..self.tile()]);
            }
        }
        for index in 0..blocks {
            let to = &mut work.carry[index * self.tile()..(index + 1) * self.tile()];
            self.state_in(self.call.output_grads.last_state, &self.block(index), to);
        }
    }

    /// Puts the block's state before a chunk at the start of the buffer.
    #[inline(always)]
    fn start_of(&self, work: &mut Work<'_>, number: usize, index: usize) {
        let (blocks, tile) = (self.call.layout.blocks, self.tile());
        if number == 0 {
            self.state_in(self.call.inputs.initial_state, &self.block(index), &mut work.h[..tile]);
        } else {
            work.h[..tile].copy_from_slice(&work.starts[((number - 1) * blocks + index) * tile..][..tile]);
        }
    }

    /// Gives the initial state its gradient.
    #[inline(always)]
    fn end(&self, work: &Work<'_>, index: usize) {
        let Some(grad) = &self.call.grads.initial_state else { return };
        // SAFETY: these channels of this sequence belong to this task alone.
        let to = unsafe { grad.part(self.state_at(&self.block(index))) };
        transpose_out(self.lanes, &work.carry[index * self.tile()..(index + 1) * self.tile()], self.states(), to);
    }

    /// All channels of one chunk, and then the gradients of its B and C.
    #[inline(always)]
    fn chunk(&self, work: &mut Work<'_>, number: usize) {
        let Layout { blocks, chunk, .. } = self.call.layout;
        let time = number * chunk..self.call.dims.frames.min((number + 1) * chunk);
        self.widen(work, &time);
        work.grad_b.fill(0.0);
        work.grad_c.fill(0.0);
        for index in 0..blocks {
            let block = self.block(index);
            self.prepare_steps(work, &time, &block);
            self.prepare_gradients(work, &time, &block);
            self.recompute(work, number, &time, index);
            self.walk_back(work, &time, index);
        }
        for (i, t) in (time.start..time.end).enumerate() {
            let at = self.states_at(t);
            // SAFETY: the frames of this sequence belong to this task alone.
            let (grad_b, grad_c) = unsafe { (self.call.grads.b.part(at.start..at.end), self.call.grads.c.part(at)) };
            self.sum_into(&work.grad_b[i * self.tile()..(i + 1) * self.tile()], work.sums, grad_b);
            self.sum_into(&work.grad_c[i * self.tile()..(i + 1) * self.tile()], work.sums, grad_c);
        }
    }

    /// Adds the lanes of N vectors up, by way of `sums` (N).
    #[inline(always)]
    fn sum_into(&self, vectors: &[f32], sums: &mut [f32], to: &mut [T]) {
        for n in 0..self.states() {
            sums[n] = self.lanes.sum(self.lanes.load(&vectors[n * L::WIDTH..]));
        }
        for (sums, to) in sums.chunks(L::WIDTH).zip(to.chunks_mut(L::WIDTH)) {
            T::store(self.lanes, self.lanes.load_up_to(sums), to);
        }
    }

    /// B and C of some frames, for [`Self::b_and_c`].
    #[inline(always)]
    fn widen(&self, work: &mut Work<'_>, time: &Range<usize>) {
        let rows = self.states_at(time.start).start..self.states_at(time.end).start;
        T::widen(self.lanes, &self.call.inputs.b[rows.start..rows.end], &mut work.b[..rows.len()]);
        T::widen(self.lanes, &self.call.inputs.c[rows.start..rows.end], &mut work.c[..rows.len()]);
    }

    /// B and C (N) of a frame, the `i`th of those in `b` and `c` by [`Self::widen`].
    #[inline(always)]
    fn b_and_c<'a>(&'a self, b: &'a [f32], c: &'a [f32], i: usize, t: usize) -> (&'a [f32], &'a [f32]) {
        let (states, row) = (self.states(), self.states_at(t));
        let room = i * states..(i + 1) * states;
        let b = T::wide(&self.call.inputs.b[row.start..row.end], &b[room.start..room.end]);
        let c = T::wide(&self.call.inputs.c[row], &c[room]);
        (&b[..states], &c[..states])
    }

    /// The block's steps (delta and delta u) in some frames, all at once: see `AHEAD` of the forward pass.
    #[inline(always)]
    fn prepare_steps(&self, work: &mut Work<'_>, time: &Range<usize>, block: &Range<usize>) {
        let (lanes, inputs) = (self.lanes, self.call.inputs);
        let bias = per_channel(lanes, inputs.delta_bias, block);
        for (i, t) in (time.start..time.end).enumerate() {
            let at = self.channels_at(t, block);
            let mut delta = lanes.add(T::load(lanes, &inputs.delta[at.start..at.end]), bias);
            if inputs.delta_softplus {
                delta = softplus(lanes, delta);
            }
            lanes.store(delta, &mut work.delta[i * L::WIDTH..]);
            lanes.store(lanes.mul(delta, T::load(lanes, &inputs.u[at])), &mut work.delta_u[i * L::WIDTH..]);
        }
    }

    /// The block's slopes of softplus and of the gate, and its gradients of y before the gate.
    #[inline(always)]
    fn prepare_gradients(&self, work: &mut Work<'_>, time: &Range<usize>, block: &Range<usize>) {
        let (lanes, one) = (self.lanes, self.lanes.splat(1.0));
        let bias = per_channel(lanes, self.call.inputs.delta_bias, block);
        for (i, t) in (time.start..time.end).enumerate() {
            let at = self.channels_at(t, block);
            if self.call.inputs.delta_softplus {
                let raw = lanes.add(T::load(lanes, &self.call.inputs.delta[at.start..at.end]), bias);
                lanes.store(sigmoid(lanes, raw), &mut work.delta_slope[i * L::WIDTH..]);
            }
            let mut grad_y = T::load(lanes, &self.call.output_grads.y[at.start..at.end]);
            if let Some(z) = self.call.inputs.z {
                let z = T::load(lanes, &z[at]);
                let gate = sigmoid(lanes, z);
                // silu'(z) = gate (1 + z (1 - gate))
                let slope = lanes.mul(gate, lanes.mul_add(z, lanes.sub(one, gate), one));
                lanes.store(lanes.mul(grad_y, slope), &mut work.grad_gate[i * L::WIDTH..]);
                grad_y = lanes.mul(grad_y, lanes.mul(z, gate));
            }
            lanes.store(grad_y, &mut work.grad_y[i * L::WIDTH..]);
        }
    }

    /// Asks for what the next chunk will read, and with `all` write, of a frame of a block, so that it arrives while this one is computed:
    /// a column of a long array would wait for memory at every frame. The frame need not exist.
    #[inline(always)]
    fn fetch(&self, t: usize, index: usize, all: bool) {
        let frame = (self.sequence * self.call.dims.frames).wrapping_add(t);
        let at = frame.wrapping_mul(self.call.dims.channels).wrapping_add(index * L::WIDTH);
        let (inputs, grads) = (self.call.inputs, &self.call.grads);
        prefetch(inputs.u.as_ptr(), at);
        prefetch(inputs.delta.as_ptr(), at);
        if all {
            prefetch(self.call.output_grads.y.as_ptr(), at);
            prefetch(grads.u.as_ptr(), at);
            prefetch(grads.delta.as_ptr(), at);
            if let (Some(z), Some(grad_z)) = (inputs.z, &grads.z) {
                prefetch(z.as_ptr(), at);
                prefetch(grad_z.as_ptr(), at);
            }
        }
    }

    /// Moves the state at the start of the buffer over some frames, keeping nothing on the way.
    #[inline(always)]
    fn skip_through(&self, work: &mut Work<'_>, time: &Range<usize>, index: usize) {
        let (lanes, states, tile) = (self.lanes, self.states(), self.tile());
        let a = &self.call.a[index * tile..(index + 1) * tile];
        let h = &mut work.h[..tile];
        for (i, t) in (time.start..time.end).enumerate() {
            self.fetch(t + self.call.layout.chunk, index, false);
            let delta = lanes.load(&work.delta[i * L::WIDTH..]);
            let delta_u = lanes.load(&work.delta_u[i * L::WIDTH..]);
            let (b, _) = self.b_and_c(work.b, work.c, i, t);
            each_state!(n in FIXED or states => {
                let (start, end) = (n * L::WIDTH, (n + 1) * L::WIDTH);
                let decay = lanes.exp2(lanes.mul(delta, lanes.load(&a[start..end])));
                let place = &mut h[start..end];
                lanes.store(lanes.mul_add(decay, lanes.load(place), lanes.mul(delta_u, lanes.splat(b[n]))), place);
            });
        }
    }

    /// The block's states and decays in one chunk, again.
    #[inline(always)]
    fn recompute(&self, work: &mut Work<'_>, number: usize, time: &Range<usize>, index: usize) {
        let (lanes, states, tile, inputs) = (self.lanes, self.states(), self.tile(), self.call.inputs);
        let block = self.block(index);
        self.start_of(work, number, index);
        let skip = per_channel(lanes, inputs.d, &block);
        let a = &self.call.a[index * tile..(index + 1) * tile];
        for (i, t) in (time.start..time.end).enumerate() {
            let delta = lanes.load(&work.delta[i * L::WIDTH..]);
            let delta_u = lanes.load(&work.delta_u[i * L::WIDTH..]);
            let (b, c) = self.b_and_c(work.b, work.c, i, t);
            let (before, after) = work.h[i * tile..(i + 2) * tile].split_at_mut(tile);
            let after = &mut after[..tile];
            let decays = &mut work.decay[i * tile..(i + 1) * tile];
            let mut y = lanes.splat(0.0);
            each_state!(n in FIXED or states => {
                let (start, end) = (n * L::WIDTH, (n + 1) * L::WIDTH);
                let decay = lanes.exp2(lanes.mul(delta, lanes.load(&a[start..end])));
                let h = lanes.mul_add(decay, lanes.load(&before[start..end]), lanes.mul(delta_u, lanes.splat(b[n])));
                lanes.store(h, &mut after[start..end]);
                lanes.store(decay, &mut decays[start..end]);
                y = lanes.mul_add(h, lanes.splat(c[n]), y);
            });
            if inputs.d.is_some() {
                y = lanes.mul_add(skip, T::load(lanes, &inputs.u[self.channels_at(t, &block)]), y);
            }
            lanes.store(y, &mut work.ungated[i * L::WIDTH..]);
        }
    }

    /// The block's gradients in one chunk, from its last frame to its first.
    #[inline(always)]
    fn walk_back(&self, work: &mut Work<'_>, time: &Range<usize>, index: usize) {
        let (lanes, states, tile) = (self.lanes, self.states(), self.tile());
        let (inputs, grads) = (self.call.inputs, &self.call.grads);
        let block = self.block(index);
        let skip = per_channel(lanes, inputs.d, &block);
        let a = &self.call.a[index * tile..(index + 1) * tile];
        let carry = &mut work.carry[index * tile..(index + 1) * tile];
        let grad_a = &mut work.grad_a[index * tile..(index + 1) * tile];
        let mut grad_d = lanes.load(&work.grad_d[block.start..]);
        let mut grad_bias = lanes.load(&work.grad_bias[block.start..]);
        for (i, t) in (time.start..time.end).enumerate().rev() {
            self.fetch(t.wrapping_sub(self.call.layout.chunk), index, true);
            let at = self.channels_at(t, &block);
            let u = T::load(lanes, &inputs.u[at.start..at.end]);
            let delta = lanes.load(&work.delta[i * L::WIDTH..]);
            let delta_u = lanes.load(&work.delta_u[i * L::WIDTH..]);
            let grad_y = lanes.load(&work.grad_y[i * L::WIDTH..]);
            if let Some(grad_z) = &grads.z {
                // SAFETY: these channels of this sequence belong to this task alone.
                let to = unsafe { grad_z.part(at.start..at.end) };
                T::store(lanes, lanes.mul(lanes.load(&work.grad_gate[i * L::WIDTH..]), lanes.load(&work.ungated[i * L::WIDTH..])), to);
            }
            grad_d = lanes.mul_add(grad_y, u, grad_d);
            // sum over n of g B, and of g A exp(delta A) h_{t-1} (here with A log2(e))
            let (mut through_b, mut through_a) = (lanes.splat(0.0), lanes.splat(0.0));
            let (b, c) = self.b_and_c(work.b, work.c, i, t);
            let (before, after) = work.h[i * tile..(i + 2) * tile].split_at(tile);
            let after = &after[..tile];
            let decays = &work.decay[i * tile..(i + 1) * tile];
            let (grad_b, grad_c) = (&mut work.grad_b[i * tile..(i + 1) * tile], &mut work.grad_c[i * tile..(i + 1) * tile]);
            each_state!(n in FIXED or states => {
                let (start, end) = (n * L::WIDTH, (n + 1) * L::WIDTH);
                let decay = lanes.load(&decays[start..end]);
                let g = lanes.mul_add(grad_y, lanes.splat(c[n]), lanes.load(&carry[start..end]));
                lanes.store(lanes.mul(g, decay), &mut carry[start..end]);
                let to = &mut grad_c[start..end];
                lanes.store(lanes.mul_add(grad_y, lanes.load(&after[start..end]), lanes.load(to)), to);
                let to = &mut grad_b[start..end];
                lanes.store(lanes.mul_add(g, delta_u, lanes.load(to)), to);
                let along = lanes.mul(g, lanes.mul(decay, lanes.load(&before[start..end])));
                through_a = lanes.mul_add(along, lanes.load(&a[start..end]), through_a);
                through_b = lanes.mul_add(g, lanes.splat(b[n]), through_b);
                let to = &mut grad_a[start..end];
                lanes.store(lanes.mul_add(along, delta, lanes.load(to)), to);
            });
            let mut grad_u = lanes.mul(delta, through_b);
            if inputs.d.is_some() {
                grad_u = lanes.mul_add(skip, grad_y, grad_u);
            }
            let mut grad_delta = lanes.mul_add(u, through_b, lanes.mul(through_a, lanes.splat(LN_2)));
            if inputs.delta_softplus {
                grad_delta = lanes.mul(grad_delta, lanes.load(&work.delta_slope[i * L::WIDTH..]));
            }
            grad_bias = lanes.add(grad_bias, grad_delta);
            // SAFETY: these channels of this sequence belong to this task alone.
            let (to_u, to_delta) = unsafe { (grads.u.part(at.start..at.end), grads.delta.part(at)) };
            T::store(lanes, grad_u, to_u);
            T::store(lanes, grad_delta, to_delta);
        }
        lanes.store(grad_d, &mut work.grad_d[block.start..]);
        lanes.store(grad_bias, &mut work.grad_bias[block.start..]);
    }
}
