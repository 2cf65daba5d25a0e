// 2D skeletons over the picture. What the detector was not sure of is hollow and dashed.

import { BONES, CONFIDENT, JOINTS, SIDE, css, sideColour } from "./skeleton.js";
import { confidenceOf } from "./track.js";

/**
 * @param {HTMLCanvasElement} canvas lies over the picture
 * @param {{width: number, height: number}} image pixels that keypoints are given in
 * @param {{row: import("./track.js").Row, colours: import("./skeleton.js").Colours, chosen: boolean}[]} people
 */
export function drawOverlay(canvas, image, people) {
  const ratio = Math.min(devicePixelRatio, 2);
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  if (!context) return;
  context.clearRect(0, 0, width, height);
  const toCanvas = width / image.width;
  // thin where people are small, and never clumsy
  for (const person of people) {
    const stroke = Math.min(Math.max(bodyHeightPx(person.row) * toCanvas * 0.014, 1.4 * ratio), 4 * ratio);
    drawPerson(context, person, toCanvas, stroke);
  }
}

/** @param {import("./track.js").Row} row @param {number} joint */
function pixel(row, joint) {
  const at = (row.i * JOINTS + joint) * 2;
  return [row.block.pixels[at], row.block.pixels[at + 1]];
}

/** @param {import("./track.js").Row} row */
function bodyHeightPx(row) {
  const ys = Array.from({ length: JOINTS }, (_, joint) => pixel(row, joint)[1]).filter(Number.isFinite);
  return ys.length > 0 ? Math.max(...ys) - Math.min(...ys) : 0;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {{row: import("./track.js").Row, colours: import("./skeleton.js").Colours, chosen: boolean}} person
 * @param {number} toCanvas
 * @param {number} stroke
 */
function drawPerson(context, { row, colours, chosen }, toCanvas, stroke) {
  const seen = row.block.found[row.i] > 0;
  const at = Array.from({ length: JOINTS }, (_, joint) => pixel(row, joint).map((v) => v * toCanvas));
  const sure = Array.from({ length: JOINTS }, (_, joint) => seen && confidenceOf(row, joint) >= CONFIDENT);
  const known = (/** @type {number} */ joint) => at[joint].every(Number.isFinite);
  context.lineCap = "round";
  const strength = chosen ? 1 : 0.8;
  for (const isOutline of [true, false]) {
    for (const [from, to] of BONES) {
      if (!known(from) || !known(to)) continue;
      const isSure = sure[from] && sure[to];
      context.setLineDash(isSure ? [] : [stroke * 0.2, stroke * 2.2]);
      context.strokeStyle = isOutline ? `rgb(0 0 0 / ${isSure ? 0.45 : 0.2})` : css(sideColour(colours, SIDE[to]), strength);
      context.lineWidth = isOutline ? stroke * 1.9 : stroke;
      context.beginPath();
      context.moveTo(at[from][0], at[from][1]);
      context.lineTo(at[to][0], at[to][1]);
      context.stroke();
    }
  }
  context.setLineDash([]);
  for (let joint = 0; joint < JOINTS; joint++) {
    if (!known(joint)) continue;
    const colour = css(sideColour(colours, SIDE[joint]), strength);
    context.beginPath();
    context.arc(at[joint][0], at[joint][1], stroke * (sure[joint] ? 1.25 : 1.5), 0, 2 * Math.PI);
    context.lineWidth = stroke * (sure[joint] ? 0.7 : 0.6);
    context.strokeStyle = sure[joint] ? "rgb(0 0 0 / 0.55)" : colour;
    if (sure[joint]) {
      context.stroke();
      context.fillStyle = colour;
      context.fill();
    } else {
      context.stroke();
    }
  }
}

/** The person whose skeleton is nearest to a point of the canvas, within reach. */
export function personAt(/** @type {HTMLCanvasElement} */ canvas, /** @type {{width: number}} */ image,
  /** @type {{id: number, row: import("./track.js").Row}[]} */ people, /** @type {number} */ x, /** @type {number} */ y) {
  const toCss = canvas.clientWidth / image.width;
  let [best, nearest] = [/** @type {number | null} */ (null), 40];
  for (const { id, row } of people) {
    for (let joint = 0; joint < JOINTS; joint++) {
      const [px, py] = pixel(row, joint);
      const distance = Math.hypot(px * toCss - x, py * toCss - y);
      if (distance < nearest) [best, nearest] = [id, distance];
    }
  }
  return best;
}
