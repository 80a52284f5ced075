/** What is computed from vectors. */

/** Softmax as CLIP's demonstrations show it: cosines times this. */
export const SOFTMAX_SCALE = 100;

/** Euclidean length of a vector. */
export const length = (vector) => Math.hypot(...vector);

/** Cosine of the angle between two vectors; 0 where one has no length. */
export function cosine(a, b) {
  let dot = 0;
  let aa = 0;
  let bb = 0;
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return aa && bb ? dot / Math.sqrt(aa * bb) : 0;
}

/** Shares that add up to 1, of numbers that have been scaled. */
export function softmax(numbers) {
  const highest = Math.max(...numbers);
  const powers = numbers.map((number) => Math.exp(number - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** Index of the highest number, -1 of none; null and NaN count as absent. */
export function best(numbers) {
  let found = -1;
  numbers.forEach((number, i) => {
    if (Number.isFinite(number) && (found < 0 || number > numbers[found])) found = i;
  });
  return found;
}
