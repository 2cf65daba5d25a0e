use crate::Error;

/// The sizes of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// S: independent sequences.
    pub sequences: usize,
    /// L: steps of time in each.
    pub frames: usize,
    /// D: channels, each with a state of its own.
    pub channels: usize,
    /// N: values in one channel's state.
    pub states: usize,
}

/// What goes into a scan; see the crate's page for shapes. `T` is the element type of what has a time axis, `P` that of
/// parameters and states.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T = f32, P = T> {
    /// (S, L, D)
    pub u: &'a [T],
    /// (S, L, D), before bias and softplus
    pub delta: &'a [T],
    /// (D, N), usually negative
    pub a: &'a [P],
    /// (S, L, N)
    pub b: &'a [T],
    /// (S, L, N)
    pub c: &'a [T],
    /// (D), the skip connection
    pub d: Option<&'a [P]>,
    /// (S, L, D), the gate: y is multiplied with silu(z)
    pub z: Option<&'a [T]>,
    /// (D), added to delta
    pub delta_bias: Option<&'a [P]>,
    /// (S, D, N), zero where absent
    pub initial_state: Option<&'a [P]>,
    /// Whether delta (with its bias) goes through softplus.
    pub delta_softplus: bool,
}

// By hand: a derive would ask for `T: Default`, which empty slices do not need.
impl<T, P> Default for Inputs<'_, T, P> {
    fn default() -> Self {
        Self { u: &[], delta: &[], a: &[], b: &[], c: &[], d: None, z: None, delta_bias: None, initial_state: None, delta_softplus: false }
    }
}

/// Gradients that come in: of the scan's outputs. Types as in [`Inputs`].
#[derive(Clone, Copy, Debug)]
pub struct OutputGrads<'a, T = f32, P = T> {
    /// (S, L, D)
    pub y: &'a [T],
    /// (S, D, N), zero where absent
    pub last_state: Option<&'a [P]>,
}

/// Gradients that go out: of the scan's inputs, overwritten. Those of optional inputs may be left out. Each has the type of its input.
#[derive(Debug)]
pub struct InputGrads<'a, T = f32, P = T> {
    /// (S, L, D)
    pub u: &'a mut [T],
    /// (S, L, D), of delta before bias and softplus
    pub delta: &'a mut [T],
    /// (D, N)
    pub a: &'a mut [P],
    /// (S, L, N)
    pub b: &'a mut [T],
    /// (S, L, N)
    pub c: &'a mut [T],
    /// (D)
    pub d: Option<&'a mut [P]>,
    /// (S, L, D)
    pub z: Option<&'a mut [T]>,
    /// (D)
    pub delta_bias: Option<&'a mut [P]>,
    /// (S, D, N)
    pub initial_state: Option<&'a mut [P]>,
}

impl<T, P: Copy + Default> InputGrads<'_, T, P> {
    /// What is summed over sequences, where there are none.
    pub(crate) fn zero_sums(&mut self) {
        for sums in std::iter::once(&mut *self.a).chain(self.d.as_deref_mut()).chain(self.delta_bias.as_deref_mut()) {
            sums.fill(P::default());
        }
    }
}

/// Which axes an argument has.
#[derive(Clone, Copy)]
enum Axes {
    /// (S, L, D)
    Channels,
    /// (S, L, N)
    States,
    /// (D, N)
    Transition,
    /// (D)
    PerChannel,
    /// (S, D, N)
    State,
}

impl Dims {
    pub(crate) fn too_large(self) -> Error {
        let Dims { sequences, frames, channels, states } = self;
        Error::TooLarge { sequences, frames, channels, states }
    }

    fn check(self, name: &'static str, axes: Axes, found: usize) -> Result<(), Error> {
        let Dims { sequences: s, frames: l, channels: d, states: n } = self;
        let sizes: &[(&str, usize)] = match axes {
            Axes::Channels => &[("S", s), ("L", l), ("D", d)],
            Axes::States => &[("S", s), ("L", l), ("N", n)],
            Axes::Transition => &[("D", d), ("N", n)],
            Axes::PerChannel => &[("D", d)],
            Axes::State => &[("S", s), ("D", d), ("N", n)],
        };
        let expected = sizes.iter().try_fold(1usize, |product, (_, size)| product.checked_mul(*size)).ok_or_else(|| self.too_large())?;
        if expected == found {
            return Ok(());
        }
        let shape = sizes.iter().map(|(axis, size)| format!("{axis}={size}")).collect::<Vec<_>>().join(", ");
        Err(Error::Length { name, shape: format!("({shape})"), expected, found })
    }

    /// Whether nothing at all has a value for each sequence. S is then not bounded by any slice, so nobody may count to it.
    pub(crate) fn is_empty(self) -> bool {
        self.sequences == 0 || [self.frames, self.channels, self.states].into_iter().filter(|&size| size == 0).count() > 1
    }
}

impl<T, P> Inputs<'_, T, P> {
    /// Whether every slice has the length that `dims` asks for.
    pub(crate) fn check(&self, dims: Dims) -> Result<(), Error> {
        dims.check("u", Axes::Channels, self.u.len())?;
        dims.check("delta", Axes::Channels, self.delta.len())?;
        dims.check("A", Axes::Transition, self.a.len())?;
        dims.check("B", Axes::States, self.b.len())?;
        dims.check("C", Axes::States, self.c.len())?;
        check_optional(dims, "D", Axes::PerChannel, self.d)?;
        check_optional(dims, "z", Axes::Channels, self.z)?;
        check_optional(dims, "delta_bias", Axes::PerChannel, self.delta_bias)?;
        check_optional(dims, "initial_state", Axes::State, self.initial_state)
    }
}

fn check_optional<T>(dims: Dims, name: &'static str, axes: Axes, values: Option<&[T]>) -> Result<(), Error> {
    values.map_or(Ok(()), |values| dims.check(name, axes, values.len()))
}

/// Checks what a forward call was given.
pub(crate) fn check_forward<T, P>(dims: Dims, inputs: &Inputs<'_, T, P>, y: &[T], last_state: Option<&[P]>) -> Result<(), Error> {
    inputs.check(dims)?;
    dims.check("y", Axes::Channels, y.len())?;
    check_optional(dims, "last_state", Axes::State, last_state)
}

/// Checks what a backward call was given.
pub(crate) fn check_backward<T, P>(
    dims: Dims,
    inputs: &Inputs<'_, T, P>,
    output_grads: &OutputGrads<'_, T, P>,
    grads: &InputGrads<'_, T, P>,
) -> Result<(), Error> {
    inputs.check(dims)?;
    dims.check("the gradient of y", Axes::Channels, output_grads.y.len())?;
    check_optional(dims, "the gradient of last_state", Axes::State, output_grads.last_state)?;
    dims.check("the gradient of u", Axes::Channels, grads.u.len())?;
    dims.check("the gradient of delta", Axes::Channels, grads.delta.len())?;
    dims.check("the gradient of A", Axes::Transition, grads.a.len())?;
    dims.check("the gradient of B", Axes::States, grads.b.len())?;
    dims.check("the gradient of C", Axes::States, grads.c.len())?;
    let present = |name, input: bool, grad: bool| if grad && !input { Err(Error::GradientOfAbsent { name }) } else { Ok(()) };
    present("D", inputs.d.is_some(), grads.d.is_some())?;
    present("z", inputs.z.is_some(), grads.z.is_some())?;
    present("delta_bias", inputs.delta_bias.is_some(), grads.delta_bias.is_some())?;
    // The initial state has a gradient even where it is absent: it is then zero.
    check_optional(dims, "the gradient of D", Axes::PerChannel, grads.d.as_deref())?;
    check_optional(dims, "the gradient of z", Axes::Channels, grads.z.as_deref())?;
    check_optional(dims, "the gradient of delta_bias", Axes::PerChannel, grads.delta_bias.as_deref())?;
    check_optional(dims, "the gradient of initial_state", Axes::State, grads.initial_state.as_deref())
}
