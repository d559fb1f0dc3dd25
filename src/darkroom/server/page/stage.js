// The picture in the middle: as it becomes, as it is, or why there is none.

import { announce } from "./announce.js";
import { byId, describe, seconds } from "./dom.js";
import { show } from "./pictures.js";
import { isOver } from "./session.js";

const PHASES = {
  load: "Loading the weights",
  encode_text: "Reading the prompt",
  encode_image: "Reading the picture",
  sample: "Drawing",
  decode: "Developing",
};

const image = byId("picture");
let shown = { drawing: null, index: 0, blob: null };
let announced = null;

/** Shows a drawing, or its picture number `index` when it is completed, or that there is nothing yet. */
export function present(drawing, index = 0) {
  const isOther = shown.drawing !== drawing || shown.index !== index;
  shown = { drawing, index, blob: isOther ? null : shown.blob };
  const status = drawing?.state.status;
  const picture = drawing?.pictures[index];
  const blob = picture?.blob ?? drawing?.preview ?? null;
  byId("empty").hidden = Boolean(blob) || Boolean(drawing && !isOver(drawing));
  showImage(drawing, blob, Boolean(picture));
  if (isOther) byId("metadata").open = byId("metadata").open && Boolean(picture);
  byId("about").hidden = !picture;
  byId("failed").hidden = status !== "failed";
  if (picture) describePicture(drawing, picture);
  if (status === "failed") byId("failure").textContent = drawing.state.error?.message ?? "It failed.";
  showProgress(drawing);
}

/** The drawing and the picture that the buttons under it are about. */
export function presented() {
  return { drawing: shown.drawing, picture: shown.drawing?.pictures[shown.index] };
}

function showImage(drawing, blob, isFinished) {
  image.hidden = blob === null;
  byId("sheet").hidden = blob !== null || !drawing || isOver(drawing); // paper, until there is a preview
  if (drawing) takeShape(drawing.settings);
  if (blob === null || blob === shown.blob) {
    shown.blob = blob;
    return;
  }
  shown.blob = blob;
  const { prompt } = drawing.settings;
  image.alt = isFinished ? prompt || "A picture without a prompt" : `Preview: ${prompt}`;
  show(image, blob);
}

/** Pictures are shown in their own size; small ones, and previews, larger. */
function takeShape({ width, height }) {
  const frame = byId("frame").style;
  frame.setProperty("--aspect", width / height);
  frame.setProperty("--shown", `${Math.max(width, 512 * Math.min(1, width / height))}px`);
}

function showProgress(drawing) {
  const isRunning = Boolean(drawing) && !isOver(drawing);
  const hadFocus = byId("progress").contains(document.activeElement);
  byId("progress").hidden = !isRunning;
  if (!isRunning) {
    if (hadFocus) byId("stage").focus({ preventScroll: true });
    return;
  }
  const { state } = drawing;
  const bar = byId("bar");
  const all = state.steps * state.images;
  const isCounted = state.phase === "sample" && all > 0;
  if (isCounted) Object.assign(bar, { max: all, value: Math.max(0, state.image - 1) * state.steps + state.step });
  else if (state.phase === "decode") Object.assign(bar, { max: 1, value: 1 });
  else bar.removeAttribute("value");
  byId("phase").textContent = phaseOf(drawing);
  byId("left").textContent = leftOf(drawing);
  byId("cancel").setAttribute("aria-disabled", String(Boolean(drawing.isLeaving)));
  tell(drawing, isCounted ? Math.floor((4 * state.step) / state.steps) : state.phase);
}

function phaseOf({ state, lost, isLeaving }) {
  if (lost) return "The connection is lost; trying again";
  if (isLeaving) return "Cancelling";
  if (state.status === "queued") {
    return state.queue_position > 1 ? `Waiting: number ${state.queue_position} in line` : "Waiting: next in line";
  }
  const phase = PHASES[state.phase] ?? "Beginning";
  if (state.phase !== "sample") return phase;
  const which = state.images > 1 ? `picture ${Math.max(1, state.image)} of ${state.images}, ` : "";
  return `${phase}: ${which}step ${state.step} of ${state.steps}`;
}

function leftOf({ state, heard, lost }) {
  if (lost || state.eta === null || state.eta === undefined) return "";
  return `about ${seconds(state.eta - (performance.now() - heard) / 1000)} left`;
}

function describePicture(drawing, picture) {
  const { settings, state } = drawing;
  byId("about-prompt").textContent = settings.prompt || "No prompt";
  describe(byId("facts"), [
    ["Seed", picture.seed],
    ["Size", `${settings.width} × ${settings.height}`],
    ["Steps", settings.steps],
    ["CFG", settings.cfg],
    ["Sampler", `${settings.sampler}, ${settings.scheduler}`],
    ["Took", state.started ? seconds(Math.max(1, state.completed - state.started)) : ""],
  ]);
  const link = byId("download");
  if (link.dataset.name !== picture.name || link.dataset.job !== drawing.id) {
    if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(picture.blob);
    link.download = picture.name;
    Object.assign(link.dataset, { name: picture.name, job: drawing.id });
  }
  byId("infotext").textContent = picture.infotext;
}

/** Tells a screen reader of a quarter of the way, a phase, an end; what it was told it is not told again. */
function tell(drawing, what) {
  const mark = `${drawing.id} ${drawing.state.status} ${drawing.state.image} ${what} ${drawing.lost}`;
  if (mark === announced) return;
  announced = mark;
  announce([phaseOf(drawing), leftOf(drawing)].filter(Boolean).join(", "));
}
