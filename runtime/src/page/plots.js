// Joint angles over time: a row for knee, hip, elbow and shoulder, left and right together, with a cursor.

import { ANGLES, ANGLE_JOINTS } from "./angles.js";
import { anglesOf, visitRows } from "./track.js";

/** Gaps longer than this many frames break the line. */
const GAP_FRAMES = 2.5;
/** Beyond this window the overview is drawn instead of poses. */
const OVERVIEW_BEYOND_S = 32;
const STEP_DEG = 30;
/** Room for figures left of the lines. */
export const GUTTER_PX = 32;
/** And above and below them, so that figures of neighbours do not meet. */
const PAD_PX = 9;
/** Angles go round: a larger step between two frames goes over 180 degrees, and is not drawn. */
const ROUND_DEG = 180;
const LEAST_SPAN_DEG = 60;

/**
 * @typedef {object} PlotView
 * @property {any} source a `ClipSource` or a `LiveSource`
 * @property {number} id whose angles
 * @property {number} timeS of the cursor
 * @property {number} fromS
 * @property {number} toS
 * @property {import("./skeleton.js").Colours} colours
 * @property {{line: string, text: string, cursor: string}} inks
 */

export class Plots {
  /** @param {HTMLElement} parent @param {(timeS: number) => void} seek */
  constructor(parent, seek) {
    this.rows = ANGLE_JOINTS.map((name) => {
      const row = document.createElement("div");
      row.className = "plot";
      const head = document.createElement("div");
      head.className = "plot-head";
      const [title, left, right] = ["h3", "output", "output"].map((tag) => document.createElement(tag));
      title.textContent = name;
      left.className = "left";
      right.className = "right";
      left.ariaLabel = `${name} left, degrees`;
      right.ariaLabel = `${name} right, degrees`;
      head.append(title, left, right);
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.ariaLabel = `${name} flexion over time`;
      row.append(head, canvas);
      parent.append(row);
      this.listen(canvas, seek);
      return { canvas, left, right, range: [0, LEAST_SPAN_DEG] };
    });
    /** @type {PlotView | null} */
    this.view = null;
    this.rangeOf = "";
  }

  /** @param {HTMLCanvasElement} canvas @param {(timeS: number) => void} seek */
  listen(canvas, seek) {
    const scrub = (/** @type {PointerEvent} */ event) => {
      const view = this.view;
      if (!view || view.source.live || (event.buttons & 1) === 0) return;
      const share = (event.clientX - canvas.getBoundingClientRect().left - GUTTER_PX) / (canvas.clientWidth - GUTTER_PX);
      seek(view.fromS + Math.min(Math.max(share, 0), 1) * (view.toS - view.fromS));
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      scrub(event);
    });
    canvas.addEventListener("pointermove", scrub);
  }

  /** @param {PlotView} view */
  draw(view) {
    this.view = view;
    this.findRanges(view);
    const overview = view.toS - view.fromS > OVERVIEW_BEYOND_S ? view.source.overviews.get(view.id) : null;
    const blocks = view.source.blocks(view.id);
    /** @type {Float32Array | null} */
    let now = null;
    visitRows(blocks, view.timeS - view.source.staleS, view.timeS + 1e-6, (block, i) => {
      now = anglesOf(block).subarray(i * ANGLES, (i + 1) * ANGLES);
    });
    this.rows.forEach((row, joint) => {
      const values = [now?.[joint], now?.[joint + ANGLES / 2]];
      [row.left, row.right].forEach((output, side) => {
        const text = `${side === 0 ? "L" : "R"} ${degrees(values[side])}`;
        if (output.textContent !== text) output.textContent = text;
        output.style.color = side === 0 ? view.colours.left : view.colours.right;
      });
      this.drawRow(row, joint, view, blocks, overview, values);
    });
  }

  /** Ranges hold the whole clip, so that they stay while it plays. @param {PlotView} view */
  findRanges({ source, id, fromS, toS }) {
    const overview = source.overviews.get(id);
    const key = source.live ? "" : `${id} ${Boolean(overview)}`;
    if (key && key === this.rangeOf) return;
    this.rangeOf = key;
    this.rows.forEach((row, joint) => {
      let [low, high] = [0, LEAST_SPAN_DEG];
      const take = (/** @type {number} */ value) => {
        if (value < low) low = value;
        if (value > high) high = value;
      };
      for (const angle of [joint, joint + ANGLES / 2]) {
        if (overview) {
          for (let b = 0; b < overview.buckets * 2; b++) take(overview.anglesDeg[(b >> 1) * ANGLES * 2 + angle * 2 + (b & 1)]);
        } else {
          visitRows(source.blocks(id), fromS, toS, (block, i) => take(anglesOf(block)[i * ANGLES + angle]));
        }
      }
      row.range = [Math.floor(low / STEP_DEG) * STEP_DEG, Math.ceil(high / STEP_DEG) * STEP_DEG];
    });
  }

  /**
   * @param {Plots["rows"][0]} row @param {number} joint @param {PlotView} view @param {import("./track.js").Block[]} blocks
   * @param {import("./clip.js").Overview | null} overview @param {(number | undefined)[]} values
   */
  drawRow(row, joint, view, blocks, overview, values) {
    const { canvas, range } = row;
    const ratio = Math.min(devicePixelRatio, 2);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (width === 0 || height === 0) return;
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
    const context = canvas.getContext("2d");
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const x = (/** @type {number} */ timeS) => GUTTER_PX + ((timeS - view.fromS) / (view.toS - view.fromS)) * (width - GUTTER_PX);
    const y = (/** @type {number} */ deg) => PAD_PX + (1 - (deg - range[0]) / (range[1] - range[0])) * (height - 2 * PAD_PX);

    const step = [30, 60, 90, 180].find((deg) => (deg / (range[1] - range[0])) * (height - 2 * PAD_PX) >= 20) ?? 180;
    context.font = "10px ui-sans-serif, system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let deg = Math.ceil(range[0] / step) * step; deg <= range[1]; deg += step) {
      context.fillStyle = view.inks.line;
      context.globalAlpha = deg === 0 ? 0.28 : 0.12;
      context.fillRect(GUTTER_PX, Math.round(y(deg)) - 0.5, width - GUTTER_PX, 1);
      context.globalAlpha = 0.8;
      context.fillStyle = view.inks.text;
      context.fillText(degrees(deg), GUTTER_PX - 5, y(deg) + 0.5);
    }
    context.globalAlpha = 1;
    context.save();
    context.beginPath();
    context.rect(GUTTER_PX, 0, width - GUTTER_PX, height);
    context.clip();
    for (const side of [0, 1]) {
      const colour = side === 0 ? view.colours.left : view.colours.right;
      const angle = joint + (side * ANGLES) / 2;
      if (overview) this.drawBand(context, overview, angle, view, colour, width, y);
      else this.drawLine(context, blocks, angle, view, colour, x, y);
    }
    context.restore();
    const cursor = x(view.timeS);
    context.fillStyle = view.inks.cursor;
    context.globalAlpha = 0.8;
    context.fillRect(Math.round(cursor) - 0.5, 0, 1, height);
    context.globalAlpha = 1;
    [view.colours.left, view.colours.right].forEach((colour, side) => {
      const value = values[side];
      if (value === undefined || Number.isNaN(value)) return;
      context.fillStyle = colour;
      context.beginPath();
      context.arc(cursor, y(value), 3, 0, 2 * Math.PI);
      context.fill();
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {import("./track.js").Block[]} blocks @param {number} angle @param {PlotView} view
   * @param {string} colour @param {(s: number) => number} x @param {(deg: number) => number} y
   */
  drawLine(context, blocks, angle, view, colour, x, y) {
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    let [last, lastDeg] = [-Infinity, 0];
    visitRows(blocks, view.fromS - view.source.frameS, view.toS + view.source.frameS, (block, i) => {
      const [s, value] = [block.timesS[i], anglesOf(block)[i * ANGLES + angle]];
      if (Number.isNaN(value)) {
        last = -Infinity;
        return;
      }
      if (s - last > GAP_FRAMES * view.source.frameS || Math.abs(value - lastDeg) > ROUND_DEG) context.moveTo(x(s), y(value));
      else context.lineTo(x(s), y(value));
      [last, lastDeg] = [s, value];
    });
    context.stroke();
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {import("./clip.js").Overview} overview @param {number} angle @param {PlotView} view
   * @param {string} colour @param {number} width @param {(deg: number) => number} y
   */
  drawBand(context, { buckets, anglesDeg }, angle, view, colour, width, y) {
    const { startS, endS } = view.source;
    context.fillStyle = colour;
    context.globalAlpha = 0.6;
    const bucketAt = (/** @type {number} */ timeS) => ((timeS - startS) / (endS - startS)) * buckets;
    const perColumnS = (view.toS - view.fromS) / (width - GUTTER_PX);
    for (let column = 0; column < width - GUTTER_PX; column++) {
      const first = Math.floor(bucketAt(view.fromS + column * perColumnS));
      const last = Math.max(Math.ceil(bucketAt(view.fromS + (column + 1) * perColumnS)), first + 1);
      let [low, high] = [Infinity, -Infinity];
      for (let b = Math.max(first, 0); b < Math.min(last, buckets); b++) {
        const at = b * ANGLES * 2 + angle * 2;
        if (anglesDeg[at] < low) low = anglesDeg[at];
        if (anglesDeg[at + 1] > high) high = anglesDeg[at + 1];
      }
      if (high >= low) context.fillRect(GUTTER_PX + column, y(high), 1, Math.max(y(low) - y(high), 1));
    }
    context.globalAlpha = 1;
  }
}

/** @param {number | undefined} value */
export function degrees(value) {
  // a minus as wide as a digit keeps figures in place
  return value === undefined || Number.isNaN(value) ? "–" : `${Math.round(value)}°`.replace("-", "−");
}
