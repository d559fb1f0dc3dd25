// Pictures of jobs, fetched with the key and shown from memory.

import { open } from "./api.js";
import { refresh } from "./parts.js";

const MOST = 60;
const urls = new Map();

/** An address of the picture for an `img`, empty until it has been fetched. */
export function picture(path) {
  const known = urls.get(path);
  if (known !== undefined) return known;
  urls.set(path, "");
  fetchPicture(path);
  return "";
}

async function fetchPicture(path) {
  try {
    urls.set(path, URL.createObjectURL(await (await open(path)).blob()));
  } catch {
    return; // what is gone stays an empty frame
  }
  for (const [old, url] of urls) {
    if (urls.size <= MOST) break;
    URL.revokeObjectURL(url);
    urls.delete(old);
  }
  refresh();
}

let last = { text: "", url: "" };

/** An address of a preview, as a job's events bring it. */
export function previewUrl({ mime_type: type, b64_json: text }) {
  if (last.text === text) return last.url;
  URL.revokeObjectURL(last.url);
  const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  last = { text, url: URL.createObjectURL(new Blob([data], { type })) };
  return last.url;
}
