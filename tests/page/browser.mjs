// The page in a headless browser, as people use it. Run by run.sh: node browser.mjs CHROMIUM DEMO RUNTIME CLIP WORK [SCREENSHOTS]
// CLIP and RUNTIME may be "-": what needs them is skipped, and said.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRequire } from "node:module";

const [chromium, demo, runtime, clip, work, screenshots] = process.argv.slice(2);
const puppeteer = createRequire(join(work, "npm/"))("puppeteer-core");
const here = new URL(".", import.meta.url).pathname;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
let [passed, failed, skipped] = [0, 0, 0];

const browser = await puppeteer.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--autoplay-policy=no-user-gesture-required"],
});
const children = [];
process.on("exit", () => children.forEach((child) => child.kill()));

async function test(name, body) {
  const start = Date.now();
  try {
    await body();
    passed++;
    console.log(`ok      ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}

function skip(name, why) {
  skipped++;
  console.log(`skipped ${name}: ${why}`);
}

/** Starts a server and returns the address that its first line of JSON names. */
async function serve(program, args, field) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  let text = "";
  for await (const piece of child.stdout) {
    text += piece;
    const line = text.split("\n").slice(0, -1).find((line) => line.includes(`"${field}"`));
    if (line) {
      const value = JSON.parse(line)[field];
      child.stdout.resume();
      return { url: value.startsWith("http") ? value : `http://${value}/`, child };
    }
  }
  throw new Error(`${program} ${args.join(" ")} said no ${field}: ${text}`);
}

/** A page that notes what it must not do. */
async function open(url, { width = 1440, height = 900, dark = true, before } = {}) {
  const page = await browser.newPage();
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`error: ${error.stack}`));
  page.on("request", (request) => {
    const asked = request.url();
    if (!asked.startsWith(url) && !/^(data|blob):/.test(asked)) faults.push(`a foreign request: ${asked}`);
  });
  const isMobile = width < 500;
  await page.setViewport({ width, height, deviceScaleFactor: isMobile ? 2 : 1, isMobile, hasTouch: isMobile });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  if (before) await before(page);
  await page.goto(url);
  await page.waitForFunction(() => window.poselift?.fitted || document.body.dataset.mode === "server", { timeout: 30_000 });
  return { page, faults, close: () => (assert.deepEqual(faults, []), page.close()) };
}

const state = (page) =>
  page.evaluate(() => {
    const { player, source, orbit, chosen } = window.poselift;
    return { timeS: player.timeS, playing: player.playing, rate: player.rate, azimuth: orbit.goal.azimuth, distance: orbit.goal.distance,
      target: orbit.goal.target, chosen, hasVideo: player.hasVideo, chunks: source.chunks?.size ?? 0 };
  });

const canvasBytes = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => {
  window.poselift.draw();
  done(document.getElementById("stage").toDataURL().length);
})));

async function shot(page, name) {
  if (screenshots) await page.screenshot({ path: join(screenshots, `${name}.png`) });
}

const people = [1, 2].map((person) => {
  const file = join(work, `walk.person${person}.3d.json`);
  execFileSync("node", [join(here, "synthetic.mjs"), file, "900", "30", String(person)]);
  return file;
});

// ---- a clip of two people

const show = await serve(demo, ["--show", ...people, "--serve", "127.0.0.1:0", "--json"], "page");

await test("it loads, and shows people and floor", async () => {
  const { page, close } = await open(show.url);
  const { chunks } = await state(page);
  assert.equal(chunks, 2, "30 s are two pieces of 20 s");
  assert.ok((await canvasBytes(page)) > 20_000, "the stage is not blank");
  assert.match(await page.$eval("#scale", (p) => p.textContent), /Scale assumed: 1\.70 m/);
  assert.equal(await page.$eval("#no-video", (p) => p.hidden), false);
  await close();
});

await test("it plays, pauses, steps and seeks, by keys alone", async () => {
  const { page, close } = await open(show.url);
  const press = (...keys) => keys.reduce((before, key) => before.then(() => page.keyboard.press(key)), Promise.resolve());
  await press("Space");
  await wait(900);
  await press("Space");
  const { timeS, playing } = await state(page);
  assert.ok(!playing && timeS > 0.2 && timeS < 3, `${timeS}`);
  await press("Home", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft");
  assert.ok(Math.abs((await state(page)).timeS - 2 / 30) < 1e-3);
  await press("]", "]", "[");
  assert.equal((await state(page)).rate, 2);
  await press("2");
  assert.equal((await state(page)).chosen, 2);
  await press("End");
  await page.waitForFunction(() => window.poselift.source.has(window.poselift.player.timeS));
  assert.ok((await state(page)).timeS > 29.9);
  // focus goes through everything in order, and each stop has a name
  const names = [];
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press("Tab");
    names.push(await page.evaluate(() => {
      const e = document.activeElement;
      const outline = getComputedStyle(e).outlineStyle !== "none" || e.id === "seek";
      return e === document.body ? "" : `${e.id || e.getAttribute("aria-label") || e.textContent.trim()}${outline ? "" : " WITHOUT OUTLINE"}`;
    }));
  }
  for (const stop of ["downloads-button", "stage", "Front", "trails", "play", "seek", "speed", "loop"]) assert.ok(names.includes(stop), `${stop} in ${names}`);
  assert.ok(!names.some((name) => name.includes("WITHOUT")), names.join(", "));
  await close();
});

await test("it orbits, pans and zooms by mouse, wheel and keys", async () => {
  const { page, close } = await open(show.url);
  const start = await state(page);
  const box = await (await page.$("#stage")).boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x + 120, y + 10, { steps: 4 });
  await page.mouse.up();
  const turned = await state(page);
  assert.ok(Math.abs(turned.azimuth - start.azimuth) > 0.4);
  await page.mouse.wheel({ deltaY: -240 });
  const near = await state(page);
  assert.ok(near.distance < turned.distance * 0.8);
  await page.keyboard.down("Shift");
  await page.mouse.down();
  await page.mouse.move(x, y, { steps: 3 });
  await page.mouse.up();
  await page.keyboard.up("Shift");
  const panned = await state(page);
  assert.ok(Math.hypot(...panned.target.map((v, i) => v - near.target[i])) > 0.05);
  await page.focus("#stage");
  const timeBefore = panned.timeS;
  await page.keyboard.press("ArrowLeft");
  const last = await state(page);
  assert.ok(last.azimuth > panned.azimuth && last.timeS === timeBefore, "arrows turn the stage that has the focus");
  for (const view of ["fit", "front", "side", "top", "camera"]) await page.click(`[data-view=${view}]`);
  await close();
});

await test("everything can be downloaded", async () => {
  const { page, close } = await open(show.url);
  const links = await page.$$eval("#downloads-list a", (all) => all.map((a) => ({ name: a.querySelector("strong").textContent, href: a.href, file: a.download })));
  const names = links.map(({ name }) => name);
  for (const format of ["json", "npz", "bvh", "glb", "trc", "c3d", "csv", "ndjson", "angles"]) assert.ok(names.includes(format), `${format} in ${names}`);
  for (const { name, href } of links) {
    const answer = await page.evaluate(async (url) => {
      const got = await fetch(url);
      return { ok: got.ok, disposition: got.headers.get("content-disposition"), bytes: (await got.arrayBuffer()).byteLength };
    }, href);
    assert.ok(answer.ok && answer.bytes > 1000 && answer.disposition.includes("walk.person1.3d"), `${name}: ${JSON.stringify(answer)}`);
  }
  const session = await page.createCDPSession();
  await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: work });
  await page.click("#downloads-button");
  await page.click(`#downloads-list a[href$="bvh"]`);
  const place = join(work, "walk.person1.3d.bvh");
  for (let i = 0; i < 50 && !statSync(place, { throwIfNoEntry: false }); i++) await wait(100);
  assert.match(readFileSync(place, "utf8"), /^HIERARCHY/);
  await close();
});

await test("its angles are those of the table", async () => {
  const { page, close } = await open(show.url);
  const [table, found] = await page.evaluate(async () => {
    const text = await (await fetch("/api/people/1/files/angles")).text();
    const { source } = window.poselift;
    const rows = [];
    // the page's own measure of the same poses
    for (const block of source.blocks(1)) {
      const angles = anglesOfForTest(block);
      for (let i = 0; i < block.count; i++) rows.push(Array.from(angles.subarray(i * 8, i * 8 + 8)));
    }
    return [text, rows];
    function anglesOfForTest(block) {
      window.poselift.plots.draw({ ...window.poselift.plots.view, fromS: -1, toS: 31 });
      return block.angles;
    }
  });
  const lines = table.trim().split("\n").slice(1);
  assert.equal(lines.length, found.length);
  const columns = [1, 2, 4, 5, 7, 8, 10, 11];
  let worst = 0;
  lines.forEach((line, i) => {
    const cells = line.split(",");
    columns.forEach((column, k) => {
      if (cells[column] === "") assert.ok(Number.isNaN(found[i][k]));
      else worst = Math.max(worst, Math.abs(Number(cells[column]) - found[i][k]));
    });
  });
  assert.ok(worst < 0.01, `${worst} degrees`);
  await close();
});

await test("its policy holds it to its own server", async () => {
  const { page, faults } = await open(show.url);
  const [elsewhere, code] = await page.evaluate(async () => [
    await fetch("http://127.0.0.2:9/").then(() => "came", () => "refused"),
    await new Promise((done) => {
      const script = document.createElement("script");
      script.textContent = "window.wasRun = true";
      document.body.append(script);
      setTimeout(() => done(window.wasRun ? "ran" : "refused"), 50);
    }),
  ]);
  assert.deepEqual([elsewhere, code], ["refused", "refused"]);
  assert.ok(faults.some((fault) => fault.includes("Content Security Policy")), faults.join("\n"));
  await page.close();
});

await test("it fits wide and narrow, dark and light, and says what everything is", async () => {
  for (const [name, width, height, dark] of [["wide-dark", 1440, 900, true], ["wide-light", 1440, 900, false], ["narrow-dark", 390, 844, true], ["narrow-light", 390, 844, false]]) {
    const { page, close } = await open(show.url, { width, height, dark });
    await wait(400);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}: nothing sticks out`);
    const unnamed = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, canvas:not([aria-hidden]), a")]
        .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length || e.getAttribute("aria-labelledby")))
        .map((e) => e.outerHTML.slice(0, 80)));
    assert.deepEqual(unnamed, [], name);
    await shot(page, `clip-${name}`);
    await page.click("#theme");
    assert.equal(await page.evaluate(() => window.poselift.dark), !dark);
    await close();
  }
});

await test("fingers turn, move and zoom", async () => {
  const { page, close } = await open(show.url, { width: 390, height: 844 });
  const start = await state(page);
  const finger = await page.touchscreen.touchStart(180, 300);
  await finger.move(240, 300);
  await finger.end();
  const turned = await state(page);
  assert.ok(Math.abs(turned.azimuth - start.azimuth) > 0.2);
  const [one, two] = [await page.touchscreen.touchStart(160, 300), await page.touchscreen.touchStart(220, 300)];
  await two.move(300, 300);
  await one.end();
  await two.end();
  assert.ok((await state(page)).distance < turned.distance * 0.8);
  await close();
});

if (clip === "-") skip("a real video plays in step with its poses", "there is no clip (scripts/clip.sh)");
else {
  await test("a real video plays in step with its poses", async () => {
    const { url } = await serve(demo, ["--show", people[0], "--video", clip, "--serve", "127.0.0.1:0", "--json"], "page");
    const { page, close } = await open(url);
    await page.waitForFunction(() => window.poselift.player.hasVideo);
    await page.keyboard.press("Space");
    await wait(1500);
    await page.keyboard.press("Space");
    await wait(300);
    const [video, timeS] = await page.evaluate(() => [document.getElementById("video").currentTime, window.poselift.player.timeS]);
    assert.ok(timeS > 0.3 && Math.abs(video - timeS) < 0.15, `${video} ${timeS}`);
    await page.keyboard.press("ArrowRight");
    await wait(500);
    const [stepped, poseS] = await page.evaluate(() => [document.getElementById("video").currentTime, window.poselift.player.timeS]);
    assert.ok(stepped - poseS > 0 && stepped - poseS < 1 / 30, "the video is within the frame that the pose is of");
    await close();
  });
}

// ---- live

const fakeSocket = () => {
  const joints = (t) => Array.from({ length: 17 }, (_, j) => [100 * Math.sin(t + j), 4000 + 30 * j, 100 * j]);
  window.sockets = [];
  window.WebSocket = class {
    constructor(url) {
      this.url = url;
      window.sockets.push(this);
      setTimeout(() => this.onopen?.({}), 20);
      let n = 0;
      this.timer = setInterval(() => {
        const t = n++ / 30 + 10 * window.sockets.length;
        const person = (id) => ({ id, keypoints_px: joints(t).map(([x, , z]) => [320 + 40 * id + x / 5, 400 - z / 6]), confidence: Array(17).fill(id === 2 ? 0.3 : 0.9),
          world_mm: joints(t).map(([x, y, z]) => [x + 900 * id, y, z]), held: false, height_m: 1.7, scale_source: "default_height" });
        if (window.jpeg) this.onmessage?.({ data: window.jpeg });
        this.onmessage?.({ data: JSON.stringify({ time_s: t, delay_ms: { detect: 41, lift: 6, total: 84 }, dropped: 12, fps: 28.4, lag_ms: 38,
          image: { width: 640, height: 480 }, people: [person(1), person(2)],
          world_from_camera: { rotation: [[1, 0, 0], [0, 0, 1], [0, -1, 0]], translation_mm: [0, 0, 1300] } }) });
      }, 33);
    }
    close() {
      clearInterval(this.timer);
    }
    lose() {
      clearInterval(this.timer);
      this.onclose?.({});
    }
  };
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: 640, height: 480 });
  const context = canvas.getContext("2d");
  context.fillStyle = "#456";
  context.fillRect(0, 0, 640, 480);
  canvas.toBlob(async (blob) => (window.jpeg = await blob.arrayBuffer()), "image/jpeg");
};

await test("live: people, pictures, delays; it comes back after a loss", async () => {
  const before = async (page) => {
    await page.evaluateOnNewDocument(fakeSocket);
    await page.setRequestInterception(true);
    page.on("request", (request) =>
      request.url().endsWith("/api/session") ? request.respond({ contentType: "application/json", body: '{"kind":"live","title":"camera 0"}' }) : request.continue());
  };
  const { page, close } = await open(show.url, { before });
  await wait(1200);
  const text = await page.$eval("#stats", (list) => list.textContent);
  for (const figure of ["28 fps", "84 ms", "41 ms", "38 ms", "12"]) assert.ok(text.includes(figure), `${figure} in ${text}`);
  assert.equal(await page.$$eval("#people button", (all) => all.length), 2);
  assert.equal(await page.$eval("#picture", (canvas) => canvas.width), 640);
  assert.ok((await canvasBytes(page)) > 20_000);
  await shot(page, "live-wide-dark");
  await page.evaluate(() => window.sockets[0].lose());
  assert.match(await page.$eval("#message", (p) => p.textContent), /Connection lost/);
  await page.waitForFunction(() => window.sockets.length === 2, { timeout: 5000 });
  await page.waitForFunction(() => document.getElementById("message").hidden, { timeout: 5000 });
  await close();
});

const camera = clip === "-" ? "" : execFileSync(demo, ["--help"], { encoding: "utf8" });
if (!camera.includes("--camera <")) skip("live: a fake camera", clip === "-" ? "there is no clip (scripts/clip.sh)" : "this demo has no --camera");
else {
  await test("live: a fake camera", async () => {
    const { url, child } = await serve(demo, ["--camera", `fake-loop:${clip}`, "--person", "all", "--detector-quality", "lite", "--serve", "127.0.0.1:0", "--json"], "page");
    const { page, close } = await open(url);
    await page.waitForFunction(() => document.getElementById("picture").width > 100 && window.poselift.source.people.length > 0, { timeout: 60_000 });
    await wait(1500);
    assert.match(await page.$eval("#stats", (list) => list.textContent), /\d+ fps/);
    await shot(page, "camera-wide-dark");
    await close();
    child.kill();
  });
}

// ---- runtime serve --ui

if (runtime === "-") skip("runtime serve --ui: a keypoint file is streamed, and another page looks on", "the program runtime is not built");
else {
  await test("runtime serve --ui: a keypoint file is streamed, and another page looks on", async () => {
    const { url } = await serve(runtime, ["--json", "serve", join(here, "../../models/clip-xs.onnx"), "--port", "0", "--ui"], "http");
    const results = JSON.parse(readFileSync(people[0], "utf8"));
    const frames = results.keypoints_px.slice(0, 240).map((pose, t) => pose.map((p, j) => [...p, results.confidence[t][j]]));
    const file = join(work, "walk.keypoints.json");
    writeFileSync(file, JSON.stringify({ format: "poselift-keypoints/1", skeleton: "h36m17", image: { width: 1280, height: 720 }, fps: 30, frames }));
    const watcher = await open(url);
    const { page, close } = await open(url);
    await (await page.$("#drop-file")).uploadFile(file);
    await page.waitForFunction(() => window.poselift.fitted, { timeout: 30_000 });
    await page.waitForFunction(() => / ms/.test(document.getElementById("stats").textContent), { timeout: 10_000 });
    await watcher.page.waitForFunction(() => window.poselift.fitted, { timeout: 30_000 });
    await wait(1500);
    assert.match(await watcher.page.$eval("#stats", (list) => list.textContent), /Live streams1/);
    await shot(page, "server-wide-dark");
    await watcher.close();
    await close();
  });
}

// ---- an hour

await test("an hour of results stays small", async () => {
  const file = join(work, "hour.3d.json");
  execFileSync("node", [join(here, "synthetic.mjs"), file, "108000", "30"]);
  let video = [];
  try {
    const minute = join(work, "minute.mp4");
    execFileSync("ffmpeg", ["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=30", "-t", "60", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "38", "-pix_fmt", "yuv420p", minute]);
    execFileSync("ffmpeg", ["-v", "error", "-y", "-stream_loop", "59", "-i", minute, "-c", "copy", "-movflags", "+faststart", join(work, "hour.mp4")]);
    video = ["--video", join(work, "hour.mp4")];
  } catch {
    skip("an hour of video beside them", "there is no ffmpeg");
  }
  const { url } = await serve(demo, ["--show", file, ...video, "--serve", "127.0.0.1:0", "--json"], "page");
  const { page, close } = await open(url);
  if (video.length > 0) await page.waitForFunction(() => window.poselift.player.hasVideo);
  for (let i = 0; i < 40; i++) {
    await page.evaluate((timeS) => window.poselift.player.seek(timeS), (i * 997) % 3600);
    await page.waitForFunction(() => window.poselift.source.has(window.poselift.player.timeS), { timeout: 10_000 });
  }
  await page.click('[data-window="0"]');
  await page.keyboard.press("]");
  await page.keyboard.press("Space");
  await wait(5000);
  await page.keyboard.press("Space");
  const { chunks } = await state(page);
  assert.ok(chunks <= 4, `${chunks} pieces are kept`);
  const isolated = await page.evaluate(() => crossOriginIsolated);
  assert.ok(isolated, "the page is isolated");
  const heap = (await page.metrics()).JSHeapUsedSize;
  const session = await browser.target().createCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const rss = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${id}/status`, "utf8"))?.[1] ?? 0) * 1024);
  const tab = Math.max(...rss);
  console.log(`        heap ${(heap / 1e6).toFixed(0)} MB, the tab's process ${(tab / 1e6).toFixed(0)} MB resident`);
  assert.ok(tab < 500e6 && heap < 100e6);
  await shot(page, "hour-wide-dark");
  await close();
});

await browser.close();
children.forEach((child) => child.kill());
console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed > 0 ? 1 : 0);
