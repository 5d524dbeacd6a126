// The page: one patient is chosen, shown and sent to the server that has served the page.
import { clearAnswer, showDiagnosis, showFaults, showRefusal } from "./answer.js";
import { channelsOf, chart, date, spanOf } from "./charts.js";
import { element } from "./elements.js";

const by = (id) => document.getElementById(id);
const state = { patient: null, imageFile: null, model: null, chosen: 0 };

async function fetchJson(address, options = {}) {
  const response = await fetch(address, { cache: "no-store", ...options, headers: { ...authorization(), ...options.headers } });
  const content = await response.json().catch(() => null);
  return { response, content };
}

// The token lives in the field alone: nothing is written to storage or to the address.
function authorization() {
  const token = by("token").value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function loadModel() {
  const { response, content } = await fetchJson("page/model").catch(() => ({ response: null, content: null }));
  state.model = response?.ok ? content : null;
  by("model").textContent = state.model
    ? `${state.model.name}, ${state.model.version === null ? "not from the registry" : `version ${state.model.version}`}`
    : response?.status === 401 ? "The server asks for an access token." : "The server does not say which model it serves.";
  if (state.patient) showPatient();
}

async function loadExamples() {
  const { response, content } = await fetchJson("examples/index.json");
  if (!response.ok) return;
  by("example").append(...content.patients.map(({ file, title }) => element("option", { value: file }, title)));
  by("example-help").textContent = content.notice;
}

// A later choice wins over an earlier one that is still loading.
async function choose(load) {
  const number = ++state.chosen;
  clearAnswer();
  try {
    const found = await load();
    if (number === state.chosen) takePatient(found);
  } catch (error) {
    if (number === state.chosen) showFaults(error.message);
  }
}

function takePatient({ patient, about }) {
  Object.assign(state, { patient, imageFile: null });
  by("image-file").value = "";
  by("note").value = noteText(patient.note);
  by("about").textContent = about;
  by("status").textContent = "Ready. Press Diagnose.";
  showPatient();
}

async function loadExample(file) {
  const { response, content } = await fetchJson(`examples/${file}`);
  if (!response.ok) throw new Error("The example cannot be loaded.");
  return { patient: content.patient, about: content.about };
}

async function readPatientFile(file) {
  let content;
  try {
    content = JSON.parse(await file.text());
  } catch {
    throw new Error("The file is not JSON.");
  }
  const list = Array.isArray(content) ? content : content?.instances ?? content?.patients ?? [content?.patient ?? content];
  if (!Array.isArray(list) || list.length === 0 || list[0] === null || typeof list[0] !== "object") {
    throw new Error("The file holds no patient: an object with observations, an image or a note.");
  }
  const more = list.length > 1 ? ` The file holds ${list.length} patients; this is the first.` : "";
  return { patient: list[0], about: `From a file on this computer.${more}` };
}

function noteText(note) {
  if (typeof note === "string") return note;
  return Array.isArray(note) ? note.map((item) => item?.text ?? "").join("\n") : "";
}

// The patient as it is sent: the file's own, with the image and the note of the form in their place.
async function patientToSend() {
  const patient = { ...(state.patient ?? {}) };
  if (by("note").value !== noteText(patient.note)) patient.note = by("note").value;
  if (!patient.note?.length) delete patient.note;
  if (state.imageFile) patient.image = await base64(state.imageFile);
  return patient;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The image file cannot be read."));
    reader.readAsDataURL(file);
  });
}

function showPatient() {
  const patient = state.patient ?? {};
  by("seen").hidden = false;
  showSeries(Array.isArray(patient.observations) ? patient.observations : []);
  showImage(patient.image);
  showNote();
}

function showNote() {
  by("note-shown").textContent = by("note").value || "None.";
}

function showSeries(observations) {
  const channels = channelsOf(observations.filter((reading) => reading !== null && typeof reading === "object"));
  const span = spanOf(channels);
  const read = span && windowOf(span);
  by("charts").replaceChildren(...channels.map((channel) => chart(channel, span, read)));
  by("window").textContent = !span ? "None."
    : `${observations.length} readings, ${date(span.first)} to ${date(span.last)}, as they were sent.` + windowText(read);
}

// The model reads a window of fixed length, up to the last reading or from the first one on.
function windowOf(span) {
  const window = state.model?.window;
  if (!window) return null;
  const length = 1000 * window.seconds;
  return window.anchor === "first" ? { first: span.first, last: Math.min(span.first + length, span.last) }
    : { first: Math.max(span.last - length, span.first), last: span.last };
}

function windowText(read) {
  if (!read) return "";
  const { seconds, anchor } = state.model.window;
  const length = seconds >= 172800 ? `${+(seconds / 86400).toFixed(1)} days` : `${+(seconds / 3600).toFixed(1)} hours`;
  return ` Shaded: the window that the model reads, the ${anchor === "first" ? "first" : "last"} ${length}.`;
}

function showImage(image) {
  const place = by("image");
  if (state.imageFile) {
    place.replaceChildren(picture(URL.createObjectURL(state.imageFile), state.imageFile.type));
  } else if (typeof image === "string") {
    place.replaceChildren(picture(`data:application/octet-stream;base64,${image}`, ""));
  } else if (Array.isArray(image) && Array.isArray(image[0])) {
    place.replaceChildren(pixels(image));
  } else {
    place.replaceChildren("None.");
  }
}

function picture(address, kind) {
  const shown = element("img", { alt: "The image that is sent", src: address });
  shown.addEventListener("load", () => URL.revokeObjectURL(address));
  shown.addEventListener("error", () => {
    shown.replaceWith(`It is sent, but this browser cannot show it${kind ? ` (${kind})` : ""}.`);
  });
  return shown;
}

function pixels(rows) {
  const canvas = element("canvas", { width: rows[0].length, height: rows.length, role: "img", "aria-label": "The image that is sent" });
  const context = canvas.getContext("2d");
  rows.forEach((row, top) => row.forEach((pixel, left) => {
    const channels = [pixel].flat();
    const [red, green, blue] = (channels.length === 3 ? channels : Array(3).fill(channels[0])).map((value) => 255 * value);
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(left, top, 1, 1);
  }));
  return canvas;
}

// An answer does not stay beside a patient whom it is not about.
function outdate() {
  if (by("result").hidden) return;
  clearAnswer();
  by("status").textContent = "Changed. Press Diagnose.";
}

async function diagnose(event) {
  event.preventDefault();
  if (by("diagnose").disabled) return;
  clearAnswer();
  if (!state.patient && !state.imageFile && !by("note").value) {
    showFaults("There is nothing to diagnose from. Choose an example or a file, or write a note.");
    return;
  }
  if (!state.patient) showPatient();
  by("diagnose").disabled = true;
  by("status").textContent = "Asking the server …";
  try {
    const body = JSON.stringify({ instances: [await patientToSend()] });
    const started = performance.now();
    const { response, content } = await fetchJson("invocations", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    const milliseconds = performance.now() - started;
    if (response.ok && content?.predictions?.length) {
      showDiagnosis(content.predictions[0], milliseconds);
      by("status").textContent = "";
      by("answer").focus();
      // The server follows an alias: another version may have answered than the one that the page named.
      if (content.predictions[0].model.version !== state.model?.version) loadModel();
    } else {
      showRefusal(response.status, content, response.headers.get("Retry-After"));
      by("status").textContent = "";
    }
  } catch (error) {
    showFaults(error instanceof TypeError ? "The server cannot be reached." : error.message);
    by("status").textContent = "";
  } finally {
    by("diagnose").disabled = false;
  }
}

by("form").addEventListener("submit", diagnose);
by("example").addEventListener("change", (event) => {
  if (!event.target.value) return;
  by("patient-file").value = "";
  choose(() => loadExample(event.target.value));
});
by("patient-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (!file) return;
  by("example").value = "";
  choose(() => readPatientFile(file));
});
by("image-file").addEventListener("change", (event) => {
  state.imageFile = event.target.files[0] ?? null;
  outdate();
  showPatient();
});
by("note").addEventListener("input", () => {
  outdate();
  by("seen").hidden = false;
  showNote();
});
by("token").addEventListener("change", loadModel);
loadModel();
loadExamples().catch(() => { by("example-help").textContent = "The examples cannot be loaded."; });
