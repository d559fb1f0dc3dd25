// Sizes worth a click: the model's own area in usual shapes.

const SIDES = { sd1: 512, sd2: 768 };
const SHAPES = [["Square", 1, 1], ["Portrait 3:4", 3, 4], ["Portrait 2:3", 2, 3], ["Tall 9:16", 9, 16], ["Landscape 4:3", 4, 3], ["Landscape 3:2", 3, 2], ["Wide 16:9", 16, 9]];

/** usual: what the model draws when nothing is said, once it is known. */
export function sizeChoices(model, { width, height, multiple = 8 }) {
  const side = width ? Math.sqrt(width * height) : model.owned_by === "darkroom" ? 256 : (SIDES[model.family] ?? 1024);
  const grid = Math.max(multiple, side >= 512 ? 64 : 32);
  const sizes = SHAPES.map(([name, x, y]) => {
    const w = Math.round((side * Math.sqrt(x / y)) / grid) * grid;
    const h = Math.round((side * Math.sqrt(y / x)) / grid) * grid;
    return { value: `${w}x${h}`, words: `${name}, ${w} × ${h}` };
  });
  return [{ value: "", words: width ? `Model's own, ${width} × ${height}` : "Model's own" }, ...sizes];
}
