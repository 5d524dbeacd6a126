// Small charts of a patient's readings, one a channel, drawn as SVG from what is sent: nothing is cleaned here.
import { element, readable, shortNumber } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 90;
const MARGIN = 5;

// Readings by channel and unit: [{name, unit, points: [{time, values}]}], each in the order of time.
export function channelsOf(observations) {
  const channels = new Map();
  for (const reading of observations) {
    const time = Date.parse(reading.time);
    const values = typeof reading.value === "string" ? reading.value.split("/").map(Number) : [reading.value];
    if (!Number.isFinite(time) || !values.every(Number.isFinite)) continue;
    const name = reading.channel ?? `LOINC ${reading.code}`;
    const key = JSON.stringify([name, reading.unit ?? "", values.length]);
    if (!channels.has(key)) channels.set(key, { name, unit: reading.unit ?? "", points: [] });
    channels.get(key).points.push({ time, values });
  }
  const found = [...channels.values()];
  for (const channel of found) channel.points.sort((a, b) => a.time - b.time);
  return found.sort((a, b) => a.name.localeCompare(b.name));
}

export function spanOf(channels) {
  let first = Infinity;
  let last = -Infinity;
  for (const { points } of channels) {
    first = Math.min(first, points[0].time);
    last = Math.max(last, points[points.length - 1].time);
  }
  return Number.isFinite(first) ? { first, last } : null;
}

// One figure a channel, all on the same span of time; `read` is the part of it that the model reads.
export function chart(channel, span, read) {
  const scale = scaleOf(channel.points.flatMap((point) => point.values));
  const values = channel.points.flatMap((point) => point.values);
  const beyond = values.filter((value) => value < scale.low || value > scale.high).length;
  const last = channel.points[channel.points.length - 1].values.map(shortNumber).join("/");
  const name = readable(channel.name);
  const unit = channel.unit ? ` ${channel.unit}` : "";
  const count = channel.points.length === 1 ? "1 reading" : `${channel.points.length} readings`;
  const figure = element("figure", { class: "chart" }, [
    element("figcaption", {}, [element("span", {}, name), element("span", {}, `last ${last}${unit}`)]),
    element("div", { class: "plot" }, [
      element("div", { class: "scale", "aria-hidden": "true" }, [
        element("span", {}, shortNumber(scale.high)),
        element("span", {}, shortNumber(scale.low)),
      ]),
      drawing(channel, span, read, scale, `${name}: ${count}, lowest ${shortNumber(lowest(values))}, ` +
        `highest ${shortNumber(-lowest(values.map((value) => -value)))}, last ${last}${unit}`),
    ]),
    element("div", { class: "times", "aria-hidden": "true" }, [
      element("span", {}, date(span.first)),
      element("span", {}, date(span.last)),
    ]),
  ]);
  if (beyond) figure.append(element("p", { class: "help" }, `${beyond} beyond this scale, drawn at its edge`));
  return figure;
}

function drawing(channel, span, read, scale, label) {
  const svg = svgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  const length = span.last - span.first;
  const x = (time) => (length ? MARGIN + ((WIDTH - 2 * MARGIN) * (time - span.first)) / length : WIDTH / 2);
  const y = (value) => {
    const inside = Math.min(Math.max(value, scale.low), scale.high);
    return HEIGHT - MARGIN - ((HEIGHT - 2 * MARGIN) * (inside - scale.low)) / (scale.high - scale.low || 1);
  };
  if (read) {
    // A single moment is all that there is: the window holds it.
    const from = length ? Math.max(x(read.first), 0) : 0;
    const to = length ? Math.min(x(read.last), WIDTH) : WIDTH;
    svg.append(svgElement("rect", { class: "window", x: from, y: 0, width: Math.max(to - from, 0), height: HEIGHT }));
  }
  for (let part = 0; part < channel.points[0].values.length; part += 1) {
    const second = part ? " second" : "";
    const points = channel.points.map((point) => `${x(point.time).toFixed(1)},${y(point.values[part]).toFixed(1)}`);
    svg.append(svgElement("polyline", { class: `line${second}`, points: points.join(" ") }));
    for (const point of channel.points) {
      const value = point.values[part];
      const beyond = value < scale.low || value > scale.high;
      if (!beyond && channel.points.length > 60) continue;
      const [left, top] = [x(point.time).toFixed(1), y(value).toFixed(1)];
      svg.append(svgElement("path", { class: `dot${second}${beyond ? " beyond" : ""}`, d: `M${left} ${top}h0.01` }));
    }
  }
  return svg;
}

// The range of the values; single spikes far outside the middle half do not stretch it.
function scaleOf(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const spread = 4 * (at(0.75) - at(0.25) || Math.abs(at(0.5)) * 0.1 || 1);
  const low = Math.max(sorted[0], at(0.25) - spread);
  const high = Math.min(sorted[sorted.length - 1], at(0.75) + spread);
  // Equal values are drawn in the middle.
  const room = low === high ? Math.abs(low) * 0.1 || 1 : 0;
  return { low: low - room, high: high + room };
}

function lowest(values) {
  return values.reduce((low, value) => Math.min(low, value), Infinity);
}

export function date(time) {
  return new Date(time).toISOString().slice(0, 10);
}

function svgElement(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
