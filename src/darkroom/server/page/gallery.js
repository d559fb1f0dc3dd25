// The small pictures of this session, and which one the stage shows.

import { announce } from "./announce.js";
import { byId, element } from "./dom.js";
import { show } from "./pictures.js";
import { drawings, isOver } from "./session.js";
import { present } from "./stage.js";

const list = byId("thumbs");
const made = new Map(); // drawing and number to {button, image, mark, blob}

let chosen = null; // {drawing, index} that a person chose; null follows what is drawn
let told = new Set();

/** Goes along with what is drawn, from one drawing to the next. */
export function followDrawing() {
  chosen = null;
  update();
}

/** Brings the list and the stage up to date. */
export function update() {
  if (chosen && !drawings.includes(chosen.drawing)) chosen = null;
  const now = chosen ?? followed();
  const wanted = drawings.flatMap((drawing) =>
    (drawing.pictures.length ? drawing.pictures : [null]).map((picture, index) => thumb(drawing, index, picture, now)),
  );
  for (const [key, { button }] of made) if (!wanted.includes(button.parentElement)) drop(key);
  const before = document.activeElement;
  wanted.forEach((item, place) => {
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
  });
  if (list.contains(before) && document.activeElement !== before) before.focus();
  byId("none").hidden = drawings.length > 0;
  present(now?.drawing ?? null, now?.index ?? 0);
  drawings.filter(isOver).forEach(tellOfEnd);
}

/** What is drawn now; else what was asked for last. */
function followed() {
  const running = drawings.findLast((drawing) => drawing.state.status === "generating");
  const drawing = running ?? drawings.find(isOver) ?? drawings[0];
  return drawing ? { drawing, index: 0 } : null;
}

function thumb(drawing, index, picture, now) {
  const key = `${drawing.id} ${index}`;
  if (!made.has(key)) {
    const image = element("img", { alt: "" });
    const mark = element("span", { className: "mark" });
    const button = element("button", { type: "button" }, image, mark);
    button.addEventListener("click", () => {
      chosen = { drawing, index };
      update();
    });
    element("li", {}, button);
    made.set(key, { button, image, mark, blob: null });
  }
  const parts = made.get(key);
  const blob = picture?.blob ?? drawing.preview;
  parts.image.hidden = !blob;
  if (blob && blob !== parts.blob) show(parts.image, blob);
  parts.blob = blob;
  parts.mark.textContent = picture ? "" : markOf(drawing);
  parts.mark.hidden = Boolean(picture);
  const seed = picture ? `, seed ${picture.seed}` : `, ${markOf(drawing)}`;
  parts.button.setAttribute("aria-label", `${drawing.settings.prompt || "No prompt"}${seed}`);
  parts.button.setAttribute("aria-current", String(drawing === now?.drawing && index === now.index));
  return parts.button.parentElement;
}

function drop(key) {
  const { button, image } = made.get(key);
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  const hadFocus = button === document.activeElement;
  button.parentElement.remove();
  made.delete(key);
  if (hadFocus) byId("stage").focus({ preventScroll: true });
}

function markOf({ state, lost }) {
  if (lost) return "lost";
  if (state.status === "failed") return "failed";
  if (state.status !== "generating") return "waits";
  const done = (Math.max(0, state.image - 1) * state.steps + state.step) / (state.steps * state.images);
  return state.phase === "decode" ? "100 %" : `${Math.floor(100 * (done || 0))} %`;
}

function tellOfEnd(drawing) {
  if (told.has(drawing.id)) return;
  told.add(drawing.id);
  const { status, error } = drawing.state;
  if (status === "completed") announce(drawing.pictures.length > 1 ? `${drawing.pictures.length} pictures are there` : "The picture is there");
  if (status === "failed") announce(`It failed: ${error?.message}`);
}
