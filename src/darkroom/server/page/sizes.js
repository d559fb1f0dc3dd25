// Sizes that suit a model: its own number of pixels, in the usual shapes.

const SHAPES = [
  ["Square", 1, 1],
  ["Landscape", 4, 3],
  ["Landscape", 3, 2],
  ["Wide", 16, 9],
  ["Portrait", 3, 4],
  ["Portrait", 2, 3],
  ["Tall", 9, 16],
];

/** Choices for people: [{label, width, height}], the model's own size first. */
export function presets(capabilities) {
  const { width, height } = capabilities.defaults;
  const own = { label: `Model's own · ${width} × ${height}`, width, height };
  const shaped = SHAPES.map(([name, across, down]) => ({
    ...sizeLike(across, down, capabilities),
    name: `${name} ${across}:${down}`,
  }));
  const others = shaped.filter(
    (size) => isPossible(size, capabilities) && !(size.width === width && size.height === height),
  );
  return [own, ...others.map((size) => ({ ...size, label: `${size.name} · ${size.width} × ${size.height}` }))];
}

/** The model's number of pixels in another shape. */
export function sizeLike(across, down, capabilities) {
  const { width, height } = capabilities.defaults;
  const unit = unitOf(capabilities);
  const side = (ratio) => Math.max(unit, Math.round(Math.sqrt(width * height * ratio) / unit) * unit);
  return { width: side(across / down), height: side(down / across) };
}

/** The nearest side that the model can draw. */
export function nearest(side, capabilities) {
  const { min_width: least, max_width: most } = capabilities.limits;
  const multiple = capabilities.model.size_multiple;
  const first = Math.ceil(least / multiple) * multiple;
  const last = Math.floor(most / multiple) * multiple;
  return Math.min(last, Math.max(first, Math.round(side / multiple) * multiple));
}

/** Coarser than the model needs, as the sizes are that models were trained with. */
function unitOf(capabilities) {
  const multiple = capabilities.model.size_multiple;
  const eighth = Math.min(capabilities.defaults.width, capabilities.defaults.height) / 8;
  return Math.max(multiple, Math.floor(Math.min(64, eighth) / multiple) * multiple);
}

function isPossible(size, { limits }) {
  return (
    Math.min(size.width, size.height) >= limits.min_width && Math.max(size.width, size.height) <= limits.max_width
  );
}
