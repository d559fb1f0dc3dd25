// New models: by name, from the hub, from a URL, from this machine.

import { call } from "./api.js";
import { byId, h } from "./dom.js";
import { hurry, isActive, known } from "./live.js";
import { act, isRunning, linkTo, outside, problem } from "./parts.js";
import { bytes, originOf } from "./words.js";

let catalogue = null;
let taken = null;

export const title = () => "Add a model";

export async function enter() {
  taken = null;
  if (catalogue) return;
  await act("catalogue", async () => {
    catalogue = (await call("v1/catalogue")).data;
  });
}

export function view() {
  return [
    h("div", { className: "head", key: "head" },
      h("p", { className: "note" }, h("a", { href: "#/models" }, "Models")),
      h("h1", {}, "Add a model")),
    h("div", { key: "ways", className: "two" }, pullForm(), importForm()),
    h("section", { key: "catalogue", "aria-labelledby": "catalogue-title" },
      h("h2", { id: "catalogue-title" }, "Models to begin with"),
      h("p", { className: "note" }, "Smaller types take less memory and draw a little coarser. Each comes with the companion files that it needs; what is here already is not fetched again."),
      problem("catalogue"),
      h("ul", { className: "plain-list" }, families().map(starter))),
  ];
}

function pullForm() {
  const onsubmit = (event) => {
    event.preventDefault();
    pull(byId("source").value.trim(), "pull", byId("companions").checked);
  };
  return h("form", { key: "pull", className: "card stack", onsubmit, "aria-labelledby": "pull-title" },
    h("h2", { id: "pull-title" }, "Download"),
    h("div", { className: "field" },
      h("label", { for: "source" }, "Name, file of the hub, or URL"),
      h("input", { id: "source", required: true, spellcheck: false, autocomplete: "off", autocapitalize: "none", placeholder: "z-image-turbo", list: "names", "aria-describedby": "source-note" }),
      h("datalist", { id: "names" }, (catalogue ?? []).map((model) => h("option", { key: model.id, value: model.id }))),
      h("p", { id: "source-note", className: "note" }, h("code", {}, "hf:owner/repository/file.gguf"), " or ", h("code", {}, "https://…"))),
    h("label", { className: "check" }, h("input", { id: "companions", type: "checkbox", checked: true }), "with the companion files that it needs"),
    problem("pull"),
    h("p", {}, h("button", { className: "main", "aria-disabled": isRunning("pull") || null }, "Download")));
}

function importForm() {
  const onsubmit = (event) => {
    event.preventDefault();
    act("import", async () => {
      taken = null;
      taken = await call("v1/store/import", { body: { path: byId("path").value.trim() } });
      hurry("models");
    });
  };
  return h("form", { key: "import", className: "card stack", onsubmit, "aria-labelledby": "import-title" },
    h("h2", { id: "import-title" }, "Use what is on this machine"),
    h("div", { className: "field" },
      h("label", { for: "path" }, "Path of a file or a folder"),
      h("input", { id: "path", required: true, spellcheck: false, autocomplete: "off", autocapitalize: "none", placeholder: "/home/me/models/dreamshaper.safetensors", "aria-describedby": "path-note" }),
      h("p", { id: "path-note", className: "note" }, "On the manager's machine. A file is linked, not copied; a ComfyUI folder or a hub cache is used where it is.")),
    problem("import"),
    taken ? h("p", { role: "status" }, taken.summary, " ", taken.models?.length ? h("a", { href: linkTo(taken.models[0]) }, "Open") : null) : null,
    h("p", {}, h("button", { "aria-disabled": isRunning("import") || null }, "Import")));
}

/** Files of one model in several types are one entry. */
function families() {
  const found = new Map();
  for (const model of catalogue ?? []) found.set(model.title, [...(found.get(model.title) ?? []), model]);
  return [...found.values()];
}

function starter(models) {
  const [first] = models;
  const gated = models.filter((model) => model.gated);
  return h("li", { key: first.title, className: "card model starter" },
    h("div", { className: "what" },
      h("h3", {}, first.title),
      h("p", { className: "note" }, [first.licence, first.note].filter(Boolean).join(" · ")),
      gated.map((model) => h("p", { key: model.id, className: "note" }, `${typeOf(model)} is gated: its terms are to be accepted first, at `, outside(hubPage(model.source), originOf(model.source)), ".")),
      models.map((model) => problem(`pull ${model.id}`))),
    h("div", { className: "row" }, models.map(way)));
}

const typeOf = (model) => (model.id.split(":")[1] ?? model.id).toUpperCase();

function way(model) {
  const isHere = known.models?.some((other) => other.id === model.id);
  const isComing = known.downloads?.some((download) => isActive(download) && model.source.endsWith(download.name));
  const words = [typeOf(model), model.size ? bytes(model.size) : ""].filter(Boolean).join(" · ");
  const name = `pull ${model.id}`;
  if (isHere) return h("a", { key: model.id, className: "button", href: linkTo(model.id), "aria-label": `Open ${model.id}` }, `${words} ✓`);
  if (isComing) return h("a", { key: model.id, className: "button", href: "#/downloads", "aria-label": `Download of ${model.id}` }, `${words} …`);
  return h("button", { type: "button", key: model.id, "aria-disabled": isRunning(name) || null, "aria-label": `Download ${model.id}${model.size ? `, ${bytes(model.size)}` : ""}`, onclick: () => pull(model.id, name, true) }, h("span", { "aria-hidden": "true" }, "↓"), words);
}

const hubPage = (source) => `https://huggingface.co/${source.split(":")[0]}`;

async function pull(source, name, companions) {
  await act(name, async () => {
    await call("v1/downloads", { body: { source, companions } });
    hurry("downloads");
    location.hash = "#/downloads";
  });
}
