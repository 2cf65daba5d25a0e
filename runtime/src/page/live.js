// What comes live: the last seconds of everybody, from a camera or a stream.

import { JOINTS } from "./skeleton.js";
import { emptyBlock } from "./track.js";
import { cameraOf } from "./clip.js";

/** Seconds that are kept. */
const KEPT_S = 30;
const ROWS = 128;
/** Somebody without a pose for so long has left. */
const GONE_S = 1;
const MOST_PEOPLE = 64;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 8000;

/** @typedef {import("./track.js").Block} Block */

/** The last poses of everybody. Has what a `ClipSource` has. */
export class LiveSource {
  live = true;
  startS = 0;
  endS = 0;
  frameS = 1 / 30;
  staleS = 0.4;
  /** @type {{id: number, label: string, lastS: number, height_m?: number, scale_source?: string}[]} */
  people = [];
  image = { width: 16, height: 9 };
  /** @type {import("./clip.js").Camera | null} */
  camera = null;
  overviews = new Map();
  /** @type {Map<number, Block[]>} */
  tracks = new Map();

  need() {}
  has() {
    return true;
  }
  async loadOverview() {}
  /** @param {number} timeS */
  stepped(timeS) {
    return timeS;
  }
  /** @param {number} id */
  blocks(id) {
    return this.tracks.get(id) ?? [];
  }

  /** Forgets everything: another stream begins. */
  clear() {
    this.people = [];
    this.tracks.clear();
    this.endS = 0;
  }

  /**
   * Takes a pose. Returns whether the people are others now.
   * @param {number} timeS
   * @param {{id: number, label?: string, world_mm: number[][], keypoints_px: number[][], confidence: number[], held: boolean,
   *   height_m?: number, scale_source?: string}} person
   */
  push(timeS, person) {
    if (!Number.isFinite(timeS) || person.world_mm?.length !== JOINTS) return false;
    if (timeS < this.endS - 1) this.clear(); // the source began anew
    const stepS = timeS - this.endS;
    // a slow source's poses stand for longer
    if (stepS > 0 && this.endS > 0) this.frameS += (Math.min(stepS, 0.5) - this.frameS) * 0.1;
    this.staleS = Math.max(0.4, 3 * this.frameS);
    this.endS = Math.max(this.endS, timeS);
    this.startS = Math.max(this.startS, this.endS - KEPT_S);
    const blocks = this.tracks.get(person.id) ?? [];
    if (!this.tracks.has(person.id)) {
      this.forget();
      if (this.tracks.size >= MOST_PEOPLE) return false;
      this.tracks.set(person.id, blocks);
    }
    let block = blocks[blocks.length - 1];
    if (block && timeS <= block.timesS[block.count - 1]) return false;
    if (!block || block.count === ROWS) blocks.push((block = emptyBlock(ROWS)));
    const i = block.count++;
    block.timesS[i] = timeS;
    block.found[i] = person.held ? 0 : 1;
    for (let j = 0; j < JOINTS; j++) {
      block.worldMm.set(person.world_mm[j], (i * JOINTS + j) * 3);
      block.pixels.set((person.keypoints_px?.[j] ?? [NaN, NaN]).slice(0, 2), (i * JOINTS + j) * 2);
      block.confidence[i * JOINTS + j] = person.confidence?.[j] ?? 1;
    }
    while (blocks.length > 1 && blocks[0].timesS[blocks[0].count - 1] < this.endS - KEPT_S) blocks.shift();
    return this.meet(person, timeS);
  }

  /** Lets go of those who left longer ago than anything is kept. */
  forget() {
    for (const [id, blocks] of this.tracks) {
      const last = blocks[blocks.length - 1];
      if (!last || last.timesS[last.count - 1] < this.endS - KEPT_S) this.tracks.delete(id);
    }
  }

  /** @param {{id: number, label?: string, height_m?: number, scale_source?: string}} person @param {number} timeS */
  meet(person, timeS) {
    const known = this.people.find(({ id }) => id === person.id);
    if (known) {
      Object.assign(known, { lastS: timeS, height_m: person.height_m ?? known.height_m, scale_source: person.scale_source ?? known.scale_source });
    } else {
      const { id, height_m, scale_source } = person;
      this.people.push({ id, label: person.label ?? `Person ${id}`, lastS: timeS, height_m, scale_source });
    }
    const before = this.people.length;
    this.people = this.people.filter(({ lastS }) => lastS >= this.endS - GONE_S);
    this.people.sort((a, b) => a.id - b.id);
    return !known || this.people.length !== before;
  }
}

/**
 * Keeps a WebSocket open: after a loss it is opened again, with growing pauses.
 * @param {string} path
 * @param {{opened: (socket: WebSocket) => void, text: (message: any) => void, bytes?: (bytes: ArrayBuffer) => void,
 *   lost: (inMs: number) => void}} handlers
 * @param {string[]} [protocols]
 * @returns {{close: () => void}}
 */
export function keepOpen(path, handlers, protocols = []) {
  let retryMs = FIRST_RETRY_MS;
  let closed = false;
  /** @type {WebSocket} */
  let socket;
  /** @type {ReturnType<typeof setTimeout>} */
  let timer;
  const open = () => {
    socket = new WebSocket(`${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}${path}`, protocols);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      retryMs = FIRST_RETRY_MS;
      handlers.opened(socket);
    };
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return handlers.bytes?.(data);
      const unread = (/** @type {unknown} */ error) => console.warn("a message could not be read:", error);
      try {
        Promise.resolve(handlers.text(JSON.parse(data))).catch(unread);
      } catch (error) {
        unread(error);
      }
    };
    socket.onclose = () => {
      if (closed) return;
      handlers.lost(retryMs);
      timer = setTimeout(open, retryMs);
      retryMs = Math.min(2 * retryMs, LONGEST_RETRY_MS);
    };
  };
  open();
  return {
    close() {
      closed = true;
      clearTimeout(timer);
      socket.close();
    },
  };
}

/**
 * A camera's updates, each with its picture, or the poses of all streams of a server.
 * @param {string} path
 * @param {LiveSource} source
 * @param {{changed: (peopleChanged: boolean) => void, picture: (picture: ImageBitmap) => void, stats: (update: any) => void,
 *   state: (text: string | null) => void}} show
 * @param {string[]} [protocols]
 */
export function watchLive(path, source, show, protocols = []) {
  /** @type {ArrayBuffer | null} */
  let jpeg = null;
  let decoding = false;
  return keepOpen(path, {
    opened: () => show.state(null),
    lost: (ms) => show.state(`Connection lost. Trying again in ${(ms / 1000).toFixed(1)} s.`),
    bytes: (bytes) => (jpeg = bytes),
    async text(update) {
      const bytes = jpeg;
      jpeg = null;
      if (update.error) return show.state(String(update.error));
      show.state(null);
      if (update.image) source.image = { width: update.image.width, height: update.image.height };
      const intrinsics = update.intrinsics ?? assumedIntrinsics(source.image);
      source.camera = cameraOf(update.world_from_camera, intrinsics) ?? source.camera;
      // poses never wait for pictures, so that they stay in order
      let changed = false;
      for (const person of update.people ?? []) {
        changed = source.push(update.time_s, person) || changed;
      }
      source.endS = Math.max(source.endS, update.time_s);
      show.stats(update);
      show.changed(changed);
      // one that comes while the last is being decoded is not worth a queue
      if (!bytes || decoding) return;
      decoding = true;
      try {
        show.picture(await createImageBitmap(new Blob([bytes], { type: "image/jpeg" })));
        show.changed(false);
      } catch (error) {
        console.warn("a picture could not be read:", error);
      }
      decoding = false;
    },
  }, protocols);
}

/** 60 degrees across, as poselift assumes. @param {{width: number, height: number}} image */
export function assumedIntrinsics(image) {
  const focal = image.width / 2 / Math.tan(Math.PI / 6);
  return { focal_px: [focal, focal], centre_px: [image.width / 2, image.height / 2] };
}
