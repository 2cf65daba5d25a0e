// Vectors of three numbers and 4 x 4 matrices by columns, as WebGL has them.

/** @param {number[]} a @param {number[]} b */
export const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
/** @param {number[]} a @param {number[]} b */
export const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
/** @param {number[]} a @param {number} k */
export const scale = (a, k) => [a[0] * k, a[1] * k, a[2] * k];
/** @param {number[]} a @param {number[]} b */
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
/** @param {number[]} a @param {number[]} b */
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
/** @param {number[]} a */
export const norm = (a) => Math.hypot(a[0], a[1], a[2]);
/** The unit vector, or null of a vector without length. @param {number[]} a */
export const unit = (a) => {
  const length = norm(a);
  return length > 0 && Number.isFinite(length) ? scale(a, 1 / length) : null;
};
/** @param {number} v @param {number} low @param {number} high */
export const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

/** a * b. @param {Float32Array} a @param {Float32Array} b */
export function multiply(a, b) {
  const out = new Float32Array(16);
  for (let column = 0; column < 4; column++) {
    for (let row = 0; row < 4; row++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) sum += a[k * 4 + row] * b[column * 4 + k];
      out[column * 4 + row] = sum;
    }
  }
  return out;
}

/** @param {number} fovRad vertical @param {number} aspect @param {number} near @param {number} far */
export function perspective(fovRad, aspect, near, far) {
  const f = 1 / Math.tan(fovRad / 2);
  const d = 1 / (near - far);
  return new Float32Array([f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (near + far) * d, -1, 0, 0, 2 * near * far * d, 0]);
}

/** View from `eye` to `target`, z up. @param {number[]} eye @param {number[]} target */
export function lookAt(eye, target) {
  const back = unit(subtract(eye, target)) ?? [0, -1, 0];
  const right = unit(cross([0, 0, 1], back)) ?? [1, 0, 0];
  const up = cross(back, right);
  const [r, u, b] = [right, up, back];
  return new Float32Array([
    r[0], u[0], b[0], 0, r[1], u[1], b[1], 0, r[2], u[2], b[2], 0, -dot(r, eye), -dot(u, eye), -dot(b, eye), 1,
  ]);
}

/** Normalised device coordinates and w of a point. @param {Float32Array} m @param {number[]} p */
export function project(m, p) {
  const [x, y, w] = [0, 1, 3].map((row) => m[row] * p[0] + m[4 + row] * p[1] + m[8 + row] * p[2] + m[12 + row]);
  return [x / w, y / w, w];
}
