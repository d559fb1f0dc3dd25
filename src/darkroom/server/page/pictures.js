// Pictures as files, as blobs and as base64.

const READ_BY_SERVER = ["image/png", "image/jpeg", "image/webp"];

export function blobOf(base64, type) {
  const text = atob(base64);
  return new Blob([Uint8Array.from(text, (character) => character.charCodeAt(0))], { type });
}

export function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** The file as {blob, width, height}, in a format that the server reads. Throws an Error for people. */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Error(`${file.name || "That"} is not a picture that this browser can read.`);
  }
  const { width, height } = bitmap;
  const blob = READ_BY_SERVER.includes(file.type) ? file : await redrawn(bitmap);
  bitmap.close();
  return { blob, width, height };
}

async function redrawn(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return await canvas.convertToBlob({ type: "image/png" });
}

/** The pictures among what was dropped or pasted. */
export function filesOf(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/** Lets pictures be dropped onto an element. */
export function dropInto(target, onFiles) {
  target.addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.items].some((item) => item.kind === "file")) return;
    event.preventDefault();
    event.stopPropagation();
    target.classList.add("over");
  });
  target.addEventListener("dragleave", (event) => {
    if (!target.contains(event.relatedTarget)) target.classList.remove("over");
  });
  target.addEventListener("drop", (event) => {
    target.classList.remove("over");
    event.preventDefault();
    event.stopPropagation();
    const files = filesOf(event.dataTransfer);
    if (files.length) onFiles(files);
  });
}

/** Lets a button open the browser's choice of files. */
export function chooseWith(button, input, onFiles) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) onFiles([...input.files]);
    input.value = ""; // the same file can be chosen again
  });
}

/** Shows a blob in an `img` and frees the one before. */
export function show(image, blob) {
  const old = image.src;
  image.src = URL.createObjectURL(blob);
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
}
