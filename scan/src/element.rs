use half::{bf16, f16};

use crate::lanes::Lanes;

/// What u, delta, B, C, z and y are made of: f32, f16 or bf16. The scan computes in f32 whatever it is.
pub trait Element: sealed::Convert {}

impl Element for f32 {}
impl Element for f16 {}
impl Element for bf16 {}

mod sealed {
    use super::{Lanes, bf16, f16};

    /// To and from lanes of f32. At most the lanes' width of values at a time.
    pub trait Convert: Copy + Send + Sync {
        /// Missing lanes are 0.
        fn load<L: Lanes>(lanes: L, from: &[Self]) -> L::F;
        /// As many lanes as there is room for.
        fn store<L: Lanes>(lanes: L, value: L::F, to: &mut [Self]);
        /// Writes the values to `room`, as long, as f32: where [`Self::wide`] will look for them.
        fn widen<L: Lanes>(lanes: L, from: &[Self], room: &mut [f32]);
        /// The values as f32: where they lie, or in the `room` of [`Self::widen`].
        fn wide<'a>(from: &'a [Self], room: &'a [f32]) -> &'a [f32];
    }

    impl Convert for f32 {
        #[inline(always)]
        fn load<L: Lanes>(lanes: L, from: &[f32]) -> L::F {
            lanes.load_up_to(from)
        }
        #[inline(always)]
        fn store<L: Lanes>(lanes: L, value: L::F, to: &mut [f32]) {
            lanes.store_up_to(value, to);
        }
        #[inline(always)]
        fn widen<L: Lanes>(_: L, _: &[f32], _: &mut [f32]) {}
        #[inline(always)]
        fn wide<'a>(from: &'a [f32], _: &'a [f32]) -> &'a [f32] {
            from
        }
    }

    impl Convert for f16 {
        #[inline(always)]
        fn load<L: Lanes>(lanes: L, from: &[f16]) -> L::F {
            lanes.load_f16(from)
        }
        #[inline(always)]
        fn store<L: Lanes>(lanes: L, value: L::F, to: &mut [f16]) {
            lanes.store_f16(value, to);
        }
        #[inline(always)]
        fn widen<L: Lanes>(lanes: L, from: &[f16], room: &mut [f32]) {
            for (room, from) in room.chunks_mut(L::WIDTH).zip(from.chunks(L::WIDTH)) {
                lanes.store_up_to(lanes.load_f16(from), room);
            }
        }
        #[inline(always)]
        fn wide<'a>(_: &'a [f16], room: &'a [f32]) -> &'a [f32] {
            room
        }
    }

    impl Convert for bf16 {
        #[inline(always)]
        fn load<L: Lanes>(lanes: L, from: &[bf16]) -> L::F {
            lanes.load_bf16(from)
        }
        #[inline(always)]
        fn store<L: Lanes>(lanes: L, value: L::F, to: &mut [bf16]) {
            lanes.store_bf16(value, to);
        }
        #[inline(always)]
        fn widen<L: Lanes>(lanes: L, from: &[bf16], room: &mut [f32]) {
            for (room, from) in room.chunks_mut(L::WIDTH).zip(from.chunks(L::WIDTH)) {
                lanes.store_up_to(lanes.load_bf16(from), room);
            }
        }
        #[inline(always)]
        fn wide<'a>(_: &'a [bf16], room: &'a [f32]) -> &'a [f32] {
            room
        }
    }
}
