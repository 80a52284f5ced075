/** Pictures and texts for the first visit. */

const SIDE = 224;
const COLOURS = {
  red: "#d71e23",
  orange: "#f58c14",
  yellow: "#f5dc2d",
  green: "#28a03c",
  blue: "#2350d7",
  purple: "#8232aa",
  pink: "#f591be",
  black: "#101010",
  white: "#f0f0f0",
  grey: "#878787",
};
const SHAPES = ["circle", "square", "triangle", "star", "cross", "ring"];

const DRAWN = [
  { shape: "star", colour: "red", ground: "white" },
  { shape: "circle", colour: "blue", ground: "yellow" },
  { shape: "ring", colour: "green", ground: "black" },
  { shape: "square", colour: "orange", ground: "blue", number: 3 },
  { shape: "triangle", colour: "purple", ground: "grey" },
];
const DRAWN_TEXTS = [
  "a red star on a white background",
  "a blue circle",
  "a green ring on black",
  "three orange squares",
  "something purple",
];

const GENERAL = ["cat", "sailing boat", "mountains", "coffee", "car"];
const GENERAL_TEXTS = ["a cat", "a sailing boat at sunset", "mountains with snow", "a cup of coffee", "a red car"];

/** Whether the model is the one that comes with this project, which knows coloured shapes and nothing else. */
export const isDemo = (meta) => meta.clip_model?.model_name === "coloured-shapes";

/**
 * A few pictures and texts that fit the model.
 * @returns {Promise<{files: File[], texts: string[]}>}
 */
export async function examples(meta) {
  if (isDemo(meta)) {
    return { files: await Promise.all(DRAWN.map(drawn)), texts: DRAWN_TEXTS };
  }
  return { files: await Promise.all(GENERAL.map(rasterised)), texts: GENERAL_TEXTS };
}

/** Each shape in each colour, and a few groups, mixed, and the same at each visit: sixty pictures. */
export function shapeGallery() {
  const grounds = ["white", "black", "grey", "blue", "green", "yellow"];
  const scene = (shape, colour, i, number) => {
    const ground = grounds[i % grounds.length];
    return { shape, colour, number, ground: ground === colour ? grounds[(i + 2) % grounds.length] : ground };
  };
  const colours = Object.keys(COLOURS).filter((colour) => colour !== "grey");
  const singles = SHAPES.flatMap((shape, s) => colours.map((colour, c) => scene(shape, colour, s + 2 * c, 1)));
  const groups = SHAPES.map((shape, s) => scene(shape, colours[(2 * s) % colours.length], s + 1, 2 + (s % 3)));
  const scenes = [...singles, ...groups];
  return Promise.all(scenes.map((_, i) => drawn(scenes[(i * 23) % scenes.length])));
}

/** A PNG of one shape, or of several, on a plain ground. */
async function drawn({ shape, colour, ground, number = 1 }) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const pen = canvas.getContext("2d");
  pen.fillStyle = COLOURS[ground];
  pen.fillRect(0, 0, SIDE, SIDE);
  pen.fillStyle = COLOURS[colour];
  const centres = [[[0.5, 0.5]], [[0.3, 0.35], [0.7, 0.65]], [[0.5, 0.25], [0.26, 0.7], [0.74, 0.7]],
    [[0.27, 0.27], [0.73, 0.27], [0.27, 0.73], [0.73, 0.73]]][number - 1];
  const radius = SIDE * (number === 1 ? 0.22 : 0.14);
  for (const [x, y] of centres) {
    pen.save();
    pen.translate(x * SIDE, y * SIDE);
    pen.scale(radius, radius);
    pen.fill(outline(shape), "evenodd");
    pen.restore();
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const name = number === 1 ? `${colour} ${shape}` : `${number} ${colour} ${shape === "cross" ? "crosse" : shape}s`;
  return new File([blob], `${name}.png`, { type: "image/png" });
}

/** A shape around the origin, about 1 in radius. */
function outline(shape) {
  const path = new Path2D();
  const polygon = (points) => {
    points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  };
  const corner = (i, corners, radius, start = -90) => {
    const angle = ((start + (360 * i) / corners) * Math.PI) / 180;
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  };
  const regular = (corners, radius, start) => Array.from({ length: corners }, (_, i) => corner(i, corners, radius, start));
  if (shape === "circle") path.arc(0, 0, 1, 0, 7);
  if (shape === "square") polygon(regular(4, 1.25, -45));
  if (shape === "triangle") polygon(regular(3, 1.25).map(([x, y]) => [x, y + 0.15]));
  if (shape === "star") polygon(Array.from({ length: 10 }, (_, i) => corner(i, 10, i % 2 ? 0.5 : 1.25)));
  if (shape === "cross") {
    path.rect(-0.36, -1.1, 0.72, 2.2);
    path.rect(-1.1, -0.36, 0.74, 0.72);
    path.rect(0.36, -0.36, 0.74, 0.72);
  }
  if (shape === "ring") {
    path.arc(0, 0, 1.05, 0, 7);
    path.moveTo(0.6, 0);
    path.arc(0, 0, 0.6, 0, 7);
  }
  return path;
}

/** A PNG of one of the drawings beside this page. */
async function rasterised(name) {
  const image = new Image();
  image.src = new URL(`examples/${name.replaceAll(" ", "-")}.svg`, import.meta.url).href;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 2 * SIDE;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], `${name}.png`, { type: "image/png" });
}
