// The line at the top: the model, the device's memory, how the server is.

import { announce } from "./announce.js";
import { byId, bytes } from "./dom.js";
import { call } from "./api.js";

const LOADING_EVERY = 1000;
const EVERY = 10_000;

let timer = 0;
let ready = () => {};
let last = { status: null, pid: null };

/** Watches the server from now on. onReady(): the model is there, for the first time or in a new process. */
export function watch(onReady) {
  ready = onReady;
  document.addEventListener("visibilitychange", () => !document.hidden && look());
  return look();
}

/** Shows that something is drawn, or not. */
export function showDrawing(isDrawing) {
  if (last.status === "ok") setState(isDrawing ? "drawing" : "ready", isDrawing ? "Drawing" : "Ready");
}

async function look() {
  clearTimeout(timer);
  let health = null;
  try {
    health = await call("health");
    await show(health);
  } catch {
    last = { ...last, status: null };
    setState("error", "The server does not answer");
  }
  if (!document.hidden) timer = setTimeout(look, health?.status === "ok" ? EVERY : LOADING_EVERY);
}

async function show(health) {
  byId("model").textContent = health.model;
  document.title = `${health.model} · Darkroom`;
  const isNew = health.status === "ok" && (last.status !== "ok" || last.pid !== health.pid);
  const isStart = health.status === "loading" && last.status !== "loading";
  const before = last;
  last = health;
  if (health.status === "error") return setState("error", "No model", health.error);
  if (health.status === "loading") {
    if (isStart) announce("The model is being loaded");
    const { bytes_read: read, bytes_total: total } = health;
    const amount = total ? `${bytes(read)} of ${bytes(total)}` : "";
    return setState("loading", `Loading ${amount}`, "The model is being loaded.", total ? read / total : null);
  }
  if (isNew) {
    setState("ready", "Ready", "What shall be drawn?");
    if (before.status === "loading") announce("The model is ready");
    await ready();
  }
  await showMemory();
}

async function showMemory() {
  const { ram, cuda } = await call("sdapi/v1/memory");
  const cards = Object.entries(cuda.devices ?? {}).map(
    ([name, { used, total }]) => `${name}: ${bytes(used)} of ${bytes(total)} in use`,
  );
  byId("memory").textContent = cards.length ? cards.join(" · ") : `${bytes(ram.used)} of memory in use`;
}

/** share: of the model's bytes, shown as a bar. */
function setState(state, text, empty, share) {
  document.body.dataset.state = state;
  byId("state-text").textContent = text;
  if (empty) byId("empty-text").textContent = empty;
  const bar = byId("loading");
  bar.hidden = state !== "loading";
  if (share === null || share === undefined) bar.removeAttribute("value");
  else bar.value = share;
}
