// The page: puts its parts together and listens to people.

import { announce } from "./announce.js";
import { byId, element } from "./dom.js";
import * as gallery from "./gallery.js";
import * as metadata from "./metadata.js";
import { chooseWith, dropInto, filesOf, readPicture } from "./pictures.js";
import { call } from "./api.js";
import * as session from "./session.js";
import * as settings from "./settings.js";
import { sizeLike } from "./sizes.js";
import { presented } from "./stage.js";
import * as start from "./start.js";
import { showDrawing, watch } from "./status.js";

const EXAMPLES = {
  builtin: ["a red circle on a blue background", "a large yellow star on a purple background", "a green heart above a white moon"],
};
const OTHER_EXAMPLES = ["a lighthouse at dusk, oil painting", "a fox in the snow, 35mm photograph", "an old library, watercolour"];

const form = byId("settings");
const wide = matchMedia("(min-width: 60rem)");
let capabilities = null;
let isAsking = false;

settings.recall();
start.prepare({ onProblem: complain, onSize: ({ width, height }) => settings.setSize(sizeLike(width, height, capabilities)) });
metadata.prepare({ onUse: useSettings, onStart: useAsStart });
session.prepare(() => {
  gallery.update();
  showDrawing(session.drawings.some((drawing) => !session.isOver(drawing)));
});
byId("all-settings").open = wide.matches;
wide.addEventListener("change", () => (byId("all-settings").open = wide.matches));
setInterval(() => session.drawings.some((drawing) => !session.isOver(drawing)) && gallery.update(), 1000);

watch(async () => {
  capabilities = await call("sdcpp/v1/capabilities");
  settings.adapt(capabilities);
  byId("draw").removeAttribute("aria-disabled");
  showExamples();
  await session.restore();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
form.addEventListener("change", (event) => settings.tidy(event.target));
form.addEventListener("input", ({ target }) => {
  if (target.tagName === "TEXTAREA" || target.type === "range" || target.id === "cfg") settings.fill({});
  if (target.tagName === "TEXTAREA") settings.remember();
  if (target.id === "seed") settings.takeSeed();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  draw();
});

byId("swap").addEventListener("click", settings.swapSides);
byId("reset").addEventListener("click", settings.reset);
byId("cancel").addEventListener("click", async () => {
  const { drawing } = presented();
  if (drawing.isLeaving) return;
  drawing.isLeaving = true;
  gallery.update();
  try {
    await session.cancel(drawing);
    announce("Cancelled");
  } catch (error) {
    drawing.isLeaving = false;
    complain(error.message);
  }
});
byId("dismiss").addEventListener("click", () => {
  session.remove(presented().drawing);
  byId("prompt").focus();
});
byId("again").addEventListener("click", () => useSettings(presented().drawing.settings));
byId("use").addEventListener("click", () => {
  const { drawing, picture } = presented();
  useSettings({ ...drawing.settings, seed: picture.seed });
});
byId("as-start").addEventListener("click", async () => useAsStart(await readPicture(presented().picture.blob)));
byId("full").addEventListener("click", () => byId("picture").requestFullscreen());
byId("full").hidden = !document.fullscreenEnabled;
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("infotext").textContent);
    announce("Copied");
  } catch {
    getSelection().selectAllChildren(byId("infotext")); // the clipboard is closed to pages without HTTPS
  }
});

chooseWith(byId("open"), byId("open-file"), readMetadata);
dropInto(byId("frame"), readMetadata);
dropInto(document.body, readMetadata);
document.addEventListener("paste", async (event) => {
  const [file] = filesOf(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  try {
    useAsStart(await readPicture(file));
  } catch (error) {
    complain(error.message);
  }
});

async function draw() {
  if (!capabilities || isAsking) return;
  isAsking = true;
  complain("");
  try {
    if (form.contains(document.activeElement)) settings.tidy(document.activeElement); // typed, and not left yet
    const wanted = settings.read();
    const body = settings.requestOf(wanted, await start.pictureFields());
    const drawing = await session.draw(wanted, body);
    settings.showSeed(drawing.settings.seed);
    gallery.followDrawing();
    if (!wide.matches) byId("stage").scrollIntoView({ behavior: calm() ? "instant" : "smooth" });
  } catch (error) {
    complain(error.message);
  } finally {
    isAsking = false;
  }
}

async function readMetadata([file]) {
  complain("");
  try {
    await metadata.openPicture(file, capabilities ?? { samplers: [], schedulers: [] });
  } catch (error) {
    complain(error.message);
  }
}

function useSettings(wanted) {
  settings.reuse(wanted);
  byId("prompt").focus();
  announce("The settings are filled in");
}

function useAsStart(picture) {
  start.useAsStart(picture);
  byId("all-settings").open = true;
  byId("start").scrollIntoView({ block: "center", behavior: calm() ? "instant" : "smooth" });
  byId("strength").focus({ preventScroll: true });
  announce("Drawing starts from this picture");
}

/** Says what is wrong, where the button is. */
function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function showExamples() {
  const prompts = EXAMPLES[capabilities.model.stem] ?? OTHER_EXAMPLES;
  byId("examples").replaceChildren(
    ...prompts.map((prompt) => {
      const onclick = () => {
        settings.fill({ prompt });
        settings.remember();
        byId("prompt").focus();
      };
      return element("li", {}, element("button", { type: "button", textContent: prompt, onclick }));
    }),
  );
}
