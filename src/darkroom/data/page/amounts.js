// Amounts for people.

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = Math.min(count > 0 ? Math.floor(Math.log10(count) / 3) : 0, units.length - 1);
  const value = count / 1000 ** power;
  return `${value.toFixed(power > 0 && value < 100 ? 1 : 0)} ${units[power]}`;
}

export function seconds(count) {
  const whole = Math.max(0, Math.round(count));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}
