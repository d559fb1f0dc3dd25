// What was asked for in this tab, the newest first: each drawing from its request to its pictures.

import { blobOf } from "./pictures.js";
import { call, Refused } from "./api.js";
import { follow } from "./events.js";
import { ofTab } from "./storage.js";

const TYPES = { png: "image/png", jpeg: "image/jpeg", webp: "image/webp" };

/**
 * One drawing. settings: the form's. state: the server's job. preview: the newest, a Blob.
 * pictures: [{blob, seed, infotext, name}] when it is completed. lost: whether the server is out of reach.
 */
export const drawings = [];

let changed = () => {};

/** onChange(drawing): something about it is new, or it was added or removed. */
export function prepare(onChange) {
  changed = onChange;
}

/** Asks for pictures. body: the request's JSON. Throws Refused, Unreachable. */
export async function draw(settings, body) {
  const receipt = await call("sdcpp/v1/img_gen", { body });
  const drawing = add(receipt.id, settings, receipt);
  drawing.settings = { ...settings, seed: String(receipt.seeds[0]) };
  keep();
  watch(drawing);
  return drawing;
}

/** Finds again what this tab asked for before it was reloaded, as far as the server remembers. */
export async function restore() {
  for (const { id, settings } of ofTab.read("jobs", [])) {
    if (drawings.some((drawing) => drawing.id === id)) continue;
    try {
      const state = await call(`sdcpp/v1/jobs/${encodeURIComponent(id)}`);
      if (state.status === "cancelled") continue;
      const drawing = add(id, settings, state);
      if (isOver(drawing)) finish(drawing, state);
      else watch(drawing);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
  }
  keep();
}

export async function cancel(drawing) {
  await call(`sdcpp/v1/jobs/${encodeURIComponent(drawing.id)}/cancel`, { body: {} });
}

export function remove(drawing) {
  const place = drawings.indexOf(drawing);
  if (place >= 0) drawings.splice(place, 1);
  keep();
  changed(drawing);
}

export function isOver(drawing) {
  return ["completed", "failed", "cancelled"].includes(drawing.state.status);
}

function add(id, settings, state) {
  const drawing = { id, settings, state, preview: null, pictures: [], lost: false, heard: performance.now() };
  drawings.unshift(drawing);
  changed(drawing);
  return drawing;
}

function keep() {
  ofTab.write("jobs", drawings.map(({ id, settings }) => ({ id, settings })).reverse());
}

async function watch(drawing) {
  const onEvent = ({ type, data }) => {
    const { preview, ...state } = data;
    drawing.heard = performance.now();
    if (preview) drawing.preview = blobOf(preview.b64_json, preview.mime_type);
    if (type === "completed") return; // the pictures are fetched first
    drawing.state = state;
    changed(drawing);
  };
  const onLost = (isLost) => {
    if (drawing.lost === isLost) return;
    drawing.lost = isLost;
    changed(drawing);
  };
  try {
    await follow(drawing.id, onEvent, onLost);
    if (!isOver(drawing)) finish(drawing, await state(drawing));
    else if (drawing.state.status === "cancelled") remove(drawing);
  } catch (error) {
    drawing.state = { ...drawing.state, status: "failed", error: { code: error.code, message: error.message } };
  }
  changed(drawing);
}

/** The finished job with its pictures; a connection that is lost just then is waited for. */
async function state(drawing) {
  for (;;) {
    try {
      return await call(`sdcpp/v1/jobs/${encodeURIComponent(drawing.id)}`);
    } catch (error) {
      if (error instanceof Refused) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

function finish(drawing, { result, ...state }) {
  const type = result?.output_format;
  drawing.pictures = (result?.images ?? []).map((image) => {
    // from the text: JavaScript's numbers are too short for the longest seeds
    const seed = /\bSeed: (\d+)/.exec(image.infotext)?.[1] ?? String(image.seed);
    const name = `${nameOf(drawing.settings.prompt)}-${seed}.${type === "jpeg" ? "jpg" : type}`;
    return { blob: blobOf(image.b64_json, TYPES[type]), seed, infotext: image.infotext, name };
  });
  drawing.state = state;
  drawing.preview = null;
  changed(drawing);
}

/** The prompt as the beginning of a file's name. */
function nameOf(prompt) {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.slice(0, 8).join("-").slice(0, 60) || "picture";
}
