// Elements are built from text, never from HTML: what a patient or a server sends cannot become markup.
export function element(name, attributes = {}, content = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

// The names of well-known abbreviations stay in capitals.
const CAPITALS = new Set(["copd", "icu", "loinc"]);

export function readable(name) {
  const words = name.split("_").map((word) => (CAPITALS.has(word.toLowerCase()) ? word.toUpperCase() : word));
  const text = words.join(" ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function shortNumber(value) {
  return Number(value.toPrecision(4)).toString();
}

export function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

export function bar({ name, value, strong = false, absent = "" }) {
  const length = element("div", { class: "length" });
  length.style.width = `${100 * Math.min(Math.max(value, 0), 1)}%`;
  return element("li", { class: [strong && "strong", absent && "absent"].filter(Boolean).join(" ") }, [
    element("span", { class: "name" }, absent ? `${name} (${absent})` : name),
    element("span", { class: "track", "aria-hidden": "true" }, length),
    element("span", { class: "value" }, percent(value)),
  ]);
}
