// Flexion of knee, hip, elbow and shoulder, defined and measured as in `pose::angle` (0 = standing upright, arms hanging).

import { cross, dot, norm, subtract, unit } from "./maths.js";

export const ANGLE_JOINTS = ["Knee", "Hip", "Elbow", "Shoulder"];
/** Left knee, hip, elbow, shoulder, then right. */
export const ANGLES = 8;

const THORAX = 8;
/** Flexion of hip or shoulder is not given for a limb this close to the sideways axis. */
const NO_FLEXION_WITHIN_DEG = 10;
const DEG = 180 / Math.PI;
const LIMBS = [
  { leg: [4, 5, 6], arm: [11, 12, 13] },
  { leg: [1, 2, 3], arm: [14, 15, 16] },
];

/**
 * Angles of a pose in degrees, NaN where there is none.
 * @param {ArrayLike<number>} pose 17 x 3 in a row, any unit
 * @param {number} at index of its first number
 * @param {Float32Array} out takes ANGLES numbers
 * @param {number} outAt
 */
export function flexionsDeg(pose, at, out, outAt) {
  const joint = (/** @type {number} */ j) => [pose[at + 3 * j], pose[at + 3 * j + 1], pose[at + 3 * j + 2]];
  const along = (/** @type {number} */ from, /** @type {number} */ to) => unit(subtract(joint(to), joint(from)));
  const bend = (/** @type {number[]} */ [a, b, c]) => {
    const [upper, lower] = [along(a, b), along(b, c)];
    return upper && lower ? Math.atan2(norm(cross(upper, lower)), dot(upper, lower)) * DEG : NaN;
  };
  const up = along(0, THORAX);
  const flexion = (/** @type {number[]} */ limb, /** @type {number} */ left, /** @type {number} */ right) => {
    const [across, direction] = [along(left, right), along(limb[0], limb[1])];
    if (!up || !across || !direction) return NaN;
    const lean = dot(across, up);
    const sideways = subtract(across, [lean * up[0], lean * up[1], lean * up[2]]);
    if (norm(sideways) <= 1e-3) return NaN;
    const rightwards = /** @type {number[]} */ (unit(sideways));
    if (Math.abs(dot(direction, rightwards)) > Math.cos(NO_FLEXION_WITHIN_DEG / DEG)) return NaN;
    return Math.atan2(dot(direction, cross(up, rightwards)), -dot(direction, up)) * DEG;
  };
  LIMBS.forEach(({ leg, arm }, side) => {
    const values = [bend(leg), flexion(leg, 4, 1), bend(arm), flexion(arm, 11, 14)];
    values.forEach((value, i) => (out[outAt + 4 * side + i] = value));
  });
}
