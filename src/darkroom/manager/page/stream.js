// Streams of events, taken up again where they broke.

import { open, Refused, Unreachable } from "./api.js";
import { eventsOf } from "./sse.js";

/** The events of one connection, `{id, type, data}`, until it ends. Throws Refused, Unreachable. */
export async function* events(path, { signal, after } = {}) {
  try {
    const headers = after === undefined ? {} : { "Last-Event-ID": String(after) };
    const answer = await open(path, { signal, headers: { ...headers, Accept: "text/event-stream" } });
    yield* eventsOf(answer);
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
