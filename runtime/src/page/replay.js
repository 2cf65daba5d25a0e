// A keypoint file, streamed through `runtime serve` at its own pace, as a camera would: docs/server.md has the messages.

import { assumedIntrinsics, keepOpen } from "./live.js";
import { cameraOf } from "./clip.js";

/** Frames are held back while more than this waits to be sent. */
const MOST_WAITING_BYTES = 1 << 18;

/**
 * A keypoint file (docs/formats.md), as far as streaming needs it.
 * @typedef {{image: {width: number, height: number}, skeleton: string, timesS: number[], frames: unknown[]}} KeypointFile
 * @param {string} text
 * @returns {KeypointFile}
 */
export function readKeypoints(text) {
  const file = JSON.parse(text);
  if (!Array.isArray(file?.frames) || file.frames.length === 0) throw new Error("expected a keypoint file with frames (docs/formats.md)");
  if (!(file.image?.width > 0 && file.image?.height > 0)) throw new Error("expected the keypoint file to say the size of its image");
  const count = file.frames.length;
  const timesS = file.times_s ?? (file.fps > 0 ? Array.from({ length: count }, (_, i) => i / file.fps) : null);
  if (!timesS || timesS.length !== count) throw new Error("expected the keypoint file to have fps, or times_s for each frame");
  return { image: file.image, skeleton: file.skeleton ?? "h36m17", timesS, frames: file.frames };
}

/**
 * A server's pose as a `LiveSource` takes it.
 * @param {any} pose
 */
export function personOfPose(pose) {
  const { half_size_px: half } = pose.transform;
  return {
    id: 1,
    label: "Stream",
    world_mm: pose.world_mm,
    keypoints_px: pose.pose25.map((/** @type {number[]} */ [x, y]) => [pose.root_px[0] + half * x, pose.root_px[1] + half * y]),
    confidence: pose.confidence,
    held: pose.held,
    height_m: pose.height_m,
    scale_source: pose.scale_source,
  };
}

/** A token as a subprotocol: browsers cannot set the header of a WebSocket. @param {string} token */
export function tokenProtocols(token) {
  if (!token) return [];
  const hex = Array.from(new TextEncoder().encode(token), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return ["poselift", `poselift.bearer.${hex}`];
}

/**
 * Streams a file, again and again, until it is closed.
 * @param {KeypointFile} file
 * @param {import("./live.js").LiveSource} source
 * @param {string} token
 * @param {{changed: (peopleChanged: boolean) => void, stats: (stats: any) => void, state: (text: string | null) => void}} show
 */
export function replay(file, source, token, show) {
  source.image = file.image;
  const intrinsics = assumedIntrinsics(file.image);
  /** When each frame was sent. @type {Map<number, number>} */
  const sentMs = new Map();
  let [timer, dropped, poses, round] = [/** @type {any} */ (0), 0, 0, 0];
  let [rate, rateFrom] = [0, performance.now()];
  /** Added to the times of a round, since times rise within a stream. */
  const lengthS = file.timesS[file.timesS.length - 1] - file.timesS[0] + 1 / 15;

  const send = (/** @type {WebSocket} */ socket) => {
    const startMs = performance.now();
    let next = 0;
    const pump = () => {
      const nowS = (performance.now() - startMs) / 1000;
      for (; next < file.frames.length && file.timesS[next] - file.timesS[0] <= nowS; next++) {
        if (socket.bufferedAmount > MOST_WAITING_BYTES) break;
        const time_s = file.timesS[next] - file.timesS[0] + round * lengthS;
        sentMs.set(time_s, performance.now());
        socket.send(JSON.stringify({ time_s, keypoints: file.frames[next] }));
      }
      if (next < file.frames.length) return;
      round++;
      clearInterval(timer);
      timer = setTimeout(() => send(socket), 1000 / 15);
    };
    clearInterval(timer);
    timer = setInterval(pump, 8);
    pump();
  };

  const connection = keepOpen("/v1/stream", {
    opened(socket) {
      [round, dropped] = [0, 0];
      sentMs.clear();
      source.clear();
      show.state(null);
      socket.send(JSON.stringify({ open: { image: file.image, skeleton: file.skeleton, one_euro: {} } }));
      socket.addEventListener("close", () => clearInterval(timer));
      socket.addEventListener("message", function begin({ data }) {
        if (typeof data === "string" && data.startsWith('{"opened"')) {
          socket.removeEventListener("message", begin);
          send(socket);
        }
      });
    },
    lost: (ms) => show.state(`Connection lost. Trying again in ${(ms / 1000).toFixed(1)} s.`),
    text(message) {
      if (message.error) return show.state(message.error);
      if (message.dropped) dropped += Object.values(message.dropped).reduce((a, b) => a + b, 0);
      if (!message.world_mm) return;
      const sent = sentMs.get(message.time_s);
      for (const time of sentMs.keys()) if (time <= message.time_s) sentMs.delete(time);
      source.camera = cameraOf(message.world_from_camera, intrinsics);
      const changed = source.push(message.time_s, personOfPose(message));
      poses++;
      const passedMs = performance.now() - rateFrom;
      if (passedMs > 1000) [rate, poses, rateFrom] = [(poses * 1000) / passedMs, 0, performance.now()];
      show.stats({ total_ms: sent === undefined ? null : performance.now() - sent, wait_ms: message.delay_s * 1000, fps: rate, dropped });
      show.changed(changed);
    },
  }, tokenProtocols(token));
  return {
    close() {
      clearInterval(timer);
      connection.close();
    },
  };
}
