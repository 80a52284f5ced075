/** Pictures as they come from a person: dropped, pasted or chosen. */

const THUMBNAIL_SIDE = 256;
// Some systems give no type to files that they do not know.
const NAMES = /\.(jpe?g|png|gif|webp|bmp|heic|heif|avif|tiff?|jp2|j2k|ico|ppm|pgm|tga)$/i;

/** Whether macOS made this file beside another, on a disk of another system: it has that one's name, and no picture. */
export const isAside = (file) => file.name.startsWith("._");

const looksLikePicture = (file) => !isAside(file) && (file.type.startsWith("image/") || NAMES.test(file.name));

/**
 * The files of a drop or a paste. Folders are walked; of them only pictures are taken, while a file that was
 * given by itself is taken as it is: the server says what is wrong with it.
 * @param {DataTransfer} transfer
 * @param {number} most stop after that many
 */
export async function filesOf(transfer, most) {
  // Asked for now: after the first pause the browser has emptied the list.
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  const single = [...transfer.files];
  if (!entries.some((entry) => entry?.isDirectory)) return single.slice(0, most);
  const found = [];
  const walk = async (entry, inFolder) => {
    if (found.length >= most) return;
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (!inFolder || looksLikePicture(file)) found.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      // A browser gives a hundred or so at a time, and none at the end.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      some.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
      for (const inner of some) await walk(inner, true);
    }
  };
  for (const entry of entries) if (entry) await walk(entry, false);
  return found;
}

/**
 * The address of a picture that was dragged out of another page, for browsers that give no file with it; "" if none.
 * @param {DataTransfer} transfer
 */
export function addressOf(transfer) {
  // Of a picture in a link the list has the link's address.
  const image = /<img\b[^>]*?\ssrc=["'](data:image\/[^"']+)["']/i.exec(transfer.getData("text/html"));
  return image ? image[1] : transfer.getData("text/uri-list").split(/[\r\n]+/)[0];
}

/** The file that a data URI holds; null for every other address, which this page may not open. */
export function fileIn(address) {
  const uri = /^data:image\/([a-z0-9.+-]+)[^,]*;base64,/i.exec(address);
  if (!uri) return null;
  try {
    const bytes = Uint8Array.from(atob(decodeURIComponent(address.slice(uri[0].length))), (c) => c.charCodeAt(0));
    return new File([bytes], `dragged picture.${uri[1].toLowerCase()}`, { type: `image/${uri[1]}` });
  } catch {
    return null;
  }
}

/** Base64 of a file, as JSON wants it. */
export async function base64(file) {
  const address = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("this file cannot be read; it may have been moved or changed"));
    reader.readAsDataURL(file);
  });
  return address.slice(address.indexOf(",") + 1);
}

/** Address of a small square of the picture's middle, the part that most models look at; null if no browser can. */
export async function thumbnail(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.min(THUMBNAIL_SIDE, side);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const left = (bitmap.width - side) / 2;
  const top = (bitmap.height - side) / 2;
  context.drawImage(bitmap, left, top, side, side, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return blob && URL.createObjectURL(blob);
}

/** What stands for a picture that the browser cannot show. */
export function kindOf(name) {
  const ending = /\.([a-z0-9]{1,5})$/i.exec(name);
  return ending ? ending[1].toUpperCase() : "FILE";
}
