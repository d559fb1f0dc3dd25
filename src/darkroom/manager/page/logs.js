// What a model's process prints, as it prints it.

import { open } from "./api.js";
import { h } from "./dom.js";
import { act, problem, refresh } from "./parts.js";

const KEPT = 200_000; // characters

let text = "";
let following = null;

export function enter(id) {
  leave();
  text = "";
  const stop = (following = new AbortController());
  act("logs", () => follow(id, stop.signal));
}

export function leave() {
  following?.abort();
  following = null;
}

async function follow(id, signal) {
  try {
    const answer = await open(`admin/logs/${encodeURIComponent(id)}?follow=true&lines=1000`, { signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text = (text + value).slice(-KEPT);
      refresh();
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

export function view(model) {
  return [
    problem("logs"),
    text
      ? h("pre", { key: "log", className: "log", tabIndex: 0, role: "log", "aria-label": `Log of ${model.id}`, "aria-live": "off", $made: toEnd, onscroll: noteEnd, $patched: stayAtEnd }, text)
      : h("p", { key: "none", className: "note" }, "Its process has printed nothing yet: it prints when it is loaded."),
  ];
}

let isAtEnd = true;

function noteEnd({ target }) {
  isAtEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
}

function toEnd() {
  isAtEnd = true;
}

function stayAtEnd(node) {
  requestAnimationFrame(() => isAtEnd && (node.scrollTop = node.scrollHeight));
}
