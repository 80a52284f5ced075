/** A vector as stripes, one a number: the face by which one vector is told from another. */

import { create } from "./dom.js";

/** A canvas with one column a number; the strongest number has the full colour. */
export function stripes(vector) {
  const canvas = create("canvas", { width: vector.length, height: 1, role: "img", "aria-label": `${vector.length} numbers` });
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const [plus, minus] = [colour("--accent"), colour("--minus")];
  const strongest = Math.max(...vector.map(Math.abs)) || 1;
  const pen = canvas.getContext("2d");
  vector.forEach((number, i) => {
    pen.globalAlpha = Math.abs(number / strongest) ** 0.7;
    pen.fillStyle = number < 0 ? minus : plus;
    pen.fillRect(i, 0, 1, 1);
  });
  return canvas;
}
