// What a model is made of: what serves each role, what is missing, and the one click that fetches it.

import { announce } from "./announce.js";
import { call } from "./api.js";
import { byId, h } from "./dom.js";
import { hurry, isActive, known } from "./live.js";
import { act, actButton, isRunning, outside, problem, refresh } from "./parts.js";
import { progressOf } from "./downloads.js";
import { bytes, count, fileName, originOf, roleWords } from "./words.js";

const EVERY = 1000;
const QUIETLY = 5000;
const STATES = { present: ["good", "present"], missing: ["bad", "missing"], mismatched: ["bad", "does not fit"], downloading: ["warn", "on its way"] };

let model = null;
let found = null;
let files = [];
let timer = 0;

export async function enter(id) {
  if (model !== id) found = null;
  model = id;
  await look();
  files = (await act("library files", () => call("v1/store/library")))?.data ?? [];
}

export function leave() {
  clearTimeout(timer);
  model = null;
}

const path = (id, what = "") => `v1/models/${encodeURIComponent(id)}/components${what}`;

async function look() {
  clearTimeout(timer);
  const id = model;
  if (!document.hidden) {
    const answer = await act("components", () => call(path(id)));
    if (model !== id) return;
    if (answer) {
      if (found && !found.ready && answer.ready) {
        announce("All components are here. The model is ready to be loaded.");
        hurry("models");
      }
      found = answer;
      refresh();
    }
  }
  const moves = found?.components.some((part) => downloadOf(part)) || known.downloads?.some(isActive);
  timer = setTimeout(look, moves ? EVERY : QUIETLY);
}

export function view() {
  if (!found) return [problem("components"), h("p", { key: "wait", className: "note" }, "Looking …")];
  return [h("div", { key: "sum" }, summary()), problem("fetch"), problem("components"),
    h("ul", { key: "parts", className: "plain-list", "aria-label": "Components" }, ordered().map(card))];
}

const blocks = (part) => part.state !== "present" && (part.required || part.origin === "attached");

/** What is in the way first, then what is needed, then what may be added. */
function ordered() {
  const rank = (part) => (blocks(part) ? 0 : part.required || part.state === "present" ? 1 : 2);
  return [...found.components].sort((a, b) => rank(a) - rank(b));
}

function summary() {
  const wanting = found.components.filter(blocks);
  const needed = found.components.filter((part) => part.required);
  if (!found.components.length) return h("p", { className: "lead" }, "This model needs no companion files: everything is in its own file.");
  if (!wanting.length) return h("p", { className: "lead" }, h("span", { className: "tick", "aria-hidden": "true" }, "✓"), `Everything is here: ${count(needed.length, "required part")}.`);
  const fetchable = wanting.filter((part) => part.known.length && !downloadOf(part));
  const coming = wanting.filter((part) => downloadOf(part));
  const total = fetchable.reduce((sum, part) => sum + (part.known[0].size ?? 0), 0);
  return h("div", { className: "card stack call" },
    h("h2", { id: "lacking", tabIndex: -1 }, coming.length === wanting.length ? `${count(coming.length, "required part")} on the way` : `${wanting.length} of ${count(needed.length, "required part")} ${wanting.length === 1 ? "is" : "are"} missing${coming.length ? `, ${coming.length} on the way` : ""}`),
    h("p", { className: "note" }, coming.length ? "The model can be loaded as soon as they are here." : "The model cannot be loaded without. What is downloaded is shared with every model that needs it."),
    fetchable.length
      ? h("p", {}, h("button", { type: "button", className: "main big", key: "fetch", "aria-disabled": isRunning("fetch") || null, onclick: fetchMissing }, `Download what is missing${total ? ` (${bytes(total)})` : ""}`))
      : coming.length ? null : h("p", {}, "No published file is known for it: attach one by hand below."));
}

function fetchMissing() {
  const id = model;
  act("fetch", async () => {
    const { downloads } = await call(path(id, ":fetch"), { method: "POST" });
    announce(`${count(downloads.length, "download")} begun`);
    hurry("downloads");
    await look();
    if (document.activeElement === document.body) byId("lacking")?.focus(); // its button has gone
  });
}

/** The unfinished download of a file that would serve the role. */
function downloadOf(part) {
  if (part.state === "present") return undefined;
  return known.downloads?.find((download) => download.state !== "completed" && download.state !== "cancelled" && part.known.some((file) => isOf(download, file)));
}

const isOf = (download, file) => (file.sha256 ? download.id === file.sha256.slice(0, 16) : download.source === sourceOf(file));

/** In the words that a download is asked for with. */
const sourceOf = (file) => (file.source.includes("://") ? file.source : `hf:${file.source.replace(": ", "/")}`);

function card(part) {
  const [kind, words] = STATES[part.state];
  const download = downloadOf(part);
  const first = part.known[0];
  const title = part.title[0].toUpperCase() + part.title.slice(1);
  return h("li", { key: part.role, className: "card part" },
    h("div", { className: "row apart" },
      h("h3", {}, roleWords(part.role), part.required ? null : h("span", { className: "note" }, " optional")),
      h("span", { className: `pill ${part.state === "missing" && !part.required ? "" : kind}` }, part.state === "missing" && !part.required ? "not there" : words)),
    h("p", {}, title, part.note ? h("span", { className: "note" }, `, ${part.note}`) : null),
    part.file ? h("p", { className: "served" }, h("strong", {}, fileName(part.file)), [part.why, part.size && bytes(part.size)].filter(Boolean).map((text) => ` · ${text}`).join("")) : null,
    part.file && part.origin !== "inside" ? h("p", { className: "note" }, part.file) : null,
    part.problem ? h("p", { className: "wrong" }, part.problem) : null,
    part.state !== "present" && first ? offer(part, first) : null,
    download ? progressOf(download) : null,
    problem(`attach ${part.role}`), problem(`take ${part.role}`),
    part.origin === "attached" ? h("p", {}, actButton(`attach ${part.role}`, "Detach", () => attach(part.role, null), { "aria-label": `Detach the file of ${roleWords(part.role)}` })) : null,
    part.origin === "inside" ? null : others(part));
}

/** The published file that would be fetched. */
function offer(part, file) {
  return h("div", { className: "offer" },
    h("p", { className: "note" }, [file.name, file.size && bytes(file.size), file.licence].filter(Boolean).join(" · "), " · from ", outside(file.page, originOf(file.source))),
    file.gated ? h("p", { className: "wrong" }, "Gated: accept its terms at ", outside(file.page, file.page), " and give the manager a token (HF_TOKEN).") : null);
}

/** Other published files, and files by hand. */
function others(part) {
  const role = roleWords(part.role);
  const field = `file-${part.role}`;
  const fitting = files.filter((file) => file.parts.some((each) => each.kind === part.role || (part.role === "taesd" && each.kind === "tae")));
  const onsubmit = (event) => {
    event.preventDefault();
    act(`attach ${part.role}`, () => attach(part.role, byId(field).value.trim()));
  };
  return h("details", { key: "others" },
    h("summary", {}, part.state === "present" ? "Use another file" : "Other ways"),
    part.known.length && part.state !== "present" ? h("ul", { className: "alternatives", "aria-label": `Published files for ${role}` }, part.known.map((file) =>
      h("li", { key: file.source },
        h("p", {}, file.name, h("span", { className: "note" }, [file.size && bytes(file.size), file.licence, file.gated ? "gated" : ""].filter(Boolean).map((text) => ` · ${text}`).join(""), " · ", outside(file.page, originOf(file.source)))),
        actButton(`take ${file.source}`, "Download", () => take(part, file), { "aria-label": `Download ${file.name} from ${originOf(file.source)}` }), problem(`take ${file.source}`)))) : null,
    h("form", { className: "field", onsubmit },
      h("label", { for: field }, `A file on the manager's machine as ${role}`),
      h("div", { className: "row" },
        h("input", { id: field, required: true, spellcheck: false, autocomplete: "off", autocapitalize: "none", placeholder: "/path/to/file.safetensors", list: `${field}-list` }),
        h("datalist", { id: `${field}-list` }, fitting.map((file) => h("option", { key: file.path, value: file.path }, file.parts.map((each) => each.title).join(", ")))),
        h("button", { "aria-disabled": isRunning(`attach ${part.role}`) || null, "aria-label": `Attach the file as ${role}` }, "Attach"))));
}

async function take(part, file) {
  await call("v1/downloads", { body: { source: sourceOf(file), role: part.role, sha256: file.sha256 ?? "" } });
  hurry("downloads");
}

async function attach(role, file) {
  await call(path(model, ":attach"), { body: { role, file } });
  announce(file ? `${fileName(file)} serves ${roleWords(role)}` : "The library chooses again");
  hurry("models");
  await look();
}
