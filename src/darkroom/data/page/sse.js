// Server-sent events of an answer to fetch, which can carry a key.

/** The answer's events, `{id, type, data}`, until it ends. onText: called for whatever comes, comments too. */
export async function* eventsOf(answer, onText = () => {}) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onText();
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const event = parsed(part);
      if (event) yield event;
    }
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
