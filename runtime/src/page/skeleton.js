// The skeleton of 17 joints (Human3.6M's), as `pose::skeleton` has it, and what people look like.

export const JOINTS = 17;

/** (parent, child) of each bone. */
export const BONES = [
  [0, 1], [1, 2], [2, 3], [0, 4], [4, 5], [5, 6], [0, 7], [7, 8], [8, 9], [9, 10], [8, 11], [11, 12], [12, 13], [8, 14], [14, 15], [15, 16],
];

/** Radius of each bone at its two ends in metres: a slender figure. */
export const BONE_RADII_M = [
  [0.034, 0.036], [0.042, 0.03], [0.03, 0.02], [0.034, 0.036], [0.042, 0.03], [0.03, 0.02], [0.05, 0.046], [0.046, 0.04], [0.026, 0.032],
  [0.058, 0.05], [0.03, 0.03], [0.028, 0.022], [0.022, 0.015], [0.03, 0.03], [0.028, 0.022], [0.022, 0.015],
];

/** -1: the person's left, 1: the right, 0: the middle. */
export const SIDE = [0, 1, 1, 1, -1, -1, -1, 0, 0, 0, 0, -1, -1, -1, 1, 1, 1];

/** Keypoints below this confidence are drawn as unsure, as in the films. */
export const CONFIDENT = 0.5;

/** Joints that leave trails: hip, wrists, ankles. */
export const TRAIL_JOINTS = [0, 3, 6, 13, 16];

// One hue for each person; their right side has its full tone, their left one a tone that is lighter on dark ground and deeper on
// light ground. All pairs differ in lightness, so that nobody needs to see hues to tell left from right.
const HUES = {
  dark: [
    ["#ff6a3d", "#ffd3bf"], ["#1fbda8", "#c2f3ea"], ["#9d7dff", "#e2d9ff"], ["#f0b023", "#ffe9b8"],
    ["#4aa3ff", "#cfe6ff"], ["#ff6fa9", "#ffd6e6"], ["#8fce3f", "#e2f6c4"], ["#b9a28c", "#efe6dd"],
  ],
  light: [
    ["#ec5a27", "#74290d"], ["#12a08e", "#0a4a42"], ["#7e5fe6", "#33217c"], ["#d79a08", "#634503"],
    ["#2587e8", "#0c3c70"], ["#de4a87", "#671739"], ["#6ba61f", "#2f4d08"], ["#94795f", "#42321f"],
  ],
};

/**
 * What a person is drawn in.
 * @typedef {{right: string, left: string, rgbRight: number[], rgbLeft: number[], rgbMiddle: number[]}} Colours
 * @param {number} id from 1
 * @param {boolean} dark whether the ground is
 * @returns {Colours}
 */
export function personColours(id, dark) {
  const hues = dark ? HUES.dark : HUES.light;
  const [right, left] = hues[(id - 1) % hues.length];
  const [rgbRight, rgbLeft] = [right, left].map(rgb);
  return { right, left, rgbRight, rgbLeft, rgbMiddle: rgbRight.map((v, i) => (v + rgbLeft[i]) / 2) };
}

/** @param {Colours} colours @param {number} side see SIDE */
export function sideColour(colours, side) {
  return side > 0 ? colours.rgbRight : side < 0 ? colours.rgbLeft : colours.rgbMiddle;
}

/** "#rrggbb" as three numbers from 0 to 1. @param {string} hex */
export function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
}

/** @param {number[]} colour 0 to 1 @param {number} alpha */
export function css(colour, alpha = 1) {
  return `rgb(${colour.map((v) => Math.round(v * 255)).join(" ")} / ${alpha})`;
}
