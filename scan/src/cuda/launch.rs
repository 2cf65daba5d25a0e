//! How a scan becomes launches: sizes of grids, and what lies where in the workspace.

use super::arguments::{Backward, Forward, Sum};
use super::{Address, InputAddresses, InputGradAddresses, Kernel, Launcher, OutputAddresses, OutputGradAddresses};
use crate::{Dims, Error};

/// `THREADS` of the source.
const THREADS: usize = 128;
/// `COLUMNS` of the source.
const COLUMNS: usize = 32;
/// `WIDE` and `NARROW` of the source.
const WIDE: usize = 16;
const NARROW: usize = 4;

/// Blocks of a wide form that a multiprocessor has at least where that form is taken: as many threads as hide the time
/// that memory takes. With fewer, the narrow form has two or four times as many for the same work.
const WIDE_BLOCKS: usize = 4;

/// `CHUNK` of the source: frames between kept states.
fn chunk(states: usize) -> usize {
    if states > 4 && states <= 32 { 16 } else { 8 }
}

/// `PAIR` of the source: channels in a thread of the wide backward form.
fn pair(states: usize) -> usize {
    if matches!(states, 16 | 32 | 64) { 2 } else { 1 }
}

/// Blocks that a sequence's channels fill, where a thread has `most` states at most of each of `count` channels.
fn blocks(dims: Dims, most: usize, count: usize) -> usize {
    let lanes = dims.states.div_ceil(most).next_power_of_two(); // `lanes(most)` of the source
    dims.channels.div_ceil((THREADS / lanes).max(1) * count)
}

/// Sizes that the kernels can count to; indices into tensors are 64 bits wide there.
fn check(launcher: &dyn Launcher, dims: Dims) -> Result<(), Error> {
    let states = launcher.program().states();
    if dims.states != states {
        return Err(Error::Cuda(format!("the kernels were compiled for {states} states, but A has {}", dims.states)));
    }
    let fits = |size: usize| size <= i32::MAX as usize - 2 * THREADS;
    let blocks = dims.sequences.checked_mul(blocks(dims, NARROW, 1)).is_some_and(fits);
    if fits(dims.frames) && fits(dims.channels) && blocks && layout(dims).is_some() { Ok(()) } else { Err(dims.too_large()) }
}

/// An argument that must be there unless it is empty.
fn required(name: &'static str, address: Address, values: usize) -> Result<(), Error> {
    if address == 0 && values > 0 {
        return Err(Error::Cuda(format!("{name} has no address; only D, z, delta_bias, the states and their gradients are optional")));
    }
    Ok(())
}

fn check_inputs(dims: Dims, inputs: &InputAddresses) -> Result<(), Error> {
    let Dims { sequences, frames, channels, states } = dims; // products that fit: `check` made them
    let (per_channel, per_state) = (sequences * frames * channels, sequences * frames * states);
    required("u", inputs.u, per_channel)?;
    required("delta", inputs.delta, per_channel)?;
    required("A", inputs.a, channels * states)?;
    required("B", inputs.b, per_state)?;
    required("C", inputs.c, per_state)
}

unsafe fn launch<T>(launcher: &dyn Launcher, kernel: Kernel, blocks: usize, argument: &T) -> Result<(), Error> {
    let Ok(count) = u32::try_from(blocks) else { return Err(Error::Cuda(format!("{blocks} blocks are more than a grid can have"))) };
    if count == 0 {
        return Ok(());
    }
    // SAFETY: the argument is the kernel's own, and the caller vouches for the addresses in it.
    unsafe { launcher.launch(kernel, count, THREADS as u32, (&raw const *argument).cast()) }
}

/// The scan of every sequence: y, and the state after the last frame where that has an address.
///
/// # Safety
/// Addresses are 0 or good for as many values as the shapes say, on the launcher's device, until its work is done. Outputs
/// overlap nothing, except `last_state`, which may be `initial_state`.
///
/// # Errors
/// A required argument without an address, dimensions beyond what the kernels can count, or a launch that failed.
pub unsafe fn forward(launcher: &dyn Launcher, dims: Dims, inputs: &InputAddresses, outputs: &OutputAddresses) -> Result<(), Error> {
    check(launcher, dims)?;
    check_inputs(dims, inputs)?;
    required("y", outputs.y, dims.sequences * dims.frames * dims.channels)?;
    // SAFETY: as the caller promises.
    unsafe { run_forward(launcher, dims, inputs, *outputs) }
}

/// y may be absent: then states alone are computed.
unsafe fn run_forward(launcher: &dyn Launcher, dims: Dims, inputs: &InputAddresses, outputs: OutputAddresses) -> Result<(), Error> {
    let wide = dims.sequences * blocks(dims, WIDE, 1);
    let (kernel, blocks) = if wide >= WIDE_BLOCKS * launcher.multiprocessors() {
        (Kernel::ForwardWide, wide)
    } else {
        (Kernel::ForwardNarrow, dims.sequences * blocks(dims, NARROW, 1))
    };
    let InputAddresses { u, delta, a, b, c, d, z, delta_bias, initial_state, delta_softplus } = *inputs;
    let argument = Forward {
        u,
        delta,
        a,
        b,
        c,
        d,
        z,
        delta_bias,
        initial_state,
        y: outputs.y,
        last_state: outputs.last_state,
        kept: outputs.kept,
        frames: dims.frames as i32, // `check` saw that they fit
        channels: dims.channels as i32,
        delta_softplus: delta_softplus.into(),
    };
    // SAFETY: as the caller promises.
    unsafe { launch(launcher, kernel, blocks, &argument) }
}

/// Where the parts of a backward pass's workspace start, in values of f32.
struct Layout {
    /// (blocks, S, L, N)
    sums_b: usize,
    sums_c: usize,
    /// (S, D, N)
    sums_a: usize,
    /// (S, D)
    sums_d: usize,
    sums_delta_bias: usize,
    /// (S, chunks, D, N), where the forward pass kept none
    kept: usize,
    /// Where it all ends.
    end: usize,
}

/// Products of sizes; `None` where one is more than can be addressed.
fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

/// Values of f32 in the states that a forward pass keeps: (S, chunks, D, N).
fn kept_values(dims: Dims) -> Option<usize> {
    product(&[dims.sequences, dims.frames.div_ceil(chunk(dims.states)), dims.channels, dims.states])
}

/// `None` where it is more than can be addressed.
fn layout(dims: Dims) -> Option<Layout> {
    let Dims { sequences: s, frames: l, channels: d, states: n } = dims;
    // Parts that are fetched four values at a time start at multiples of four.
    let after = |start: usize, values: usize| start.checked_add(values)?.checked_next_multiple_of(4);
    let per_block = product(&[blocks(dims, NARROW, 1), s, l, n])?; // the wide form has fewer
    let sums_c = after(0, per_block)?;
    let sums_a = after(sums_c, per_block)?;
    let sums_d = after(sums_a, product(&[s, d, n])?)?;
    let sums_delta_bias = after(sums_d, product(&[s, d])?)?;
    let kept = after(sums_delta_bias, product(&[s, d])?)?;
    let end = kept.checked_add(kept_values(dims)?)?;
    product(&[end, size_of::<f32>()])?;
    product(&[s, l, d])?;
    product(&[s, l, n])?;
    Some(Layout { sums_b: 0, sums_c, sums_a, sums_d, sums_delta_bias, kept, end })
}

/// Bytes of the states that a forward pass keeps for [`backward`] where it is asked to: with up to 16 states about what u has in f32.
///
/// # Errors
/// Dimensions whose product cannot be addressed.
pub fn kept_bytes(dims: Dims) -> Result<usize, Error> {
    kept_values(dims).and_then(|values| product(&[values, size_of::<f32>()])).ok_or_else(|| dims.too_large())
}

/// Bytes of device memory that [`backward`] works in: at most what u has in f32, and [`kept_bytes`] more where the forward pass kept no states.
///
/// # Errors
/// Dimensions whose product cannot be addressed.
pub fn workspace_bytes(dims: Dims, has_kept: bool) -> Result<usize, Error> {
    let layout = layout(dims).ok_or_else(|| dims.too_large())?;
    Ok(if has_kept { layout.kept } else { layout.end } * size_of::<f32>())
}

/// The gradients of every input, given those of the outputs.
///
/// `kept` is what [`forward`] wrote there for the same inputs; with 0, its states are computed again first. `workspace` has
/// [`workspace_bytes`] bytes and need not be cleared. It may be used again once the launcher's work is done, or by later work
/// of the same stream.
///
/// # Safety
/// As [`forward`]; the workspace overlaps nothing.
///
/// # Errors
/// As [`forward`]; also a gradient asked for an input that is absent.
pub unsafe fn backward(
    launcher: &dyn Launcher,
    dims: Dims,
    inputs: &InputAddresses,
    output_grads: &OutputGradAddresses,
    grads: &InputGradAddresses,
    kept: Address,
    workspace: Address,
) -> Result<(), Error> {
    check(launcher, dims)?;
    check_inputs(dims, inputs)?;
    let Dims { sequences, frames, channels, states } = dims;
    let (per_channel, per_state) = (sequences * frames * channels, sequences * frames * states);
    required("the gradient of y", output_grads.y, per_channel)?;
    required("the gradient of u", grads.u, per_channel)?;
    required("the gradient of delta", grads.delta, per_channel)?;
    required("the gradient of A", grads.a, channels * states)?;
    required("the gradient of B", grads.b, per_state)?;
    required("the gradient of C", grads.c, per_state)?;
    for (name, input, grad) in [("D", inputs.d, grads.d), ("z", inputs.z, grads.z), ("delta_bias", inputs.delta_bias, grads.delta_bias)] {
        if grad != 0 && input == 0 {
            return Err(Error::GradientOfAbsent { name });
        }
    }
    let layout = layout(dims).ok_or_else(|| dims.too_large())?;
    required("the workspace", workspace, if kept == 0 { layout.end } else { layout.kept })?;
    let place = |values: usize| workspace + (values * size_of::<f32>()) as u64;
    let (wide, narrow) = (blocks(dims, NARROW, pair(states)), blocks(dims, NARROW, 1));
    let (kernel, blocks) = if sequences * wide >= WIDE_BLOCKS * launcher.multiprocessors() {
        (Kernel::BackwardWide, wide)
    } else {
        (Kernel::BackwardNarrow, narrow)
    };
    // SAFETY: as the caller promises; the parts of the workspace do not overlap.
    unsafe {
        let kept = if kept == 0 {
            let kept = if layout.kept < layout.end { place(layout.kept) } else { 0 }; // no frames, no states
            let outputs = OutputAddresses { kept, ..OutputAddresses::default() };
            run_forward(launcher, dims, inputs, outputs)?;
            outputs.kept
        } else {
            kept
        };
        let argument = Backward {
            u: inputs.u,
            delta: inputs.delta,
            a: inputs.a,
            b: inputs.b,
            c: inputs.c,
            d: inputs.d,
            z: inputs.z,
            delta_bias: inputs.delta_bias,
            kept,
            grad_y: output_grads.y,
            grad_last_state: output_grads.last_state,
            grad_u: grads.u,
            grad_delta: grads.delta,
            grad_z: grads.z,
            grad_initial_state: grads.initial_state,
            sums_b: place(layout.sums_b),
            sums_c: place(layout.sums_c),
            sums_a: place(layout.sums_a),
            sums_d: place(layout.sums_d),
            sums_delta_bias: place(layout.sums_delta_bias),
            sequences: sequences as i64,
            frames: frames as i32,
            channels: channels as i32,
            delta_softplus: inputs.delta_softplus.into(),
        };
        launch(launcher, kernel, sequences * blocks, &argument)?;
        for (from, to) in [(layout.sums_b, grads.b), (layout.sums_c, grads.c)] {
            let sum = Sum { from: place(from), to, rows: blocks as i64, columns: per_state as i64 };
            launch(launcher, Kernel::SumFew, per_state.div_ceil(THREADS), &sum)?;
        }
        for (from, to, columns) in [
            (layout.sums_a, grads.a, channels * states),
            (layout.sums_d, grads.d, channels),
            (layout.sums_delta_bias, grads.delta_bias, channels),
        ] {
            if to != 0 {
                let sum = Sum { from: place(from), to, rows: sequences as i64, columns: columns as i64 };
                launch(launcher, Kernel::SumMany, columns.div_ceil(COLUMNS), &sum)?;
            }
        }
        Ok(())
    }
}
