// The form: what is asked for, as a flat object, and as the request that the server reads.

import { byId, fillSelect } from "./dom.js";
import { nearest, presets } from "./sizes.js";
import { lasting } from "./storage.js";

const form = byId("settings");
const preset = byId("preset");
const OWN_SIZE = "own";

/** The names of the controls in the form that hold settings. */
const NAMES = [
  "prompt", "negative", "width", "height", "steps", "cfg", "guidance", "sampler", "scheduler", "seed", "keep",
  "count", "format", "strength", "clip_skip", "flow_shift", "preview", "quality", "tiling", "embed",
];
const TEXTS = ["prompt", "negative"];
const DRAWN_ANEW = ["seed"]; // the seed of the last drawing is remembered as long as it is kept

let capabilities = null;
let defaults = {};

/** Makes the form fit the model, and fills in what was used with it last. */
export function adapt(told) {
  capabilities = told;
  defaults = defaultsOf(told);
  fillSelect(byId("sampler"), told.samplers);
  fillSelect(byId("scheduler"), told.schedulers);
  fillSelect(byId("format"), told.output_formats, (name) => name.toUpperCase());
  fillSelect(byId("preview"), told.previews, (name) => PREVIEWS[name] ?? name);
  fillSizes();
  byId("guidance-field").hidden = told.defaults.sample_params.guidance.distilled_guidance === null;
  byId("references").hidden = !told.features.ref_images;
  byId("count").max = told.limits.max_batch_count;
  const before = Object.fromEntries(TEXTS.map((name) => [name, form.elements[name].value]));
  const typed = Object.fromEntries(Object.entries(before).filter(([, text]) => text));
  fill({ ...defaults, ...lasting.read(memory(), {}), ...typed });
  byId("controls").disabled = false;
}

const PREVIEWS = { none: "none", proj: "fast", tae: "tiny autoencoder", vae: "exact and slow" };

/** The settings as they stand. */
export function read() {
  return Object.fromEntries(NAMES.map((name) => [name, valueOf(form.elements[name])]));
}

/** Sets what is given, and leaves the rest. */
export function fill(settings) {
  for (const name of NAMES) {
    if (settings[name] !== undefined) put(form.elements[name], settings[name]);
  }
  refresh();
}

/** Fills in another drawing's settings, its seed to be kept. */
export function reuse(settings) {
  fill({ ...settings, keep: Boolean(settings.seed) });
  remember();
}

export function reset() {
  fill({ ...defaults, prompt: byId("prompt").value, negative: byId("negative").value });
  remember();
}

/** Says what was typed so far where the model is not known yet. */
export function recall() {
  fill(lasting.read("texts", {}));
}

/** Keeps what differs from the model's defaults. */
export function remember() {
  const settings = read();
  lasting.write("texts", Object.fromEntries(TEXTS.map((name) => [name, settings[name]])));
  if (!capabilities) return;
  const kept = NAMES.filter((name) => !TEXTS.includes(name) && settings[name] !== defaults[name]);
  const changed = kept.filter((name) => settings.keep || !DRAWN_ANEW.includes(name));
  lasting.write(memory(), Object.fromEntries(changed.map((name) => [name, settings[name]])));
}

/** The request's JSON. pictures: {init_image, mask_image, ref_images} in base64. */
export function requestOf(settings, pictures) {
  const body = {
    prompt: settings.prompt,
    negative_prompt: settings.negative,
    width: settings.width,
    height: settings.height,
    seed: settings.keep && settings.seed ? settings.seed : "-1",
    batch_count: settings.count,
    clip_skip: settings.clip_skip || -1,
    output_format: settings.format,
    output_compression: settings.quality,
    embed_image_metadata: settings.embed,
    preview: settings.preview,
    sample_params: {
      sample_method: settings.sampler,
      scheduler: settings.scheduler,
      sample_steps: settings.steps,
      flow_shift: settings.flow_shift,
      guidance: { txt_cfg: settings.cfg, ...(hasGuidance() && { distilled_guidance: settings.guidance }) },
    },
    vae_tiling_params: { enabled: settings.tiling },
    ...(pictures.init_image && { strength: settings.strength }),
    ...pictures,
  };
  // seeds have up to 63 bits, JavaScript's numbers 53: they are texts here
  return JSON.stringify(body).replace(/"seed":"(-?\d+)"/, '"seed":$1');
}

/** Whether guidance is a setting of the model. */
export function hasGuidance() {
  return !byId("guidance-field").hidden;
}

/** Keeps the form whole: sides that the model can draw, numbers within their limits, notes. */
export function tidy(control) {
  if (control === preset) choosePreset();
  else if (control?.type === "number") clamp(control);
  refresh();
  remember();
}

/** A seed that was typed is kept. */
export function takeSeed() {
  const seed = byId("seed");
  seed.value = seed.value.replace(/\D/g, "");
  byId("keep").checked = seed.value !== "";
  remember();
}

export function swapSides() {
  fill({ width: valueOf(byId("height")), height: valueOf(byId("width")) });
  remember();
}

export function setSize({ width, height }) {
  fill({ width, height });
  remember();
}

/** The seed of what is being drawn, so that it can be kept. */
export function showSeed(seed) {
  if (!byId("keep").checked) byId("seed").value = seed;
}

function memory() {
  return `settings.${capabilities.model.name}`;
}

function defaultsOf({ defaults: given, previews }) {
  const sample = given.sample_params;
  return {
    prompt: given.prompt,
    negative: given.negative_prompt,
    width: given.width,
    height: given.height,
    steps: sample.sample_steps,
    cfg: sample.guidance.txt_cfg,
    guidance: sample.guidance.distilled_guidance,
    sampler: sample.sample_method,
    scheduler: sample.scheduler,
    seed: "",
    keep: false,
    count: given.batch_count,
    format: given.output_format,
    strength: given.strength,
    clip_skip: given.clip_skip > 0 ? given.clip_skip : null,
    flow_shift: sample.flow_shift,
    preview: given.preview === "none" && previews.includes("proj") ? "proj" : given.preview,
    quality: given.output_compression,
    tiling: given.vae_tiling_params.enabled,
    embed: given.embed_image_metadata,
  };
}

function valueOf(control) {
  if (control.type === "checkbox") return control.checked;
  if (control.type === "number" || control.type === "range") return control.value === "" ? null : control.valueAsNumber;
  return control.value;
}

function put(control, value) {
  if (control.type === "checkbox") control.checked = value;
  else if (control.tagName === "SELECT") {
    if ([...control.options].some((option) => option.value === value)) control.value = value;
  } else control.value = value ?? "";
}

function clamp(control) {
  const own = defaults[control.name];
  if (control.value === "") {
    put(control, own);
    return;
  }
  let value = control.valueAsNumber;
  if (control.name === "width" || control.name === "height") value = nearest(value, capabilities);
  if (control.min !== "") value = Math.max(Number(control.min), value);
  if (control.max !== "") value = Math.min(Number(control.max), value);
  control.value = control.inputMode === "numeric" ? Math.round(value) : value;
}

function fillSizes() {
  const sizes = presets(capabilities);
  preset.replaceChildren(
    ...sizes.map(({ label, width, height }) => new Option(label, `${width}x${height}`)),
    new Option("Own size", OWN_SIZE),
  );
  const { model, limits } = capabilities;
  for (const name of ["width", "height"]) {
    Object.assign(byId(name), { min: limits.min_width, max: limits.max_width, step: model.size_multiple });
  }
}

function choosePreset() {
  if (preset.value === OWN_SIZE) byId("width").focus();
  else {
    const [width, height] = preset.value.split("x").map(Number);
    fill({ width, height });
  }
}

/** What follows from the settings: the preset's name, notes, the line under "Settings". */
function refresh() {
  const { width, height, steps, sampler, count, strength, cfg } = read();
  byId("negative-note").hidden = !(capabilities && cfg === 1);
  byId("strength-value").textContent = strength?.toFixed(2) ?? "";
  if (!capabilities) return;
  const value = `${width}x${height}`;
  preset.value = [...preset.options].some((option) => option.value === value) ? value : OWN_SIZE;
  const several = count > 1 ? ` · ${count} pictures` : "";
  byId("summary").textContent = `${width} × ${height} · ${steps} steps · ${sampler}${several}`;
  byId("start-image").style.aspectRatio = `${width} / ${height}`;
}
