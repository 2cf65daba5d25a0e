// The page's pure parts, one by one.
import assert from "node:assert/strict";
import { test } from "node:test";
import { flexionsDeg } from "../../runtime/src/page/angles.js";
import { readChunk } from "../../runtime/src/page/clip.js";
import { LiveSource } from "../../runtime/src/page/live.js";
import { lookAt, multiply, perspective, project } from "../../runtime/src/page/maths.js";
import { degrees } from "../../runtime/src/page/plots.js";
import { readKeypoints, tokenProtocols } from "../../runtime/src/page/replay.js";
import { personColours } from "../../runtime/src/page/skeleton.js";
import { clock, markStep } from "../../runtime/src/page/timeline.js";
import { emptyBlock, rowAt, visitRows } from "../../runtime/src/page/track.js";

/** Somebody who stands and looks along +y, as in the tests of `pose::angle`. */
function standing() {
  const pose = Array.from({ length: 17 }, () => [0, 0, 0]);
  pose[0] = [0, 0, 900];
  for (const [side, leg, arm] of [[1, [1, 2, 3], [14, 15, 16]], [-1, [4, 5, 6], [11, 12, 13]]]) {
    [900, 480, 70].forEach((z, k) => (pose[leg[k]] = [130 * side, 0, z]));
    [1400, 1120, 870].forEach((z, k) => (pose[arm[k]] = [170 * side, 0, z]));
  }
  [1150, 1400, 1480, 1590].forEach((z, k) => (pose[7 + k] = [0, 0, z]));
  return pose;
}
const angles = (pose) => {
  const out = new Float32Array(8);
  flexionsDeg(pose.flat(), 0, out, 0);
  return Array.from(out, (v) => Math.round(v));
};

test("someone who stands has no flexion, and what bends is what says so", () => {
  assert.deepEqual(angles(standing()).map(Math.abs), Array(8).fill(0));
  const sitting = standing();
  sitting[5] = [-130, 420, 900]; // the left thigh forwards, the shank hanging
  sitting[6] = [-130, 420, 490];
  assert.deepEqual(angles(sitting).slice(0, 2), [90, 90]);
  const tee = standing();
  tee[15] = [450, 0, 1400];
  tee[16] = [700, 0, 1400];
  assert.ok(Number.isNaN(angles(tee)[7]), "a T-pose has no flexion of the shoulder");
});

test("a piece of a clip is read as the server writes it", () => {
  const numbers = 17 * 3 + 17 * 2 + 17;
  const buffer = new ArrayBuffer(24 + 4 * 2 + 8 + 4 * (2 + numbers));
  const view = new DataView(buffer);
  [0x31434c50, 1, 2, 0].forEach((v, i) => view.setUint32(4 * i, v, true));
  view.setFloat64(16, 20, true);
  view.setFloat32(28, 0.5, true);
  view.setUint32(32, 7, true);
  view.setUint32(36, 1, true);
  view.setUint32(40, 1, true); // the second frame
  view.setFloat32(44, 1, true);
  view.setFloat32(48, 123, true);
  const { frameTimesS, people } = readChunk(buffer);
  assert.deepEqual([...frameTimesS], [20, 20.5]);
  const block = people.get(7);
  assert.deepEqual([block.count, block.timesS[0], block.found[0], block.worldMm[0]], [1, 20.5, 1, 123]);
  assert.throws(() => readChunk(new ArrayBuffer(24)), /no piece/);
});

test("rows are found by time, across blocks", () => {
  const [a, b] = [emptyBlock(2), emptyBlock(2)];
  Object.assign(a, { count: 2 }).timesS.set([0, 1]);
  Object.assign(b, { count: 1 }).timesS.set([2]);
  assert.deepEqual([rowAt([a, b], 1.4, 1).i, rowAt([a, b], 2.2, 1).block === b, rowAt([a, b], 4, 1), rowAt([a, b], -1, 1)], [1, true, null, null]);
  const seen = [];
  visitRows([a, b], 1, 2, (block, i) => seen.push(block.timesS[i]));
  assert.deepEqual(seen, [1, 2]);
});

test("a live source keeps the last seconds and lets go of who has left", () => {
  const source = new LiveSource();
  const person = (id) => ({ id, world_mm: Array(17).fill([0, 0, 0]), keypoints_px: [], confidence: [], held: false });
  assert.equal(source.push(0, person(1)), true);
  for (let t = 1; t <= 30 * 60; t++) source.push(t / 30, person(1));
  assert.ok(source.blocks(1).length * 128 < 30 * 40, "half a minute, not a minute");
  assert.equal(source.push(60.1, person(2)), true);
  assert.equal(source.push(61.5, person(2)), true, "the first has left");
  assert.deepEqual(source.people.map(({ id }) => id), [2]);
  assert.equal(source.push(NaN, person(3)), false);
  assert.equal(source.push(62, { id: 3, world_mm: [] }), false);
});

test("a live source has room for new people however many came before", () => {
  const source = new LiveSource();
  const pose = { world_mm: Array(17).fill([0, 0, 1000]), keypoints_px: Array(17).fill([1, 2]), confidence: Array(17).fill(1), held: false };
  for (let id = 1; id <= 100; id++) {
    for (let i = 0; i < 5; i++) source.push(id * 10 + i, { id, ...pose });
    assert.deepEqual(source.people.map((person) => person.id), [id]);
    assert.ok(source.tracks.size <= 6, `${source.tracks.size} tracks are kept`);
  }
});

test("keypoint files are checked", () => {
  const file = { image: { width: 64, height: 48 }, fps: 10, frames: [null, []] };
  assert.deepEqual(readKeypoints(JSON.stringify(file)).timesS, [0, 0.1]);
  for (const bad of [{}, { ...file, frames: [] }, { ...file, image: {} }, { ...file, fps: 0 }]) assert.throws(() => readKeypoints(JSON.stringify(bad)), /expected/);
  assert.deepEqual(tokenProtocols("0123"), ["poselift", "poselift.bearer.30313233"]);
});

test("figures are written evenly", () => {
  assert.deepEqual([clock(0), clock(62.25), clock(3723.5)], ["0:00.00", "1:02.25", "1:02:03.50"]);
  assert.deepEqual([degrees(-3.4), degrees(NaN), degrees(90)], ["−3°", "–", "90°"]);
  assert.ok((markStep(3600, 600, 64) / 3600) * 600 >= 64);
});

test("left and right differ in lightness for everyone, on both grounds", () => {
  const luminance = ([r, g, b]) => [r, g, b].map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  for (const dark of [true, false]) {
    for (let id = 1; id <= 8; id++) {
      const { rgbLeft, rgbRight } = personColours(id, dark);
      const [low, high] = [luminance(rgbLeft), luminance(rgbRight)].sort((a, b) => a - b);
      assert.ok((high + 0.05) / (low + 0.05) > 1.5, `person ${id}, ${dark ? "dark" : "light"}: ${((high + 0.05) / (low + 0.05)).toFixed(2)}`);
    }
  }
});

test("what is looked at is in the middle", () => {
  const view = multiply(perspective(0.5, 1.5, 0.1, 100), lookAt([3, -4, 2], [0, 0, 1]));
  const [x, y, w] = project(view, [0, 0, 1]);
  assert.ok(Math.abs(x) < 1e-6 && Math.abs(y) < 1e-6 && w > 5);
  assert.ok(project(view, [0, 0, 2])[1] > 0, "up is up");
});
