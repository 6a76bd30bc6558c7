// Keeps the page up to date: by server-sent events, else by asking now and then.
"use strict";

const PAUSE = 3_000; // milliseconds from a failure to the next try
const SILENCE = 45_000; // the server says something every 15 s
const HIDDEN = 30_000; // how often a hidden tab asks; it holds no connection open
const SPEAK = 60_000; // how often a mere change of the amount is spoken, at most
const HEARD = 5_000; // until what was spoken has been heard

const shown = new Map(); // part id -> what it shows, as JSON
let source = null;
let timer = null;
let reading = null; // { age: seconds, at: milliseconds }
let spokenAt = -Infinity;
let stood = null; // how things stood when it was last spoken

function build(nodes, parent) {
  return nodes.map((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    const [tag, attributes, children] = node;
    const element = document.createElementNS(parent.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...build(children, element));
    return element;
  });
}

function show(view) {
  for (const [id, nodes] of Object.entries(view.parts)) {
    const text = JSON.stringify(nodes);
    if (shown.get(id) === text) continue;
    const part = document.getElementById(id);
    part.replaceChildren(...build(nodes, part));
    tellTimeHere(part);
    shown.set(id, text);
  }
  document.title = view.title;
  reading = view.age === null ? null : { age: view.age, at: Date.now() };
  tick();
  speak(view.spoken);
  connection("");
}

function tellTimeHere(part) {
  for (const time of part.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const clock = at.toLocaleTimeString([], { timeStyle: "medium" });
    const today = at.toDateString() === new Date().toDateString();
    time.textContent = today ? clock : `${at.toLocaleDateString([], { dateStyle: "medium" })} ${clock}`;
  }
}

function inWords(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function tick() {
  if (reading === null) return;
  const age = reading.age + (Date.now() - reading.at) / 1000;
  document.getElementById("age").textContent = `${inWords(age)} ago`;
}

function speak([left, standing]) {
  const live = document.getElementById("spoken");
  const text = `${left} ${standing}`;
  if (live.textContent === text) return;
  const silent = Date.now() - spokenAt;
  if (standing === stood && silent < SPEAK) {
    // Whoever comes by later must not find an old amount.
    if (silent > HEARD) live.textContent = "";
    return;
  }
  live.textContent = text;
  spokenAt = Date.now();
  stood = standing;
}

function connection(text) {
  document.documentElement.classList.toggle("lost", text !== "");
  const line = document.getElementById("connection");
  if (line.textContent !== text) line.textContent = text;
}

function next(what, delay) {
  clearTimeout(timer);
  timer = setTimeout(what, delay);
}

function listen() {
  if (document.hidden) return void next(ask, HIDDEN);
  source = new EventSource("events");
  source.onmessage = (event) => {
    show(JSON.parse(event.data));
    next(ask, SILENCE);
  };
  source.onerror = ask;
  next(ask, SILENCE);
}

async function ask() {
  source?.close();
  source = null;
  clearTimeout(timer);
  try {
    const answer = await fetch("view.json", { signal: AbortSignal.timeout(10_000) });
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
  } catch {
    connection("This page has lost its server and keeps trying.");
    return void next(ask, PAUSE);
  }
  next(listen, PAUSE);
}

document.addEventListener("visibilitychange", ask);
setInterval(tick, 1_000);
tellTimeHere(document);
listen();
