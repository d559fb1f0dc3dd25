// Calls to the server that the page came from, with its key where it asks for one.

import { byId } from "./dom.js";
import { ofTab } from "./storage.js";

/** The server refused: its own words. */
export class Refused extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** There was no answer. */
export class Unreachable extends Error {}

let key = ofTab.read("key");
let unlocking = null;

/** The answer's JSON. Asks for the key, as often as it takes. Throws Refused, Unreachable. */
export async function call(path, body) {
  const answer = await open(path, {
    method: body === undefined ? "GET" : "POST",
    body: body === undefined || typeof body === "string" ? body : JSON.stringify(body),
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
  });
  try {
    return await answer.json();
  } catch (error) {
    throw new Unreachable(String(error));
  }
}

/** The answer, once the server has agreed. */
export async function open(path, { headers = {}, ...rest } = {}) {
  for (;;) {
    const used = key;
    const answer = await send(path, { ...rest, headers: used ? { ...headers, "x-api-key": encoded(used) } : headers });
    if (answer.status !== 401) {
      if (answer.ok) return answer;
      throw await refusal(answer);
    }
    await unlocked(used);
  }
}

async function send(path, options) {
  try {
    // without credentials the browser does not ask for a password of its own
    return await fetch(new URL(path, document.baseURI), { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The server does not answer.");
  }
}

async function refusal(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // an answer of something between here and the server
  }
  const message = told.message ?? told.detail ?? `${answer.status} ${answer.statusText}`;
  return new Refused(answer.status, String(message), told.code ?? null);
}

/** Headers are bytes: the key's UTF-8, written as the characters of those bytes. */
function encoded(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** Waits until there is another key than `wrong`. */
function unlocked(wrong) {
  if (key !== wrong) return Promise.resolve(); // another call has asked meanwhile
  unlocking ??= askForKey(wrong !== null).finally(() => (unlocking = null));
  return unlocking;
}

function askForKey(isWrong) {
  const form = byId("key");
  const text = byId("key-text");
  form.hidden = false;
  text.setAttribute("aria-invalid", String(isWrong));
  if (isWrong) byId("key-problem").textContent = "That is not the key. Another one?";
  text.focus();
  text.select();
  document.body.dataset.locked = "";
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      key = text.value;
      ofTab.write("key", key);
      form.hidden = true;
      delete document.body.dataset.locked;
      byId("prompt").focus();
      resolve();
    };
  });
}
