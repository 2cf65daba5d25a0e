// The view of the stage: turned, moved and brought near by mouse, fingers and keys. z is up, metres.

import { add, clamp, cross, lookAt, multiply, norm, perspective, scale, subtract, unit } from "./maths.js";

/** Of the view, vertically, when it is not the camera's. */
const FOV_RAD = (28 * Math.PI) / 180;
const NEAR_M = 0.1;
const FAR_M = 400;
const DISTANCE_M = [0.6, 120];
const ELEVATION_RAD = [-0.08, 1.5];
/** Time constant with which the view comes to where it shall be. */
const EASE_S = 0.09;
const KEY_TURN_RAD = Math.PI / 24;

/** @typedef {{azimuth: number, elevation: number, distance: number, target: number[]}} View */

export class Orbit {
  /** Where the view shall be. @type {View} */
  goal = { azimuth: 0.56, elevation: 0.22, distance: 6, target: [0, 4, 0.9] };
  /** Where it is. @type {View} */
  now = { ...this.goal, target: [...this.goal.target] };

  /** Vertically. */
  fovRad = FOV_RAD;

  /** @param {HTMLElement} element takes the input @param {() => void} changed */
  constructor(element, changed) {
    this.element = element;
    this.changed = changed;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    /** What the user has done to the view; a new fit would undo it. */
    this.touched = false;
    /** @type {(() => void) | null} */
    this.moved = null;
    this.listenToPointers();
    element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const pixels = event.deltaY * (event.deltaMode === 1 ? 18 : event.deltaMode === 2 ? 300 : 1);
        this.zoom(Math.exp(clamp(pixels, -240, 240) * (event.ctrlKey ? 0.008 : 0.0016)));
      },
      { passive: false },
    );
    element.addEventListener("keydown", (event) => this.key(event));
  }

  listenToPointers() {
    const { element } = this;
    /** @type {Map<number, {x: number, y: number}>} */
    const down = new Map();
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      down.set(event.pointerId, { x: event.clientX, y: event.clientY });
      element.classList.add("held");
    });
    const up = (/** @type {PointerEvent} */ event) => {
      down.delete(event.pointerId);
      if (down.size === 0) element.classList.remove("held");
    };
    element.addEventListener("pointerup", up);
    element.addEventListener("pointercancel", up);
    element.addEventListener("pointermove", (event) => {
      const last = down.get(event.pointerId);
      if (!last) return;
      const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
      const others = [...down].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      if (others.length > 0) {
        // two fingers: their middle moves the view, their distance brings it near
        const before = Math.hypot(last.x - others[0].x, last.y - others[0].y);
        const after = Math.hypot(event.clientX - others[0].x, event.clientY - others[0].y);
        if (before > 8 && after > 8) this.zoom(before / after);
        this.pan(dx / 2, dy / 2);
      } else if (event.shiftKey || (event.buttons & 6) !== 0) {
        this.pan(dx, dy);
      } else {
        this.turn(-dx * 0.006, dy * 0.005);
      }
      last.x = event.clientX;
      last.y = event.clientY;
    });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = event.shiftKey;
    const step = this.element.clientHeight / 16;
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => (pan ? this.pan(step, 0) : this.turn(KEY_TURN_RAD, 0)),
      ArrowRight: () => (pan ? this.pan(-step, 0) : this.turn(-KEY_TURN_RAD, 0)),
      ArrowUp: () => (pan ? this.pan(0, step) : this.turn(0, KEY_TURN_RAD)),
      ArrowDown: () => (pan ? this.pan(0, -step) : this.turn(0, -KEY_TURN_RAD)),
      "+": () => this.zoom(0.85),
      "=": () => this.zoom(0.85),
      "-": () => this.zoom(1 / 0.85),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  /** @param {number} azimuth @param {number} elevation */
  turn(azimuth, elevation) {
    this.goal.azimuth += azimuth;
    this.goal.elevation = clamp(this.goal.elevation + elevation, ELEVATION_RAD[0], ELEVATION_RAD[1]);
    this.done();
  }

  /** @param {number} factor of the distance */
  zoom(factor) {
    this.goal.distance = clamp(this.goal.distance * factor, DISTANCE_M[0], DISTANCE_M[1]);
    this.done();
  }

  /** Moves the scene with the pointer. @param {number} dx pixels @param {number} dy pixels */
  pan(dx, dy) {
    const metres = (2 * this.goal.distance * Math.tan(this.fovRad / 2)) / Math.max(this.element.clientHeight, 1);
    const back = direction(this.goal);
    const right = unit(cross([0, 0, 1], back)) ?? [1, 0, 0];
    const up = cross(back, right);
    this.goal.target = add(this.goal.target, add(scale(right, -dx * metres), scale(up, dy * metres)));
    this.moved?.();
    this.done();
  }

  done() {
    this.touched = true;
    this.changed();
  }

  /** Turns to a view; the shorter way round. @param {Partial<View>} view @param {boolean} [atOnce] */
  go(view, atOnce = false) {
    this.fovRad = FOV_RAD;
    Object.assign(this.goal, view);
    this.goal.elevation = clamp(this.goal.elevation, ELEVATION_RAD[0], ELEVATION_RAD[1]);
    this.goal.distance = clamp(this.goal.distance, DISTANCE_M[0], DISTANCE_M[1]);
    const turns = Math.round((this.goal.azimuth - this.now.azimuth) / (2 * Math.PI));
    this.goal.azimuth -= turns * 2 * Math.PI;
    if (atOnce) this.now = { ...this.goal, target: [...this.goal.target] };
    this.changed();
  }

  /**
   * Looks from a camera, so that its whole picture is in view.
   * @param {import("./clip.js").Camera} camera @param {{width: number, height: number}} image @param {number} depthM of the point to turn about
   */
  lookThrough({ positionM, axes, focalPx }, { width, height }, depthM) {
    this.lookFrom(positionM, add(positionM, scale(axes[2], depthM)));
    const aspect = this.element.clientWidth / Math.max(this.element.clientHeight, 1);
    this.fovRad = 2 * Math.atan(Math.max(height / focalPx[1], width / focalPx[0] / aspect) / 2);
  }

  /** Looks from a point to another. @param {number[]} eye @param {number[]} target @param {boolean} [atOnce] */
  lookFrom(eye, target, atOnce = false) {
    const back = subtract(eye, target);
    const distance = norm(back);
    if (distance < 1e-3) return;
    this.go({ target, distance, azimuth: Math.atan2(back[0], -back[1]), elevation: Math.asin(back[2] / distance) }, atOnce);
  }

  /** Shows a ball whole. @param {number[]} centre @param {number} radius @param {boolean} [atOnce] */
  fit(centre, radius, atOnce = false) {
    const aspect = this.element.clientWidth / Math.max(this.element.clientHeight, 1);
    const half = Math.atan(Math.tan(FOV_RAD / 2) * Math.min(aspect, 1));
    this.go({ target: centre, distance: (radius / Math.sin(half)) * 1.02 }, atOnce);
  }

  /** Comes nearer to the goal; whether there is still a way to go. @param {number} seconds since the last call */
  advance(seconds) {
    const share = this.calm.matches ? 1 : 1 - Math.exp(-seconds / EASE_S);
    const { now, goal } = this;
    const step = (/** @type {number} */ from, /** @type {number} */ to) => (Math.abs(to - from) < 1e-5 ? to : from + (to - from) * share);
    now.azimuth = step(now.azimuth, goal.azimuth);
    now.elevation = step(now.elevation, goal.elevation);
    now.distance = step(now.distance, goal.distance);
    now.target = now.target.map((v, i) => step(v, goal.target[i]));
    const isThere = now.azimuth === goal.azimuth && now.elevation === goal.elevation && now.distance === goal.distance;
    return !(isThere && now.target.every((v, i) => v === goal.target[i]));
  }

  /** @returns {number[]} */
  eye() {
    return add(this.now.target, scale(direction(this.now), this.now.distance));
  }

  /** Clip space from the world. @param {number} aspect */
  matrix(aspect) {
    return multiply(perspective(this.fovRad, aspect, NEAR_M, FAR_M), lookAt(this.eye(), this.now.target));
  }
}

/** From the target to the eye. Azimuth 0 looks along +y, as the camera does. @param {View} view */
function direction({ azimuth, elevation }) {
  return [Math.sin(azimuth) * Math.cos(elevation), -Math.cos(azimuth) * Math.cos(elevation), Math.sin(elevation)];
}
