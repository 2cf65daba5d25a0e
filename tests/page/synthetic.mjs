// Results of somebody who walks on a circle, for as long as one likes: node synthetic.mjs FILE FRAMES FPS [PERSON]
import { createWriteStream } from "node:fs";
import { once } from "node:events";

const [file, frames, fps, person] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const HEIGHT_MM = [950, 950, 500, 80, 950, 500, 80, 1170, 1420, 1560, 1690, 1400, 1120, 880, 1400, 1120, 880];
const SIDE = [0, 1, 1, 1, -1, -1, -1, 0, 0, 0, 0, -1.5, -1.8, -1.8, 1.5, 1.8, 1.8];
const FOCAL = 1100;

const round = (v) => Math.round(v * 10) / 10;
const world = (t) => {
  const turn = (t / fps) * 0.4 + (person || 0);
  const [sin, cos] = [Math.sin(turn), Math.cos(turn)];
  const swing = Math.sin((t / fps) * 6);
  return HEIGHT_MM.map((height, j) => {
    const along = Math.sign(SIDE[j]) * swing * Math.max(950 - height, 0) * 0.35;
    const out = 1500 + SIDE[j] * 100;
    return [round(cos * out - sin * along), round(4500 + sin * out + cos * along), height];
  });
};
const pixel = ([x, y, z]) => [round(640 + (x / y) * FOCAL), round(360 - ((z - 1300) / y) * FOCAL)];

const out = createWriteStream(file);
const write = async (text) => {
  if (!out.write(text)) await once(out, "drain");
};
const list = async (name, entry) => {
  await write(`,"${name}":[`);
  for (let t = 0; t < frames; t++) await write((t > 0 ? "," : "") + JSON.stringify(entry(t)));
  await write("]");
};
const head = {
  format: "poselift-3d-1", model: "synthetic", image: { width_px: 1280, height_px: 720 }, ...(person ? { person } : {}),
  intrinsics: { focal_px: [FOCAL, FOCAL], centre_px: [640, 360] },
  world_from_camera: { rotation: [[1, 0, 0], [0, 0, 1], [0, -1, 0]], translation_mm: [0, 0, 1300] },
  scale_source: "default_height", height_m: 1.7, bone_lengths_mm: Array(16).fill(300), root_depth_mm: Array(frames).fill(4500),
};
await write(JSON.stringify(head).slice(0, -1));
await list("times_s", (t) => t / fps);
await list("world_mm", world);
await list("camera_mm", (t) => world(t).map(([x, y, z]) => [x, 1300 - z, y]));
await list("keypoints_px", (t) => world(t).map(pixel));
await list("confidence", (t) => Array.from({ length: 17 }, (_, j) => (j === 13 && t % 60 < 20 ? 0.2 : 0.9)));
await list("pose25", () => Array(17).fill([0, 0, 0]));
await list("transforms", () => ({ centre_px: [640, 360], half_size_px: 300 }));
await list("root_px", (t) => pixel(world(t)[0]));
await write("}\n");
out.end();
await once(out, "finish");
