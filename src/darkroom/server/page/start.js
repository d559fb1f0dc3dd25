// The picture that drawing starts from, its mask, and reference pictures.

import { byId, element } from "./dom.js";
import { paintMask } from "./mask.js";
import { base64Of, chooseWith, dropInto, readPicture, show } from "./pictures.js";

const start = { picture: null, mask: null, strokes: [] };
let references = [];

/** onProblem(text): what cannot be read. onSize(size): a size in the start picture's shape is wanted. */
export function prepare({ onProblem, onSize }) {
  const reading = (use) => (files) => Promise.all(files.map(readPicture)).then(use, (error) => onProblem(error.message));
  const takeStart = reading(([picture]) => useAsStart(picture));
  chooseWith(byId("start-choose"), byId("start-file"), takeStart);
  dropInto(byId("start-drop"), takeStart);
  byId("start-remove").addEventListener("click", () => {
    forget();
    byId("start-choose").focus();
  });
  byId("start-size").addEventListener("click", () => onSize(start.picture));
  byId("mask-paint").addEventListener("click", async () => {
    const made = await paintMask(start.picture, start.strokes);
    if (made) setMask(made.blob, made.strokes);
  });
  chooseWith(byId("mask-choose"), byId("mask-file"), reading(([mask]) => setMask(mask.blob, [])));
  byId("mask-remove").addEventListener("click", () => {
    setMask(null, []);
    byId("mask-paint").focus();
  });
  const takeReferences = reading((pictures) => setReferences([...references, ...pictures]));
  chooseWith(byId("reference-choose"), byId("reference-file"), takeReferences);
  dropInto(byId("reference-drop"), takeReferences);
}

/** picture: as `readPicture` gives it. */
export function useAsStart(picture) {
  start.picture = picture;
  setMask(null, []);
  show(byId("start-image"), picture.blob);
  byId("start-image").hidden = byId("start-settings").hidden = false;
  byId("start-choose").textContent = "Another picture …";
}

/** What the request says of pictures. */
export async function pictureFields() {
  const fields = {};
  if (start.picture) fields.init_image = await base64Of(start.picture.blob);
  if (start.picture && start.mask) fields.mask_image = await base64Of(start.mask);
  if (references.length && !byId("references").hidden) {
    fields.ref_images = await Promise.all(references.map((picture) => base64Of(picture.blob)));
  }
  return fields;
}

function forget() {
  start.picture = null;
  setMask(null, []);
  byId("start-image").hidden = byId("start-settings").hidden = true;
  byId("start-choose").textContent = "Choose a picture …";
}

function setMask(blob, strokes) {
  start.mask = blob;
  start.strokes = strokes;
  byId("mask-note").hidden = byId("mask-remove").hidden = blob === null;
  byId("mask-paint").textContent = strokes.length ? "Change the mask …" : "Paint a mask …";
}

function setReferences(pictures) {
  references = pictures;
  byId("reference-list").replaceChildren(
    ...pictures.map((picture, index) => {
      const image = element("img", { alt: `Reference picture ${index + 1}` });
      show(image, picture.blob);
      const remove = () => {
        setReferences(references.filter((other) => other !== picture));
        byId("reference-choose").focus();
      };
      const name = `Remove reference picture ${index + 1}`;
      return element("li", {}, image, element("button", { type: "button", textContent: "Remove", "aria-label": name, onclick: remove }));
    }),
  );
}
