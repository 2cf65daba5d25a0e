// Time: that of the video where there is one, a clock of our own where there is none.

import { clamp } from "./maths.js";

export const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
/** A seek goes a little beyond the frame's time, so that rounding shows this frame and not the one before. */
const INTO_FRAME = 0.4;

export class Player {
  timeS = 0;
  playing = false;
  rate = 1;
  loop = false;
  /** The clip's time of the video's first frame. */
  offsetS = 0;
  hasVideo = false;

  /** @param {HTMLVideoElement} video @param {any} source @param {() => void} changed */
  constructor(video, source, changed) {
    this.video = video;
    this.source = source;
    this.changed = changed;
    this.timeS = source.startS;
    this.lastTick = 0;
    video.addEventListener("ended", () => this.atEnd());
    for (const event of ["loadeddata", "seeked"]) video.addEventListener(event, () => this.changed());
    // the browser may stop it: no power, another tab
    video.addEventListener("pause", () => {
      if (this.playing && this.hasVideo && !video.ended) this.pause();
    });
    this.tellsFrames = "requestVideoFrameCallback" in video;
    if (this.tellsFrames) {
      const each = (/** @type {number} */ _, /** @type {{mediaTime: number}} */ frame) => {
        if (this.playing) this.showFrame(frame.mediaTime + this.offsetS);
        video.requestVideoFrameCallback(each);
      };
      video.requestVideoFrameCallback(each);
    }
  }

  /** @param {number} timeS of the frame that the video shows */
  showFrame(timeS) {
    // media times are rounded to microseconds
    this.timeS = clamp(timeS + 1e-4, this.source.startS, this.source.endS);
    if (timeS >= this.source.endS - 1e-3) this.atEnd();
    this.changed();
  }

  /** Called for every picture of the screen. @param {number} nowMs */
  tick(nowMs) {
    const passedS = Math.min((nowMs - this.lastTick) / 1000, 0.25);
    this.lastTick = nowMs;
    if (!this.playing || this.source.live) return;
    if (!this.hasVideo) {
      this.timeS += passedS * this.rate;
      if (this.timeS >= this.source.endS) this.atEnd();
      this.changed();
    } else if (!this.tellsFrames) {
      this.showFrame(this.video.currentTime + this.offsetS);
    }
  }

  atEnd() {
    if (this.loop) {
      this.seek(this.source.startS);
      if (this.hasVideo && this.playing) this.video.play().catch(() => this.pause());
      return;
    }
    this.pause();
    this.timeS = this.source.endS - this.source.frameS;
  }

  play() {
    if (this.timeS >= this.source.endS - 1.5 * this.source.frameS) this.seek(this.source.startS);
    this.playing = true;
    if (this.hasVideo) this.video.play().catch(() => this.pause());
    this.changed();
  }

  pause() {
    const wasPlaying = this.playing;
    this.playing = false;
    if (this.hasVideo) {
      this.video.pause();
      // the video may be some frames further than the last one that we were told of
      if (wasPlaying && !this.video.ended) this.seek(this.video.currentTime + this.offsetS);
    }
    this.changed();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  /** @param {number} timeS */
  seek(timeS) {
    const within = clamp(timeS, this.source.startS, this.source.endS - this.source.frameS / 2);
    // onto a frame, where frames are known: the video then shows the same one
    this.timeS = this.source.has(within) ? this.source.stepped(within, 0) : within;
    if (this.hasVideo) this.video.currentTime = Math.max(this.timeS - this.offsetS, 0) + INTO_FRAME * this.source.frameS;
    this.changed();
  }

  /** @param {number} frames forwards, or backwards */
  step(frames) {
    this.pause();
    this.seek(this.source.stepped(this.timeS, frames));
  }

  /** @param {number} rate */
  setRate(rate) {
    this.rate = rate;
    this.video.playbackRate = rate;
    this.changed();
  }
}
