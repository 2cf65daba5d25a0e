// Poses of people over time, in blocks that come and go: those of a clip's pieces, or those of the last seconds of a stream.

import { ANGLES, flexionsDeg } from "./angles.js";
import { JOINTS } from "./skeleton.js";

/**
 * Poses of one person in rows of typed arrays, times rising.
 * @typedef {object} Block
 * @property {number} count rows in use
 * @property {Float64Array} timesS
 * @property {Float32Array} worldMm 17 x 3 a row
 * @property {Float32Array} pixels 17 x 2 a row
 * @property {Float32Array} confidence 17 a row
 * @property {Float32Array} found 1: seen, 0: bridged or held
 * @property {Float32Array | null} angles ANGLES a row, when they have been asked for
 * @property {number} anglesUpTo rows that have them
 */

/**
 * A pose: row `i` of a block.
 * @typedef {{block: Block, i: number}} Row
 */

/** @param {number} rows @returns {Block} */
export function emptyBlock(rows) {
  return {
    count: 0,
    timesS: new Float64Array(rows),
    worldMm: new Float32Array(rows * JOINTS * 3),
    pixels: new Float32Array(rows * JOINTS * 2),
    confidence: new Float32Array(rows * JOINTS),
    found: new Float32Array(rows),
    angles: null,
    anglesUpTo: 0,
  };
}

/** The block's angles, measured when they are first needed. @param {Block} block @returns {Float32Array} */
export function anglesOf(block) {
  block.angles ??= new Float32Array(block.timesS.length * ANGLES);
  for (; block.anglesUpTo < block.count; block.anglesUpTo++) {
    flexionsDeg(block.worldMm, block.anglesUpTo * JOINTS * 3, block.angles, block.anglesUpTo * ANGLES);
  }
  return block.angles;
}

/** First index in `times[0..count]` whose time is above `timeS`. @param {ArrayLike<number>} times @param {number} count @param {number} timeS */
export function upperBound(times, count, timeS) {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= timeS) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The pose that is on show at a time: the last one not after it, and not older than `staleS`.
 * @param {Block[]} blocks in the order of their times
 * @param {number} timeS
 * @param {number} staleS
 * @returns {Row | null}
 */
export function rowAt(blocks, timeS, staleS) {
  for (let b = blocks.length - 1; b >= 0; b--) {
    const block = blocks[b];
    if (block.count === 0 || block.timesS[0] > timeS) continue;
    const i = upperBound(block.timesS, block.count, timeS) - 1;
    return timeS - block.timesS[i] <= staleS ? { block, i } : null;
  }
  return null;
}

/**
 * Calls `visit` for the poses of a stretch of time, in order.
 * @param {Block[]} blocks
 * @param {number} fromS
 * @param {number} toS
 * @param {(block: Block, i: number) => void} visit
 */
export function visitRows(blocks, fromS, toS, visit) {
  for (const block of blocks) {
    if (block.count === 0 || block.timesS[block.count - 1] < fromS || block.timesS[0] > toS) continue;
    let i = upperBound(block.timesS, block.count, fromS);
    if (i > 0 && block.timesS[i - 1] === fromS) i--;
    for (; i < block.count && block.timesS[i] <= toS; i++) visit(block, i);
  }
}

/** A joint in metres. @param {Row} row @param {number} joint */
export function jointM(row, joint) {
  const at = (row.i * JOINTS + joint) * 3;
  return [row.block.worldMm[at] / 1000, row.block.worldMm[at + 1] / 1000, row.block.worldMm[at + 2] / 1000];
}

/** @param {Row} row @param {number} joint */
export function confidenceOf(row, joint) {
  return row.block.confidence[row.i * JOINTS + joint];
}
