// Server-sent events over fetch, which can carry a key.

import { open, Refused, Unreachable } from "./api.js";

/** The events of one connection, `{id, type, data}`, until it ends. Throws Refused, Unreachable. */
export async function* events(path, { signal, after } = {}) {
  try {
    const headers = after === undefined ? {} : { "Last-Event-ID": String(after) };
    const answer = await open(path, { signal, headers: { ...headers, Accept: "text/event-stream" } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const event = parsed(part);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
    throw new Unreachable(String(error));
  }
}

/** Events up to the one for which `isLast`, over as many connections as it takes. Throws Refused. */
export async function* lasting(path, { signal, isLast = () => false, onLost = () => {} } = {}) {
  let after;
  let pause = 500;
  for (;;) {
    try {
      for await (const event of events(path, { signal, after })) {
        after = event.id;
        pause = 500;
        yield event;
        if (isLast(event)) return;
      }
    } catch (error) {
      if (error instanceof Refused && error.status < 500) throw error;
      if (error.name === "AbortError") return;
    }
    onLost();
    pause = Math.min(pause * 1.6, 10_000);
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (signal?.aborted) return;
  }
}

function parsed(part) {
  const event = { id: 0, type: "message", data: "" };
  for (const line of part.split("\n")) {
    const [, name, value] = /^(id|event|data): ?(.*)$/.exec(line) ?? [];
    if (name === "data") event.data += value;
    else if (name === "event") event.type = value;
    else if (name === "id") event.id = Number(value);
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null;
}
