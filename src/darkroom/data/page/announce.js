// What a screen reader is told: never more than one thing in five seconds, and of several the newest.

import { byId } from "./by_id.js";

const GAP = 5000;

let last = -GAP;
let waiting = null;
let timer = 0;

export function announce(text) {
  waiting = text;
  clearTimeout(timer);
  timer = setTimeout(say, Math.max(0, last + GAP - performance.now()));
}

function say() {
  last = performance.now();
  byId("announcer").textContent = waiting;
}
