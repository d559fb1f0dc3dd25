// Pictures by one model: what to draw, how it comes about, what was drawn.

import { announce } from "./announce.js";
import { call } from "./api.js";
import { samplers, schedulers } from "./choices.js";
import { byId, h } from "./dom.js";
import { settingsOf } from "./infotext.js";
import { hurry, isOpen, known, statusOf } from "./live.js";
import { act, isRunning, linkTo, problem, refresh } from "./parts.js";
import { picture } from "./pictures.js";
import { sizeChoices } from "./sizes.js";
import { stage } from "./stage.js";
import { lasting } from "./stream.js";
import { isServing, phaseWords } from "./words.js";

const FINAL = ["completed", "failed", "cancelled", "interrupted"];
const EARLIER = 24;
const EXAMPLES = {
  darkroom: ["a red circle on a blue background", "a large yellow star on a purple background", "a green heart above a white moon"],
  local: ["a lighthouse at dusk, oil painting", "a fox in the snow, 35mm photograph", "an old library, watercolour"],
};

let id = null;
let shown = null; // {job, preview, index}
let following = null;
let defaults = {}; // by model: what its requests get that say nothing

export function enter(model, query) {
  if (id !== model) shown = null;
  id = model;
  const wanted = query.get("job");
  if (wanted && wanted !== shown?.job.id) show(wanted);
  else if (!wanted && !shown) {
    const open = known.jobs?.find((job) => job.model === model && isOpen(job));
    if (open) show(open.id);
  }
}

async function show(job) {
  await act("draw", async () => follow(await call(`v1/jobs/${encodeURIComponent(job)}`)));
}

function follow(job) {
  following?.abort();
  shown = { job, preview: job.preview, index: 0 };
  refresh();
  if (FINAL.includes(job.status)) return;
  const stop = (following = new AbortController());
  listen(job.id, stop.signal).catch((error) => error.name !== "AbortError" && hurry("jobs"));
}

async function listen(job, signal) {
  const path = `v1/jobs/${encodeURIComponent(job)}/events`;
  for await (const { type, data } of lasting(path, { signal, isLast: (event) => FINAL.includes(event.type) })) {
    if (shown?.job.id !== job) return;
    shown = { job: data, preview: FINAL.includes(type) ? null : (data.preview ?? shown.preview), index: 0 };
    if (type === "completed") announce(data.result.images.length > 1 ? `${data.result.images.length} pictures are ready` : "The picture is ready");
    else if (FINAL.includes(type)) announce(data.error?.message ?? type);
    else if (type === "phase" || type === "step") announce(phaseWords(data));
    if (FINAL.includes(type)) hurry("jobs");
    refresh();
  }
}

/** Whether a job of the model is shown that has not ended. */
export const isWatching = (model) => id === model && shown !== null && isOpen(shown.job);

export function view(model) {
  learnDefaults();
  return h("div", { className: "drawing", key: `drawing ${model.id}` }, form(model),
    h("div", { className: "shown" }, stage(shown, { examples: EXAMPLES[model.owned_by] ?? EXAMPLES.local, onExample: example, onPick: (index) => { shown.index = index; refresh(); }, onUse: use, onCancel: cancel, onRetry: retry }), earlier(model)));
}

async function learnDefaults() {
  const model = id;
  if (defaults[model] || !isServing(statusOf(model).state)) return;
  defaults[model] = {};
  try {
    const answer = await call(`sdcpp/v1/capabilities?model=${encodeURIComponent(model)}`);
    const { width, height, sample_params: sample } = answer.defaults;
    const found = { width, height, steps: sample.sample_steps, cfg: sample.guidance.txt_cfg, guidance: sample.guidance.distilled_guidance, multiple: answer.model?.size_multiple };
    defaults[model] = found;
    refresh();
  } catch {
    delete defaults[model];
  }
}

function form(model) {
  const usual = { ...defaults[model.id] };
  const number = (name, words, more = {}) => h("div", { className: "field", key: name }, h("label", { for: name }, words),
    h("input", { id: name, type: "number", inputMode: "numeric", min: 0, step: 1, placeholder: usual[name] === undefined || usual[name] === null ? "auto" : String(usual[name]), ...more }));
  const choice = (name, words, list) => h("div", { className: "field", key: name }, h("label", { for: name }, words),
    h("select", { id: name }, h("option", { key: "", value: "" }, "model's own"), list.map((each) => h("option", { key: each, value: each }, each))));
  return h("form", { key: "form", className: "card stack wants", autocomplete: "off", noValidate: false, "aria-label": "What to draw", onsubmit: (event) => { event.preventDefault(); draw(model); }, onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); event.currentTarget.requestSubmit(); } } },
    model.ready ? null : h("p", { key: "parts", className: "wrong" }, "Some of its parts are missing: ", h("a", { href: linkTo(model.id) }, "Components"), "."),
    h("div", { className: "field", key: "p" }, h("label", { for: "prompt" }, "Prompt"),
      h("textarea", { id: "prompt", rows: 3, required: true, "aria-keyshortcuts": "Control+Enter" })),
    h("div", { className: "field", key: "n" }, h("label", { for: "negative" }, "Negative prompt"), h("textarea", { id: "negative", rows: 1 })),
    h("div", { className: "field", key: "s" }, h("label", { for: "size" }, "Size"),
      h("select", { id: "size", onchange: ({ target }) => setSize(target) }, sizeChoices(model, usual).map(({ value, words }) => h("option", { key: value, value }, words)))),
    h("div", { className: "grid", key: "g" },
      number("width", "Width", { min: 16, step: usual.multiple ?? 8 }), number("height", "Height", { min: 16, step: usual.multiple ?? 8 }),
      number("steps", "Steps", { min: 1 }), number("count", "Pictures", { min: 1, max: 8, placeholder: "1" })),
    h("div", { className: "field", key: "seed" }, h("label", { for: "seed" }, "Seed"),
      h("input", { id: "seed", inputMode: "numeric", pattern: "[0-9]*", maxLength: 19, placeholder: "a new one each time" })),
    h("details", { key: "more" }, h("summary", {}, "More"),
      h("div", { className: "grid" },
        number("cfg", "CFG scale", { step: "any", inputMode: "decimal" }), number("guidance", "Guidance", { step: "any", inputMode: "decimal" }),
        choice("sampler", "Sampler", samplers()), choice("scheduler", "Schedule", schedulers()))),
    problem("draw"),
    h("p", { key: "draw", className: "draw" }, h("button", { className: "main big", "aria-disabled": isRunning("draw") ? "true" : null }, "Draw ", h("kbd", { "aria-hidden": "true" }, "Ctrl ⏎"))));
}

function setSize({ value }) {
  const [width, height] = value.split("x");
  byId("width").value = width;
  byId("height").value = height ?? "";
}

/** Seeds have more digits than numbers of a page can hold. */
const exact = (digits) => JSON.rawJSON?.(digits.replace(/^0+(?=\d)/, "")) ?? Number(digits);

const text = (name) => byId(name).value.trim();
const numeric = (name) => (text(name) === "" ? undefined : Number(text(name)));

async function draw(model) {
  const sample = {
    sample_steps: numeric("steps"), sample_method: text("sampler") || undefined, scheduler: text("scheduler") || undefined,
    guidance: { txt_cfg: numeric("cfg"), distilled_guidance: numeric("guidance") },
  };
  const seed = text("seed");
  const request = {
    prompt: text("prompt"), negative_prompt: text("negative") || undefined, width: numeric("width"), height: numeric("height"),
    batch_count: numeric("count") ?? 1, seed: seed === "" ? -1 : exact(seed), sample_params: sample, preview: "proj",
  };
  await act("draw", async () => {
    follow(await call("v1/jobs", { body: { model: model.id, request } }));
    announce("Asked for");
    hurry("jobs");
    if (location.hash.includes("?")) history.replaceState(null, "", linkTo(model.id, "draw"));
    if (matchMedia("(max-width: 60rem)").matches) byId("stage").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth" });
  });
}

async function cancel() {
  const { id: job } = shown.job;
  await act("cancel", () => call(`v1/jobs/${encodeURIComponent(job)}`, { method: "DELETE" }));
  byId("stage").focus();
}

async function retry() {
  const { id: job } = shown.job;
  await act("draw", async () => follow(await call(`v1/jobs/${encodeURIComponent(job)}/retry`, { method: "POST" })));
}

function example(prompt) {
  byId("prompt").value = prompt;
  byId("prompt").focus();
}

/** The settings of a picture, back in the form. */
function use({ infotext, seed }) {
  const wanted = { seed, ...settingsOf(infotext ?? "") };
  for (const name of ["prompt", "negative", "width", "height", "steps", "cfg", "guidance", "seed"]) {
    byId(name).value = wanted[name] ?? "";
  }
  byId("prompt").focus();
  announce("The settings are filled in");
}

function earlier(model) {
  const jobs = (known.jobs ?? []).filter((job) => job.model === model.id && job.status === "completed").slice(0, EARLIER);
  if (!jobs.length) return null;
  return h("section", { key: "earlier", className: "earlier", "aria-labelledby": "earlier-title" },
    h("h2", { id: "earlier-title" }, "Drawn before"),
    h("ol", { className: "thumbs" }, jobs.map((job) =>
      h("li", { key: job.id }, h("a", { href: `${linkTo(model.id, "draw")}?job=${encodeURIComponent(job.id)}`, "aria-current": shown?.job.id === job.id ? "true" : null, onclick: (event) => { event.preventDefault(); follow(job); } },
        thumb(job))))));
}

const thumb = (job) => {
  const src = picture(job.result.images[0].url);
  return src ? h("img", { key: src, src, alt: job.prompt || "A picture" }) : h("span", { className: "unseen" }, job.prompt || "A picture");
};
