// The skeleton of 17 joints (Human3.6M's), as `pose::skeleton` has it, and what people look like.

export const JOINTS = 17;

/** (parent, child) of each bone. */
export const BONES = [
  [0, 1], [1, 2], [2, 3], [0, 4], [4, 5], [5, 6], [0, 7], [7, 8], [8, 9], [9, 10], [8, 11], [11, 12], [12, 13], [8, 14], [14, 15], [15, 16],
];

/** Radius of each bone at its two ends in metres: a slender figure. */
export const BONE_RADII_M = [
  [0.04, 0.042], [0.045, 0.031], [0.031, 0.02], [0.04, 0.042], [0.045, 0.031], [0.031, 0.02], [0.056, 0.05], [0.05, 0.05], [0.032, 0.028],
  [0.072, 0.08], [0.036, 0.033], [0.03, 0.023], [0.023, 0.015], [0.036, 0.033], [0.03, 0.023], [0.023, 0.015],
];

/** Bone from the neck to the top of the head, and the part of it along which the head is drawn. */
export const HEAD_BONE = 9;
export const HEAD_PART = [0.35, 0.6];

/** -1: the person's left, 1: the right, 0: the middle. */
export const SIDE = [0, 1, 1, 1, -1, -1, -1, 0, 0, 0, 0, -1, -1, -1, 1, 1, 1];

/** Keypoints below this confidence are drawn as unsure, as in the films. */
export const CONFIDENT = 0.5;

/** Joints that leave trails: hip, wrists, ankles. */
export const TRAIL_JOINTS = [0, 3, 6, 13, 16];

// One hue for each person. Their right side and trunk have it; their left side is ink (chalk on dark ground) with a touch of it. So left
// and right differ in lightness, and nobody needs to see hues to tell them apart.
const HUES = {
  dark: ["#ff6a3d", "#1fbda8", "#9d7dff", "#f0b023", "#4aa3ff", "#ff6fa9", "#8fce3f", "#c9a27c"],
  light: ["#ec5a27", "#12a08e", "#7e5fe6", "#d79a08", "#2587e8", "#de4a87", "#6ba61f", "#94795f"],
};
const INK = { dark: "#f1f3f5", light: "#343a42" };

/**
 * What a person is drawn in.
 * @typedef {{right: string, left: string, rgbRight: number[], rgbLeft: number[], rgbMiddle: number[]}} Colours
 * @param {number} id from 1
 * @param {boolean} dark whether the ground is
 * @returns {Colours}
 */
export function personColours(id, dark) {
  const hues = dark ? HUES.dark : HUES.light;
  const right = hues[(Math.max(id, 1) - 1) % hues.length];
  const rgbRight = rgb(right);
  const mixed = (/** @type {number[]} */ a, /** @type {number[]} */ b, /** @type {number} */ share) => a.map((v, i) => v + (b[i] - v) * share);
  const rgbLeft = mixed(rgb(dark ? INK.dark : INK.light), rgbRight, 0.12);
  return { right, left: css(rgbLeft), rgbRight, rgbLeft, rgbMiddle: mixed(rgbRight, rgbLeft, 0.18) };
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
