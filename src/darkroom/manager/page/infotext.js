// The text that a picture carries about how it was made (A1111's `parameters`).

const FIELDS = {
  Steps: "steps",
  "CFG scale": "cfg",
  Guidance: "guidance",
  "Distilled CFG Scale": "guidance",
  Seed: "seed",
};

/** prompt, negative, width, height, steps, cfg, guidance, seed: those that the text tells. */
export function settingsOf(text) {
  const lines = text.split("\n");
  const last = lines.at(-1)?.startsWith("Steps: ") ? lines.pop() : "";
  const at = lines.findIndex((line) => line.startsWith("Negative prompt: "));
  const found = { prompt: (at < 0 ? lines : lines.slice(0, at)).join("\n"), negative: "" };
  if (at >= 0) found.negative = lines.slice(at).join("\n").replace("Negative prompt: ", "");
  for (const [, name, value] of last.matchAll(/\s*([\w ]+):\s*("(?:\\.|[^"])*"|[^,]*)(?:,|$)/g)) {
    if (name === "Size") [found.width, found.height] = value.split("x");
    else if (FIELDS[name]) found[FIELDS[name]] = name === "Seed" ? value : String(Number(value));
  }
  return found;
}
