// The library: every model, and the files that are none.

import { call } from "./api.js";
import { h } from "./dom.js";
import { known, statusOf } from "./live.js";
import { bar, empty, linkTo, refresh, statePill } from "./parts.js";
import { bytes, count, fileName, isLoading, isServing } from "./words.js";

let search = "";
let broken = [];

export const title = () => "Models";

export async function enter() {
  try {
    const { data } = await call("v1/store/library");
    broken = data.filter((file) => file.broken);
    refresh();
  } catch {
    // the list of models says what is wrong
  }
}

export function view() {
  const models = (known.models ?? []).filter(matches);
  return [
    h("div", { className: "head", key: "head" },
      h("div", { className: "row apart" },
        h("h1", {}, "Models"),
        h("a", { className: "button main", href: "#/add" }, "Add a model"))),
    h("search", { key: "search" },
      h("label", { for: "search", className: "unseen" }, "Search models"),
      h("input", { id: "search", type: "search", placeholder: "Search by name, family or type", autocomplete: "off", spellcheck: false, oninput: ({ target }) => { search = target.value; refresh(); } })),
    known.models === null ? h("p", { key: "wait", className: "note" }, "Reading the library …") : null,
    known.models && !models.length ? h("div", { key: "none" }, empty(`No model is called “${search}”.`)) : null,
    h("ul", { key: "models", className: "models", "aria-label": "Models" }, models.map(row)),
    broken.length ? brokenFiles() : null,
  ];
}

function matches(model) {
  const words = [model.id, model.title, model.family, model.type].join(" ").toLowerCase();
  return search.toLowerCase().split(/\s+/).every((word) => words.includes(word));
}

function row(model) {
  const status = statusOf(model.id);
  const share = status.bytes_total ? status.bytes_read / status.bytes_total : undefined;
  return h("li", { key: model.id, className: "card model" },
    h("div", { className: "what" },
      h("h2", {}, h("a", { href: linkTo(model.id) }, model.id)),
      h("p", { className: "note" }, [model.title, model.type?.toUpperCase(), bytes(model.size)].filter(Boolean).join(" · "))),
    h("div", { className: "row pills" }, parts(model), statePill(status.state)),
    h("a", { className: "button", href: linkTo(model.id, model.ready ? "draw" : "components"), "aria-label": model.ready ? `Draw with ${model.id}` : `Components of ${model.id}` }, model.ready ? "Draw" : "Components"),
    isLoading(status.state) && !isServing(status.state) ? bar(`${model.id} is being loaded`, share, "load") : null);
}

function parts(model) {
  if (!model.engine) return h("span", { className: "pill warn" }, "needs another engine");
  if (!model.ready) return h("span", { className: "pill bad" }, `${count(model.missing.length, "part")} missing`);
  return h("span", { className: "pill good" }, "complete");
}

function brokenFiles() {
  return h("section", { key: "broken", "aria-labelledby": "broken-title" },
    h("h2", { id: "broken-title" }, "Files that cannot be used"),
    h("ul", { className: "plain-list" }, broken.map((file) =>
      h("li", { key: file.path, className: "card" },
        h("h3", {}, fileName(file.path)),
        h("p", { className: "wrong" }, file.problem),
        h("p", { className: "note" }, `${file.path} · ${bytes(file.size)}`)))));
}
