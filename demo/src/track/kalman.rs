//! Where a box goes: a Kalman filter of constant velocity for its centre and its sides.

use super::similarity::centre;
use crate::detect::BoxPx;

/// Spread of a detector's boxes, in heights of the person.
const MEASUREMENT: f32 = 0.03;
/// How much a person's velocity changes in a second, in heights (a start or a turn: about 3 m/s in a second).
const AGITATION: f32 = 1.8;
/// Velocity that someone may have when first seen, in heights a second.
const FIRST_SPEED: f32 = 1.5;
/// Unseen people go on as they went for so long ...
const COAST_S: f64 = 0.2;
/// ... and come to rest within about so much more.
const REST_S: f64 = 0.3;

/// One coordinate and its velocity, with their covariance.
#[derive(Debug, Clone, Copy)]
struct Axis {
    position: f32,
    per_s: f32,
    variance: f32,
    covariance: f32,
    variance_per_s: f32,
}

impl Axis {
    fn new(position: f32, spread: f32, speed: f32) -> Self {
        Self { position, per_s: 0.0, variance: spread * spread, covariance: 0.0, variance_per_s: speed * speed }
    }

    /// White acceleration of the density `agitation`² (per second).
    fn advance(&mut self, elapsed_s: f32, agitation: f32) {
        let (t, q) = (elapsed_s, agitation * agitation);
        self.position += self.per_s * t;
        self.variance += t * (2.0 * self.covariance + t * self.variance_per_s) + q * t * t * t / 3.0;
        self.covariance += t * self.variance_per_s + q * t * t / 2.0;
        self.variance_per_s += q * t;
    }

    fn measure(&mut self, position: f32, spread: f32) {
        let total = self.variance + spread * spread;
        let (gain, gain_per_s) = (self.variance / total, self.covariance / total);
        let surprise = position - self.position;
        self.position += gain * surprise;
        self.per_s += gain_per_s * surprise;
        self.variance_per_s -= gain_per_s * self.covariance;
        self.covariance -= gain * self.covariance;
        self.variance -= gain * self.variance;
    }
}

/// The motion of one person's box.
#[derive(Debug, Clone, Copy)]
pub struct Motion {
    /// Centre x, centre y, width, height.
    axes: [Axis; 4],
    time_s: f64,
}

impl Motion {
    /// From the first sight of someone.
    pub fn new(time_s: f64, box_px: BoxPx) -> Self {
        let unit = box_px.height.max(box_px.width);
        let axis = |position: f32| Axis::new(position, MEASUREMENT * unit, FIRST_SPEED * unit);
        Self { axes: coordinates(box_px).map(axis), time_s }
    }

    /// A further sight; times rise.
    pub fn see(&mut self, time_s: f64, box_px: BoxPx) {
        let unit = box_px.height.max(box_px.width);
        let elapsed_s = (time_s - self.time_s).max(0.0) as f32;
        for (axis, measured) in self.axes.iter_mut().zip(coordinates(box_px)) {
            axis.advance(elapsed_s, AGITATION * unit);
            axis.measure(measured, MEASUREMENT * unit);
        }
        self.time_s = time_s;
    }

    /// Where the box is expected at a later time.
    pub fn at(&self, time_s: f64) -> BoxPx {
        let elapsed_s = coasting_s((time_s - self.time_s).max(0.0)) as f32;
        let [x, y, ..] = self.axes.map(|axis| axis.position + axis.per_s * elapsed_s);
        // Sides are not led on: a person's box does not shrink to nothing while nobody looks.
        let [_, _, width, height] = self.axes.map(|axis| axis.position.max(1.0));
        BoxPx { left: x - width / 2.0, top: y - height / 2.0, width, height }
    }
}

/// For how much of a time without sight someone is taken to go on as before.
fn coasting_s(elapsed_s: f64) -> f64 {
    let beyond_s = (elapsed_s - COAST_S).max(0.0);
    elapsed_s.min(COAST_S) + REST_S * (1.0 - (-beyond_s / REST_S).exp())
}

fn coordinates(box_px: BoxPx) -> [f32; 4] {
    let [x, y] = centre(&box_px);
    [x, y, box_px.width, box_px.height]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing_at(x: f32) -> BoxPx {
        BoxPx { left: x - 40.0, top: 100.0, width: 80.0, height: 200.0 }
    }

    #[test]
    fn a_walk_is_foreseen() {
        let mut motion = Motion::new(0.0, standing_at(0.0));
        for t in 1..30 {
            motion.see(f64::from(t) / 30.0, standing_at(10.0 * t as f32));
        }
        let [x, y] = centre(&motion.at(1.0));
        assert!((x - 300.0).abs() < 3.0 && (y - 200.0).abs() < 1.0, "{x} {y}");
    }

    #[test]
    fn who_is_unseen_comes_to_rest() {
        let mut motion = Motion::new(0.0, standing_at(0.0));
        for t in 1..30 {
            motion.see(f64::from(t) / 30.0, standing_at(10.0 * t as f32));
        }
        let x = |time_s| centre(&motion.at(time_s))[0];
        assert!((x(1.1) - x(1.0) - 30.0).abs() < 3.0, "goes on at first");
        assert!(x(3.0) < x(1.0) + 160.0, "half a second's way at most: {}", x(3.0));
        assert!((motion.at(3.0).height - 200.0).abs() < 2.0);
    }

    #[test]
    fn a_late_frame_is_given_its_time() {
        let (mut regular, mut late) = (Motion::new(0.0, standing_at(0.0)), Motion::new(0.0, standing_at(0.0)));
        for t in 1..=20 {
            regular.see(f64::from(t) / 30.0, standing_at(10.0 * t as f32));
            if t % 4 == 0 {
                late.see(f64::from(t) / 30.0, standing_at(10.0 * t as f32));
            }
        }
        let [a, b] = [centre(&regular.at(0.7))[0], centre(&late.at(0.7))[0]];
        assert!((a - 210.0).abs() < 3.0 && (b - 210.0).abs() < 5.0, "{a} {b}");
    }
}
