// The time bar: a slider over a picture of who is there when.

/** "1:02.34". @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(seconds, 0);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = s.toFixed(2).padStart(5, "0");
  return h > 0 ? `${h}:${String(m).padStart(2, "0")}:${tail}` : `${m}:${tail}`;
}

/** Seconds between marks, so that they are at least `leastPx` apart. @param {number} spanS @param {number} width @param {number} leastPx */
export function markStep(spanS, width, leastPx) {
  const steps = [0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  return steps.find((step) => (step / spanS) * width >= leastPx) ?? 7200;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {{startS: number, endS: number, timeS: number, ink: string, text: string,
 *   people: {spansS: number[][], colour: string, chosen: boolean}[]}} view
 */
export function drawTimeline(canvas, { startS, endS, timeS, ink, text, people }) {
  const ratio = Math.min(devicePixelRatio, 2);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const context = canvas.getContext("2d");
  if (!context || width === 0) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const x = (/** @type {number} */ s) => ((s - startS) / (endS - startS)) * width;
  const step = markStep(endS - startS, width, 64);
  context.font = "10px ui-sans-serif, system-ui, sans-serif";
  context.textBaseline = "top";
  for (let s = Math.ceil(startS / step) * step; s < endS; s += step) {
    context.globalAlpha = 0.25;
    context.fillStyle = ink;
    context.fillRect(Math.round(x(s)), 0, 1, 5);
    context.globalAlpha = 0.6;
    context.fillStyle = text;
    const label = step < 1 ? clock(s).replace(/0$/, "") : clock(s).slice(0, -3);
    if (x(s) < width - 34) context.fillText(label, x(s) + 4, 0);
  }
  // people in lanes, from below
  const most = Math.max(1, Math.floor((height - 14) / 4));
  const lanes = people.slice(0, most);
  const pitch = Math.min(7, (height - 14) / Math.max(lanes.length, 1));
  lanes.forEach(({ spansS, colour, chosen }, lane) => {
    context.globalAlpha = chosen ? 1 : 0.55;
    context.fillStyle = colour;
    const thick = chosen ? Math.min(4, pitch - 1) : Math.min(2, pitch - 1);
    const y = height - 2 - (lanes.length - lane - 0.5) * pitch - thick / 2;
    for (const [from, to] of spansS) context.fillRect(x(from), y, Math.max(x(to) - x(from), 1.5), thick);
  });
  context.globalAlpha = 1;
  context.fillStyle = ink;
  context.fillRect(Math.round(Math.min(Math.max(x(timeS), 0), width - 2)) - 0.5, 0, 2, height);
}
