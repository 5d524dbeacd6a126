// Shows what the server has answered: a diagnosis, or in words why there is none.
import { bar, element, percent, readable } from "./elements.js";

const ABSTAIN = "abstain";
const MODALITIES = { series: "Series", image: "Image", text: "Note" };
const by = (id) => document.getElementById(id);

export function clearAnswer() {
  by("result").hidden = true;
  by("faults").replaceChildren();
}

export function showDiagnosis(answer, milliseconds) {
  const ranked = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  const inSet = new Set(answer.conformal_set ?? []);
  const abstained = answer.diagnosis === ABSTAIN;
  by("verdict").replaceChildren(abstained ? "The model abstains" : readable(answer.diagnosis));
  by("verdict").append(element("small", {}, abstained
    ? `No class stands out; the most probable is ${readable(ranked[0][0])}, at ${percent(ranked[0][1])}.`
    : `The most probable class, at ${percent(answer.probabilities[answer.diagnosis])}.`));
  by("probabilities").replaceChildren(...ranked.map(([name, value]) =>
    bar({ name: readable(name), value, strong: inSet.size ? inSet.has(name) : name === ranked[0][0] })));
  by("calibrated").textContent = `${answer.conformal_set === null ? "Not calibrated" : "Calibrated"}; they sum to 100 %.`;
  by("conformal").textContent = conformalText(answer.conformal_set);
  by("attention").replaceChildren(...Object.entries(answer.attention).map(([name, value]) =>
    bar({ name: MODALITIES[name] ?? readable(name), value, strong: true, absent: answer.modalities.includes(name) ? "" : "not used" })));
  by("warnings-part").hidden = answer.warnings.length === 0;
  by("warnings").replaceChildren(...answer.warnings.map((text) => element("li", {}, text)));
  by("facts").replaceChildren(...facts({
    Model: answer.model.name,
    Version: answer.model.version ?? "not from the registry",
    "Trained on cohort": answer.model.cohort_digest.slice(0, 12),
    "Answered in": `${milliseconds.toFixed(0)} ms, as this browser saw it`,
  }));
  by("result").hidden = false;
}

function conformalText(set) {
  if (set === null) return "This model was not calibrated, so it gives no set of classes.";
  if (set.length === 0) return "No class fits well enough: the patient is unlike those that the model was calibrated on.";
  const names = set.map(readable).join(", ");
  return set.length === 1 ? `${names} alone, at the confidence of the calibration.`
    : `One of ${set.length}, at the confidence of the calibration: ${names}.`;
}

function facts(pairs) {
  return Object.entries(pairs).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

export function showFaults(title, faults = []) {
  const box = element("div", { class: "faults" }, element("strong", {}, title));
  if (faults.length) box.append(element("ul", {}, faults.map((text) => element("li", {}, text))));
  by("faults").replaceChildren(box);
}

const TITLES = {
  400: "The server does not understand this patient.",
  401: "The server asks for an access token. Open “Access token” and enter one.",
  403: "The server does not accept this access token.",
  404: "The server serves no model under this address.",
  413: "This patient is larger than the server takes.",
  415: "The server does not take this kind of file.",
  422: "The server cannot use this patient.",
  429: "Too many requests.",
  503: "The server is busy, or not ready yet.",
  504: "The server has not answered in time.",
};

// Says in words what an answer other than 200 means; `content` is its JSON, or null.
export function showRefusal(status, content, retryAfter) {
  const wait = retryAfter && /^\d+$/.test(retryAfter) ? ` Try again in ${retryAfter} s.` : "";
  const title = TITLES[status] ?? `The server answers with an error (${status}).`;
  showFaults(title + wait, faultTexts(content));
}

function faultTexts(content) {
  if (content === null || typeof content !== "object") return [];
  const faults = content.faults ?? (Array.isArray(content.detail) ? content.detail : content.errors);
  if (Array.isArray(faults)) return faults.map(faultText);
  return [content.error, content.message, content.detail].filter((text) => typeof text === "string").slice(0, 1);
}

function faultText(fault) {
  if (typeof fault === "string") return fault;
  if (fault.field === undefined) return [fault.loc?.join("."), fault.msg].filter(Boolean).join(": ");
  const remedy = fault.remedy ? ` ${fault.remedy}.` : "";
  return `${fault.field.replace(/^(patients|instances)\[0\]\.?/, "") || "patient"}: ${fault.problem}.${remedy}`;
}
