// A finished clip: its poses come in pieces, and only those around the cursor are kept.

import { ANGLES } from "./angles.js";
import { JOINTS } from "./skeleton.js";
import { emptyBlock, upperBound } from "./track.js";

const CHUNK_MAGIC = 0x31434c50; // "PLC1"
const OVERVIEW_MAGIC = 0x314f4c50; // "PLO1"
/** Pieces kept before and after the one on show. */
const KEPT_BEFORE = 1;
const KEPT_AFTER = 2;
const RETRY_MS = 1500;

/**
 * @typedef {import("./track.js").Block} Block
 * @typedef {{frameTimesS: Float64Array, people: Map<number, Block>}} Chunk
 * @typedef {{buckets: number, anglesDeg: Float32Array, placesMm: Float32Array}} Overview
 */

/** One after the other out of a buffer. */
class Reader {
  /** @param {ArrayBuffer} buffer */
  constructor(buffer) {
    this.buffer = buffer;
    this.view = new DataView(buffer);
    this.at = 0;
  }
  u32() {
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }
  f64() {
    this.at += 8;
    return this.view.getFloat64(this.at - 8, true);
  }
  /** @param {number} count */
  u32s(count) {
    this.at += 4 * count;
    return new Uint32Array(this.buffer, this.at - 4 * count, count);
  }
  /** @param {number} count */
  f32s(count) {
    this.at += 4 * count;
    return new Float32Array(this.buffer, this.at - 4 * count, count);
  }
}

/** A piece as `demo::serve` writes it. @param {ArrayBuffer} buffer @returns {Chunk} */
export function readChunk(buffer) {
  const reader = new Reader(buffer);
  if (reader.u32() !== CHUNK_MAGIC) throw new Error("the server's answer is no piece of a clip");
  const [people, frames] = [reader.u32(), reader.u32()];
  reader.u32();
  const startS = reader.f64();
  const frameTimesS = Float64Array.from(reader.f32s(frames), (after) => startS + after);
  const blocks = new Map();
  for (let p = 0; p < people; p++) {
    const [id, count] = [reader.u32(), reader.u32()];
    const timesS = Float64Array.from(reader.u32s(count), (frame) => frameTimesS[frame]);
    const found = reader.f32s(count);
    const worldMm = reader.f32s(count * JOINTS * 3);
    const pixels = reader.f32s(count * JOINTS * 2);
    const confidence = reader.f32s(count * JOINTS);
    blocks.set(id, { ...emptyBlock(0), count, timesS, found, worldMm, pixels, confidence });
  }
  return { frameTimesS, people: blocks };
}

/** @param {ArrayBuffer} buffer @returns {Overview} */
export function readOverview(buffer) {
  const reader = new Reader(buffer);
  if (reader.u32() !== OVERVIEW_MAGIC) throw new Error("the server's answer is no overview");
  const buckets = reader.u32();
  return { buckets, anglesDeg: reader.f32s(buckets * ANGLES * 2), placesMm: reader.f32s(buckets * 3) };
}

/** @param {string} url */
async function fetchBytes(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${await answer.text()}`);
  return answer.arrayBuffer();
}

/** The poses of a clip. */
export class ClipSource {
  live = false;

  /** @param {any} session what `/api/session` says @param {() => void} changed called when there is more to show */
  constructor(session, changed) {
    this.session = session;
    this.changed = changed;
    this.startS = session.start_s;
    this.endS = session.end_s;
    this.image = { width: session.image.width_px, height: session.image.height_px };
    this.camera = cameraOf(session.world_from_camera, session.intrinsics);
    this.people = session.people;
    this.frameS = session.fps ? 1 / session.fps : 0.04;
    // a pose stands until the next frame: somebody whose poses end is gone
    this.staleS = 1.5 * this.frameS;
    /** @type {Map<number, Chunk>} */
    this.chunks = new Map();
    /** @type {Set<number>} */
    this.asked = new Set();
    /** @type {Map<number, Overview>} */
    this.overviews = new Map();
  }

  /** @param {number} timeS */
  indexAt(timeS) {
    const index = Math.floor((timeS - this.startS) / this.session.chunk_s + 1e-9);
    return Math.min(Math.max(index, 0), this.session.chunks - 1);
  }

  /** Sees to it that the poses around a time are there, and lets go of others. @param {number} timeS */
  need(timeS) {
    const now = this.indexAt(timeS);
    for (const index of this.chunks.keys()) {
      if (index < now - KEPT_BEFORE || index > now + KEPT_AFTER) this.chunks.delete(index);
    }
    for (const index of [now, now + 1, now - 1]) {
      if (index >= 0 && index < this.session.chunks && !this.chunks.has(index) && !this.asked.has(index)) this.load(index);
    }
  }

  /** @param {number} index */
  async load(index) {
    this.asked.add(index);
    try {
      this.chunks.set(index, readChunk(await fetchBytes(`/api/chunks/${index}`)));
      this.changed();
    } catch (error) {
      console.warn("poses will be asked for again:", error);
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
    this.asked.delete(index);
  }

  /** Angles and path of a person over the whole clip, once. @param {number} id */
  async loadOverview(id) {
    if (this.overviews.has(id)) return;
    this.overviews.set(id, readOverview(await fetchBytes(`/api/people/${id}/overview`)));
    this.changed();
  }

  /** Whether the poses of this time are there. @param {number} timeS */
  has(timeS) {
    return this.chunks.has(this.indexAt(timeS));
  }

  /** A person's poses that are there, in order. @param {number} id @returns {Block[]} */
  blocks(id) {
    const indices = [...this.chunks.keys()].sort((a, b) => a - b);
    return indices.flatMap((index) => this.chunks.get(index)?.people.get(id) ?? []);
  }

  /** Time of the frame so many frames later. @param {number} timeS @param {number} frames */
  stepped(timeS, frames) {
    const indices = [...this.chunks.keys()].sort((a, b) => a - b);
    const times = indices.flatMap((index) => Array.from(this.chunks.get(index)?.frameTimesS ?? []));
    const now = upperBound(times, times.length, timeS + 1e-6) - 1;
    return times[Math.min(Math.max(now + frames, 0), times.length - 1)] ?? timeS;
  }

  /** Number of the frame on show, from 0, as the clip counts; from the mean rate. @param {number} timeS */
  frameNumber(timeS) {
    return Math.min(Math.max(Math.floor((timeS - this.startS) / this.frameS + 1e-3), 0), this.session.frames - 1);
  }
}

/**
 * A camera in the world, metres.
 * @typedef {{positionM: number[], axes: number[][], focalPx: number[], centrePx: number[]}} Camera
 * @param {any} extrinsics `world_from_camera` @param {any} intrinsics
 * @returns {Camera | null}
 */
export function cameraOf(extrinsics, intrinsics) {
  if (!extrinsics || !intrinsics) return null;
  const r = extrinsics.rotation;
  return {
    positionM: extrinsics.translation_mm.map((/** @type {number} */ v) => v / 1000),
    // its axes right, down and away, in the world
    axes: [0, 1, 2].map((k) => [r[0][k], r[1][k], r[2][k]]),
    focalPx: intrinsics.focal_px,
    centrePx: intrinsics.centre_px,
  };
}
