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
        /// The values as f32, where they lie or in `room`, which is as long.
        fn widen<'a, L: Lanes>(lanes: L, from: &'a [Self], room: &'a mut [f32]) -> &'a [f32];
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
        fn widen<'a, L: Lanes>(_: L, from: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
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
        fn widen<'a, L: Lanes>(lanes: L, from: &'a [f16], room: &'a mut [f32]) -> &'a [f32] {
            for (room, from) in room.chunks_mut(L::WIDTH).zip(from.chunks(L::WIDTH)) {
                lanes.store_up_to(lanes.load_f16(from), room);
            }
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
        fn widen<'a, L: Lanes>(lanes: L, from: &'a [bf16], room: &'a mut [f32]) -> &'a [f32] {
            for (room, from) in room.chunks_mut(L::WIDTH).zip(from.chunks(L::WIDTH)) {
                lanes.store_up_to(lanes.load_bf16(from), room);
            }
            room
        }
    }
}
