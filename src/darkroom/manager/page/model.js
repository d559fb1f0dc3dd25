// One model: how it is, and its tabs.

import { call } from "./api.js";
import * as components from "./components.js";
import { h } from "./dom.js";
import * as drawing from "./draw.js";
import { hurry, known, modelOf, statusOf } from "./live.js";
import * as logs from "./logs.js";
import { act, actButton, bar, confirm, failed, isRunning, linkTo, problem, statePill } from "./parts.js";
import * as settings from "./settings.js";
import { bytes, isLoading, isServing, roleWords } from "./words.js";

const TABS = { components, settings, draw: drawing, logs };
const NAMES = { components: "Components", settings: "Settings", draw: "Draw", logs: "Logs" };

const tabOf = ({ words }) => (words[1] in TABS ? words[1] : "components");

export const title = (route) => `${route.words[0]}: ${NAMES[tabOf(route)]}`;

export function enter(route, before) {
  const [id] = route.words;
  TABS[tabOf(route)].enter?.(id, route.query, before);
}

export function leave(route) {
  TABS[tabOf(route)].leave?.(route.words[0]);
}

export function view(route) {
  const [id] = route.words;
  const model = modelOf(id);
  const tab = tabOf(route);
  if (known.models && !model) {
    return h("div", { key: "gone", className: "head" }, h("h1", {}, "No such model"), h("p", {}, `The library has no model “${id}”. `, h("a", { href: "#/models" }, "All models")));
  }
  if (!model) return h("p", { key: "wait", className: "note" }, "Reading the library …");
  return [
    head(model, tab),
    h("nav", { key: "tabs", className: "tabs", "aria-label": `Of ${id}` }, h("ul", {},
      Object.entries(NAMES).filter(([name]) => known.isAdmin || !["settings", "logs"].includes(name)).map(([name, words]) =>
        h("li", { key: name }, h("a", { href: linkTo(id, name), "aria-current": name === tab ? "page" : null }, words,
          name === "components" && !model.ready ? h("span", { className: "number" }, model.missing.length, h("span", { className: "unseen" }, " missing")) : null))))),
    h("section", { key: `${id} ${tab}`, className: "tab", "aria-label": NAMES[tab] }, TABS[tab].view(model)),
  ];
}

function head(model, tab) {
  const { id } = model;
  const status = statusOf(id);
  const loading = isLoading(status.state) && !(tab === "draw" && drawing.isWatching(id));
  const share = status.bytes_total ? status.bytes_read / status.bytes_total : undefined;
  return h("div", { key: "head", className: "head" },
    h("p", { className: "note" }, h("a", { href: "#/models" }, "Models")),
    h("div", { className: "row apart" },
      h("div", { className: "row" }, h("h1", {}, id), statePill(status.state), status.pinned ? h("span", { className: "pill" }, "pinned") : null),
      known.isAdmin ? buttons(model, status) : null),
    h("p", { className: "note" }, [model.title, model.type?.toUpperCase(), bytes(model.size), model.file].filter(Boolean).join(" · ")),
    loading ? h("div", { className: "progress" }, bar(`${id} is being loaded`, share),
      h("p", { className: "figures" }, status.bytes_total ? `${bytes(status.bytes_read)} of ${bytes(status.bytes_total)}` : "Preparing …")) : null,
    problem(`load ${id}`, missing(id)), problem(`unload ${id}`), problem(`pin ${id}`), problem(`remove ${id}`), problem(`pardon ${id}`),
    !failed(`load ${id}`) && status.failure && ["failed", "quarantined"].includes(status.state) ? failure(id, status) : null,
    status.rung ? h("p", { className: "note" }, `Memory was short: ${status.rung_name}. `, actButton(`pardon ${id}`, "Try without again", () => pardon(id), { className: "plain" })) : null);
}

function missing(id) {
  const parts = failed(`load ${id}`)?.code?.startsWith("model_component") ? failed(`load ${id}`).details : null;
  if (!parts?.length) return null;
  return h("p", {}, h("a", { href: linkTo(id) }, `Components: ${parts.map((part) => roleWords(part.role)).join(", ")}`));
}

function failure(id, { failure: { message, tail }, quarantined_for: left }) {
  return h("div", { key: "failure", className: "problem" },
    h("p", {}, message),
    left ? h("p", {}, `Requests are refused for ${Math.ceil(left)} s more.`) : null,
    tail?.length ? h("details", {}, h("summary", {}, "What its process said last"), h("pre", { tabIndex: 0, "aria-label": "Last lines" }, tail.join("\n"))) : null,
    h("p", {}, actButton(`pardon ${id}`, "Forget this failure", () => pardon(id))));
}

const admin = (id, what) => `admin/models/${encodeURIComponent(id)}/${what}`;

async function pardon(id) {
  await call(admin(id, "pardon"), { method: "POST" });
}

/** Loads a model and says where that fails. */
export function load(id) {
  return act(`load ${id}`, () => call(`${admin(id, "load")}?wait=true`, { method: "POST" }));
}

export function loadButtons(id, status, properties = {}) {
  const name = (words) => ({ ...properties, "aria-label": `${words} ${id}` });
  const serves = isServing(status.state);
  return [
    serves || isLoading(status.state)
      ? actButton(`unload ${id}`, "Unload", () => call(admin(id, "unload"), { method: "POST" }), { ...name("Unload"), key: "load" })
      : h("button", { type: "button", key: "load", ...name("Load"), "aria-disabled": isRunning(`load ${id}`) || status.state === "stopping" || null, onclick: () => load(id) }, "Load"),
    actButton(`pin ${id}`, status.pinned ? "Unpin" : "Pin", () => call(`${admin(id, "pin")}?pinned=${!status.pinned}`, { method: "POST" }),
      { ...name(status.pinned ? "Unpin" : "Pin"), title: "A pinned model is never unloaded to make room" }),
  ];
}

function buttons(model, status) {
  const { id } = model;
  return h("div", { className: "row" }, loadButtons(id, status),
    model.file?.includes("store") ? actButton(`remove ${id}`, "Remove …", () => remove(id), { className: "plain", "aria-label": `Remove ${id}` }) : null);
}

async function remove(id) {
  if (!(await confirm(`Remove ${id}?`, "Its file leaves the store. Companion files stay, for the models that share them.", "Remove"))) return;
  await call(`v1/models/${encodeURIComponent(id)}`, { method: "DELETE" });
  hurry("models");
  location.hash = "#/models";
}
