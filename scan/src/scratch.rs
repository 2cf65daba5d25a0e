//! Memory that a thread keeps between calls, so that a scan allocates nothing once it has run.

use std::cell::Cell;

/// One cache line, which is also the widest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// What a task works in.
    static TASK: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// What a call shares among its tasks. Apart from TASK, because the caller's thread runs tasks too.
    static CALL: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Which of a thread's two areas to use.
#[derive(Clone, Copy)]
pub(crate) enum Area {
    Task,
    Call,
}

/// Runs `work` on `length` values aligned to a cache line. They hold whatever an earlier use left: write before reading.
///
/// Always inlined: a vector form's closure must end up inside the function that is compiled for that form's instructions, or
/// every intrinsic in it becomes a call.
#[inline(always)]
pub(crate) fn with<R>(area: Area, length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let key = match area {
        Area::Task => &TASK,
        Area::Call => &CALL,
    };
    // Taken out for the time of use: a nested use finds nothing and allocates, rather than sharing.
    let mut lines = key.take();
    let needed = length.div_ceil(16);
    if lines.len() < needed {
        lines.resize(needed, Line([0.0; 16]));
    }
    // SAFETY: a Line is exactly 16 f32 without padding (64 bytes, aligned to 64), and all of them are initialised.
    let values = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), lines.len() * 16) };
    let result = work(&mut values[..length]);
    key.set(lines);
    result
}

/// Cuts pieces off a slice, one after the other.
pub(crate) struct Carve<'a>(pub(crate) &'a mut [f32]);

impl<'a> Carve<'a> {
    /// The next `length` values.
    pub(crate) fn take(&mut self, length: usize) -> &'a mut [f32] {
        let (piece, rest) = std::mem::take(&mut self.0).split_at_mut(length);
        self.0 = rest;
        piece
    }
}
