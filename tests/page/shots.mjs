// Pictures of the page for the gallery: node shots.mjs CHROMIUM NPM_FOLDER OUT CLIP_URL [CAMERA_URL]
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [chromium, npm, out, clip, camera] = process.argv.slice(2);
const puppeteer = createRequire(join(resolve(npm), "x"))("puppeteer-core");
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const browser = await puppeteer.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--autoplay-policy=no-user-gesture-required"],
});

async function take(name, url, { width = 1440, height = 900, dark = true, timeS = 3, act = async () => {} } = {}) {
  const page = await browser.newPage();
  await page.setViewport({ width, height, deviceScaleFactor: width < 500 ? 2 : 1, isMobile: width < 500, hasTouch: width < 500 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  await page.goto(url);
  await page.waitForFunction(() => window.poselift?.fitted, { timeout: 60_000 });
  await page.evaluate((timeS) => window.poselift.source.live || window.poselift.player.seek(timeS), timeS);
  await act(page);
  await wait(2500);
  await page.waitForFunction(() => window.poselift.present().some(({ row }) => row.block.found[row.i] > 0), { timeout: 60_000 });
  await page.screenshot({ path: join(out, `${name}.jpg`), type: "jpeg", quality: 80 });
  await page.close();
}

if (camera) await take("page-live", camera);
await take("page-dark", clip);
await take("page-light", clip, { dark: false, timeS: 3.6, act: (page) => page.evaluate(() => {
  window.poselift.choose(window.poselift.source.people[1]?.id ?? 1);
  window.poselift.showView("camera");
}) });
await take("page-phone", clip, { width: 390, height: 844 });
await browser.close();
