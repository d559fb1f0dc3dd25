// How one model is loaded and what its requests start from: what is asked for, what is in force, and why.

import { announce } from "./announce.js";
import { call } from "./api.js";
import { byId, h } from "./dom.js";
import { samplers, schedulers } from "./choices.js";
import { act, actButton, isRunning, problem, refresh } from "./parts.js";
import { load } from "./model.js";

const NUMBER = { type: "number", inputMode: "numeric" };
const DECIMAL = { type: "number", inputMode: "decimal", step: "any", min: 0 };
const GROUPS = [
  ["Device", {
    gpu_layers: ["GPU layers", "-1 keeps the whole network on the GPU and is fastest. A number keeps that many of its blocks there and brings the rest from main memory block by block: less GPU memory, slower. 0 keeps none.", { ...NUMBER, min: -1, step: 1 }],
    threads: ["Threads", "Of the CPU. -1 takes as many as there are cores.", { ...NUMBER, min: -1, max: 1024, step: 1 }],
    backend: ["Backend", "Where the parts compute: cuda0, cpu, or one by one as te=cpu,vae=cpu,diffusion=cuda0. Empty: the best there is.", {}],
    params_backend: ["Weights in", "Where weights wait: cpu for main memory, disk for the file. Empty: with their part.", {}],
  }],
  ["Drawing", {
    cfg_scale: ["CFG scale", "How strongly the prompt is followed, for models with a negative prompt. Usually 7; 1 is off.", DECIMAL],
    guidance: ["Guidance", "The same for distilled models such as Flux dev, usually 3.5.", DECIMAL],
    steps: ["Steps", "More take longer and are finer: 20 to 30, and 1 to 8 for turbo models.", { ...NUMBER, min: 1, step: 1 }],
    sampler: ["Sampler", "How the noise is taken away.", "samplers"],
    scheduler: ["Schedule", "Which noise levels are passed.", "schedulers"],
    width: ["Width", "In pixels.", { ...NUMBER, min: 1, step: 1 }],
    height: ["Height", "In pixels.", { ...NUMBER, min: 1, step: 1 }],
  }],
  ["Staying loaded", {
    keep_alive: ["Keep alive", "How long it stays without work: 15m, 1h, 0 not at all, -1 for ever.", {}],
    pin: ["Pinned", "Never unloaded, neither to make room nor when it is idle.", "check"],
  }],
  ["Engine", {
    engine: ["Engine", "The path of another sd-server, such as stable-diffusion.cpp's. Empty: Darkroom's own.", {}],
    extra_args: ["More flags", "Of sd-server, as in a shell.", {}],
  }],
];

let id = null;
let shown = null;
let version = 0; // of what is saved: fields are made anew when it changes

export const path = (model) => `admin/settings/${encodeURIComponent(model)}`;

export async function enter(model) {
  if (id !== model) shown = null;
  id = model;
  await act("settings", async () => take(await call(path(model)), model));
}

function take(answer, model) {
  if (model !== id) return;
  shown = answer;
  version += 1;
  refresh();
}

export function view(model) {
  if (!shown) return [problem("settings"), h("p", { key: "wait", className: "note" }, "Looking …")];
  const pending = Object.values(shown.settings).some((setting) => setting.pending);
  return h("form", { key: `form ${version}`, className: "stack", onsubmit: save, autocomplete: "off" },
    GROUPS.map(([name, fields]) =>
      h("fieldset", { key: name, className: "card" }, h("legend", { className: "unseen" }, name), h("h2", { "aria-hidden": "true" }, name),
        Object.entries(fields).map(([field, how]) => row(field, how, shown.settings[field])))),
    pending ? h("p", { key: "pending", className: "note" }, "What was changed counts from the next load. ", actButton("reload", "Load anew", () => reload(model.id), { className: "plain" })) : null,
    problem("save"), problem("reload"),
    h("div", { className: "row sticky" },
      h("button", { className: "main", "aria-disabled": isRunning("save") || null }, "Save"),
      h("button", { type: "button", disabled: !Object.keys(shown.saved).length, onclick: forgetAll }, "Back to the defaults")));
}

function row(name, [title, help, how], setting) {
  if (!setting) return null;
  const field = `set-${name}`;
  const { requested, engaged, reason } = setting;
  const value = requested ?? "";
  const common = { id: field, name, "aria-describedby": `${field}-help ${field}-now` };
  const choices = how === "samplers" ? samplers() : how === "schedulers" ? schedulers() : null;
  const input = how === "check"
    ? h("input", { ...common, type: "checkbox", checked: requested === true })
    : choices
      ? h("select", { ...common, value }, h("option", { key: "", value: "" }, "the model's own"), [...new Set([...choices, value].filter(Boolean))].map((each) => h("option", { key: each, value: each }, each)))
      : h("input", { ...common, ...how, value: String(value), spellcheck: false, placeholder: how.inputMode ? "the model's own" : "" });
  const differs = !["", "-1"].includes(String(value)) ? String(engaged) !== String(value) : value === -1 && engaged !== null && engaged !== -1;
  const now = !shown.loaded ? "" : engaged !== null ? `In force: ${engaged}${reason ? `, ${reason}` : ""}` : reason ? `In force: ${reason}` : "";
  return h("div", { key: name, className: "setting" },
    h("label", { for: field }, title), input,
    h("p", { id: `${field}-help`, className: "note help" }, help),
    h("p", { id: `${field}-now`, className: `figures now${differs ? " differs" : ""}` }, now, setting.pending ? " (changed since it was loaded)" : ""));
}

function valueOf(name) {
  const input = byId(`set-${name}`);
  if (input.type === "checkbox") return input.checked;
  if (input.value.trim() === "") return null;
  return input.type === "number" ? Number(input.value) : input.value.trim();
}

async function save(event) {
  event.preventDefault();
  const changes = {};
  for (const [name, setting] of Object.entries(shown.settings)) {
    if (!byId(`set-${name}`)) continue;
    const value = valueOf(name);
    if (String(value ?? "") !== String(setting.requested ?? "")) changes[name] = value === false ? null : value;
  }
  await change(changes);
}

async function change(changes) {
  const model = id;
  const done = await act("save", async () => take(await call(path(model), { method: "PATCH", body: changes }), model) ?? true);
  if (done) {
    announce("Saved");
    refresh();
  }
}

function forgetAll() {
  change(Object.fromEntries(Object.keys(shown.saved).map((name) => [name, null])));
}

async function reload(model) {
  await call(`admin/models/${encodeURIComponent(model)}/unload`, { method: "POST" });
  await load(model);
  await enter(model);
}
