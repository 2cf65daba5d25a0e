// What the page does with all its parts.

import { ClipSource } from "./clip.js";
import { LiveSource, watchLive } from "./live.js";
import { Orbit } from "./orbit.js";
import { drawOverlay, personAt } from "./overlay.js";
import { SPEEDS, Player } from "./player.js";
import { Plots } from "./plots.js";
import { readKeypoints, replay, tokenProtocols } from "./replay.js";
import { personColours, JOINTS } from "./skeleton.js";
import { Stage } from "./stage.js";
import { clock, drawTimeline } from "./timeline.js";
import { jointM, rowAt, visitRows } from "./track.js";

const VIEWS = ["fit", "front", "side", "top", "camera"];
const NEAREST_FIT_M = 0.9;
const REFIT_MS = 1500;
/** Someone who walks farther than this is followed from the start. */
const FOLLOW_BEYOND_M = 4;
/** @type {Record<string, string>} */
const STAGES = { total: "Delay", detect: "Detect", lift: "Lift", look_ahead: "Look-ahead" };
const PLAY = "M6 4v12l10-6z";
const PAUSE = "M6 4h2.6v12H6zM11.4 4H14v12h-2.6z";

/** @template {HTMLElement} T @param {string} id @returns {T} */
function byId(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/**
 * Somebody who can be chosen.
 * @typedef {{id: number, label: string, height_m?: number, scale_source?: string, spans_s?: number[][],
 *   files?: {format: string, what: string, url: string, file: string}[]}} Person
 */

class Page {
  darkQuery = matchMedia("(prefers-color-scheme: dark)");
  chosen = 1;
  options = { follow: false, trails: true, frustum: true };
  windowS = 0;
  viewIndex = 0;
  fitted = false;
  fitMs = 0;
  dirty = true;
  lastTickMs = 0;
  /** @type {{close: () => void} | null} */
  connection = null;
  /** @type {{total?: number} | null} */
  stats = null;

  /** @param {any} session what the server is showing */
  constructor(session) {
    this.session = session;
    /** @type {ClipSource | LiveSource} */
    this.source = session.kind === "clip" ? new ClipSource(session, () => this.arrived()) : new LiveSource();
    document.body.dataset.mode = session.kind;
    this.video = /** @type {HTMLVideoElement} */ (byId("video"));
    this.overlay = /** @type {HTMLCanvasElement} */ (byId("overlay"));
    this.picture = /** @type {HTMLCanvasElement} */ (byId("picture"));
    const canvas = /** @type {HTMLCanvasElement} */ (byId("stage"));
    this.orbit = new Orbit(canvas, () => this.touch());
    this.orbit.moved = () => this.setOption("follow", false);
    this.player = new Player(this.video, this.source, () => this.touch());
    this.plots = new Plots(byId("plots"), (timeS) => this.player.seek(timeS));
    try {
      this.stage = new Stage(canvas, this.orbit);
    } catch (error) {
      this.stage = null;
      say(`The 3D view cannot be shown: ${/** @type {Error} */ (error).message}.`);
    }
    const title = session.title ?? session.model ?? "";
    byId("title").textContent = title;
    document.title = title ? `${title} – poselift` : "poselift";
    this.wire(canvas);
    this.showPeople();
    this.setTheme(recall("theme"));
    if (session.kind === "clip") this.startClip();
    if (session.kind === "live") this.startCamera();
    if (session.kind === "server") this.startServer();
    new ResizeObserver(() => this.layOut()).observe(byId("video-pane"));
    new ResizeObserver(() => this.touch()).observe(canvas);
    this.layOut();
    requestAnimationFrame((ms) => this.tick(ms));
  }

  touch() {
    this.dirty = true;
  }

  // ---- what is shown

  get dark() {
    const theme = document.documentElement.dataset.theme;
    return theme ? theme === "dark" : this.darkQuery.matches;
  }

  get timeS() {
    return this.source.live ? this.source.endS : this.player.timeS;
  }

  startClip() {
    this.chosen = this.source.people[0]?.id ?? 1;
    this.windowS = this.source.endS - this.source.startS > 24 ? 20 : 0;
    this.showWindow();
    this.showPeople();
    this.player.seek(this.source.startS);
    this.source.need(this.source.startS);
    this.source.loadOverview(this.chosen).catch(() => {});
    byId("end").textContent = `/ ${clock(this.source.endS)}`;
    const seek = /** @type {HTMLInputElement} */ (byId("seek"));
    Object.assign(seek, { min: String(this.source.startS), max: String(this.source.endS) });
    this.tryVideo(0);
  }

  /** Takes the first video that the browser can play. @param {number} index */
  tryVideo(index) {
    const { video } = this;
    const offered = this.session.video[index];
    if (!offered) {
      video.hidden = true;
      const note = byId("no-video");
      note.hidden = false;
      note.textContent = this.session.video.length > 0 ? "This browser cannot play the video." : "No video beside the results.";
      this.touch();
      return;
    }
    const failed = () => {
      this.player.hasVideo = false;
      video.removeEventListener("loadeddata", loaded);
      this.tryVideo(index + 1);
    };
    const loaded = () => {
      video.removeEventListener("error", failed);
      this.player.hasVideo = true;
      this.player.offsetS = offered.offset_s;
      this.player.seek(this.player.timeS);
      if (this.player.playing) this.player.play();
    };
    video.addEventListener("error", failed, { once: true });
    video.addEventListener("loadeddata", loaded, { once: true });
    this.crop = offered.crop ?? 1;
    video.style.width = `${100 / this.crop}%`;
    video.src = offered.url;
  }

  startCamera() {
    this.video.hidden = true;
    this.picture.hidden = false;
    this.windowS = 20;
    this.showWindow();
    this.connection = watchLive("/api/live", /** @type {LiveSource} */ (this.source), {
      changed: (people) => this.livePoses(people),
      picture: (bitmap) => {
        const { picture } = this;
        if (picture.width !== bitmap.width || picture.height !== bitmap.height) {
          Object.assign(picture, { width: bitmap.width, height: bitmap.height });
          this.layOut();
        }
        picture.getContext("2d")?.drawImage(bitmap, 0, 0);
        bitmap.close();
      },
      stats: (update) => {
        const { total, ...stages } = update.delay_ms ?? {};
        const delays = Object.entries({ total, ...stages }).map(([name, ms]) => [STAGES[name] ?? name, milliseconds(ms)]);
        const fps = update.fps > 0 ? `${update.fps.toFixed(0)} fps` : "–";
        const lag = update.lag_ms === undefined ? [] : [["Filter lag", milliseconds(update.lag_ms)]];
        this.showStats([["Live", fps], ...delays, ...lag, ["Dropped", String(update.dropped ?? 0)]]);
      },
      state: say,
    });
  }

  startServer() {
    this.video.hidden = true;
    this.windowS = 20;
    this.showWindow();
    const form = /** @type {HTMLFormElement} */ (byId("drop"));
    form.hidden = false;
    const token = /** @type {HTMLInputElement} */ (byId("token"));
    byId("token-line").hidden = !this.session.token;
    token.addEventListener("change", () => this.watchServer(token.value));
    form.addEventListener("submit", (event) => event.preventDefault());
    if (!this.session.token) this.watchServer("");
    const open = async (/** @type {File | undefined} */ file) => {
      if (!file) return;
      try {
        const keypoints = readKeypoints(await file.text());
        this.connection?.close();
        this.fitted = false;
        form.classList.add("aside");
        byId("title").textContent = `${this.session.model} · ${file.name}`;
        this.connection = replay(keypoints, /** @type {LiveSource} */ (this.source), token.value, {
          changed: (people) => this.livePoses(people),
          stats: ({ total_ms, wait_ms, fps, dropped }) =>
            this.showStats([
              ["Live", `${fps.toFixed(0)} fps`], ["Frame to pose", milliseconds(total_ms)], ["of it look-ahead", milliseconds(wait_ms)],
              ["Dropped", String(dropped)],
            ]),
          state: say,
        });
        this.layOut();
      } catch (error) {
        byId("drop-state").textContent = `${file.name}: ${/** @type {Error} */ (error).message}`;
      }
    };
    const input = /** @type {HTMLInputElement} */ (byId("drop-file"));
    input.addEventListener("change", () => open(input.files?.[0]));
    for (const kind of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        form.classList.toggle("over", kind === "dragover");
        if (kind === "drop") open(/** @type {DragEvent} */ (event).dataTransfer?.files[0]);
      });
    }
  }

  /** Shows what streams there are. @param {string} token */
  watchServer(token) {
    this.connection?.close();
    const show = {
      changed: (/** @type {boolean} */ people) => {
        byId("drop").classList.add("aside");
        this.livePoses(people);
      },
      picture: () => {},
      stats: (/** @type {any} */ update) => {
        const streams = String(this.source.people.length);
        this.showStats([["Live streams", streams], ["Look-ahead", milliseconds(update.delay_ms?.look_ahead)]]);
      },
      state: say,
    };
    this.connection = watchLive("/v1/watch", /** @type {LiveSource} */ (this.source), show, tokenProtocols(token));
  }

  /** @param {boolean} peopleChanged */
  livePoses(peopleChanged) {
    if (peopleChanged) this.showPeople();
    this.arrived();
  }

  /** There are more poses than before. */
  arrived() {
    if (!this.fitted && this.fit(true)) {
      this.fitted = true;
      this.fitMs = performance.now();
      this.layOut();
    } else if (this.source.live && !this.orbit.touched && performance.now() - this.fitMs > REFIT_MS) {
      // until somebody takes the view in hand, it keeps everybody in sight
      this.fitMs = performance.now();
      this.fit();
    }
    this.showScale();
    this.touch();
  }

  // ---- views

  /** Shows everybody who is known; whether anybody is. @param {boolean} [first] */
  fit(first = false) {
    const low = [Infinity, Infinity, Infinity];
    const high = [-Infinity, -Infinity, -Infinity];
    const near = this.source.live ? 2 : 30;
    for (const { id } of this.source.people) {
      let n = 0;
      visitRows(this.source.blocks(id), this.timeS - near, this.timeS + near, (block, i) => {
        if (n++ % 5 !== 0) return;
        for (let joint = 0; joint < JOINTS; joint++) {
          jointM({ block, i }, joint).forEach((v, k) => {
            low[k] = Math.min(low[k], v);
            high[k] = Math.max(high[k], v);
          });
        }
      });
    }
    if (!Number.isFinite(low[0])) return false;
    // the floor belongs to the picture as long as it is near
    low[2] = Math.min(low[2], Math.max(0, low[2] - 1.2));
    const centre = low.map((v, k) => (v + high[k]) / 2);
    // figures stand above what is live
    const room = this.source.live ? 1.2 : 1;
    const radius = Math.max(Math.hypot(...high.map((v, k) => v - low[k])) / 2, NEAREST_FIT_M) * room;
    const walk = Math.hypot(high[0] - low[0], high[1] - low[1]);
    const row = this.rowOf(this.chosen);
    const isFar = walk > FOLLOW_BEYOND_M && this.source.people.length === 1 && row;
    if (first && isFar) {
      this.setOption("follow", true);
      this.orbit.fit([...jointM(row, 0).slice(0, 2), Math.max(jointM(row, 0)[2] - 0.1, 0.8)], 1.5, true);
    } else {
      this.orbit.fit(centre, radius, first);
    }
    if (first) this.orbit.touched = false;
    return true;
  }

  /** @param {string} view one of VIEWS */
  showView(view) {
    this.viewIndex = VIEWS.indexOf(view);
    document.querySelectorAll("[data-view]").forEach((button) => {
      button.setAttribute("aria-pressed", String(/** @type {HTMLElement} */ (button).dataset.view === view));
    });
    if (view === "fit") {
      this.orbit.go({ azimuth: 0.56, elevation: 0.22 });
      return void this.fit();
    }
    const row = this.rowOf(this.chosen);
    const hip = row ? jointM(row, 0) : this.orbit.goal.target;
    if (view === "camera") {
      const camera = this.source.camera;
      if (!camera) return;
      this.setOption("follow", false);
      const depth = Math.max(hip.reduce((sum, v, k) => sum + (v - camera.positionM[k]) * camera.axes[2][k], 0), 1);
      return this.orbit.lookThrough(camera, this.source.image, depth);
    }
    if (view === "top") return this.orbit.go({ azimuth: 0, elevation: 1.5 });
    if (!row) return;
    const [left, right] = [jointM(row, 4), jointM(row, 1)];
    const across = [right[0] - left[0], right[1] - left[1]];
    // in front of the person is up x right
    const towards = view === "front" ? [-across[1], across[0]] : across;
    this.orbit.go({ azimuth: Math.atan2(towards[0], -towards[1]), elevation: 0.08, target: hip });
  }

  /** The pose that a person has now. @param {number} id */
  rowOf(id) {
    return rowAt(this.source.blocks(id), this.timeS + 1e-6, this.source.staleS);
  }

  // ---- controls

  /** @param {HTMLCanvasElement} canvas */
  wire(canvas) {
    const { player } = this;
    const click = (/** @type {string} */ id, /** @type {() => void} */ action) => byId(id).addEventListener("click", action);
    click("play", () => player.toggle());
    click("back", () => player.step(-1));
    click("forward", () => player.step(1));
    click("loop", () => this.setLoop(!player.loop));
    click("theme", () => this.setTheme(this.dark ? "light" : "dark"));
    click("help-button", () => /** @type {HTMLDialogElement} */ (byId("help")).showModal());
    for (const option of /** @type {const} */ (["follow", "trails", "frustum"])) {
      click(option, () => this.setOption(option, !this.options[option]));
    }
    document.querySelectorAll("[data-view]").forEach((button) => {
      button.addEventListener("click", () => this.showView(/** @type {HTMLElement} */ (button).dataset.view ?? "fit"));
    });
    document.querySelectorAll("[data-window]").forEach((button) => {
      button.addEventListener("click", () => {
        this.windowS = Number(/** @type {HTMLElement} */ (button).dataset.window);
        this.showWindow();
      });
    });
    const seek = /** @type {HTMLInputElement} */ (byId("seek"));
    seek.addEventListener("input", () => player.seek(Number(seek.value)));
    const speed = /** @type {HTMLSelectElement} */ (byId("speed"));
    speed.addEventListener("change", () => player.setRate(Number(speed.value)));
    this.darkQuery.addEventListener("change", () => this.showTheme());
    document.addEventListener("keydown", (event) => this.key(event));
    this.overlay.addEventListener("click", (event) => {
      const people = this.present();
      const id = personAt(this.overlay, this.source.image, people, event.offsetX, event.offsetY);
      if (id !== null) this.choose(id);
    });
    let downAt = [0, 0];
    canvas.addEventListener("pointerdown", (event) => (downAt = [event.clientX, event.clientY]));
    canvas.addEventListener("click", (event) => {
      if (Math.hypot(event.clientX - downAt[0], event.clientY - downAt[1]) < 4) this.chooseAt(event.offsetX, event.offsetY);
    });
    canvas.addEventListener("dblclick", () => this.showView("fit"));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").matches("[open]")) return;
    const isField = target.matches("select, input:not([type=range])");
    const isPressable = target.matches("button, a, label, summary");
    if (isField || (isPressable && (event.key === " " || event.key === "Enter"))) return;
    const { player, source } = this;
    const speed = (/** @type {number} */ by) => {
      const at = SPEEDS.indexOf(player.rate) + by;
      if (at < 0 || at >= SPEEDS.length) return;
      /** @type {HTMLSelectElement} */ (byId("speed")).value = String(SPEEDS[at]);
      player.setRate(SPEEDS[at]);
    };
    const step = (/** @type {number} */ sign) => (event.shiftKey ? player.seek(player.timeS + sign) : player.step(sign));
    /** @type {Record<string, () => void>} */
    const playback = {
      " ": () => player.toggle(),
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      Home: () => player.seek(source.startS),
      End: () => player.seek(source.endS),
      "[": () => speed(-1),
      "]": () => speed(1),
      l: () => this.setLoop(!player.loop),
      d: () => !byId("downloads-button").hidden && byId("downloads").togglePopover(),
    };
    /** @type {Record<string, () => void>} */
    const always = {
      v: () => this.showView(VIEWS[(this.viewIndex + 1) % VIEWS.length]),
      f: () => this.setOption("follow", !this.options.follow),
      t: () => this.setOption("trails", !this.options.trails),
      c: () => this.setOption("frustum", !this.options.frustum),
      "?": () => /** @type {HTMLDialogElement} */ (byId("help")).showModal(),
    };
    const person = /^[1-9]$/.test(event.key) ? source.people[Number(event.key) - 1] : undefined;
    const action = (source.live ? undefined : playback[event.key]) ?? always[event.key] ?? (person && (() => this.choose(person.id)));
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** @param {"follow" | "trails" | "frustum"} option @param {boolean} on */
  setOption(option, on) {
    this.options[option] = on;
    byId(option).setAttribute("aria-pressed", String(on));
    this.touch();
  }

  /** @param {boolean} on */
  setLoop(on) {
    this.player.loop = on;
    byId("loop").setAttribute("aria-pressed", String(on));
  }

  /** @param {string | null} theme "dark", "light", or what the system says */
  setTheme(theme) {
    const isSystems = theme === null || theme === (this.darkQuery.matches ? "dark" : "light");
    if (isSystems) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    remember("theme", isSystems ? null : theme);
    this.showTheme();
  }

  showTheme() {
    byId("theme").setAttribute("aria-label", this.dark ? "Light colours" : "Dark colours");
    this.showPeople();
    this.touch();
  }

  /** @param {number} id */
  choose(id) {
    this.chosen = id;
    this.source.loadOverview(id).catch(() => {});
    this.showPeople();
    this.touch();
  }

  /** The person at a point of the stage. @param {number} x @param {number} y */
  chooseAt(x, y) {
    let [best, nearest] = [0, 36];
    for (const { id, row } of this.present()) {
      for (let joint = 0; joint < JOINTS; joint++) {
        const at = this.stage?.toScreen(jointM(row, joint));
        const distance = at ? Math.hypot(at[0] - x, at[1] - y) : Infinity;
        if (distance < nearest) [best, nearest] = [id, distance];
      }
    }
    if (best) this.choose(best);
  }

  showPeople() {
    /** @type {Person[]} */
    const people = this.source.people;
    if (people.length > 0 && !people.some(({ id }) => id === this.chosen)) this.chosen = people[0].id;
    const group = byId("people");
    group.hidden = people.length < 2;
    const hadFocus = group.contains(document.activeElement);
    group.replaceChildren(
      ...people.map(({ id, label }) => {
        const button = document.createElement("button");
        const isChosen = id === this.chosen;
        button.append(...chipText(label));
        Object.assign(button, { type: "button", role: "radio", ariaChecked: String(isChosen), tabIndex: isChosen ? 0 : -1 });
        button.style.setProperty("--person", personColours(id, this.dark).right);
        button.addEventListener("click", () => this.choose(id));
        button.addEventListener("keydown", (event) => {
          /** @type {Record<string, number>} */
          const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
          const by = steps[event.key];
          if (!by) return;
          event.preventDefault();
          event.stopPropagation();
          const at = people.findIndex((person) => person.id === id);
          this.choose(people[(at + by + people.length) % people.length].id);
        });
        if (isChosen && hadFocus) requestAnimationFrame(() => button.focus());
        return button;
      }),
    );
    byId("labels").replaceChildren(
      ...(people.length < 2 ? [] : people).map(({ id }) => {
        const label = document.createElement("span");
        label.textContent = String(id);
        label.dataset.id = String(id);
        label.style.setProperty("--person", personColours(id, this.dark).right);
        return label;
      }),
    );
    const colours = personColours(this.chosen, this.dark);
    byId("legend-left").style.color = colours.left;
    byId("legend-right").style.color = colours.right;
    this.showScale();
    this.showDownloads();
  }

  showScale() {
    const person = this.person();
    const text = person?.height_m ? scaleText(person.scale_source, person.height_m) : "";
    const line = byId("scale");
    if (line.textContent !== text) line.textContent = text;
    line.title = "What the millimetres rest on: one camera does not show how large things are";
  }

  /** The one who is chosen. @returns {Person | undefined} */
  person() {
    return this.source.people.find((/** @type {Person} */ { id }) => id === this.chosen);
  }

  showDownloads() {
    const person = this.person();
    const files = [...(person?.files ?? [])];
    const film = this.session.video?.find((/** @type {any} */ video) => video.crop);
    if (film) files.push({ format: "mp4", what: "film: video and skeleton side by side", url: film.url, file: `${this.session.title}.3d.mp4` });
    byId("downloads-button").hidden = files.length === 0;
    byId("downloads-title").textContent = this.source.people.length > 1 ? `Download ${person?.label}` : "Download";
    byId("downloads-list").replaceChildren(
      ...files.map(({ format, what, url, file }) => {
        const link = document.createElement("a");
        Object.assign(link, { href: url, download: file });
        const name = document.createElement("strong");
        name.textContent = format;
        link.append(name, what);
        const item = document.createElement("li");
        item.append(link);
        return item;
      }),
    );
  }

  /** @param {string[][]} rows name and figure */
  showStats(rows) {
    const list = byId("stats");
    list.hidden = false;
    if (list.children.length !== rows.length) {
      list.replaceChildren(
        ...rows.map(([name], i) => {
          const row = document.createElement("div");
          if (i === 0) row.className = "on";
          const title = document.createElement("dt");
          title.textContent = name;
          row.append(title, document.createElement("dd"));
          return row;
        }),
      );
    }
    rows.forEach(([name, figure], i) => {
      list.children[i].children[0].textContent = name;
      list.children[i].children[1].textContent = figure;
    });
  }

  showWindow() {
    document.querySelectorAll("[data-window]").forEach((button) => {
      const seconds = Number(/** @type {HTMLElement} */ (button).dataset.window);
      button.setAttribute("aria-pressed", String(seconds === this.windowS));
      /** @type {HTMLElement} */ (button).hidden = seconds === 0 && this.source.live;
    });
    this.touch();
  }

  // ---- drawing

  /** The video keeps the clip's shape within its pane. */
  layOut() {
    const frame = byId("frame");
    const pane = byId("video-pane");
    const { width, height } = this.source.image;
    const most = document.body.clientHeight * 0.46;
    const style = getComputedStyle(pane);
    const room = pane.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const shown = Math.min(room, (most * width) / height);
    frame.style.width = `${shown}px`;
    frame.style.height = `${(shown * height) / width}px`;
    this.touch();
  }

  /** Everybody who is there now. */
  present() {
    return this.source.people.flatMap((/** @type {any} */ { id }) => {
      const row = this.rowOf(id);
      const chosen = id === this.chosen;
      return row ? [{ id, row, chosen, colours: personColours(id, this.dark), blocks: this.source.blocks(id) }] : [];
    });
  }

  /** @param {number} nowMs */
  tick(nowMs) {
    requestAnimationFrame((ms) => this.tick(ms));
    const passedS = Math.min((nowMs - this.lastTickMs) / 1000, 0.1);
    this.lastTickMs = nowMs;
    this.player.tick(nowMs);
    if (!this.source.live) this.source.need(this.timeS);
    if (this.options.follow) this.follow();
    if (this.orbit.advance(passedS)) this.dirty = true;
    if (!this.dirty) return;
    this.dirty = false;
    this.draw();
  }

  follow() {
    const row = this.rowOf(this.chosen);
    if (!row) return;
    const [x, y] = jointM(row, 0);
    this.orbit.goal.target = [x, y, this.orbit.goal.target[2]];
  }

  draw() {
    const { source, timeS } = this;
    const people = this.present();
    const colours = personColours(this.chosen, this.dark);
    const overview = source.overviews.get(this.chosen);
    const picture = this.pictureElement();
    this.stage?.draw({
      dark: this.dark,
      people,
      timeS,
      trails: this.options.trails,
      path: overview ? { ...this.path(overview), colours } : null,
      camera: this.options.frustum ? source.camera : null,
      image: source.image,
      picture: this.options.frustum && picture ? { element: picture, crop: this.crop ?? 1 } : null,
    });
    // pictures are dark ground; so is the pane without one, on dark pages
    const isOnDark = this.dark || picture !== null;
    drawOverlay(this.overlay, source.image, people.map((/** @type {any} */ person) => ({ ...person, colours: personColours(person.id, isOnDark) })));
    this.drawLabels(people);
    this.plots.draw({ source, id: this.chosen, timeS, ...this.plotWindow(), colours, inks: this.inks() });
    if (!source.live) this.drawTransport();
  }

  /** @param {import("./clip.js").Overview & {placesM?: Float32Array}} overview */
  path(overview) {
    const { startS, endS } = this.source;
    overview.placesM ??= Float32Array.from(overview.placesMm, (v) => v / 1000);
    return { placesM: overview.placesM, startS, stepS: (endS - startS) / overview.buckets };
  }

  pictureElement() {
    if (this.source.live) return this.picture.hidden || this.picture.width < 32 ? null : this.picture;
    return this.player.hasVideo && this.video.readyState >= 2 ? this.video : null;
  }

  inks() {
    return this.dark ? { line: "#eceef0", text: "#aab1b8", cursor: "#eceef0" } : { line: "#17191c", text: "#4c5257", cursor: "#17191c" };
  }

  plotWindow() {
    const { source, timeS, windowS } = this;
    if (source.live) return { fromS: timeS - windowS, toS: timeS + windowS * 0.02 };
    const lengthS = source.endS - source.startS;
    if (windowS === 0 || windowS >= lengthS) return { fromS: source.startS, toS: source.endS };
    const fromS = Math.min(Math.max(timeS - windowS / 2, source.startS), source.endS - windowS);
    return { fromS, toS: fromS + windowS };
  }

  /** @param {{id: number, row: import("./track.js").Row}[]} people */
  drawLabels(people) {
    for (const label of /** @type {Iterable<HTMLElement>} */ (byId("labels").children)) {
      const person = people.find(({ id }) => String(id) === label.dataset.id);
      const head = person && jointM(person.row, 10);
      const at = head && this.stage?.toScreen([head[0], head[1], head[2] + 0.16]);
      label.hidden = !at;
      if (at) label.style.transform = `translate(${at[0].toFixed(1)}px, ${at[1].toFixed(1)}px)`;
    }
  }

  drawTransport() {
    const { source, player } = this;
    byId("now").textContent = clock(player.timeS);
    byId("frame-number").textContent = source instanceof ClipSource ? `frame ${source.frameNumber(player.timeS)}` : "";
    const seek = /** @type {HTMLInputElement} */ (byId("seek"));
    if (document.activeElement !== seek || player.playing) seek.value = String(player.timeS);
    seek.setAttribute("aria-valuetext", `${player.timeS.toFixed(2)} seconds of ${source.endS.toFixed(2)}`);
    const play = byId("play");
    const label = player.playing ? "Pause" : "Play";
    if (play.getAttribute("aria-label") !== label) {
      play.setAttribute("aria-label", label);
      byId("play-shape").setAttribute("d", player.playing ? PAUSE : PLAY);
    }
    const { line, text } = this.inks();
    const lanes = source.people.map((/** @type {any} */ { id, spans_s }) => ({
      spansS: spans_s,
      colour: personColours(id, this.dark).right,
      chosen: id === this.chosen,
    }));
    const { startS, endS } = source;
    drawTimeline(/** @type {HTMLCanvasElement} */ (byId("timeline")), { startS, endS, timeS: player.timeS, ink: line, text, people: lanes });
    const isWaiting = !source.has(player.timeS);
    document.body.classList.toggle("waiting", isWaiting);
  }
}

/** A person's name; narrow pages show but its number. @param {string} label */
function chipText(label) {
  const [, word, number] = label.match(/^(Person )(\d+)$/) ?? [];
  if (!number) return [label];
  const span = document.createElement("span");
  span.className = "word";
  span.textContent = word;
  return [span, number];
}

/** What the lengths rest on, in words. @param {string | undefined} source @param {number} heightM */
export function scaleText(source, heightM) {
  const metres = `${heightM.toFixed(2)} m`;
  /** @type {Record<string, string>} */
  const texts = {
    default_height: `Scale assumed: ${metres} tall`,
    height: `Scale from the given height, ${metres}`,
    bone_lengths: `Scale from given bone lengths, ${metres} tall`,
    root_depth: `Scale from a given distance, ${metres} tall`,
  };
  return texts[source ?? ""] ?? `Scale: ${(source ?? "unknown").replaceAll("_", " ")}, ${metres} tall`;
}

/** @param {number | null | undefined} ms */
function milliseconds(ms) {
  return ms === null || ms === undefined ? "–" : `${Math.round(ms)} ms`;
}

/** Says something that the user should know; null takes it back. @param {string | null} text */
function say(text) {
  const message = byId("message");
  message.hidden = !text;
  message.textContent = text ?? "";
}

/** @param {string} key */
function recall(key) {
  try {
    return localStorage.getItem(`poselift.${key}`);
  } catch {
    return null; // the browser keeps nothing
  }
}

/** @param {string} key @param {string | null} value */
function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(`poselift.${key}`);
    else localStorage.setItem(`poselift.${key}`, value);
  } catch {
    // the browser keeps nothing
  }
}

async function start() {
  for (let pauseMs = 500; ; pauseMs = Math.min(2 * pauseMs, 8000)) {
    try {
      const answer = await fetch("/api/session");
      if (!answer.ok) throw new Error(await answer.text());
      const session = await answer.json();
      say(null);
      // for tests and the curious
      Object.assign(window, { poselift: new Page(session) });
      return;
    } catch (error) {
      console.warn(error);
      say(`The server does not answer: ${/** @type {Error} */ (error).message}. Trying again.`);
      await new Promise((done) => setTimeout(done, pauseMs));
    }
  }
}

if (typeof document !== "undefined") start();
