// The 3D view: people as slender figures over a floor with soft shadows, their trails, the camera with its picture.

import { Floats, capsuleMesh, makeInstances, makeProgram } from "./gl.js";
import { add, norm, project, scale, subtract } from "./maths.js";
import { BONES, BONE_RADII_M, CONFIDENT, HEAD_BONE, HEAD_PART, JOINTS, SIDE, TRAIL_JOINTS, rgb, sideColour } from "./skeleton.js";
import { confidenceOf, jointM, visitRows } from "./track.js";

/** What the stage is drawn in. */
const GROUNDS = {
  dark: { near: rgb("#22262c"), far: rgb("#121418"), line: rgb("#dbe4ee"), shadow: rgb("#050607"), shade: 0.85, ink: rgb("#e8eaec") },
  light: { near: rgb("#fafaf9"), far: rgb("#e6e7e7"), line: rgb("#39424a"), shadow: rgb("#2a2f36"), shade: 0.34, ink: rgb("#1a1d20") },
};
const SHADOW_PX = 512;
/** Half of the side of the floor that takes shadows, metres. */
const SHADOW_M = 4.5;
const TRAIL_S = 1.6;
/** How far the path on the floor goes back and ahead. */
const PATH_S = 20;
/** Distance at which the camera's picture hangs, metres. */
const PICTURE_M = 0.9;
const HANGING_OPACITY = 0.92;
/** Someone this near looks through the camera. */
const AT_CAMERA_M = 0.25;
const BEHIND_OPACITY = 0.6;
const MOST_PIXEL_RATIO = 2;

const CAPSULE = `
layout(location = 0) in vec3 surface;
layout(location = 1) in float end;
layout(location = 2) in vec3 from;
layout(location = 3) in vec3 to;
layout(location = 4) in vec2 radii;
layout(location = 5) in vec4 colour; // rgb, how sure
vec3 turned(vec3 v) {
  vec3 along = to - from;
  float length_m = length(along);
  vec3 z = length_m > 1e-5 ? along / length_m : vec3(0.0, 0.0, 1.0);
  vec3 x = normalize(abs(z.z) < 0.9 ? cross(vec3(0.0, 0.0, 1.0), z) : cross(vec3(1.0, 0.0, 0.0), z));
  return x * v.x + cross(z, x) * v.y + z * v.z;
}
vec3 place() { return mix(from, to, end) + turned(surface) * mix(radii.x, radii.y, end); }
`;

const SOLID = {
  vertex: `${CAPSULE}
uniform mat4 view;
out vec3 normal;
out vec3 point;
out vec4 tint;
void main() {
  point = place();
  normal = turned(surface);
  tint = colour;
  gl_Position = view * vec4(point, 1.0);
}`,
  fragment: `
in vec3 normal;
in vec3 point;
in vec4 tint;
uniform vec3 eye;
uniform vec3 ground;
uniform float isDark;
uniform float pixel;
out vec4 colour;
void main() {
  // what is unsure is hatched, as hidden edges are in drawings
  if (tint.a < 0.5 && mod(gl_FragCoord.x + gl_FragCoord.y, 6.0 * pixel) > 2.5 * pixel) discard;
  vec3 n = normalize(normal);
  vec3 v = normalize(eye - point);
  float key = clamp(dot(n, normalize(vec3(0.35, -0.45, 0.85))) * 0.5 + 0.5, 0.0, 1.0);
  float sky = n.z * 0.5 + 0.5;
  float light = mix(mix(0.66, 0.42, isDark), 1.1, key * key) * mix(mix(0.88, 0.82, isDark), 1.0, sky);
  float rim = pow(1.0 - clamp(dot(n, v), 0.0, 1.0), 3.0);
  vec3 lit = tint.rgb * light;
  lit = mix(lit, mix(tint.rgb * 0.55, vec3(1.0), isDark * 0.5), rim * 0.35);
  colour = vec4(mix(ground, lit, mix(0.55, 1.0, tint.a)), 1.0);
}`,
};

const SHADOW = {
  vertex: `${CAPSULE}
uniform vec2 centre;
uniform float half_m;
out float dark;
void main() {
  vec3 p = place();
  // light from above and a little from the side
  vec2 fallen = p.xy + vec2(-0.16, 0.2) * p.z;
  dark = exp(-max(p.z, 0.0) / 1.1);
  gl_Position = vec4((fallen - centre) / half_m, 0.0, 1.0);
}`,
  fragment: `
in float dark;
out vec4 colour;
void main() { colour = vec4(dark, 0.0, 0.0, 1.0); }`,
};

const FLOOR = {
  vertex: `
layout(location = 0) in vec2 corner;
uniform mat4 view;
uniform vec3 target;
uniform float reach;
out vec2 at;
void main() {
  at = target.xy + corner * reach;
  gl_Position = view * vec4(at, 0.0, 1.0);
}`,
  fragment: `
in vec2 at;
uniform vec3 target;
uniform float reach;
uniform vec3 line;
uniform vec3 near;
uniform vec3 far;
uniform vec3 shadowColour;
uniform float shade;
uniform vec2 centre;
uniform float half_m;
uniform float fine;
uniform sampler2D shadows;
out vec4 colour;
float grid(float step_m, float width) {
  vec2 p = at / step_m;
  vec2 w = fwidth(p);
  vec2 d = abs(fract(p - 0.5) - 0.5) / max(w, vec2(1e-6));
  // where lines are closer than pixels they fade instead of shimmering
  vec2 fade = clamp(1.0 - w * 1.6, 0.0, 1.0);
  vec2 l = clamp(width + 0.5 - d, 0.0, 1.0) * fade;
  return max(l.x, l.y);
}
float axis(float v) { return clamp(1.5 - abs(v) / max(fwidth(v), 1e-6), 0.0, 1.0); }
void main() {
  float away = length(at - target.xy) / reach;
  float fade = pow(clamp(1.0 - away, 0.0, 1.0), 1.2);
  vec3 ground = mix(far, near, pow(clamp(1.0 - away, 0.0, 1.0), 2.2));
  float lines = max(grid(1.0, 0.5) * 0.3, grid(0.25, 0.3) * 0.09 * fine);
  lines = max(lines, max(axis(at.x), axis(at.y)) * 0.5);
  vec2 s = (at - centre) / half_m * 0.5 + 0.5;
  vec2 inside = smoothstep(vec2(0.0), vec2(0.06), s) * smoothstep(vec2(0.0), vec2(0.06), 1.0 - s);
  float soft = textureLod(shadows, s, 3.2).r * 0.75 + textureLod(shadows, s, 1.6).r * 0.45;
  ground = mix(ground, line, lines * fade);
  ground = mix(ground, shadowColour, clamp(soft * shade * inside.x * inside.y, 0.0, 0.8));
  colour = vec4(ground, fade);
}`,
};

const LINE = {
  vertex: `
layout(location = 0) in vec2 corner; // end (0 or 1), side (-1 or 1)
layout(location = 1) in vec3 from;
layout(location = 2) in vec3 to;
layout(location = 3) in vec4 fromColour;
layout(location = 4) in vec4 toColour;
layout(location = 5) in float width;
uniform mat4 view;
uniform vec2 size;
out vec4 tint;
out float across;
void main() {
  vec4 a = view * vec4(from, 1.0);
  vec4 b = view * vec4(to, 1.0);
  // what lies behind the eye is cut off
  float near = 0.05;
  if (a.w < near && b.w > near) a = mix(a, b, (near - a.w) / (b.w - a.w));
  if (b.w < near && a.w > near) b = mix(b, a, (near - b.w) / (a.w - b.w));
  vec2 along = (b.xy / b.w - a.xy / a.w) * size;
  float length_px = length(along);
  vec2 normal = length_px > 1e-4 ? vec2(-along.y, along.x) / length_px : vec2(0.0);
  vec4 p = corner.x < 0.5 ? a : b;
  p.xy += normal * corner.y * (width + 1.0) / size * p.w;
  across = corner.y * (width + 1.0) / max(width, 0.001);
  tint = corner.x < 0.5 ? fromColour : toColour;
  gl_Position = a.w < near && b.w < near ? vec4(2.0, 2.0, 2.0, 1.0) : p;
}`,
  fragment: `
in vec4 tint;
in float across;
out vec4 colour;
void main() {
  float edge = 1.0 - smoothstep(1.0 - fwidth(across), 1.0 + fwidth(across), abs(across));
  colour = vec4(tint.rgb, tint.a * edge);
}`,
};

const PICTURE = {
  vertex: `
layout(location = 0) in vec2 corner;
uniform mat4 view;
uniform vec3 corners[4]; // top left, top right, bottom left, bottom right
uniform float crop;
out vec2 at;
void main() {
  at = vec2(corner.x * 0.5 + 0.5, 0.5 - corner.y * 0.5);
  vec3 top = mix(corners[0], corners[1], at.x);
  vec3 bottom = mix(corners[2], corners[3], at.x);
  gl_Position = view * vec4(mix(top, bottom, at.y), 1.0);
  at.x *= crop;
}`,
  fragment: `
in vec2 at;
uniform sampler2D picture;
uniform float opacity;
out vec4 colour;
void main() { colour = vec4(texture(picture, at).rgb, opacity); }`,
};

/**
 * What is to be drawn.
 * @typedef {object} Scene
 * @property {boolean} dark
 * @property {{id: number, row: import("./track.js").Row, colours: import("./skeleton.js").Colours, chosen: boolean,
 *   blocks: import("./track.js").Block[]}[]} people those who are there now
 * @property {number} timeS
 * @property {boolean} trails
 * @property {{placesM: Float32Array, startS: number, stepS: number, colours: import("./skeleton.js").Colours} | null} path the chosen
 *   person's, place after place
 * @property {import("./clip.js").Camera | null} camera
 * @property {{width: number, height: number}} image
 * @property {{element: TexImageSource, crop: number} | null} picture
 */

export class Stage {
  /** @param {HTMLCanvasElement} canvas @param {import("./orbit.js").Orbit} orbit */
  constructor(canvas, orbit) {
    this.canvas = canvas;
    this.orbit = orbit;
    this.solids = new Floats();
    this.lines = new Floats();
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, powerPreference: "low-power" });
    if (!gl) throw new Error("this browser has no WebGL 2");
    this.gl = gl;
    this.build();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.build());
    this.view = new Float32Array(16);
  }

  build() {
    const { gl } = this;
    const program = (/** @type {{vertex: string, fragment: string}} */ source) => makeProgram(gl, source.vertex, source.fragment);
    this.programs = { solid: program(SOLID), shadow: program(SHADOW), floor: program(FLOOR), line: program(LINE), picture: program(PICTURE) };
    const capsule = capsuleMesh(14, 4);
    this.capsules = makeInstances(gl, capsule.vertices, [3, 1], capsule.indices, [3, 3, 2, 4]);
    const square = new Uint16Array([0, 1, 2, 2, 1, 3]);
    this.segments = makeInstances(gl, new Float32Array([0, -1, 0, 1, 1, -1, 1, 1]), [2], square, [3, 3, 4, 4, 1]);
    this.square = makeInstances(gl, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), [2], square, []);
    this.square.count = 1;
    this.shadows = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.shadows);
    const levels = Math.log2(SHADOW_PX) + 1;
    gl.texStorage2D(gl.TEXTURE_2D, levels, gl.R8, SHADOW_PX, SHADOW_PX);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    this.shadowTarget = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.shadowTarget);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.shadows, 0);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    this.picture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.picture);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  }

  /** @param {Scene} scene */
  draw(scene) {
    const { gl, canvas, orbit } = this;
    if (gl.isContextLost() || !this.programs || !this.capsules || !this.segments || !this.square) return;
    const ratio = Math.min(devicePixelRatio, MOST_PIXEL_RATIO);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((length) => Math.max(Math.round(length * ratio), 1));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const ground = scene.dark ? GROUNDS.dark : GROUNDS.light;
    const view = (this.view = orbit.matrix(width / height));
    const { target, distance } = orbit.now;
    const reach = Math.max(6, distance * 1.9);
    this.collect(scene, ground);
    this.capsules.fill(this.solids.view());
    this.segments.fill(this.lines.view());

    const centre = [Math.round(target[0] * 4) / 4, Math.round(target[1] * 4) / 4];
    this.drawShadows(centre);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.clearColor(ground.far[0], ground.far[1], ground.far[2], 1);
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendEquation(gl.FUNC_ADD);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);

    const { floor, line, solid } = this.programs;
    gl.depthMask(false);
    gl.useProgram(floor.program);
    gl.uniformMatrix4fv(floor.uniform("view"), false, view);
    gl.uniform3fv(floor.uniform("target"), target);
    gl.uniform1f(floor.uniform("reach"), reach);
    for (const name of /** @type {const} */ (["line", "near", "far"])) gl.uniform3fv(floor.uniform(name), ground[name]);
    gl.uniform3fv(floor.uniform("shadowColour"), ground.shadow);
    gl.uniform1f(floor.uniform("shade"), ground.shade);
    gl.uniform2fv(floor.uniform("centre"), centre);
    gl.uniform1f(floor.uniform("half_m"), SHADOW_M);
    gl.uniform1f(floor.uniform("fine"), Math.min(Math.max((9 - distance) / 4, 0), 1));
    gl.bindTexture(gl.TEXTURE_2D, this.shadows ?? null);
    this.square.draw();

    // from where the camera stands, its picture lies behind the people
    const isThere = this.isAtCamera(scene);
    if (isThere) this.drawPicture(scene, view, BEHIND_OPACITY);

    gl.depthMask(true);
    gl.useProgram(solid.program);
    gl.uniformMatrix4fv(solid.uniform("view"), false, view);
    gl.uniform3fv(solid.uniform("eye"), orbit.eye());
    gl.uniform3fv(solid.uniform("ground"), ground.near);
    gl.uniform1f(solid.uniform("isDark"), scene.dark ? 1 : 0);
    gl.uniform1f(solid.uniform("pixel"), ratio);
    this.capsules.draw();

    gl.depthMask(false);
    if (!isThere) this.drawPicture(scene, view, HANGING_OPACITY);
    gl.useProgram(line.program);
    gl.uniformMatrix4fv(line.uniform("view"), false, view);
    gl.uniform2f(line.uniform("size"), width / ratio, height / ratio);
    this.segments.draw();
    gl.depthMask(true);
  }

  /** @param {number[]} centre */
  drawShadows(centre) {
    const { gl } = this;
    if (!this.programs || !this.capsules) return;
    const { shadow } = this.programs;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.shadowTarget ?? null);
    gl.viewport(0, 0, SHADOW_PX, SHADOW_PX);
    gl.clearColor(0, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.disable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendEquation(gl.MAX);
    gl.useProgram(shadow.program);
    gl.uniform2fv(shadow.uniform("centre"), centre);
    gl.uniform1f(shadow.uniform("half_m"), SHADOW_M);
    this.capsules.draw();
    gl.bindTexture(gl.TEXTURE_2D, this.shadows ?? null);
    gl.generateMipmap(gl.TEXTURE_2D);
  }

  /** @param {Scene} scene @param {Float32Array} view @param {number} opacity */
  drawPicture({ picture, camera, image }, view, opacity) {
    const { gl } = this;
    if (!picture || !camera || !this.programs || !this.square) return;
    gl.bindTexture(gl.TEXTURE_2D, this.picture ?? null);
    try {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, picture.element);
    } catch {
      return; // a video without a picture yet
    }
    const { program, uniform } = this.programs.picture;
    gl.useProgram(program);
    gl.uniformMatrix4fv(uniform("view"), false, view);
    gl.uniform3fv(uniform("corners"), pictureCorners(camera, image).flat());
    gl.uniform1f(uniform("crop"), picture.crop);
    gl.uniform1f(uniform("opacity"), opacity);
    this.square.draw();
  }

  /** @param {Scene} scene @param {typeof GROUNDS.dark} ground */
  collect(scene, ground) {
    const { solids, lines } = this;
    solids.clear();
    lines.clear();
    for (const person of scene.people) {
      const { row, colours } = person;
      const seen = row.block.found[row.i] > 0;
      const sure = (/** @type {number} */ joint) => seen && confidenceOf(row, joint) >= CONFIDENT;
      const joints = Array.from({ length: JOINTS }, (_, joint) => jointM(row, joint));
      BONES.forEach(([from, to], b) => {
        const colour = sideColour(colours, SIDE[to]);
        const along = (/** @type {number} */ share) => add(scale(joints[from], 1 - share), scale(joints[to], share));
        const [start, end] = b === HEAD_BONE ? HEAD_PART.map(along) : [joints[from], joints[to]];
        solids.push(...start, ...end, ...BONE_RADII_M[b], ...colour, sure(from) && sure(to) ? 1 : 0);
      });
    }
    if (scene.trails) {
      if (scene.path) this.collectPath(scene.path, scene.timeS);
      for (const person of scene.people) this.collectTrails(person, scene.timeS);
    }
    if (scene.camera && !this.isAtCamera(scene)) this.collectCamera(scene.camera, scene.image, ground.ink);
  }

  /** @param {Scene} scene */
  isAtCamera({ camera }) {
    return camera !== null && norm(subtract(this.orbit.eye(), camera.positionM)) < AT_CAMERA_M;
  }

  /** Where somebody was and will be, on the floor. @param {NonNullable<Scene["path"]>} path @param {number} timeS */
  collectPath({ placesM, startS, stepS, colours }, timeS) {
    const bucket = (/** @type {number} */ s) => Math.round((s - startS) / stepS) * 3;
    const last = Math.min(bucket(timeS + PATH_S), placesM.length - 3);
    for (let at = Math.max(bucket(timeS - PATH_S), 0) + 3; at <= last; at += 3) {
      const away = Math.abs(startS + (at / 3) * stepS - timeS) / PATH_S;
      const tint = [...colours.rgbRight, 0.6 * Math.max(1 - away, 0)];
      const [x0, y0, x1, y1] = [placesM[at - 3], placesM[at - 2], placesM[at], placesM[at + 1]];
      if (Number.isNaN(x0) || Number.isNaN(x1)) continue;
      this.lines.push(x0, y0, 0.003, x1, y1, 0.003, ...tint, ...tint, 1.2);
    }
  }

  /** The way of hip, hands and feet over the last moments. @param {Scene["people"][0]} person @param {number} timeS */
  collectTrails({ blocks, colours, chosen }, timeS) {
    for (const joint of chosen ? TRAIL_JOINTS : TRAIL_JOINTS.slice(0, 1)) {
      const colour = joint === 0 ? colours.rgbMiddle : sideColour(colours, SIDE[joint]);
      /** @type {{p: number[], s: number} | null} */
      let last = null;
      visitRows(blocks, timeS - TRAIL_S, timeS + 1e-6, (block, i) => {
        const [p, s] = [jointM({ block, i }, joint), block.timesS[i]];
        if (last && s - last.s < 0.25) {
          const alpha = (/** @type {number} */ at) => 0.9 * Math.max(1 - (timeS - at) / TRAIL_S, 0) ** 1.3;
          this.lines.push(...last.p, ...p, ...colour, alpha(last.s), ...colour, alpha(s), 1.8);
        }
        last = { p, s };
      });
    }
  }

  /** @param {import("./clip.js").Camera} camera @param {{width: number, height: number}} image @param {number[]} ink */
  collectCamera(camera, image, ink) {
    const corners = pictureCorners(camera, image);
    const strong = [...ink, 0.55];
    const edge = (/** @type {number[]} */ a, /** @type {number[]} */ b) => this.lines.push(...a, ...b, ...strong, ...strong, 1.1);
    corners.forEach((corner) => edge(camera.positionM, corner));
    [[0, 1], [1, 3], [3, 2], [2, 0]].forEach(([a, b]) => edge(corners[a], corners[b]));
    // a tick that says where up is
    const [top, up] = [scale(add(corners[0], corners[1]), 0.5), scale(camera.axes[1], -0.07)];
    const across = scale(camera.axes[0], 0.05);
    edge(subtract(top, across), add(top, up));
    edge(add(top, across), add(top, up));
    // and a plumb line to the floor
    const faint = [...ink, 0.25];
    const [x, y] = camera.positionM;
    this.lines.push(...camera.positionM, x, y, 0, ...faint, ...faint, 1);
  }

  /** Where a point of the world is on the canvas, CSS pixels; null behind the eye. @param {number[]} point */
  toScreen(point) {
    const [x, y, w] = project(this.view, point);
    return w > 0 ? [(x * 0.5 + 0.5) * this.canvas.clientWidth, (0.5 - y * 0.5) * this.canvas.clientHeight] : null;
  }
}

/** @param {import("./clip.js").Camera} camera @param {{width: number, height: number}} image */
function pictureCorners({ positionM, axes, focalPx, centrePx }, { width, height }) {
  return [[0, 0], [width, 0], [0, height], [width, height]].map(([x, y]) => {
    const ray = [(x - centrePx[0]) / focalPx[0], (y - centrePx[1]) / focalPx[1], 1].map((v) => v * PICTURE_M);
    return ray.reduce((sum, v, k) => add(sum, scale(axes[k], v)), positionM);
  });
}
