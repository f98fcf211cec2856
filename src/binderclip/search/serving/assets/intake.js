// Pictures of the reader's own: dragged in, pasted, or chosen. They are made small here, so that little is sent.

const SIDE = 512;
const MOST = 20 * 1024 * 1024;

export function takePictures(found, failed) {
  const drop = document.getElementById("drop");
  const holds = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let depth = 0;
  addEventListener("dragenter", (event) => {
    if (!holds(event)) return;
    depth += 1;
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (holds(event) && --depth <= 0) drop.hidden = true;
  });
  addEventListener("dragover", (event) => holds(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    depth = 0;
    drop.hidden = true;
    if (!holds(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => take(event.clipboardData?.files ?? []));
  const field = document.getElementById("file");
  field.addEventListener("change", async () => {
    await take(field.files);
    field.value = "";
  });

  async function take(files) {
    for (const file of [...files].slice(0, 8)) {
      try {
        found({ sign: 1, image: await small(file), name: file.name || "picture" });
      } catch {
        failed(`${file.name || "That"} is no picture that can be read.`);
      }
    }
  }
}

async function small(file) {
  if (file.type && !file.type.startsWith("image/")) throw new TypeError("no picture");
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return whole(file); // HEIC, TIFF: the server may know them
  const scale = Math.min(1, SIDE / Math.min(bitmap.width, bitmap.height), 4 * SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; // as the server does with what is transparent
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.92);
}

function whole(file) {
  if (file.size > MOST || !file.type) throw new RangeError("too large");
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = failed;
    reader.readAsDataURL(file);
  });
}
