//! A stream's memory, counted: it does not grow, however long the stream and whatever comes.
#![allow(missing_docs)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicIsize, Ordering},
};

use pose::{ImageSize, Keypoint, Keypoints17, filter::OneEuro, normalise::Normalisation};
use runtime::{StreamCore, StreamModel, StreamOptions, Way};

/// Bytes that are allocated and not freed.
static HELD_BYTES: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: `pointer` came from `alloc` above, that is from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One stream of everything: steady, too fast, with gaps, without people, with clocks that leap; sometimes nobody runs it.
#[test]
fn a_hundred_thousand_frames_hold_no_more_than_a_thousand() {
    let model = StreamModel { way: Way::Window { frames: 9 }, channels: 3, normalisation: Normalisation::PersonBox, fps: 30.0 };
    let image = ImageSize { width_px: 1280, height_px: 720 };
    let options =
        StreamOptions { look_ahead: Some(3), hop: 2, one_euro: Some(OneEuro::default()), constant_bones: true, ..Default::default() };
    let mut core = StreamCore::new(model, image, options).unwrap();
    let answer: Vec<f32> = (0..9 * 51).map(|i| 0.5 * (i as f32 * 0.7).sin()).collect();

    let (mut time_s, mut most, mut poses) = (0.0, [0isize; 2], 0usize);
    for t in 0..100_000usize {
        let kind = t / 500 % 8;
        time_s += match kind {
            1 => 1.0 / 230.0,
            2 => 1e-6,
            3 if t % 50 == 0 => 3.0,
            4 if t % 500 == 0 => 1e3,
            _ => 1.0 / 30.0,
        };
        let x_px = 400.0 + (t % 97) as f32;
        let frame: Keypoints17 =
            std::array::from_fn(|j| Keypoint::new(x_px + (7 * j) as f32, (11 * j) as f32, if t % 13 == j { 0.0 } else { 0.8 }));
        core.push(time_s, (kind != 5 || t % 3 == 0).then_some(&frame)).unwrap();
        if kind != 6 {
            while core.start_run().is_some() {
                poses += core.finish_run(&answer).unwrap().len();
            }
        }
        let half = usize::from(t >= 10_000);
        most[half] = most[half].max(HELD_BYTES.load(Ordering::Relaxed));
    }
    assert!(poses > 50_000, "{poses}");
    assert!(core.stats().dropped > 0 && core.stats().too_fast > 0 && core.stats().restarts > 0, "{:?}", core.stats());
    // all kinds have come once in the first 10,000; the test runner may allocate a little beside
    assert!(most[1] <= most[0] + 4096, "{most:?} bytes");
    assert!(most[1] < 4 << 20, "{most:?} bytes");
}
